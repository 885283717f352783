"""botocore's descriptions of S3, read once a process and not by every client that a test opens.

Reading and parsing them takes three quarters of the time of opening a client.
"""

from __future__ import annotations

import functools
import sys

__all__ = ["preload", "share"]


def share() -> None:
    """Let all sessions of this process have one loader, as soon as botocore is imported at all."""
    session = sys.modules.get("botocore.session")
    if session is not None and not hasattr(session.create_loader, "cache_info"):
        vars(session)["create_loader"] = functools.cache(session.create_loader)


def preload() -> None:
    """Import botocore, and read what a client of S3 needs."""
    import botocore.session

    share()
    session = botocore.session.get_session()
    session.create_client(
        "s3", "us-east-1", endpoint_url="http://127.0.0.1:9", aws_access_key_id="", aws_secret_access_key=""
    )
