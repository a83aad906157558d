#compdef PROGRAM
# Completion of PROGRAM for zsh: as _PROGRAM in a directory of fpath, or by source <(PROGRAM completions zsh)

_FUNCTION() {
    local -a answer values open
    local line value
    answer=("${(@f)$(command PROGRAM completions zsh -- "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in "${(@)answer[2,-1]}"; do
        # _describe takes a colon for the end of the value, and a backslash for a sign of its own.
        value=${${${line%%$'\t'*}//\\/\\\\}//:/\\:}
        [[ $line == *$'\t'* ]] && line="$value:${line#*$'\t'}" || line=$value
        # What goes on gets no space.
        [[ $value == *[/=] ]] && open+=("$line") || values+=("$line")
    done
    if (( $#values + $#open )); then
        _describe -V PROGRAM values -- open -S ''
    elif [[ $answer[1] == files ]]; then
        _files
    elif [[ $answer[1] == directories ]]; then
        _files -/
    fi
}

if [[ $funcstack[1] == _PROGRAM ]]; then
    _FUNCTION "$@"
else
    compdef _FUNCTION PROGRAM
fi
