"""Files in an S3 bucket, found by a wildcard pattern and read concurrently.

Importing this is cheap; the SDK is loaded when a client is opened.
"""

from __future__ import annotations

from connectors.s3.client import S3Client, S3Connection, open_client
from connectors.s3.reader import S3FileReader
from connectors.s3.resolver import S3Object, S3WildcardResolver
from connectors.s3.source import S3Connector, S3Params

__all__ = [
    "S3Client",
    "S3Connection",
    "S3Connector",
    "S3FileReader",
    "S3Object",
    "S3Params",
    "S3WildcardResolver",
    "open_client",
]
