//! The scripts that let a shell ask. Bash has one of our own: it takes `@`, `=` and `:` for the
//! ends of words, so `home@12` comes in pieces, and only what belongs to the last of them may be answered.

use super::VARIABLE;
use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use clap_complete::env::{EnvCompleter, Fish, Zsh};

/// The shells that have one, with the name that each looks for in its directory of completions.
pub(crate) const SHELLS: [(&str, &str); 3] = [
    ("bash", "cbfsctl.bash"),
    ("zsh", "_cbfsctl"),
    ("fish", "cbfsctl.fish"),
];

const BASH: &str = r#"# bash completion of cbfsctl: install as share/bash-completion/completions/cbfsctl, or source it.
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
            VARIABLE=bash "${COMP_WORDS[0]}" -- "${words[@]}" 2>/dev/null
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
"#;

/// How clap's script for zsh ends: good for `source` alone.
const ZSH_REGISTERED: &str = "\ncompdef _clap_dynamic_completer_cbfsctl cbfsctl";
/// Loaded by zsh itself, from its directory of functions, the file is the function and must answer at once.
const ZSH_AUTOLOADED: &str = r#"
if [[ ${funcstack[1]} == _cbfsctl ]]; then
    _clap_dynamic_completer_cbfsctl "$@"
else
    compdef _clap_dynamic_completer_cbfsctl cbfsctl
fi"#;

/// The script for a shell.
///
/// # Errors
/// [`ErrorKind::Usage`] for a shell that has none.
pub(crate) fn script(shell: &str) -> Result<String> {
    let registration = |completer: &dyn EnvCompleter| {
        let mut out = Vec::new();
        completer
            .write_registration(VARIABLE, "cbfsctl", "cbfsctl", "cbfsctl", &mut out)
            .context(|| "the script could not be made".to_owned())?;
        String::from_utf8(out).context(|| "the script is not UTF-8".to_owned())
    };
    match shell {
        "bash" => Ok(BASH.replace("VARIABLE", VARIABLE)),
        "zsh" => Ok(registration(&Zsh)?.replace(ZSH_REGISTERED, ZSH_AUTOLOADED)),
        "fish" => registration(&Fish),
        other => Err(Error::new(
            ErrorKind::Usage,
            format!("there is no completion for {other:?}"),
        )
        .hint("bash, zsh or fish")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zsh_can_source_its_script_and_load_it_by_itself() {
        let script = script("zsh").unwrap();
        assert!(script.starts_with("#compdef cbfsctl\n"));
        assert!(script.contains(ZSH_AUTOLOADED), "{script}");
    }
}
