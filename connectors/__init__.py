"""The built-in connectors; each imports only the engine's contract and its own SDK.

The names below are imported when they are first used, so that asking for one does not load the SDKs of all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.factory import ConnectorFactory, ConnectorType
    from connectors.llm import get_llm_service
    from connectors.models import S3FileContent
    from connectors.s3 import S3Connector, S3FileReader, S3WildcardResolver
    from connectors.simulated import BlobConnector, EventsConnector, LogsConnector
    from connectors.transforms import simulate_failures

_MODULES = {
    "BlobConnector": "connectors.simulated",
    "ConnectorFactory": "connectors.factory",
    "ConnectorType": "connectors.factory",
    "EventsConnector": "connectors.simulated",
    "LogsConnector": "connectors.simulated",
    "S3Connector": "connectors.s3",
    "S3FileContent": "connectors.models",
    "S3FileReader": "connectors.s3",
    "S3WildcardResolver": "connectors.s3",
    "get_llm_service": "connectors.llm",
    "simulate_failures": "connectors.transforms",
}

__all__ = [
    "BlobConnector",
    "ConnectorFactory",
    "ConnectorType",
    "EventsConnector",
    "LogsConnector",
    "S3Connector",
    "S3FileContent",
    "S3FileReader",
    "S3WildcardResolver",
    "get_llm_service",
    "simulate_failures",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'connectors' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
