"""The text of web pages, mails and rich text, which come as texts with marks in them."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Final

from engine.errors import RecordError

__all__ = ["kind_of_markup", "plain_text"]

_SUFFIXES: Final = {"html": "html", "htm": "html", "xhtml": "html", "eml": "mail", "rtf": "rtf"}
_STARTS: Final = {
    # possessive: a comment that may also be two takes time that doubles with every one of them
    "html": re.compile(
        r"\s*(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->)\s*+)*+<(?:!doctype html|html|head|body)\b", re.I | re.S
    ),
    "mail": re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)+"),
    "rtf": re.compile(r"\s*\{\\rtf"),
}
_HIDDEN: Final = frozenset({"script", "style", "head", "template", "noscript"})
_BLOCKS: Final = frozenset(
    {
        "p", "div", "br", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "section",
        "article", "header", "footer", "blockquote", "pre", "hr", "dt", "dd", "title",
    }
)  # fmt: skip
_HEADERS: Final = ("From", "To", "Cc", "Date", "Subject")
_MAX_PARTS: Final = 200  # of a mail


def kind_of_markup(text: str, name: str) -> str:
    """`html`, `mail` or `rtf` when both the name and the beginning say so, else ""."""
    kind = _SUFFIXES.get(name.rpartition(".")[2].casefold(), "")
    return kind if kind and _STARTS[kind].match(text[:20_000]) else ""


def plain_text(text: str, name: str, kind: str) -> str:
    """What a reader sees of it. Raises RecordError of kind `CorruptDocument`."""
    if kind == "html":
        return _page_text(text)
    if kind == "mail":
        return _mail_text(text)
    from striprtf.striprtf import rtf_to_text

    try:
        found: str = rtf_to_text(text, errors="replace")  # type: ignore[no-untyped-call]
    except (ValueError, IndexError, KeyError, LookupError) as error:
        raise RecordError(f"{name}: cannot read the rich text: {error}", kind="CorruptDocument") from error
    return found.strip()


class _Page(HTMLParser):
    """Collects what is shown, a line for each block; cells of a row are told apart by a bar."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":
            self._hidden.clear()  # whatever was left open before it
        if tag in _BLOCKS:
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(re.sub(r"\s+", " ", data))


def _page_text(text: str) -> str:
    page = _Page()
    page.feed(text)
    page.close()
    lines = (re.sub(r" +", " ", line).strip(" |") for line in "".join(page.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _mail_text(text: str) -> str:
    """The main headers and the text of each part; of two forms of the same text the plain one."""
    # the text is decoded already, whatever a part of it declares
    message = message_from_bytes(text.encode("utf-8", "surrogatepass"), policy=policy.default)
    assert isinstance(message, EmailMessage)
    lines = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    body = message.get_body(("plain", "html"))
    parts = [body] if isinstance(body, EmailMessage) else []
    parts += [part for part in message.iter_attachments() if part.get_content_maintype() == "text"]
    for part in parts[:_MAX_PARTS]:
        content = _decoded(part)
        lines += ["", _page_text(content) if part.get_content_subtype() == "html" else content.strip()]
    return "\n".join(lines)


def _decoded(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    packed = str(part.get("content-transfer-encoding", "")).lower() in ("base64", "quoted-printable")
    charset = (part.get_content_charset() if packed else None) or "utf-8"
    try:
        return data.decode(charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")
