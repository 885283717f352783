"""The routes that read tables, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from engine.service.models import IngestModel, ModelError, check_names
from engine.service.tables import SEQUENCE, Table, tables_of


@dataclass(frozen=True, slots=True)
class ConsumptionQuery:
    """One reading route over `table`.

    Rows are sorted newest first by the first of the `newest` columns that the table has, then by id, so that
    pages never overlap. `equal`: columns that a parameter of the same name must equal; `contains`: columns
    that must contain it, ignoring case. `as_text` returns every column as a string. `openable` is a column of
    URIs: clients that open them support only `s3://` and `http(s)://`, so those of another object store are
    returned as `s3://`, and unchanged in `source_uri`. A repeated `id` parameter filters by ids on every
    route.

    With `order=id` a client reads a route from beginning to end: rows are sorted by id, `after` is the last
    id seen, and commits meanwhile cannot move a row from one page to another. `fields` selects columns,
    `without` names a table whose ids are left out. Unknown parameters are then rejected.
    """

    name: str
    table: str
    newest: tuple[str, ...] = ("transform_timestamp",)
    equal: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    as_text: bool = False
    openable: str = ""


QUERIES = (
    ConsumptionQuery("getBlobs", "Blob"),
    ConsumptionQuery("getLogs", "Log", equal=("level", "source", "trace_id")),
    ConsumptionQuery("getEvents", "Event", equal=("event_name", "project_id", "distinct_id")),
    ConsumptionQuery(
        "getMedical",
        "Medical",
        contains=(
            "patient_name",
            "patient_age",
            "phone_number",
            "scheduled_appointment_date",
            "dental_procedure_name",
            "doctor",
            "source_file_path",
        ),
        as_text=True,
        openable="source_file_path",
    ),
    ConsumptionQuery("getUnstructuredData", "UnstructuredData", contains=("source_file_path",)),
)
"""The served tables, as far as they exist."""

EVENTS = "Event"
"""The table whose page views `PAGE_VIEWS` counts."""

PAGE_VIEWS = "getDailyPageViews"

OF_EVERY_ROUTE = ("after", "fields", "id", "limit", "offset", "order", "without")

_RESERVED = frozenset({*OF_EVERY_ROUTE, "tag"})


def queries_of(models: Iterable[IngestModel], tables: Mapping[str, Table]) -> dict[str, ConsumptionQuery]:
    """Return the reading routes by lower-case name: fixed ones, then `get<Model>` and `get<Table>`.

    A model `ReadingSource` is also served as `getReading` unless that is another route: its rows are those of
    the curated table. Every scalar column of such a table can be filtered by value.

    Raises:
        ModelError: two tables would be read at the same route.
    """
    models = [model for model in models if model.table is not None]
    found = {query.name.lower(): query for query in QUERIES if query.table in tables}
    fixed = {query.table for query in found.values()}
    for model in models:
        for name in (model.name, str(model.table)):
            if not (name == model.table and name in fixed):
                _refuse_taken(model, name, found, tables)
                found.setdefault(f"get{name}".lower(), _query_of(model, name, found, tables))
    for model in models:
        short = model.name.removesuffix("Source")
        is_view = f"get{short}".lower() == PAGE_VIEWS.lower() and EVENTS in tables
        if short and short not in fixed and not is_view:
            found.setdefault(f"get{short}".lower(), _query_of(model, short, found, tables))
    return found


def routes_of(models: Iterable[IngestModel]) -> list[str]:
    """Return the names of the reading routes of a service with these models.

    Raises:
        ModelError: a service cannot have all of them.
    """
    models = check_names(models)
    tables = tables_of(models)
    views = [PAGE_VIEWS] if EVENTS in tables else []
    return [query.name for query in queries_of(models, tables).values()] + views


def _query_of(
    model: IngestModel, name: str, found: Mapping[str, ConsumptionQuery], tables: Mapping[str, Table]
) -> ConsumptionQuery:
    known = next((query for query in found.values() if query.table == model.table), None)
    if known is not None:
        return replace(known, name=f"get{name}")
    table = str(model.table)
    equal = tuple(column.name for column in tables[table].plain_columns if column.name not in _RESERVED)
    return ConsumptionQuery(f"get{name}", table, newest=(SEQUENCE,), equal=equal)


def _refuse_taken(
    model: IngestModel, name: str, found: Mapping[str, ConsumptionQuery], tables: Mapping[str, Table]
) -> None:
    route, what = f"get{name}", ""
    if route.lower() == PAGE_VIEWS.lower() and EVENTS in tables:
        what = f"the built-in view {PAGE_VIEWS}"
    elif (known := found.get(route.lower())) is not None and known.table != model.table:
        what = f"{'the built-in route ' if known in QUERIES else ''}{known.name} of table {known.table!r}"
    if what:
        raise ModelError(
            f"ingest model {model.name!r}, table {model.table!r}: its rows would be read at {route}, which "
            f"is {what}: give the model or its table another name",
            model.name,
        )
