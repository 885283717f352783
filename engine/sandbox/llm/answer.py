"""Build the JSON object that a model would answer, from documents and a schema."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

from engine.sandbox.llm.documents import PromptDocument
from engine.sandbox.llm.labels import ALIASES, find_labelled, labelled_values, strip_mail_header
from engine.sandbox.llm.prose import find_in_prose
from engine.sandbox.llm.schema import JsonObject, coerce, properties, resolve, slots

_AGE = re.compile(r"^(\d{1,3})\s*(?:years?(?:\s+old)?|yrs?\.?|y/?o|jahre)?\s*$", re.IGNORECASE)


def answer_for(
    documents: Sequence[PromptDocument], schema: JsonObject | None, transcripts: Mapping[str, str]
) -> dict[str, object]:
    """The answer to a prompt.

    With slots `r1..rN` in the schema: one object per slot with its document's nonce and fields; a slot
    without a document has null fields. With a flat schema, or without one (then the six fields of a medical
    memo): the first document's fields. `transcripts` has the text on known images by the SHA-256 of their
    bytes.
    """
    by_slot = {document.slot: document for document in documents}
    first = documents[0] if documents else None
    if schema is None:
        return dict(extract_fields(_text(first, transcripts), ALIASES))
    parts = slots(schema)
    if not parts:
        return _filled(first, schema, schema, transcripts)
    return {slot: _filled(by_slot.get(slot), part, schema, transcripts) for slot, part in parts.items()}


def _filled(
    document: PromptDocument | None, schema: JsonObject, root: JsonObject, transcripts: Mapping[str, str]
) -> dict[str, object]:
    wanted = {name: resolve(part, root) for name, part in properties(schema).items()}
    found = extract_fields(_text(document, transcripts), [name for name in wanted if name != "nonce"])
    answer: dict[str, object] = {name: coerce(found.get(name), part) for name, part in wanted.items()}
    if "nonce" in wanted:
        answer["nonce"] = document.nonce if document else None
    return answer


def _text(document: PromptDocument | None, transcripts: Mapping[str, str]) -> str:
    if document is None:
        return ""
    seen = (transcripts.get(hashlib.sha256(image).hexdigest(), "") for image in document.images)
    return "\n".join([document.text, *seen])


def extract_fields(text: str, fields: Collection[str]) -> dict[str, str | None]:
    """Return every field's value as the document spells it, or None if it has none.

    A labelled value wins over running text; an age loses its "years", since the field asks for the number.
    """
    body = strip_mail_header(text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff"))
    values = labelled_values(body)
    found = {field: find_labelled(field, values) or find_in_prose(field, body) for field in fields}
    age = found.get("patient_age")
    if age is not None and (match := _AGE.match(age)):
        found["patient_age"] = match[1]
    return found
