"""Reject values that ClickHouse would silently change: impossible dates, and numbers beyond its types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from connectors.tables.columns import Column, ValueType
from connectors.tables.isolation import RowsRefusedError

__all__ = ["check_ranges"]

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_LONG: Final = re.compile(r"(?:Nullable\()?(U?)Int(128|256)\)?")
_ITEMS: Final = re.compile(
    r"(?:Array\(|Map\([^,()]+, )(Nullable\()?(?:(U?)Int(8|16|32|64)|String|Bool|Float\d+|UUID|Date\d*)\)*"
)
_LAST_DAY: Final = "2149-06-06"
_SECONDS: Final = 2**32
_LARGEST_FLOAT32: Final = 3.4028235677973366e38


def check_ranges(column: Column, values: Sequence[Any]) -> None:
    """Check the values of a column.

    Raises:
        RowsRefusedError: ClickHouse would write another value.
    """
    if column.type in (ValueType.DATE, ValueType.TIMESTAMP):
        _check_days(column, [str(one) for one in values if one is not None])
    elif column.type is ValueType.FLOAT and "Float32" in column.sql:
        if any(_LARGEST_FLOAT32 < abs(one) < float("inf") for one in values if one is not None):
            raise _refused(column, "a number beyond its range")
    elif long := _LONG.fullmatch(column.sql):
        _check_integers(column, values, bool(long[1]), int(long[2]))
    elif items := _ITEMS.fullmatch(column.sql):
        inside = [item for one in values for item in _items(one)]
        if None in inside and not items[1]:
            raise _refused(column, "a null inside")
        if items[3]:
            _check_integers(column, inside, bool(items[2]), int(items[3]))


def _items(value: Any) -> Iterable[Any]:
    """Return the items of a list or mapping, or of its JSON text; ClickHouse refuses anything else."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return ()
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_integers(column: Column, values: Iterable[Any], unsigned: bool, bits: int) -> None:
    least, most = (0, 2**bits) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if any(not least <= one < most for one in values if type(one) is int):
        raise _refused(column, "an integer beyond its range")


def _check_days(column: Column, texts: Sequence[str]) -> None:
    days = {text[:10] for text in texts}
    for day in filter(_DAY.fullmatch, days):
        try:
            date.fromisoformat(day)
        except ValueError:
            raise _refused(column, "a day that does not exist") from None
    name = re.sub(r"^(?:Nullable|LowCardinality)\(", "", column.sql)
    if re.match(r"Date\b", name) and any(
        not "1970-01-01" <= day <= _LAST_DAY for day in days if _DAY.fullmatch(day)
    ):
        raise _refused(column, f"a day before 1970-01-01 or after {_LAST_DAY}; Date32 has more")
    near_an_end = any(not "1970-01-01" < day < "2106-02-07" for day in days)
    if re.match(r"DateTime\b", name) and near_an_end and not all(map(_fits_seconds, texts)):
        raise _refused(column, "a time before 1970 or after 2106-02-07; DateTime64 has more")


def _fits_seconds(text: str) -> bool:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return True  # another notation, which ClickHouse reads or refuses
    return 0 <= (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() < _SECONDS


def _refused(column: Column, what: str) -> RowsRefusedError:
    return RowsRefusedError(
        f"the column {column.name!r} is {column.sql}, and the value is or has {what}", kind="ValueRefused"
    )
