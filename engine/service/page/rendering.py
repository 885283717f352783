"""Templates, their text and number formats, and the headers of every page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from engine.service.workflows import duration_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from engine.service.context import ServiceContext

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_STATIC = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


def render(request: Request, template: str, code: int = 200, **values: Any) -> Response:
    """Render a whole page."""
    context = cast("ServiceContext", request.app.state.context)
    access = context.access
    roles = access.roles(request)
    text = (
        _environment()
        .get_template(template)
        .render(
            base=_base(context),
            csrf=access.token(request),
            roles=roles,
            has_keys=access.has_keys,
            path=request.scope["path"],
            version=_version(),
            now=f"{datetime.now(UTC):%H:%M:%S}",
            **{"has_runs": context.operations is not None, **values},
        )
    )
    return HTMLResponse(text, code, HEADERS)


def problem(request: Request, text: str, status: int, **values: Any) -> Response:
    """Show a page with an error."""
    return render(request, "problem.html", status, text=text, status_code=status, **values)


def fragment(request: Request, template: str, **values: Any) -> str:
    """Render a part of a page, for an update."""
    context = cast("ServiceContext", request.app.state.context)
    return _environment().get_template(template).render(base=_base(context), **values)


def draw(name: str, **values: Any) -> Markup:
    """Render a drawing of `templates/drawings`."""
    return Markup(_environment().get_template(f"drawings/{name}.html").render(**values))  # noqa: S704 -- escaped by it


def address(request: Request, path: str, **query: str) -> str:
    """Return the path of another page, with the service's prefix; empty values are left out."""
    given = {name: value for name, value in query.items() if value}
    return _base(request.app.state.context) + path + (f"?{urlencode(given)}" if given else "")


def static_file(name: str) -> Response | None:
    """Return one of the page's own files; None for others."""
    if name not in _STATIC:
        return None
    headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(_read_static(name), media_type=_STATIC[name], headers=headers)


@cache
def _read_static(name: str) -> bytes:
    return files("engine.service.page").joinpath("static", name).read_bytes()


def _base(context: ServiceContext) -> str:
    prefix = context.settings.path_prefix.strip("/")
    return f"/{prefix}" if prefix else ""


@cache
def _version() -> str:
    """Return a version that changes with the files, so that browsers do not cache old ones."""
    import hashlib

    return hashlib.sha256(b"".join(_read_static(name) for name in sorted(_STATIC))).hexdigest()[:10]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from engine.service.page.charts import in_brief

    environment = Environment(
        loader=PackageLoader("engine.service.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        n=_number,
        ago=_ago,
        when=_when,
        bytes=_bytes,
        took=_took,
        rate=_rate,
        usd=_usd,
        segment=_segment,
        cut=cut,
        in_brief=in_brief,
    )
    return environment


def _show_controls(value: object) -> object:
    """Write the invisible characters that reorder the text around them as in JSON, e.g. `\\u202e`.

    The values of form fields are exempt by `| e`, since they are sent back.
    """
    if type(value) is not str:
        return value
    return _REORDERING.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


def moment(text: object) -> datetime | None:
    """Parse a time of the state store or the warehouse, with a zone; None for none."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _segment(text: object) -> str:
    """Quote a text as one segment of a path."""
    return quote(str(text), safe="")


def cut(text: object, length: int = 200) -> str:
    """Return the beginning of a name, since a key may have any length."""
    whole = str(text)
    return whole if len(whole) <= length else whole[:length] + "…"


def cell_text(value: object) -> str | None:
    """Format a value of a table like JSON, but texts and times without quotes, and null as None."""
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if value is None else str(value)


def _rate(value: float) -> str:
    return f"{value:,.0f}/s" if value >= 10 else f"{value:.1f}/s"


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 or not value else f"${value:.4f}"


def _when(value: object) -> str:
    found = moment(value)
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if found else _NONE


_NONE = "\N{EN DASH}"
_SIZES = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def _ago(value: object) -> str:
    """Format how long ago, or until when, in the largest unit that fits."""
    found = moment(value)
    if found is None:
        return _NONE
    seconds = (datetime.now(UTC) - found).total_seconds()
    if abs(seconds) < 10:
        return "now"
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), (1, "s"))
    text = f"{abs(seconds) // size:.0f} {unit}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _took(begun: datetime, ended: datetime | None) -> str:
    return duration_text((ended or datetime.now(UTC)) - begun)


def _bytes(value: float) -> str:
    size, unit = next(((size, unit) for size, unit in _SIZES if value >= size), (1, "B"))
    return f"{value:.0f} B" if unit == "B" else f"{value / size:.1f} {unit}"
