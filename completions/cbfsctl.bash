# bash completion of cbfsctl: install as share/bash-completion/completions/cbfsctl, or source it.
# Made by `cbfsctl util completion bash`.
_cbfsctl() {
    # COMP_WORDS is split at @, = and : too: put those words together again.
    local -a words=("${COMP_WORDS[0]}")
    local index=0 at glued=0 word typed
    for ((at = 1; at <= COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == [@=:]* && -n ${words[index]} && $index -gt 0 && ${COMP_LINE} == *"${words[index]}$word"* ]]; then
            words[index]+=$word
            glued=1
        elif [[ $glued == 1 && ${COMP_LINE} == *"${words[index]}$word"* ]]; then
            words[index]+=$word
            glued=0
        else
            index=$((index + 1))
            words[index]=$word
            glued=0
        fi
    done
    typed=${words[index]}
    local IFS=$'\013'
    COMPREPLY=($(
        _CLAP_IFS="$IFS" _CLAP_COMPLETE_INDEX="$index" _CLAP_COMPLETE_COMP_TYPE="$COMP_TYPE" \
            CBFSCTL_COMPLETE=bash "${COMP_WORDS[0]}" -- "${words[@]}" 2>/dev/null
    )) || COMPREPLY=()
    # What stands before the word as readline sees it is on the line already.
    local cut=${typed%"$2"}
    if [[ -n $cut ]]; then
        for at in "${!COMPREPLY[@]}"; do
            COMPREPLY[at]=${COMPREPLY[at]#"$cut"}
        done
    fi
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[@=:/] ]]; then
        compopt -o nospace
    fi
}
complete -o bashdefault -o nosort -F _cbfsctl cbfsctl 2>/dev/null || complete -o bashdefault -F _cbfsctl cbfsctl
