"""Check queries of `sql`: one SELECT in which every row belongs to one record of the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

OVER: Final = "OVER"

ROW: Final = "_row"
"""The column with the index of a row's record in the batch."""


@lru_cache(maxsize=64)  # cached: validation and the run check the same query, which needs a database
def carrying_row(query: str, *, per_batch: bool) -> str:
    """Return the query with the column `_row` added to its SELECT, if possible.

    Raises:
        ValueError: it is not a single SELECT, it combines several records into one row, or its result depends
            on batches and `per_batch` does not allow that.
    """
    import duckdb

    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        tree = json.loads(_one(connection, "SELECT json_serialize_sql(?)", query))
        if tree["error"]:
            reason = tree["error_message"]
            raise ValueError("the query has to be a SELECT" if "Only SELECT" in reason else reason)
        if len(tree["statements"]) != 1:
            raise ValueError("write one SELECT")
        node = tree["statements"][0]["node"]
        aggregates = _aggregates(connection)
        _check(node, aggregates, per_batch=per_batch)
        relation = _relation(node.get("from_table", {}))
        if relation is not None and not any(_is_star(one, relation) for one in node["select_list"]):
            column = {
                "class": "COLUMN_REF",
                "type": "COLUMN_REF",
                "alias": "",
                "column_names": [relation, ROW],
            }
            node["select_list"].append(column)
        return str(_one(connection, "SELECT json_deserialize_sql(?::JSON)", json.dumps(tree)))


def _one(connection: Any, query: str, value: str) -> Any:
    return connection.execute(query, [value]).fetchone()[0]


def _aggregates(connection: Any) -> frozenset[str]:
    rows = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'"
    ).fetchall()
    return frozenset(name for (name,) in rows)


def _check(node: dict[str, Any], aggregates: frozenset[str], *, per_batch: bool) -> None:
    if node["type"] != "SELECT_NODE":
        raise ValueError("a query with UNION, EXCEPT or INTERSECT cannot keep the record of each row")
    kinds = {one["type"] for one in node.get("modifiers", ())}
    if node.get("group_expressions") or "DISTINCT_MODIFIER" in kinds:
        what = "GROUP BY" if node.get("group_expressions") else "DISTINCT"
        raise ValueError(f"{what} makes one row of several records: aggregate in the warehouse instead")
    own = [*node["select_list"], node.get("having"), node.get("qualify")]
    found = next((name for name in _functions(own, deep=False) if name in aggregates), None)
    if found is not None:
        raise ValueError(f"{found}() makes one row of several records: aggregate in the warehouse instead")
    if per_batch:
        return
    limited = "LIMIT" if kinds & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"} else ""
    names = _functions(node, deep=True)
    found = next((name for name in names if name in aggregates or name == OVER), None)
    what = limited if found is None else OVER if found == OVER else f"{found}()"
    if what:
        raise ValueError(
            f"{what} sees only one batch at a time, and where batches end is not fixed: set "
            "`per_batch: true` if that does not matter"
        )


def _functions(part: Any, *, deep: bool) -> Iterator[str]:
    """Yield the functions in a part of a query; `deep` includes windows and subqueries."""
    if isinstance(part, list):
        for one in part:
            yield from _functions(one, deep=deep)
    elif isinstance(part, dict):
        kind = part.get("class")
        if kind == "WINDOW":
            if deep:
                yield OVER
            return
        if kind == "SUBQUERY" and not deep:
            return
        if kind == "FUNCTION":
            yield str(part.get("function_name", "")).lower()
        for one in part.values():
            yield from _functions(one, deep=deep)


def _relation(table: dict[str, Any]) -> str | None:
    """Return the name of the batch in a FROM clause; None if it is not directly in it."""
    if table.get("type") == "BASE_TABLE" and table.get("table_name", "").lower() == "batch":
        return str(table.get("alias") or table["table_name"])
    if table.get("type") == "JOIN":
        return _relation(table["left"]) or _relation(table["right"])
    return None


def _is_star(column: dict[str, Any], relation: str) -> bool:
    if column.get("class") != "STAR":
        return column.get("class") == "COLUMN_REF" and column.get("column_names", [""])[-1] == ROW
    return column.get("relation_name", "") in ("", relation) and not column.get("columns")
