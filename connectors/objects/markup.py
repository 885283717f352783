"""Extract the text of web pages, mails and rich text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email import message_from_bytes, policy
from email.message import Message
from html.parser import HTMLParser
from itertools import islice
from typing import Any, Final

from connectors.objects.charsets import known_charset, read_text
from engine.errors import RecordError

_SUFFIXES: Final = {
    "html": ("html",), "htm": ("html",), "xhtml": ("html",), "eml": ("mail",), "mht": ("mail",),
    "mhtml": ("mail",), "rtf": ("rtf",),
    # Office also opens them under these names, and many programs use them
    "doc": ("rtf", "html"), "docx": ("rtf",), "xls": ("html",),
}  # fmt: skip
_STARTS: Final = {
    # possessive: backtracking over ambiguous comments would take exponential time
    "html": re.compile(
        r"\s*(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->)\s*+)*+<(?:!doctype html|html|head|body)\b", re.I | re.S
    ),
    # some programs keep the separator line of a mailbox
    "mail": re.compile(r"\s*(?:From [^\n]*\n)?(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)+"),
    "rtf": re.compile(r"\s*\{\\rtf"),
}
# what the library leaves out although a reader sees it
_NOTES: Final = re.compile(r"(?<!\\)\{\s*\\(?:(footnote)|header[lrf]?|footer[lrf]?)(?![a-z])")
_BRACES: Final = re.compile(r"\\.|[{}]", re.S)
_HIDDEN: Final = frozenset({"script", "style", "head", "template", "noscript"})
_BLOCKS: Final = frozenset(
    {
        "p", "div", "br", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "section",
        "article", "header", "footer", "blockquote", "pre", "hr", "dt", "dd", "title", "caption", "figure",
        "figcaption", "main", "nav", "aside", "form", "fieldset", "legend", "option", "textarea", "details",
        "summary", "address", "iframe",
    }
)  # fmt: skip
_AS_WRITTEN: Final = frozenset({"pre", "textarea"})
_HEADERS: Final = ("From", "To", "Cc", "Date", "Subject")
_MAX_PARTS: Final = 200  # of a mail


def kind_of_markup(text: str, name: str) -> str:
    """Return `html`, `mail` or `rtf` if both the name and the beginning match, else ""."""
    kinds = _SUFFIXES.get(name.rpartition(".")[2].casefold(), ())
    return next((kind for kind in kinds if _STARTS[kind].match(text[:20_000])), "")


def plain_text(text: str, name: str, kind: str) -> str:
    """Return the visible text. Raises RecordError of kind `CorruptDocument`."""
    if kind == "html":
        return _page_text(text)
    if kind == "mail":
        return _mail_text(text, name)
    from striprtf.striprtf import rtf_to_text

    try:
        found: str = rtf_to_text(_with_notes_last(text), errors="replace")  # type: ignore[no-untyped-call]
    except (ValueError, IndexError, KeyError, LookupError) as error:
        raise RecordError(f"{name}: cannot read the rich text: {error}", kind="CorruptDocument") from error
    # a character beyond the first 65,536 is written as two halves
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def _with_notes_last(text: str) -> str:
    """Rich text with its footnotes, headers and footers at its end, as paragraphs."""
    pieces: list[str] = []
    notes: list[str] = []
    at = count = 0
    for found in _NOTES.finditer(text):
        if found.start() < at:
            continue
        pieces.append(text[at : found.start()])
        at = _group_end(text, found.start())
        count += bool(found[1])
        mark = f"[^{count}]" if found[1] else ""
        pieces.append(mark)
        note = text[found.end() : at].removesuffix("}").lstrip(" ")
        notes.append(f"{{\\par {mark and f'{mark}: '}{note}}}")
    body = "".join([*pieces, text[at:]])
    end = body.rfind("}")
    return f"{body[:end]}{''.join(notes)}{body[end:]}" if notes else text


def _group_end(text: str, start: int) -> int:
    """Where the group that begins here ends."""
    depth = 0
    for found in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return len(text)


class _Page(HTMLParser):
    """Collects the visible text, one line per block; cells of a row are separated by a bar."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden: list[str] = []
        self._as_written = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":
            self._hidden.clear()  # closes elements left open before it
        if tag in _AS_WRITTEN:
            self._as_written += 1
        if tag in _BLOCKS:
            self.pieces.append("\n")
        elif tag == "input" and not self._hidden:
            self.pieces.append(_shown_value(dict(attrs)))
        elif tag in ("td", "th"):
            self.pieces.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        if tag in _AS_WRITTEN and self._as_written:
            self._as_written -= 1
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data if self._as_written else re.sub(r"\s+", " ", data))


