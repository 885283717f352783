"""Request bodies as columns: one Arrow record batch instead of a JSON array.

Such a body is equivalent to the array of its rows and is validated by the same rules: if a value is not
obviously valid, the body is converted to that array and processed as JSON. Columns are offered only for
models whose fields Arrow represents exactly.

pyarrow reads and checks the messages, but does not report whether a batch is compressed. This must be known
before the batch is read, because reading unpacks it at once to whatever size it claims. pyarrow's `Message`
has kind, version and bytes, `IpcReadOptions` cannot forbid compression, and the generated readers of Arrow's
FlatBuffers are not published for Python. So `_is_compressed` reads one field by hand, from bytes that the
library verified when it created the message. Formats before 1.0 are rejected, since they could announce
compression in another place.
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
from engine.service.wire_types import has_plain_fields, is_nullable, unwrapped

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

OFFER_HEADER = "X-ODW-Columns"
"""Response header with the columns, as `name TYPE, …`, that a body of this model may have."""

_MAX_OFFER = 2048
"""Maximum bytes of that header: clients reject a header of 8 KiB, and proxies 4 KiB of headers."""

_SQL_TYPES: Mapping[object, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_HARMLESS_SETTINGS = frozenset({"extra", "title", "frozen"})
_BODY_COMPRESSION = 3  # the field's index in the format's table RecordBatch
_HEADER = 2  # and the index of the batch in the table Message


@dataclass(frozen=True, slots=True)
class _Field:
    """The constraints on the values of a column."""

    name: str
    sql_type: str
    nullable: bool
    texts: tuple[str, ...] | None = None
    """The only texts allowed; None for any."""


@dataclass(frozen=True, slots=True)
class ColumnReader:
    """Reads bodies of columns for one model; `offer` describes the columns to clients."""

    offer: str
    _model: IngestModel
    _table: Table
    _fields: tuple[_Field, ...]
    _max_records: int

    @property
    def is_loaded(self) -> bool:
        """Whether `read` has already done its imports, which take some tenths of a second."""
        return "pyarrow.compute" in sys.modules

    def read(self, body: bytes) -> pa.Table:
        """Return the columns of a body as they were sent.

        Raises:
            InvalidBodyError: it is not one record batch of the offered columns.
            TooManyRecordsError: it has more records than a request may.
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
        """Return the rows of the model's table; None when a record has to be checked individually.

        Raises the errors of the model's transform.
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
    """Return the reader of a model's columns; None if the model or installation supports only JSON."""
    if table is None or not has_arrow() or not has_plain_fields(model.model):
        return None
    if table.key is None:
        # such models recognise repeats only by the bytes of a request, and a resumed run begins with JSON
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
    """Return the equivalent JSON array. NaN stays NaN, which the JSON path rejects."""
    records = columns.to_pylist()
    if all(map(_is_finite, columns.columns)):
        return orjson.dumps(records)
    return json.dumps(records, separators=(",", ":"), ensure_ascii=False).encode()


def _is_plain(name: str) -> bool:
    """Return whether a header can carry a name."""
    return name.isascii() and name.isidentifier()


def _field_of(name: str, info: FieldInfo) -> _Field | None:
    """Return the constraints of a field; None for a field with special rules or formats."""
    nullable, (annotation, metadata) = is_nullable(info.annotation), unwrapped(info.annotation)
    if metadata or info.metadata or info.exclude:
        return None
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(type(part) is str for part in parts):
        return _Field(name, "VARCHAR", nullable, parts)
    if origin is list and parts[0] in _SQL_TYPES:
        return _Field(name, f"{_SQL_TYPES[parts[0]]}[]", nullable)
    return _Field(name, _SQL_TYPES[annotation], nullable) if annotation in _SQL_TYPES else None


def _read_batch(body: bytes, types: Mapping[str, str]) -> pa.RecordBatch:
    """Return the only batch of a stream, if it has exactly these columns, in any order."""
    import pyarrow as pa

    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    message = messages.read_next_message()
    if message.type != "schema":  # the library would accept it as a schema and read beyond its memory
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
    """Return whether the buffers of a batch are compressed, so that a small body may unpack to any size.

    Reads the field from the message's own bytes, a FlatBuffers table; the library unpacks at once.
    """
    (root,) = struct.unpack_from("<I", message, 0)
    place = root + _offset(message, root, _HEADER)
    batch = place + struct.unpack_from("<I", message, place)[0]
    return _offset(message, batch, _BODY_COMPRESSION) != 0


def _offset(message: bytes, table: int, place: int) -> int:
    """Return the offset of a field in its table; 0 for an omitted field."""
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
    """Return whether JSON can represent every number."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_list(column.type):
        column = compute.list_flatten(column)
    if not pa.types.is_floating(column.type):
        return True
    return compute.all(compute.is_finite(column), min_count=0).as_py() is True
