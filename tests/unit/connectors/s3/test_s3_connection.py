"""Properties of a connection that is not open."""

from __future__ import annotations

import pytest

from connectors.s3.client import S3Connection


@pytest.mark.parametrize(
    ("endpoint", "server"),
    [
        (None, "aws"),
        ("", "aws"),
        ("https://s3.amazonaws.com", "aws"),
        ("https://s3.eu-west-1.amazonaws.com", "aws"),
        ("https://minio.example.org:9000/", "minio.example.org:9000"),
        ("https://minio.example.org", "minio.example.org"),
        ("https://minio.example.org:9000", "minio.example.org:9000"),
        ("http://127.0.0.1:41234", "localhost"),
        ("http://localhost:9000", "localhost"),
        ("http://[::1]:9000", "localhost"),
    ],
)
def test_a_server_has_the_same_name_from_run_to_run(endpoint: str | None, server: str) -> None:
    assert S3Connection(endpoint=endpoint).server == server
