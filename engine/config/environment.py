"""The values of `${NAME}` and `${file:…}`: a `.env` file, the environment, files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Final

from engine.config.problems import Problems
from engine.config.values import Place

MAX_SECRET_BYTES: Final = 64 << 10
_MAX_ENV_BYTES: Final = 1 << 20


def load_environment(env_file: Path, environ: Mapping[str, str], problems: Problems) -> dict[str, str]:
    """Load the variables of a `.env` file, if it exists, overridden by `environ`.

    A line that is not an assignment is a problem; its text is not shown, since it may hold a secret.
    """
    try:
        with env_file.open("rb") as stream:
            data = stream.read(_MAX_ENV_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return dict(environ)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.add(Place(str(env_file)), f"cannot be read: {reason}")
        return dict(environ)
    if len(data) > _MAX_ENV_BYTES:
        problems.add(Place(str(env_file)), "the file is larger than 1 MiB")
        return dict(environ)
    return {**_dotenv(text, str(env_file), problems), **environ}


def _dotenv(text: str, file: str, problems: Problems) -> dict[str, str]:
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    broken = [binding for binding in parse_stream(StringIO(text)) if binding.error]
    for binding in broken:
        problems.add(Place(file, binding.original.line, 1), "not an assignment", "write NAME=value")
    if broken:
        return {}
    # `interpolate` would read the process environment instead of `environ`
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def file_reader(base: Path) -> Callable[[str], str]:
    """Return the reader of `${file:path}`; paths are relative to `base`, and one final newline is removed."""

    def read(path: str) -> str:
        if not path:
            raise ValueError("no path is given")
        # a pipe or a device might never end, or never begin
        descriptor = os.open(base / path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("it is not a regular file")
            data = stream.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            raise ValueError(f"it is larger than {MAX_SECRET_BYTES >> 10} KiB")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8 text") from None
        return text.removesuffix("\n").removesuffix("\r")

    return read
