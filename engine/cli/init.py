"""Write `pipelines.yaml` into this folder: four pipelines that run as they are, against the sandbox.

A file that is there already is left alone. Set INGEST_URL, S3_ENDPOINT or OPENAI_BASE_URL, in the environment
or in `.env`, and the same file uses the real services.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.cli.arguments import DEFAULT_FILE, this_command

SUMMARY = "write a first pipeline file into this folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("file", nargs="?", default=DEFAULT_FILE, help=f"where to write it ({DEFAULT_FILE})")


def execute(options: argparse.Namespace) -> int:
    """Write it, and say what comes next."""
    from engine.errors import ConfigError
    from engine.sandbox.packaged import main_job

    path = Path(options.file)
    try:
        with path.open("xb") as file:
            file.write(main_job())
    except FileExistsError:
        raise ConfigError(f"{path} exists already: name another file, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    file_argument = "" if options.file == DEFAULT_FILE else f" {path}"
    sys.stdout.write(f"{path} is written; to run it: {this_command()} run{file_argument}\n")
    return 0
