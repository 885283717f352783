"""What Word draws where there is no text: characters of fonts of symbols, and fields of old forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from docx.oxml.xmlchemy import BaseOxmlElement

__all__ = ["DRAWN"]

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_PRIVATE: Final = 0xF000
"""Where Word puts the characters of these fonts."""

_OFF: Final = ("0", "false", "off")


def _of(codes: bytes, characters: str) -> dict[int, str]:
    return dict(zip(codes, characters, strict=True))


_FONTS: Final[Mapping[str, Mapping[int, str]]] = {
    "wingdings": _of(b"\x6f\x71\x72\xa7\xa8\xe0\xfb\xfc\xfd\xfe", "☐☐☐▪☐→✗✓☒☑"),
    "wingdings 2": _of(b"\x4f\x50\x51\x52\x53\x54\xa3", "✗✓☒☑☒☒☐"),
    "symbol": _of(b"abcdefghijklmnopqrstuvwxyz", "αβχδεφγηιϕκλμνοπθρστυϖωξψζ")
    | _of(b"DFGLPQSWXY\xa3\xae\xb0\xb1\xb3\xb4\xb7\xb9\xbb\xd7", "ΔΦΓΛΠΘΣΩΞΨ≤→°±≥×•≠≈⋅"),  # noqa: RUF001
}
"""Boxes of forms, Greek letters, and signs of medicine and mathematics."""


def _symbol(element: BaseOxmlElement) -> str:
    """A character of a font of symbols; nothing for one that is not known."""
    try:
        code = int(element.get(f"{_W}char", ""), 16)
    except ValueError:
        return ""
    known = _FONTS.get(element.get(f"{_W}font", "").casefold(), {})
    if code >= _PRIVATE:
        return known.get(code - _PRIVATE, "")
    return known.get(code) or (chr(code) if 0x20 <= code < 0xD800 else "")


def _tick_box(element: BaseOxmlElement) -> str:
    """A box, ticked or not."""
    state = _first(element, "checked", "default")
    return "☐ " if state is None or state.get(f"{_W}val", "1") in _OFF else "☒ "


def _choice(element: BaseOxmlElement) -> str:
    """What was chosen from a list."""
    entries = element.findall(f"{_W}listEntry")
    chosen = _first(element, "result", "default")
    number = chosen.get(f"{_W}val", "0") if chosen is not None else "0"
    found = entries[int(number)] if number.isdecimal() and int(number) < len(entries) else None
    return "" if found is None else found.get(f"{_W}val", "")


def _first(element: BaseOxmlElement, *names: str) -> BaseOxmlElement | None:
    return next((found for name in names if (found := element.find(f"{_W}{name}")) is not None), None)


DRAWN: Final[Mapping[str, Callable[[BaseOxmlElement], str]]] = {
    f"{_W}sym": _symbol,
    f"{_W}checkBox": _tick_box,
    f"{_W}ddList": _choice,
}
"""The text of elements, by tag."""
