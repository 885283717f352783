"""An S3 endpoint over real HTTP: moto's S3 on a loopback port, holding the sample documents."""

from __future__ import annotations

import mimetypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.addresses import host_of, is_loopback

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from werkzeug.serving import BaseWSGIServer

BUCKET = "unstructured-data"
REGION = "us-east-1"
ACCESS_KEY = SECRET_KEY = "sandbox"  # noqa: S105 - moto asks for a key and accepts any

_POLL_SECONDS = 0.05  # seconds until the accept loop notices that it should stop


@contextmanager
def s3_server(samples: Path, port: int = 0) -> Iterator[str]:
    """Serve a bucket with all files of `samples/memos` under `memos/`; yield the endpoint's address.

    moto's buckets are global to the process, so a process has only one such server at a time. It uses one
    thread per connection, and HTTP/1.1 with keep-alive. Requests without a key can only read, and pages of
    other hosts have no access.

    Raises:
        FileNotFoundError: `samples` has no folder `memos`.
    """
    server = _build_server(port)
    thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_SECONDS,), name="sandbox-s3", daemon=True
    )
    try:
        _seed(samples)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    finally:
        server.server_close()


def _build_server(port: int) -> BaseWSGIServer:
    # imported here because moto takes a third of a second, which only users of S3 should pay
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class QuietHandler(MotoRequestHandler):
        disable_nagle_algorithm = True  # headers and body are sent in two writes

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing: object names may be personal data."""

        def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
            """Log nothing about malformed HTTP, either."""

    app = _Guard(DomainDispatcherApplication(create_backend_app))
    return make_server("127.0.0.1", port, app, threaded=True, request_handler=QuietHandler)


class _Guard:
    """Allows clients of this machine anything with a key, and reads without one.

    moto itself accepts every write, after which the object can no longer be read without a key.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        problem = _problem(environ)
        if problem is None:
            return self._app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [problem.encode()]


def _problem(environ: WSGIEnvironment) -> str | None:
    origin = environ.get("HTTP_ORIGIN")
    authorities = [environ.get("HTTP_HOST", "localhost")]
    if origin is not None:
        authorities.append(origin.partition("://")[2])
    for authority in authorities:
        host = host_of(authority)
        if host is None or not is_loopback(host):
            return "These files are for programs and pages of this machine only"
    has_key = "HTTP_AUTHORIZATION" in environ or "X-Amz-Signature=" in environ.get("QUERY_STRING", "")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD") and not has_key:
        return "Files can only be read without a key"
    return None


def _seed(samples: Path) -> None:
    """Put the documents directly into moto's backend; HTTP would take ten times as long."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import get_canned_acl, s3_backends

    memos = samples / "memos"
    if not memos.is_dir():
        raise FileNotFoundError(f"no such directory: {memos}")
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, REGION)
    for path in sorted(memos.rglob("*")):
        if path.is_file():
            key = backend.put_object(BUCKET, path.relative_to(samples).as_posix(), path.read_bytes())
            kind, _encoding = mimetypes.guess_type(path.name)
            key.set_metadata({"Content-Type": kind or "application/octet-stream"})
            key.set_acl(get_canned_acl("public-read"))  # viewers of a file have no key
