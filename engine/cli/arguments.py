"""How fields of options become arguments of the command line, and the types of their values."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")

_HIGHEST_PORT = 65_535


def this_command() -> str:
    """Return the command that runs this program again, for hints to copy.

    The interpreter is named by its path when it is that of an environment below the current folder which
    has not been activated.
    """
    if os.path.basename(sys.argv[0]).removesuffix(".exe") == "odw":
        return "odw"
    python = os.path.relpath(sys.executable) if os.name == "posix" else ""
    inside = python and not python.startswith("..") and sys.prefix != sys.base_prefix
    return f"{python if inside and not os.environ.get('VIRTUAL_ENV') else 'python'} -m engine"


def option(default: T, text: str, metavar: str | None = None, /, **settings: Any) -> T:
    """Return a field of a verb's options that `add_options` declares as an option, with this help text.

    The option is named after the field. It is a flag if the default is False, and repeatable if it is ().

    Args:
        settings: those of `ArgumentParser.add_argument`, and `flag`, another name of the option.
    """
    if default is False:
        settings |= {"action": "store_true"}
    elif default == ():
        settings |= {"action": "append"}
    if metavar:
        settings |= {"metavar": metavar}
    value: T = field(default=default, metadata={"help": text, **settings})
    return value


def argument(default: T, text: str | None, metavar: str | None = None, /, **settings: Any) -> T:
    """Return a field of a verb's options that `add_options` declares as a positional argument."""
    value: T = field(default=default, metadata={"help": text, "metavar": metavar, "flag": "", **settings})
    return value


def add_options(parser: argparse._ActionsContainer, kind: type, *names: str, **texts: str) -> None:
    """Declare fields of the options `kind`: those named, or all that it adds to its bases.

    Args:
        texts: help texts of further fields, in place of their own.
    """
    declared = {field.name: field for field in fields(kind)}
    own = [name for name in declared if name in vars(kind) and declared[name].metadata]
    for name in [*names, *texts] or own:
        settings = {**declared[name].metadata}
        if name in texts:
            settings["help"] = texts[name]
        flag = settings.pop("flag", f"--{name.replace('_', '-')}")
        if flag:
            parser.add_argument(flag, dest=name, **settings)
        else:
            parser.add_argument(name, **settings)


def none_or_more(text: str) -> int:
    """For argparse: 0 or more."""
    return _whole(text, "a whole number, 0 or more", 0)


def at_least_one(text: str) -> int:
    """For argparse: 1 or more."""
    return _whole(text, "a whole number, 1 or more", 1)


def port(text: str) -> int:
    """For argparse: a port, 0 for any."""
    return _whole(text, f"a port from 0 to {_HIGHEST_PORT}", 0, _HIGHEST_PORT)


def _whole(text: str, expected: str, lowest: int, highest: float = math.inf) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text}")
    return number


def more_than_none(text: str) -> float:
    """For argparse: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return number
