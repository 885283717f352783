"""Completion scripts, generated from the arguments that the verbs declare."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.cli.verbs import VERBS, parser_of


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its names, its help, its choices, and whether it takes a value."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    takes_value: bool = False


@dataclass(slots=True)
class Words:
    """The words that may follow a verb."""

    summary: str
    actions: dict[str, str] = field(default_factory=dict)
    options: list[Option] = field(default_factory=list)


def words() -> dict[str, Words]:
    """Return the words that may follow each verb."""
    found: dict[str, Words] = {}
    for verb, summary in VERBS.items():
        entry = found[verb] = Words(summary)
        _collect(parser_of(verb), entry)
    return found


def _collect(parser: argparse.ArgumentParser, entry: Words) -> None:
    known = {name for option in entry.options for name in option.names}
    for action in parser._actions:
        if isinstance(action.choices, dict):  # actions of the verb, each with its own parser
            helps = {one.dest: one.help or "" for one in getattr(action, "_choices_actions", [])}
            for name, inner in action.choices.items():
                entry.actions[name] = helps.get(name, "")
                _collect(inner, entry)
        elif action.option_strings and not known.intersection(action.option_strings):
            values = tuple(map(str, action.choices or ()))
            takes = action.nargs != 0
            entry.options.append(Option(tuple(action.option_strings), _line(action.help), values, takes))
        elif action.choices:
            entry.actions |= {str(choice): _line(action.help) for choice in action.choices}


def _line(text: str | None) -> str:
    return (text or "").replace("%%", "%").split("\n", 1)[0]


def script(shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return "\n".join(makers[shell](words())) + "\n"


def _bash(found: dict[str, Words]) -> Iterator[str]:
    yield "# bash completion for odw"
    yield "_odw() {"
    yield '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "  COMPREPLY=()"
    yield (
        '  if [[ $COMP_CWORD -eq 1 ]]; then COMPREPLY=($(compgen -W "'
        + " ".join(found)
        + '" -- "$current")); return; fi'
    )
    yield '  case "${COMP_WORDS[1]} $before" in'
    for verb, entry in found.items():
        for option in entry.options:
            if option.values:
                names = "|".join(f'"{verb} {name}"' for name in option.names)
                values = " ".join(option.values)
                yield f'    {names}) COMPREPLY=($(compgen -W "{values}" -- "$current")); return;;'
    yield "  esac"
    yield '  local words=""'
    yield '  case "${COMP_WORDS[1]}" in'
    for verb, entry in found.items():
        options = " ".join(name for option in entry.options for name in option.names)
        actions = " ".join(entry.actions)
        yield f'    {verb}) if [[ $current == -* ]]; then words="{options}"; else words="{actions}"; fi;;'
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))'
    yield "}"
    yield "complete -o filenames -F _odw odw"


def _zsh(found: dict[str, Words]) -> Iterator[str]:
    yield "#compdef odw"
    yield "_odw() {"
    yield "  if (( CURRENT == 2 )); then"
    yield (
        "    local -a verbs=("
        + " ".join(_zsh_item(verb, entry.summary) for verb, entry in found.items())
        + ")"
    )
    yield "    _describe verb verbs; return"
    yield "  fi"
    yield '  case "$words[2]" in'
    for verb, entry in found.items():
        parts = []
        for option in entry.options:
            for name in option.names:
                value = f":value:({' '.join(option.values)})" if option.values else ":value:_files"
                parts.append(_quoted(f"*{name}[{_plain(option.help)}]{value if option.takes_value else ''}"))
        actions = " ".join(entry.actions)
        rest = (
            f'\'*:argument:_alternative "a:action:({actions})" "f:file:_files"\''
            if actions
            else "'*:file:_files'"
        )
        yield f"    {verb}) shift words; (( CURRENT-- )); _arguments {' '.join(parts)} {rest};;"
    yield "  esac"
    yield "}"
    yield '_odw "$@"'


def _zsh_item(name: str, summary: str) -> str:
    return _quoted(f"{name}:{summary}")


def _plain(text: str) -> str:
    return "".join(" " if char in "[]:" else char for char in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(found: dict[str, Words]) -> Iterator[str]:
    yield "# fish completion for odw"
    for verb, entry in found.items():
        yield f"complete -c odw -n __fish_use_subcommand -f -a {verb} -d {_fish_quoted(entry.summary)}"
        when = f"-n '__fish_seen_subcommand_from {verb}'"
        for action, text in entry.actions.items():
            yield f"complete -c odw {when} -a {action} -d {_fish_quoted(text)}"
        for option in entry.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            values = f" -x -a {_fish_quoted(' '.join(option.values))}" if option.values else ""
            needs = " -r" if option.takes_value and not option.values else ""
            yield f"complete -c odw {when} {names}{values}{needs} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
