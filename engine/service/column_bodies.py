"""Request bodies as columns: one Arrow record batch in place of a JSON array.

Such a body says the same as the array of its rows, and is judged by the same rules: whatever is not plainly
good is turned into that array and takes the way of JSON. Only models whose fields Arrow carries exactly are
offered.

pyarrow reads and checks the messages. One question it has no answer to: whether a batch is compressed, which
has to be known before the batch is read, because reading unpacks it at once to whatever size it claims. Its
`Message` tells kind, version and bytes, its `IpcReadOptions` forbid nothing, and the generated readers of
Arrow's FlatBuffers are published for other languages than Python. So `_is_compressed` looks up one field by
hand, in bytes that the library has verified when it made the message. Messages of the format before 1.0 are
refused: they could announce compression in another place.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import orjson
from pydantic.fields import FieldInfo

from engine.service.appending import arrow_type, has_arrow
from engine.service.models import IngestModel
from engine.service.splitting import MAX_VALUES, InvalidBodyError, TooManyRecordsError
from engine.service.tables import Table
from engine.service.wire_types import has_plain_fields, is_nullable

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = ["MEDIA_TYPE", "OFFER_HEADER", "ColumnReader", "column_reader", "to_json"]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

OFFER_HEADER = "X-ODW-Columns"
"""Header of an answer: the columns, as `name TYPE, …`, that a body of this model may have."""

_MAX_OFFER = 2048
"""Bytes of that header: clients refuse an answer with one of 8 KiB, and proxies one with 4 KiB of headers."""

_SQL_TYPES: Mapping[object, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_HARMLESS_SETTINGS = frozenset({"extra", "title", "frozen"})
_BODY_COMPRESSION = 3  # the field's place in the format's table RecordBatch
_HEADER = 2  # and that of the batch in the table Message


@dataclass(frozen=True, slots=True)
class _Field:
    """What the values of a column have to be like."""

    name: str
    sql_type: str
    nullable: bool
    texts: tuple[str, ...] | None = None
    """The only texts allowed; None for any."""


@dataclass(frozen=True, slots=True)
class ColumnReader:
    """Reads bodies of columns for one model; `offer` is what clients are told of it."""

    offer: str
    _model: IngestModel
    _table: Table
    _fields: tuple[_Field, ...]
    _max_records: int

    @property
    def is_loaded(self) -> bool:
        """Whether `read` need not import anything any more, which takes some tenths of a second."""
        return "pyarrow.compute" in sys.modules

    def read(self, body: bytes) -> pa.Table:
        """The columns of a body, as they were sent.

        Raises:
            InvalidBodyError: it is not one record batch of the columns that are offered.
            TooManyRecordsError: it holds more than a request may.
        """
        import pyarrow as pa
        import pyarrow.compute  # type: ignore[import-untyped]

        try:
            batch = _read_batch(body, {field.name: field.sql_type for field in self._fields})
            if batch.num_rows > self._max_records:
                raise TooManyRecordsError(f"Too many records in one request. Maximum is {self._max_records}")
            batch.validate(full=True)
        except (
            pa.ArrowException, OSError, struct.error, StopIteration, IndexError, UnicodeDecodeError,
        ) as error:  # fmt: skip
            raise InvalidBodyError(
                f"not an Arrow stream of one record batch ({type(error).__name__})"
            ) from None
        values = sum(len(column) + _count_items(column) for column in batch.columns)
        if values > MAX_VALUES:
            raise TooManyRecordsError(f"Too many values in one request. Maximum is {MAX_VALUES}")
        return pa.table(batch.columns, names=batch.schema.names)

    def rows(self, columns: pa.Table) -> pa.Table | None:
        """The rows of the model's table; None when a record needs a look of its own.

        Raises whatever the model's transform does.
        """
        if not all(_is_good(columns.column(field.name), field) for field in self._fields):
            return None
        transform = self._model.transform_columns
        if transform is not None:
            columns = transform(columns)
            if columns is None:
                return None
        rows = columns.select(self._table.names)
        wanted = [arrow_type(column.sql_type) for column in self._table.columns]
        return rows if rows.schema.types == wanted else None


def column_reader(model: IngestModel, table: Table | None, max_records: int) -> ColumnReader | None:
    """The reader of a model's columns; None when the model, or this installation, has only JSON."""
    if table is None or not has_arrow() or not has_plain_fields(model.model):
        return None
    if table.key is None:
        # only the bytes of a request tell there that it came before, and a resumed run begins with JSON
        return None
    if model.transform is not None and model.transform_columns is None:
        return None
    if not model.model.model_config.keys() <= _HARMLESS_SETTINGS:
        return None
    fields = [_field_of(name, info) for name, info in model.model.model_fields.items()]
    exact = [field for field in fields if field is not None and _is_plain(field.name)]
    if not exact or len(exact) < len(fields):
        return None
    offer = ", ".join(f"{field.name} {field.sql_type}" for field in exact)
    return ColumnReader(offer, model, table, tuple(exact), max_records) if len(offer) <= _MAX_OFFER else None


