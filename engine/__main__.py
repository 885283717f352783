"""`python -m engine`."""

from engine.cli import program

raise SystemExit(program())
