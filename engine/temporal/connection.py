"""Connect to the Temporal server, with its environment configuration and an optional codec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    PayloadCodec,
)
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import ConfigError, ServiceError

CODEC_VARIABLE = "ODW_TEMPORAL_CODEC"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Server options of the command line; "" leaves them to Temporal's configuration.

    That configuration is the file `temporal.toml` and the variables TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
    TEMPORAL_API_KEY, TEMPORAL_TLS_*, TEMPORAL_PROFILE
    (https://docs.temporal.io/develop/environment-configuration).

    Args:
        codec: `module:name` of a `PayloadCodec` class; by default that of ODW_TEMPORAL_CODEC.
    """

    address: str = ""
    namespace: str = ""
    profile: str = ""
    codec: str = ""


@cache
def _quiet() -> Runtime:
    """Return a runtime that logs nothing: failures are errors here, and standard error may be a live view."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def connect(options: ServerOptions, *, runtime: Runtime | None = None) -> Client:
    """Connect a client.

    Raises:
        ConfigError: the configuration or the codec cannot be used.
        ServiceError: the server cannot be reached, or has no such namespace.
    """
    try:
        known = ClientConfig.load_client_connect_config(options.profile or None)
    except RuntimeError as error:
        raise ConfigError(f"cannot use Temporal's configuration: {error}") from error
    address = options.address or known.get("target_host") or "localhost:7233"
    namespace = options.namespace or known.get("namespace") or "default"
    try:
        client = await Client.connect(
            address,
            namespace=namespace,
            api_key=known.get("api_key"),
            tls=known.get("tls"),
            rpc_metadata=known.get("rpc_metadata", {}),
            data_converter=converter(options.codec),
            runtime=runtime or _quiet(),
        )
    except ValueError as error:
        raise ConfigError(
            f"{address!r} is not a valid address of a Temporal server ({error}): use HOST:PORT"
        ) from error
    except RuntimeError as error:
        # a refused connection needs no details; an unknown host or a rejected certificate does
        why = "" if "ConnectionRefused" in str(error) else f": {error}"
        raise ServiceError(
            f"no Temporal server answers at {address}{why}. Start one on this machine with `temporal "
            "server start-dev`, or name another with --address or TEMPORAL_ADDRESS"
        ) from error
    await _check_namespace(client, address)
    return client


async def _check_namespace(client: Client, address: str) -> None:
    """Raise `ServiceError` if the server reports that it has no such namespace."""
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:  # the intended call will show whether other errors matter
            raise ServiceError(
                f"the Temporal server at {address} has no namespace {client.namespace!r}: create it with "
                f"`temporal operator namespace create --namespace {client.namespace}`, or name another "
                "with --namespace or TEMPORAL_NAMESPACE"
            ) from error


def converter(codec: str = "") -> DataConverter:
    """Return Temporal's converter with the user's codec, which also encodes failure messages.

    Raises:
        ConfigError: there is no such codec.
    """
    name = codec or os.environ.get(CODEC_VARIABLE, "")
    if not name:
        return DataConverter(payload_converter_class=_Converter)
    module, _, attribute = name.partition(":")
    try:
        made = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot load the payload codec {name!r}: {error}") from error
    if not isinstance(made, PayloadCodec):
        raise ConfigError(f"the payload codec {name!r} is not a temporalio.converter.PayloadCodec")
    return DataConverter(
        payload_converter_class=_Converter,
        payload_codec=made,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


class _Converter(DefaultPayloadConverter):
    """Adds a hint when a payload cannot be decoded."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        try:
            return super().from_payloads(payloads, type_hints)
        except KeyError as error:
            raise ConfigError(
                f"{error.args[0]}: set the payload codec of the other processes with --codec or "
                f"{CODEC_VARIABLE}"
            ) from None
