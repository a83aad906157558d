# Completion of PROGRAM for fish: as PROGRAM.fish in a directory of fish_complete_path, or by PROGRAM completions fish | source

function __FUNCTION_complete
    set -l answer (command PROGRAM completions fish -- (commandline -opc) (commandline -ct) 2>/dev/null)
    if set -q answer[2]
        printf '%s\n' $answer[2..-1]
    else if test "$answer[1]" = files
        __fish_complete_path (commandline -ct)
    else if test "$answer[1]" = directories
        __fish_complete_directories (commandline -ct)
    end
end

complete -c PROGRAM -f -k -a '(__FUNCTION_complete)'
