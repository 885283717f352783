"""Connectors by name, for use without a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.contract.component import Kind, Source
from engine.errors import ConfigError
from engine.registry import Registry


class ConnectorType(StrEnum):
    """The connectors that come with the engine."""

    BLOB = "blob"
    LOGS = "logs"
    EVENTS = "events"
    S3 = "s3"


class ConnectorFactory:
    """Builds any registered source, built in or not.

    ::

        connector = ConnectorFactory.create(ConnectorType.BLOB, {"batch_size": 100})
        async with connector:
            async for blob in connector.extract():
                ...
    """

    @staticmethod
    def create(
        connector: ConnectorType | str,
        config: BaseModel | Mapping[str, Any] | None = None,
        *,
        connection: BaseModel | Mapping[str, Any] | None = None,
        registry: Registry | None = None,
    ) -> Source[Any]:
        """Build a connector without opening it.

        Args:
            connector: type or registered name.
            config: parameters. `batch_size` is an alias of `records` for sources that have that.
            connection: connection fields, for connectors that need one.

        Raises:
            RegistryError: no source has that name; the message suggests the nearest.
            ConfigError: parameters or connection are invalid.
        """
        spec = (registry or Registry.installed()).get(Kind.SOURCE, str(connector))
        if not isinstance(config, BaseModel):
            values = dict(config or {})
            if "records" in spec.params.model_fields and "batch_size" in values:
                values["records"] = values.pop("batch_size")
            config = _validated(spec.params, values, str(connector))
        if spec.connection is not None and not isinstance(connection, BaseModel):
            connection = _validated(spec.connection, dict(connection or {}), f"{connector} connection")
        component = spec.factory(config, connection if isinstance(connection, BaseModel) else None)
        assert isinstance(component, Source)
        return component


def _validated(model: type[BaseModel], values: Mapping[str, Any], what: str) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"{what}: {problems}") from None
