"""Permissions of the sandbox's files."""

from __future__ import annotations

import pytest

from engine.sandbox.s3 import _problem

HOST = {"HTTP_HOST": "localhost:9500"}
SIGNED = {"HTTP_AUTHORIZATION": "AWS4-HMAC-SHA256 …"}


@pytest.mark.parametrize(
    ("method", "environ", "is_refused"),
    [
        ("GET", HOST, False),
        ("HEAD", {"HTTP_HOST": "127.0.0.1"}, False),
        ("GET", HOST | {"HTTP_ORIGIN": "http://localhost:8501"}, False),
        ("PUT", HOST | SIGNED, False),
        ("PUT", HOST | {"QUERY_STRING": "X-Amz-Date=1&X-Amz-Signature=f"}, False),
        ("PUT", HOST, True),
        ("POST", HOST, True),
        ("DELETE", HOST, True),
        ("GET", {"HTTP_HOST": "evil.example"}, True),
        ("GET", HOST | {"HTTP_ORIGIN": "http://evil.example"}, True),
        ("GET", HOST | {"HTTP_ORIGIN": "null"}, True),
        ("PUT", HOST | SIGNED | {"HTTP_ORIGIN": "http://evil.example"}, True),
    ],
)
def test_files_are_read_only_without_a_key(method: str, environ: dict[str, str], is_refused: bool) -> None:
    assert (_problem({"REQUEST_METHOD": method, **environ}) is not None) == is_refused
