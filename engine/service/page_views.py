"""`getDailyPageViews`: page views and visitors per day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.service.paging import Page, ParameterError, Query, parse_count
from engine.service.reading_routes import EVENTS
from engine.service.tables import Table

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from engine.service.storage import Reader

__all__ = ["MAX_DAYS", "page_views"]

MAX_DAYS = 100_000
_COLUMNS = ("view_date", "total_pageviews", "unique_visitors")


def page_views(tables: Mapping[str, Table], parameters: QueryParams) -> tuple[Query, Page]:
    """Return the query, newest day first; `days_back` leaves out earlier days.

    It counts the current rows, without replaced ones. Raises ParameterError.
    """
    days = parse_count(parameters, "days_back")
    if days is not None and days > MAX_DAYS:
        raise ParameterError(f"days_back must be a whole number from 0 to {MAX_DAYS}")
    table = tables[EVENTS]

    def source(reader: Reader) -> str:
        day = "CAST(TRY_CAST(timestamp AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS DATE)"
        counted = "count(*) AS total_pageviews, count(DISTINCT distinct_id) AS unique_visitors"
        return (
            f"(SELECT {day} AS view_date, {counted} FROM {reader.rows_of(table)} "  # noqa: S608 -- quoted
            f"WHERE event_name = 'pageview' AND {day} IS NOT NULL GROUP BY ALL)"
        )

    query = Query(source, _COLUMNS, "view_date DESC")
    if days is not None:
        query.where("view_date >= CAST(now() AT TIME ZONE 'UTC' AS DATE) - CAST(? AS INTEGER)", days)
    return query, Page.of(parameters)