def to_json(columns: pa.Table) -> bytes:
    """The body that would have said the same as a JSON array. NaN stays NaN, for which JSON is refused."""
    records = columns.to_pylist()
    if all(map(_is_finite, columns.columns)):
        return orjson.dumps(records)
    return json.dumps(records, separators=(",", ":"), ensure_ascii=False).encode()


def _is_plain(name: str) -> bool:
    """Whether a header can carry a name."""
    return name.isascii() and name.isidentifier()


def _field_of(name: str, info: FieldInfo) -> _Field | None:
    """None for a field whose values have rules or forms of their own."""
    if info.metadata or info.exclude:
        return None
    annotation, nullable = info.annotation, is_nullable(info.annotation)
    if nullable:
        rest = [part for part in get_args(annotation) if part is not type(None)]
        if len(rest) != 1:
            return None
        annotation = rest[0]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(type(part) is str for part in parts):
        return _Field(name, "VARCHAR", nullable, parts)
    if origin is list and parts[0] in _SQL_TYPES:
        return _Field(name, f"{_SQL_TYPES[parts[0]]}[]", nullable)
    return _Field(name, _SQL_TYPES[annotation], nullable) if annotation in _SQL_TYPES else None


def _read_batch(body: bytes, types: Mapping[str, str]) -> pa.RecordBatch:
    """The only batch of a stream, if it has just these columns, in any order."""
    import pyarrow as pa

    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    message = messages.read_next_message()
    if message.type != "schema":  # the library takes it for one, and reads beyond its memory
        raise InvalidBodyError("it does not begin with a schema")
    _refuse_old(message)
    schema = pa.ipc.read_schema(message)
    if sorted(schema.names) != sorted(types) or any(
        field.type != arrow_type(types[field.name]) for field in schema
    ):
        raise InvalidBodyError("other columns than this model has")
    message = messages.read_next_message()
    _refuse_old(message)
    if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
        raise InvalidBodyError("compressed columns are not read: use Content-Encoding")
    batch = pa.ipc.read_record_batch(message, schema)
    try:
        messages.read_next_message()
    except StopIteration:
        return batch
    raise InvalidBodyError("more than one record batch")


def _refuse_old(message: pa.Message) -> None:
    import pyarrow as pa

    if message.metadata_version != pa.ipc.MetadataVersion.V5:
        raise InvalidBodyError("a format before Arrow 1.0 is not read: write it with metadata version V5")


def _is_compressed(message: bytes) -> bool:
    """Whether the buffers of a batch are compressed: a small body may then unpack to any size.

    Reads the field from the message's own bytes, a FlatBuffers table; the library unpacks at once.
    """
    (root,) = struct.unpack_from("<I", message, 0)
    place = root + _offset(message, root, _HEADER)
    batch = place + struct.unpack_from("<I", message, place)[0]
    return _offset(message, batch, _BODY_COMPRESSION) != 0


def _offset(message: bytes, table: int, place: int) -> int:
    """Where a field is in its table; 0 for one that is left out."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    (size,) = struct.unpack_from("<H", message, fields)
    position = 4 + 2 * place
    found: int = struct.unpack_from("<H", message, fields + position)[0] if position < size else 0
    return found


def _count_items(column: pa.Array) -> int:
    import pyarrow as pa

    return len(column.flatten()) if pa.types.is_list(column.type) else 0


def _is_good(column: pa.ChunkedArray, field: _Field) -> bool:
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count and not field.nullable:
        return False
    if pa.types.is_list(column.type) and compute.list_flatten(column).null_count:
        return False
    if field.texts is not None:
        known = compute.is_in(column.drop_null(), value_set=pa.array(field.texts, pa.string()))
        return compute.all(known, min_count=0).as_py() is True
    return _is_finite(column)


def _is_finite(column: pa.ChunkedArray) -> bool:
    """Whether JSON has a word for every number."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_list(column.type):
        column = compute.list_flatten(column)
    if not pa.types.is_floating(column.type):
        return True
    return compute.all(compute.is_finite(column), min_count=0).as_py() is True
