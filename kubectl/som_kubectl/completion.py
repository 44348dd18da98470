"""Shell completion: what could come next on the command line.

kubectl asks an executable `kubectl_complete-som` on PATH for the words after `kubectl som`; its
answer is one candidate a line, and at last a directive, as cobra has it. The scripts for bash, zsh
and fish ask the same of `kubectl-som` itself.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

NO_FILES: Final = 4
FILES: Final = 0
_KINDS: Final = {"pool": "sompools", "node": "somnodes", "pod": "pods"}
_SCRIPTS: Final = {
    "bash": """\
_kubectl_som() {
  local IFS=$'\\n' out
  out=$(kubectl-som __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  COMPREPLY=($(compgen -W "$(sed '$d' <<<"$out")" -- "${COMP_WORDS[COMP_CWORD]}"))
  [[ $out == *:0 ]] && compopt -o default
}
complete -F _kubectl_som kubectl-som
""",
    "zsh": """\
#compdef kubectl-som
_kubectl_som() {
  local -a out
  out=(${(f)"$(kubectl-som __complete ${words[2,CURRENT]} 2>/dev/null)"})
  [[ $out[-1] == :0 ]] && _files
  compadd -- ${out[1,-2]}
}
compdef _kubectl_som kubectl-som
""",
    "fish": """\
function __kubectl_som
  set -l words (commandline -opc)[2..] (commandline -ct)
  set -l out (kubectl-som __complete $words 2>/dev/null)
  test "$out[-1]" = :0; and __fish_complete_path (commandline -ct)
  test (count $out) -gt 1; and printf '%s\\n' $out[1..-2]
end
complete -c kubectl-som -f -a '(__kubectl_som)'
""",
}


def script(shell: str) -> str:
    """What a shell reads to complete `kubectl-som`."""
    return _SCRIPTS[shell]


def candidates(
    words: Sequence[str],
    parser: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
) -> tuple[list[str], int]:
    """(what could stand in place of the last word, whether files could, too)."""
    *before, begun = words or [""]
    name = next((word for word in before if not word.startswith("-")), "")
    if not name:
        return _fitting([*commands, *_options(parser)], begun), NO_FILES
    command = commands.get(name)
    if command is None:
        return [], NO_FILES
    option = _action(command, before[-1]) if before else None
    if option is not None and option.nargs != 0:
        return _values(name, option, begun)
    if begun.startswith("-"):
        return _fitting(_options(command), begun), NO_FILES
    positional = next((a for a in command._actions if not a.option_strings), None)
    if positional is None:
        return _fitting(_options(command), begun), NO_FILES
    return _values(name, positional, begun)


def _values(command: str, action: argparse.Action, begun: str) -> tuple[list[str], int]:
    if action.choices:
        return _fitting([str(choice) for choice in action.choices], begun), NO_FILES
    if action.dest in ("filename", "kubectl_kubeconfig") or action.metavar == "FILE":
        return [], FILES
    if action.dest == "name":
        kind, slash, _ = begun.partition("/")
        if not slash:
            return _fitting([f"{kind}/" for kind in _KINDS], begun), NO_FILES
        return _fitting([f"{kind}/{name}" for name in _names(kind)], begun), NO_FILES
    kinds = {"POOL": "pool", "NODE": "node"}
    kind = kinds.get(str(action.metavar), "")
    return _fitting(_names(kind), begun), NO_FILES


def _names(kind: str) -> list[str]:
    """Names of the cluster's objects; none while it does not answer at once."""
    from som_kubectl import kubectl

    if kind not in _KINDS:
        return []
    program = kubectl.Program(["--request-timeout=2s"])
    words = ("get", _KINDS[kind], "--output=jsonpath={.items[*].metadata.name}")
    try:
        return program.run(*words).decode().split()
    except kubectl.Refused:
        return []


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [text for action in parser._actions for text in action.option_strings if text[1] == "-"]


def _action(parser: argparse.ArgumentParser, option: str) -> argparse.Action | None:
    return next((a for a in parser._actions if option in a.option_strings), None)


def _fitting(found: Iterable[str], begun: str) -> list[str]:
    return [each for each in found if each.startswith(begun)]
