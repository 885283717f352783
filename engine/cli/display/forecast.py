"""Format a forecast as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.cli.display.numbers import count, counted, size
from engine.contract.component import Kind
from engine.preview import Forecast, NodeForecast

FIELDS = 12  # shown of each node


def as_text(forecast: Forecast, changes: Sequence[str] | None = None) -> str:
    """Return the forecast; `changes`: differences from the last run, one per line."""
    lines = [f"{forecast.pipeline}: {_head(forecast)}"]
    width = max(len(node.name) for node in forecast.nodes)
    before: NodeForecast | None = None
    for node in forecast.nodes:
        straight = node.inputs == ((before.name,) if before is not None else ())
        same = straight and before is not None and dict(before.fields) == dict(node.fields)
        lines += _node(node, width, straight=straight, same=same)
        before = node
    if forecast.died:
        died = ", ".join(f"{count(number)} at {name}" for name, number in forecast.died.items())
        lines.append(f"  died in the sample: {died} (run --dry-run says why)")
    if forecast.sample_error:
        lines.append(f"  the sample failed: {forecast.sample_error}")
    if changes is not None:
        lines.append("  changed since the last run:" if changes else "  unchanged since the last run")
        lines += [f"    {line}" for line in changes]
    return "\n".join(lines) + "\n"


def _head(forecast: Forecast) -> str:
    parts = [counted(len(forecast.nodes), "node"), f"{counted(forecast.sampled, 'record')} sampled"]
    if forecast.cost_usd is not None:
        parts.append(f"about {_price(forecast.cost_usd)}")
    if forecast.unpriced:
        parts.append(f"cost of {', '.join(forecast.unpriced)} unknown")
    return ", ".join(parts)


def _node(node: NodeForecast, width: int, *, straight: bool, same: bool) -> Iterable[str]:
    fan = f" ← {', '.join(node.inputs)}" if node.inputs and not straight else ""
    told = ", ".join(_told(node))
    yield f"  {node.name:<{width}}  {node.kind} {node.component}{fan}{': ' + told if told else ''}"
    indent = " " * (width + 4)
    if node.target:
        yield f"{indent}→ {node.target}"
    if node.estimate is not None:
        yield from (f"{indent}{note}" for note in node.estimate.notes)
    if node.over_budget:
        yield f"{indent}the run would stop at `budget_usd: {node.budget_usd:g}`"
    if node.fields and node.kind is not Kind.SINK and not same:
        shown = [f"{name}: {kind}" for name, kind in list(node.fields.items())[:FIELDS]]
        more = len(node.fields) - FIELDS
        yield f"{indent}{', '.join(shown)}{f', and {more} more' if more > 0 else ''}"
    if node.problem:
        yield f"{indent}unknown: {node.problem}"


def _told(node: NodeForecast) -> Iterable[str]:
    listing, estimate = node.listing, node.estimate
    if listing is not None:
        at_least = "" if listing.complete else "at least "
        yield at_least + counted(listing.splits, "split")
        if listing.nbytes:
            yield size(listing.nbytes)
    if node.records is not None:
        about = "" if node.exact else "about "
        yield about + counted(node.records, "record")
    if estimate is not None:
        yield f"about {counted(estimate.calls, 'call')}"
        yield f"{count(estimate.tokens_in)} tokens in and {count(estimate.tokens_out)} out"
        yield _price(estimate.cost_usd) if estimate.cost_usd is not None else "at an unknown price"
    elif node.pays:
        yield "pays for its answers"


def _price(usd: float) -> str:
    return f"${usd:,.2f}" if usd == 0 or usd >= 1 else f"${usd:.4f}"
