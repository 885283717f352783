"""The domain models of sources, of the ingest service and of its tables.

Every timestamp is an ISO 8601 string with a UTC offset, as from `datetime.now(UTC).isoformat()`, and is
transferred unchanged. Unknown fields are dropped. A nullable field may be omitted. A `…Source` model is what
a source system sends; the model without the suffix is the curated row of the warehouse, created at its
`transform_timestamp`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from connectors.curated import curate, curate_columns
from connectors.forwarding import origin_of
from engine.service.models import IngestModel, OriginOf

LogLevel = Literal["INFO", "DEBUG", "WARN", "ERROR"]


class DomainModel(BaseModel):
    """Base of the domain models: unknown fields are dropped.

    They have only fields, no validators or aliases, so that a service can validate whole pages as plain
    mappings without building instances.
    """

    model_config = ConfigDict(extra="ignore")


class BlobSource(DomainModel):
    """An object in a bucket, as in a storage inventory."""

    id: str
    bucket_name: str
    file_path: str = Field(description="Folder inside the bucket, with a slash at both ends")
    file_name: str
    file_size: int = Field(description="Bytes")
    permissions: list[str] = Field(description="Any of READ, WRITE, DELETE and LIST")
    content_type: str | None = None
    ingested_at: str


class Blob(BlobSource):
    """A curated `BlobSource`."""

    transform_timestamp: str


class LogSource(DomainModel):
    """One line of an application's log."""

    id: str
    timestamp: str
    level: LogLevel
    message: str
    source: str | None = Field(default=None, description="The service that wrote the line")
    trace_id: str | None = None


class Log(LogSource):
    """A curated `LogSource`."""

    transform_timestamp: str


class EventSource(DomainModel):
    """One product-analytics event; a page view is one whose `event_name` is `pageview`."""

    id: str
    event_name: str
    timestamp: str
    distinct_id: str = Field(description="`user_NNNN` of a known visitor, a UUID of an unknown one")
    session_id: str | None = None
    project_id: str
    properties: str | None = Field(default=None, description="A JSON object, as text")
    ip_address: str | None = None
    user_agent: str | None = None


class Event(EventSource):
    """A curated `EventSource`."""

    transform_timestamp: str


class UnstructuredDataSource(DomainModel):
    """A document that could not be processed or is yet to be processed; see `UnstructuredData`."""

    id: str
    source_file_path: str
    extracted_data: str | None = None
    processed_at: str
    processing_instructions: str | None = None


class UnstructuredData(DomainModel):
    """A staged document. `source_file_path` is the exact URI it was read from (`s3://bucket/key`)."""

    id: str
    source_file_path: str
    extracted_data: str | None = Field(
        default=None, description="The text, or a data URL after `[IMAGE_DATA]`, `[PDF_DATA]` or `[DOC_DATA]`"
    )
    processed_at: str
    processing_instructions: str | None = None
    transform_timestamp: str


class Medical(DomainModel):
    """Facts about one appointment from a memo, with the id and path of its staged document."""

    id: str
    patient_name: str
    patient_age: str
    phone_number: str
    scheduled_appointment_date: str
    dental_procedure_name: str
    doctor: str
    source_file_path: str
    transform_timestamp: str


class S3FileContent(DomainModel):
    """One file, read and converted to text.

    `content` is the decoded text, or for a binary file a marker and a data URL: `[IMAGE_DATA]`, `[PDF_DATA]`
    or `[DOC_DATA]`, then `data:<content type>;base64,…`. `file_size` is the stored size in bytes. `file_path`
    is an `s3://` address or the path of a file, `source_uri` the same with the pattern's scheme.
    """

    file_path: str
    content: str
    content_type: str
    file_size: int
    is_binary: bool
    source_uri: str = ""
    etag: str = Field(default="", description="Without quotes; empty if the store gives none")
    version_id: str | None = None
    last_modified: str | None = Field(default=None, description="ISO 8601")
    encoding: str | None = Field(default=None, description="Encoding of text, by its Python name")
    encoding_guessed: bool = Field(default=False, description="Whether the encoding was guessed")
    replaced_characters: int = Field(
        default=0, description="Number of U+FFFD characters that replace invalid bytes"
    )


def _curated(
    model: type[BaseModel], row: type[BaseModel], marked_field: str, origin: OriginOf | None = None
) -> IngestModel:
    """A source model whose records become rows of the curated model's table."""
    transform = partial(curate, field=marked_field)
    columns = partial(curate_columns, field=marked_field)
    return IngestModel(model.__name__, model, row.__name__, row, transform, origin, columns)


INGEST_MODELS: tuple[IngestModel, ...] = (
    _curated(BlobSource, Blob, "file_name"),
    _curated(LogSource, Log, "message"),
    _curated(EventSource, Event, "distinct_id"),
    _curated(UnstructuredDataSource, UnstructuredData, "source_file_path", origin_of),
    IngestModel("Blob", Blob, "Blob"),
    IngestModel("Log", Log, "Log"),
    IngestModel("Event", Event, "Event"),
    IngestModel("UnstructuredData", UnstructuredData, "UnstructuredData"),
    IngestModel("Medical", Medical, "Medical"),
)
"""Built-in models of the ingest service, by name: `POST /ingest/<name>`."""
