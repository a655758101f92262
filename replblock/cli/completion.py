# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl completion bash`: a completion script made from the table of verbs.

After a verb it offers only the resources for which the verb makes sense now (the state words below), as drbd-utils'
own completion does; `source <(replctl completion bash)`, or a file in /etc/bash_completion.d.
"""

from __future__ import annotations

from replblock.cli.errors import USAGE, Stop
from replblock.cli.run import Run
from replblock.cli.verbs import EXPERT, GENERAL, NONE, SHELL, VERBS, WORD

SENSIBLE: dict[str, tuple[str, str]] = {
    # verb            asks         and wants this before the slash
    "up": ("cstate", '""|Unconfigured'),
    "down": ("cstate", "?*"),
    "primary": ("role", "Secondary"),
    "secondary": ("role", "Primary"),
    "attach": ("dstate", "Diskless|Unconfigured"),
    "detach": ("dstate", "UpToDate|Inconsistent|Outdated|Consistent"),
    "outdate": ("dstate", "UpToDate|Consistent"),
    "connect": ("cstate", "StandAlone|Unconfigured"),
    "disconnect": ("cstate", "[!S]*|Sync*|StartingSync*"),
    "invalidate-remote": ("cstate", "Connected"),
    "verify": ("cstate", "Connected"),
    "pause-sync": ("cstate", "SyncSource|SyncTarget"),
    "resume-sync": ("cstate", "PausedSync*"),
    "create-md": ("cstate", '""|Unconfigured'),
    "wipe-md": ("cstate", '""|Unconfigured'),
    "apply-al": ("cstate", '""|Unconfigured'),
}
"""Patterns of a `case` in bash; the empty one stands for a resource that is down."""


def completion(run: Run) -> int:
    """Print the script for the shell that is named; only bash is known."""
    shell = run.names[0] if run.names else ""
    if shell != "bash":
        said = f"'{shell}' is not known" if shell else "for which shell?"
        raise Stop(USAGE, f"{run.program} completion: {said}; bash is", "run: replctl completion bash")
    print(bash(), end="")
    return 0


def bash() -> str:
    """The completion script."""
    verbs = " ".join(verb.name for verb in VERBS if verb.group not in (SHELL, EXPERT))
    general = " ".join(option.long for option in GENERAL)
    options = "\n".join(
        f"        {verb.name}) words='{' '.join(option.name for option in verb.options)}' ;;"
        for verb in VERBS
        if verb.options
    )
    sensible = "\n".join(f"        {verb}) ask={ask} want='{want}' ;;" for verb, (ask, want) in SENSIBLE.items())
    alone = "|".join(verb.name for verb in VERBS if verb.needs in (NONE, WORD) and verb.name != "help")
    return f"""# bash completion for replctl, made by: replctl completion bash
_replctl() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} verb= word words= ask= want= name state i
    local -a base=("${{COMP_WORDS[0]}}")
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
        -c|--config-file|--host) base+=("$word" "${{COMP_WORDS[i + 1]}}"); ((i++)) ;;
        -t|-n|--config-to-test|--sh-varname) ((i++)) ;;
        -*) ;;
        *) [[ -n $verb ]] || verb=$word ;;
        esac
    done
    case ${{COMP_WORDS[COMP_CWORD - 1]}} in
    -c|-t|--config-file|--config-to-test) COMPREPLY=($(compgen -f -- "$current")); return ;;
    -n|--sh-varname|--host) return ;;
    esac
    if [[ $current = -* ]]; then
        case $verb in
{options}
        esac
        COMPREPLY=($(compgen -W "$words {general}" -- "$current"))
        return
    fi
    if [[ " ${{COMP_WORDS[*]}} " = *" --images "* ]]; then
        COMPREPLY=($(compgen -f -W "$("${{base[@]}}" sh-resources 2>/dev/null)" -- "$current"))
        return
    fi
    case $verb in
    ''|help) COMPREPLY=($(compgen -W '{verbs}' -- "$current")); return ;;
    completion) COMPREPLY=($(compgen -W bash -- "$current")); return ;;
    {alone}) return ;;
    esac
    case $verb in
{sensible}
    esac
    for name in $("${{base[@]}}" sh-resources 2>/dev/null); do
        if [[ -n $ask ]]; then
            state=$("${{base[@]}}" "$ask" "$name" 2>/dev/null | head -n 1)
            eval "case \\${{state%%/*}} in $want) ;; *) continue ;; esac"
        fi
        words+=" $name"
    done
    COMPREPLY=($(compgen -W "$words all" -- "$current"))
}}
complete -o default -F _replctl replctl
"""
