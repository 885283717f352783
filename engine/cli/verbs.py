"""Dispatch of verbs, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn, get_type_hints

VERBS = {
    "init": "create a project from a template",
    "run": "run the pipelines of a file",
    "validate": "check a file without running anything",
    "test": "run the test cases of a pipeline file",
    "doctor": "check this machine and everything that a file needs",
    "plan": "forecast what a run would read, write and cost",
    "tap": "print the records that come out of a node",
    "graph": "draw the pipelines of a file",
    "connectors": "list components, or show one",
    "runs": "list, show and forget runs",
    "top": "show the runs in progress",
    "worker": "run a Temporal worker for durable runs",
    "submit": "start durable runs on Temporal",
    "watch": "watch a durable run",
    "control": "pause, resume or drain a durable run",
    "cancel": "cancel a durable run; it can be resumed",
    "schedule": "schedule pipelines on Temporal",
    "dlq": "list, show and replay dead letters",
    "bookmarks": "list and reset bookmarks of earlier runs",
    "journal": "list and purge paid model answers",
    "serve": "run the ingest service and its warehouse",
    "eval": "compare extracted records with a file of correct ones",
    "sql": "query the warehouse, or copy it for other programs",
    "sandbox": "run the embedded S3, model endpoint and ingest service",
    "explain": "explain an exit code, an error, or the type of a dead letter",
    "completion": "print a script that completes commands in a shell",
    "schema": "print the JSON Schema of pipeline files, for editors",
}
"""Each is a module of this package, imported on demand."""

USAGE_ERROR = 2


MAX_HELP_WIDTH = 100
COMMAND = "python -m engine"  # replaced in help texts by the actual program name


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal; indented lines and commands keep their line breaks."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, MAX_HELP_WIDTH)
        self._program = COMMAND if prog.startswith(COMMAND) else prog.partition(" ")[0]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(self._paragraph(one.strip("\n"), width) for one in text.split("\n\n"))

    def _paragraph(self, text: str, width: int) -> str:
        from itertools import dropwhile, takewhile
        from textwrap import fill

        def is_prose(line: str) -> bool:
            return not line.startswith((" ", COMMAND))

        lines = text.splitlines()
        prose = " ".join(takewhile(is_prose, lines))
        rest = [
            f"  {line.strip()}" if line.strip().startswith(COMMAND) else line
            for line in dropwhile(is_prose, lines)
        ]
        filled = [fill(prose, width, break_long_words=False, break_on_hyphens=False)] if prose else []
        return "\n".join([*filled, *rest]).replace(COMMAND, self._program)


class VerbParser(argparse.ArgumentParser):
    """An argument parser with one-line errors that suggest the nearest option.

    The defaults of arguments are those of the verb's options, see `parsed`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(argument_default=argparse.SUPPRESS, **settings)

    def describe_actions(self) -> None:
        """Start the help of each action with its text from the list of actions."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action._choices_actions:
                    text = one.help or ""
                    action.choices[one.dest].description = f"{text[:1].upper()}{text[1:]}."

    def _get_formatter(self) -> argparse.HelpFormatter:
        return HelpFormatter(self.prog)

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(USAGE_ERROR, f"{self.prog}: {message}{self._hint(message)}\n")

    def _hint(self, message: str) -> str:
        from difflib import get_close_matches

        wrong = next((word for word in message.split() if word.startswith("--")), "").partition("=")[0]
        near = get_close_matches(wrong, self.options(), n=1) if wrong else []
        # otherwise the option belongs to another action of the verb
        if "unrecognized" in message and near and wrong not in near:
            return f" (did you mean {near[0]}?)"
        return f" (see {self.prog} --help)"

    def options(self) -> list[str]:
        """Return all option names, including those of the actions."""
        names: list[str] = []
        for action in self._actions:
            names += action.option_strings
            if isinstance(action.choices, dict):
                names += [name for one in action.choices.values() for name in one.options()]
        return names


_ACTIONS = {
    "prune": ["runs prune"],
    "forget": ["runs forget"],
    "replay": ["dlq replay"],
    "discard": ["dlq discard"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. `argv` excludes the program's name."""
    _repair_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = _program()
    verb = arguments[0] if arguments else ""
    if verb in ("", "-h", "--help", "help"):
        if verb == "help" and len(arguments) > 1:
            return main([arguments[1], "--help"])
        sys.stdout.write(_overview(program))
        return 0 if verb else USAGE_ERROR
    if verb in ("-V", "--version"):
        from importlib.metadata import version

        sys.stdout.write(f"odw-engine {version('odw-engine')}\n")
        return 0
    if verb not in VERBS:
        sys.stderr.write(_unknown(program, verb))
        return USAGE_ERROR
    return _execute(_module(verb), verb, program, arguments[1:])


def _repair_streams() -> None:
    """Make the standard streams usable, even closed ones or those whose locale cannot write all text.

    The next file or socket would reuse a closed stream's descriptor, and output would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        if stream.encoding.lower() in ("ascii", "us-ascii"):
            stream.reconfigure(encoding="utf-8")  # a locale without an encoding; Python does the same for "C"
        elif stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _program() -> str:
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    return "odw" if name.removesuffix(".exe") == "odw" else COMMAND


def _overview(program: str) -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in VERBS.items())
    return (
        f"usage: {program} VERB ...\n\nRun the pipelines of a YAML file: from sources, through "
        f"transforms, into sinks.\n\nverbs:\n{verbs}\n\nRun `{program} VERB --help` for the options of a "
        f"verb, `{program} --version` for the version.\n"
    )


def _unknown(program: str, verb: str) -> str:
    import difflib

    near = _ACTIONS.get(verb) or difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(VERBS)}"
    return f"{program}: unknown verb `{verb}`: {hint}\n"


def _module(verb: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"engine.cli.{verb}")


def _options(module: ModuleType, arguments: argparse.Namespace) -> object:
    """Return the verb's options, with aliases resolved to pipelines' own names."""
    from engine.cli.options import parsed

    if getattr(arguments, "pipeline", ""):
        from engine.cli.loading import resolve_alias

        arguments.pipeline = resolve_alias(arguments.pipeline, getattr(arguments, "file", None))
    return parsed(_kind(module), arguments)


def _kind(module: ModuleType) -> type:
    """Return the class of a verb's options."""
    kind: type = get_type_hints(module.execute)["options"]
    return kind


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, with all its arguments."""
    return _parser(_module(verb), verb, "odw")


def _parser(module: ModuleType, verb: str, program: str) -> VerbParser:
    parser = VerbParser(
        prog=f"{program} {verb}",
        description=module.__doc__,
        allow_abbrev=False,
    )
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    else:
        from engine.cli.arguments import add_options

        for kind in reversed(_kind(module).__mro__[:-1]):
            add_options(parser, kind)
    parser.describe_actions()
    return parser


def _execute(module: ModuleType, verb: str, program: str, arguments: list[str]) -> int:
    parser = _parser(module, verb, program)
    try:
        arguments_given = parser.parse_args(arguments)
    except SystemExit as end:  # --help, or arguments that argparse has already complained about
        return end.code if isinstance(end.code, int) else USAGE_ERROR
    try:
        code: int = module.execute(_options(module, arguments_given))
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the boundary of the process: every error gets one message
        from engine.cli.exit_codes import explain

        return explain(error)
    return code
