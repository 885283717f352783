"""Tables of ClickHouse: the sink `clickhouse`."""

from __future__ import annotations

from connectors.clickhouse.client import ClickHouseConnection
from connectors.clickhouse.sink import ClickHouseSink, ClickHouseSinkParams

__all__ = ["ClickHouseConnection", "ClickHouseSink", "ClickHouseSinkParams"]
