# Completion of PROGRAM for bash: where bash-completion looks for it, or by source <(PROGRAM completions bash)

_FUNCTION() {
    local answer
    mapfile -t answer < <(command PROGRAM completions bash -- "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    COMPREPLY=("${answer[@]:1}")
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        case ${answer[0]} in
        files) compopt -o default ;;
        directories) compopt -o dirnames -o filenames ;;
        esac
    elif [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F _FUNCTION PROGRAM