def _shown_value(field: dict[str, str | None]) -> str:
    """What stands in a field of a form, or whether it is ticked."""
    kind = (field.get("type") or "text").lower()
    if kind in ("checkbox", "radio"):
        return " [x] " if "checked" in field else " [ ] "
    return "" if kind in ("hidden", "password", "image") else f" {field.get('value') or ''} "


def _page_text(text: str) -> str:
    page = _Page()
    page.feed(text)
    page.close()
    lines = (re.sub(r" +", " ", line).strip(" |") for line in "".join(page.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _mail_text(text: str, name: str) -> str:
    """Return the main headers, the text of each part, and the names of attached files.

    Forwarded mails are included. Of several forms of a text the plain one is used.
    """
    # the text is decoded already, regardless of declared charsets
    try:
        message = message_from_bytes(text.lstrip().encode("utf-8", "surrogatepass"), policy=policy.default)
    except RecursionError:
        raise RecordError(f"{name}: its mails are nested too deeply", kind="CorruptDocument") from None
    lines: list[str] = []
    for part in islice(_shown_parts(message), _MAX_PARTS):
        if isinstance(part, str):
            lines.append(part)
        else:
            lines += ["", _content(part)]
    return "\n".join(lines).strip("\n")


def _shown_parts(message: Message) -> Iterator[str | Message]:
    """Yield the visible parts of a mail, in order: its headers, and its parts with text."""
    yield from _headers(message)
    waiting = [message]
    while waiting:
        part = waiting.pop()
        inside = part.get_payload() if part.is_multipart() else []
        assert isinstance(inside, list)
        if part.get_content_type() == "multipart/alternative":
            waiting += [one for one in [_preferred(inside)] if one is not None]
        elif part.get_content_maintype() == "message" and inside:
            yield ""
            yield from _headers(inside[0])  # type: ignore[arg-type]
            waiting += reversed(inside)  # type: ignore[arg-type]
        elif inside:
            waiting += reversed(inside)  # type: ignore[arg-type]
        else:
            if attached := _file_name(part):
                yield from ("", f"Attachment: {attached}")
            if part.get_content_maintype() in ("text", "multipart"):  # the latter without separators
                yield part


def _file_name(part: Message) -> str:
    try:
        return part.get_filename() or ""
    except (ValueError, IndexError, AttributeError, TypeError, LookupError):
        return ""  # as with other headers


def _preferred(forms: Sequence[Any]) -> Message | None:
    """Return the plain alternative, unless it is empty; else the last one, which is the richest."""
    for form in forms:
        if form.get_content_type() == "text/plain" and _content(form):
            return form  # type: ignore[no-any-return]
    return forms[-1] if forms else None


def _headers(message: Message) -> Iterator[str]:
    for name in _HEADERS:
        try:
            value = message[name]
        except (ValueError, IndexError, AttributeError, TypeError, LookupError):
            # the library's parsers fail on some invalid addresses and dates
            value = next((text for key, text in message.raw_items() if key.casefold() == name.casefold()), "")
        if value:
            yield f"{name}: {value}"


def _content(part: Message) -> str:
    content = _decoded(part)
    return _page_text(content) if part.get_content_subtype() == "html" else content.strip()


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    packed = str(part.get("content-transfer-encoding", "")).lower() in ("base64", "quoted-printable")
    declared = known_charset(part.get_content_charset()) if packed else None
    found = read_text(data, None, declared, textual=True)
    return found.content if found is not None else data.decode("utf-8", "replace")
