"""Ways in which APIs announce the next page."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from connectors.http.client import Answer, absolute, same_origin
from connectors.http.paths import MISSING, at_path, check_path
from engine.errors import FatalError

Place: TypeAlias = Any
"""The next page, JSON-safe: an address, a cursor, an offset or a page number; None for no further page."""

_NOT_ABOUT_PAGES: Final = frozenset({401, 402, 403, 407, 408, 423, 425, 429})


class _Paging(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def first(self) -> Place:
        """Return the first page, if a request has to name it."""
        return None

    def query(self, place: Place) -> list[tuple[str, Any]]:
        """Return the parameters that request a page."""
        return []

    def address(self, place: Place) -> str | None:
        """Return the address of a page, if it has its own."""
        return None

    def next(self, place: Place, answer: Answer, document: Any, count: int, url: str) -> Place:
        """Return the page after this one, which has `count` records and is at `url`."""
        return None

    def ends(self, status: int) -> bool:
        """Whether an answer with this status means that there are no more pages."""
        return False

    def doubt(self, answer: Answer, document: Any) -> str:
        """Return why a single page may not be all of the records, or ""."""
        return ""


class NoPaging(_Paging):
    """One answer has everything."""

    type: Literal["none"] = Field(description="One answer has everything")

    def doubt(self, answer: Answer, document: Any) -> str:
        linked = answer.link("next") is not None
        return "its header links to a next one: set `paging: {type: link}` to read on" if linked else ""


class LinkPaging(_Paging):
    """The header `Link: <…>; rel="next"` (RFC 8288)."""

    type: Literal["link"] = Field(description='The header `Link: <…>; rel="next"`')

    def address(self, place: Place) -> str | None:
        return None if place is None else str(place)

    def next(self, place: Place, answer: Answer, document: Any, count: int, url: str) -> Place:
        link = answer.link("next")
        return None if link is None else _next_page(link, url)


class CursorPaging(_Paging):
    """A cursor, or the address of the next page, in the answer."""

    type: Literal["cursor"] = Field(description="A cursor or an address in the answer")
    cursor: str = Field(min_length=1, description="Path of the cursor in the answer, e.g. `meta.next_cursor`")
    parameter: str | None = Field(
        default=None,
        description="Query parameter for the cursor (default: the cursor is the next page's address)",
    )
    more: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a value that is false on the last page, e.g. `has_more`, for an API whose last "
        "page has a cursor too",
    )

    @field_validator("cursor", "more")
    @classmethod
    def _is_path(cls, path: str | None) -> str | None:
        return None if path is None else check_path(path)

    def query(self, place: Place) -> list[tuple[str, Any]]:
        return [] if place is None or self.parameter is None else [(self.parameter, place)]

    def address(self, place: Place) -> str | None:
        return str(place) if place is not None and self.parameter is None else None

    def next(self, place: Place, answer: Answer, document: Any, count: int, url: str) -> Place:
        more = self._has_more(document)
        if more is False:
            return None
        cursor = at_path(document, self.cursor)
        if cursor is MISSING or cursor is None or cursor is False or cursor == "":
            if more:
                message = (
                    f"there are more pages, but no cursor at `{self.cursor}`: check `cursor` of `paging`"
                )
                raise FatalError(message, kind="schema")
            return None
        if not isinstance(cursor, str | int) or cursor is True:
            raise FatalError(f"the cursor at `{self.cursor}` is neither text nor a number", kind="schema")
        if self.parameter is not None:
            return cursor
        return _next_page(str(cursor), url)

    def _has_more(self, document: Any) -> bool | None:
        """Return whether there are more pages; None if the answers do not state it."""
        if self.more is None:
            return None
        more = at_path(document, self.more)
        if more is MISSING:
            raise FatalError(
                f"the answer has nothing at `{self.more}`: check `more` of `paging`", kind="schema"
            )
        return bool(more) and more != "false"

    def doubt(self, answer: Answer, document: Any) -> str:
        absent = self.more is None and at_path(document, self.cursor) is MISSING
        return f"it has no cursor at `{self.cursor}`: check `paging` if there are more" if absent else ""


class _NumberedPaging(_Paging):
    """Pages that are requested until one has no records."""

    end_statuses: list[int] = Field(
        default=[404], description="Statuses of an answer for a page after the last, e.g. `[400]`"
    )

    @field_validator("end_statuses")
    @classmethod
    def _are_about_pages(cls, statuses: list[int]) -> list[int]:
        for status in statuses:
            if not 400 <= status < 500 or status in _NOT_ABOUT_PAGES:
                raise ValueError(f"{status} does not say that there are no more pages")
        return statuses

    def ends(self, status: int) -> bool:
        return status in self.end_statuses


class OffsetPaging(_NumberedPaging):
    """An offset that grows by the records that came, until a page is empty."""

    type: Literal["offset"] = Field(description="An offset, until a page is empty")
    parameter: str = Field(default="offset", description="Query parameter of the offset")
    size: int = Field(default=100, ge=1, description="Records to ask for")
    size_parameter: str = Field(default="limit", description="Query parameter of the size")

    def first(self) -> Place:
        return 0

    def query(self, place: Place) -> list[tuple[str, Any]]:
        return [(self.parameter, place), (self.size_parameter, self.size)]

    def next(self, place: Place, answer: Answer, document: Any, count: int, url: str) -> Place:
        return place + count if count else None


class PagePaging(_NumberedPaging):
    """Numbered pages, until one is empty."""

    type: Literal["page"] = Field(description="Numbered pages, until one is empty")
    parameter: str = Field(default="page", description="Query parameter of the page")
    start: int = Field(default=1, ge=0, description="Number of the first page")
    size: int | None = Field(default=None, ge=1, description="Records to ask for (default: not sent)")
    size_parameter: str = Field(default="per_page", description="Query parameter of the size")

    def first(self) -> Place:
        return self.start

    def query(self, place: Place) -> list[tuple[str, Any]]:
        size = [] if self.size is None else [(self.size_parameter, self.size)]
        return [(self.parameter, place), *size]

    def next(self, place: Place, answer: Answer, document: Any, count: int, url: str) -> Place:
        return place + 1 if count else None


Paging: TypeAlias = Annotated[
    NoPaging | LinkPaging | CursorPaging | OffsetPaging | PagePaging, Field(discriminator="type")
]


def _next_page(link: str, url: str) -> str:
    target = absolute(link, url)
    if not same_origin(target, url):
        raise FatalError(
            "the next page is on another host than this one: credentials are not sent there; set `url` of "
            "the connection to the address that pages link to"
        )
    return target
