"""The documents inside a chat prompt.

A sender puts each document between ``<document slot="r1" nonce="4f2a" name="memo.txt">`` and ``</document>``.
Text stands between the two in one text part; an image is an ``image_url`` part (a data URL) between a text
part that opens and one that closes. ``</document`` inside a text is sent as ``<\\/document``, whatever
its case and spaces.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OPEN = re.compile(r"<document\b(?P<attributes>[^>]*)>\n?")
_CLOSE = re.compile(r"\n?</document>")
_ESCAPED = re.compile(r"<(\s*)\\/(\s*document)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class PromptDocument:
    """One document of a prompt: `slot` names its place in the answer, `nonce` is to be echoed there."""

    slot: str
    nonce: str
    name: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image of a message, decoded from its data URL."""

    data: bytes


def image_from_data_url(url: str) -> ImagePart:
    """Decode a base64 data URL (RFC 2397).

    Raises:
        ValueError: The address is not a base64 data URL; the stand-in fetches nothing.
    """
    head, comma, payload = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ValueError("image_url must be a base64 data URL")
    try:
        return ImagePart(base64.b64decode(payload, validate=True))
    except binascii.Error as error:
        raise ValueError(f"image_url contains invalid base64: {error}") from error


def parse_documents(parts: Iterable[str | ImagePart]) -> list[PromptDocument]:
    """Return the documents of a user message in order; text outside of documents is ignored.

    A `<document …>` inside a document is that document's text: only a closing tag ends it. A document without
    a closing tag ends with the message.
    """
    documents: list[PromptDocument] = []
    opened: dict[str, str] | None = None
    text: list[str] = []
    images: list[bytes] = []
    for token in _tokens(parts):
        if isinstance(token, dict):
            opened, text, images = token, [], []
        elif opened is None:
            continue
        elif isinstance(token, str):
            text.append(token)
        elif isinstance(token, ImagePart):
            images.append(token.data)
        else:
            documents.append(_document(opened, text, images))
            opened = None
    if opened is not None:
        documents.append(_document(opened, text, images))
    return documents


def _tokens(parts: Iterable[str | ImagePart]) -> Iterator[str | ImagePart | dict[str, str] | None]:
    """Yield opening tags as their attributes, text, images, and None for a closing tag."""
    inside = False
    for part in parts:
        if isinstance(part, ImagePart):
            yield part
            continue
        rest = part
        while rest:
            match = (_CLOSE if inside else _OPEN).search(rest)
            if match is None:
                yield rest
                break
            if inside:
                yield rest[: match.start()]
                yield None
            else:
                yield dict(_ATTRIBUTE.findall(match["attributes"]))
            inside = not inside
            rest = rest[match.end() :]


def _document(attributes: dict[str, str], text: list[str], images: list[bytes]) -> PromptDocument:
    return PromptDocument(
        slot=attributes.get("slot", ""),
        nonce=attributes.get("nonce", ""),
        name=html.unescape(attributes.get("name", "")),
        text=_ESCAPED.sub(r"<\1/\2", "".join(text)),
        images=tuple(images),
    )
