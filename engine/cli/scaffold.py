"""Files of a new project, from the templates that come with the package."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.cli.arguments import this_command
from engine.cli.exit_codes import ExitCode
from engine.cli.options import InitOptions
from engine.config.problems import unknown
from engine.errors import ConfigError, StateError

FOLDER = Path(__file__).parent / "templates"
IGNORED = ".odw/\n.env\n"

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Template:
    """A template: its purpose, its files, and the next arguments to type (without the command itself)."""

    summary: str
    files: Callable[[str], Files]
    next_steps: tuple[str, ...]


def _sandbox(name: str) -> Files:
    from engine.sandbox.packaged import main_job

    return {"pipelines.yaml": main_job(), ".gitignore": IGNORED.encode()}


def _folder(template: str) -> Callable[[str], Files]:
    def files(name: str) -> Files:
        words = {"@COMMAND@": this_command(), "@NAME@": name, "@MODULE@": name.replace("-", "_"),
                 "@CLASS@": "".join(map(str.capitalize, re.split("[-_]", name)))}  # fmt: skip
        root = FOLDER / template
        found = {}
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                place = path.relative_to(root).as_posix().removesuffix(".tmpl")
                found[_filled(place, words)] = _filled(path.read_text(encoding="utf-8"), words).encode()
        return {**found, ".gitignore": IGNORED.encode()}

    return files


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


TEMPLATES: Mapping[str, Template] = {
    "sandbox": Template(
        "four pipelines of a data warehouse, on embedded services", _sandbox, ("validate", "run")
    ),
    "files": Template(
        "CSV files into a table of a DuckDB file, with a test", _folder("files"), ("test", "plan", "run")
    ),
    "s3-to-llm": Template(
        "documents in S3 into records, through a language model",
        _folder("s3-to-llm"),
        ("doctor", "run --limit 5", "run"),
    ),
    "http-to-postgres": Template(
        "new records of a REST API into a table of PostgreSQL; needs a network and a database",
        _folder("http-to-postgres"),
        ("test", "doctor", "run --limit 100", "run"),
    ),
}
CONNECTOR = Template("a package with a connector", _folder("connector"), ())


def create(options: InitOptions) -> int:
    """Write the files of a template, or list the templates.

    Raises:
        ConfigError: there is no such template, a name is not valid, or a file exists already.
        StateError: a file cannot be written.
    """
    if options.connector:
        return _create_connector(options)
    if not options.template:
        sys.stdout.write(_overview())
        return ExitCode.COMPLETED
    template = TEMPLATES.get(options.template)
    if template is None:
        raise ConfigError(unknown("template", options.template, TEMPLATES))
    folder = Path(options.folder or ".")
    _write(folder, template.files(folder.resolve().name))
    _tell(folder, [f"{this_command()} {step}" for step in template.next_steps])
    return ExitCode.COMPLETED


def _create_connector(options: InitOptions) -> int:
    from engine.contract.component import Kind
    from engine.registry import Registry

    name = options.connector
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > 40:
        raise ConfigError(
            f"--connector: {name!r} cannot name a package: use lower-case letters, digits and single hyphens"
        )
    if (Kind.SOURCE, name) in Registry.installed().names(Kind.SOURCE):
        raise ConfigError(f"--connector: there is a source {name!r} already: choose another name")
    if options.folder:
        raise ConfigError("--connector takes one folder: init --connector NAME [DIR]")
    folder = Path(options.template or f"odw-{name}")
    _write(folder, CONNECTOR.files(name))
    _tell(
        folder,
        ["python -m pip install -e '.[test]'", "python -m pytest", f"{this_command()} run example.yaml"],
    )
    return ExitCode.COMPLETED


def _overview() -> str:
    width = max(map(len, TEMPLATES))
    lines = [f"  {name:<{width}}  {one.summary}" for name, one in TEMPLATES.items()]
    return (
        "templates:\n" + "\n".join(lines) + f"\n\nCreate one: {this_command()} init TEMPLATE [DIR]\n"
        f"A connector of your own: {this_command()} init --connector NAME [DIR]\n"
    )


def _write(folder: Path, files: Files) -> None:
    there = [name for name in files if (folder / name).exists() and name != ".gitignore"]
    if there:
        raise ConfigError(
            f"{folder / there[0]} exists already, and nothing is overwritten: name another folder, as in "
            "`init TEMPLATE DIR`"
        )
    try:
        for name, content in files.items():
            path = folder / name
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            sys.stdout.write(f"created {path}\n")
    except OSError as error:
        raise StateError(f"cannot write to {folder}: {error.strerror or error}") from error


def _tell(folder: Path, steps: list[str]) -> None:
    into = [] if folder.resolve() == Path.cwd() else [f"cd {os.fspath(folder)}"]
    sys.stdout.write("\nnext:\n" + "".join(f"  {line}\n" for line in [*into, *steps]))
