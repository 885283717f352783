"""Drawings as SVG: the graph of a pipeline, rates over time, causes, and splits as a grid.

Colours come from the style sheet by class, so that both themes work; there are no style attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from engine.service.operations import NodeView, SplitView
from engine.service.page.rendering import cut, draw

_WIDTH, _HEIGHT, _ACROSS, _DOWN = 164, 88, 36, 20
_MARGIN = 8
_FITS = 1_200  # drawings up to this width shrink to fit a desktop; wider ones scroll
_NAME = 15  # characters of a name in its box
_BRIEF = 6  # columns, or nodes of a column, named in one line


def graph(nodes: Sequence[NodeView], bottleneck: str = "") -> Markup:
    """Draw the nodes from left to right by their distance from a source, with edges between them."""
    place = _places(nodes)
    if not place:
        return Markup("")
    columns = max(column for column, _ in place.values()) + 1
    rows = max(row for _, row in place.values()) + 1
    width = columns * (_WIDTH + _ACROSS) - _ACROSS + 2 * _MARGIN
    height = rows * (_HEIGHT + _DOWN) - _DOWN + 2 * _MARGIN
    corners = {
        name: (_MARGIN + column * (_WIDTH + _ACROSS), _MARGIN + row * (_HEIGHT + _DOWN))
        for name, (column, row) in place.items()
    }
    return draw(
        "graph",
        width=width,
        height=height,
        fits=width <= _FITS,
        label="; ".join(f"{one.name}, {one.kind} {one.component}, {one.state}" for one in nodes),
        bottleneck=bottleneck,
        box_width=_WIDTH,
        box_height=_HEIGHT,
        edges=[
            {"state": node.state, **_edge(*corners[name], *corners[node.name])}
            for node in nodes
            for name in node.inputs
            if name in corners
        ],
        boxes=[
            {"node": one, "x": x, "y": y, "name": _abridged(one.name), "figures": _figures(one)}
            for one in nodes
            for x, y in [corners[one.name]]
        ],
    )


def in_brief(nodes: Sequence[NodeView]) -> str:
    """Return the flow in one line; nodes at the same distance from a source are joined by commas."""
    columns: dict[int, list[str]] = {}
    for name, (column, _) in _places(nodes).items():
        columns.setdefault(column, []).append(cut(name, 40))
    return " → ".join(_shortened([", ".join(_shortened(columns[column])) for column in sorted(columns)]))


def _shortened(names: list[str]) -> list[str]:
    """Name the first ones and the last; the number of the others stands for them."""
    if len(names) <= _BRIEF:
        return names
    return [*names[: _BRIEF - 2], f"… {len(names) - _BRIEF + 1} more …", names[-1]]


def _places(nodes: Sequence[NodeView]) -> Mapping[str, tuple[int, int]]:
    column: dict[str, int] = {}
    for node in nodes:  # in topological order
        column[node.name] = 1 + max((column[name] for name in node.inputs if name in column), default=-1)
    taken: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for node in nodes:
        at = column[node.name]
        place[node.name] = (at, taken.get(at, 0))
        taken[at] = taken.get(at, 0) + 1
    return place


def _edge(x: int, y: int, to_x: int, to_y: int) -> dict[str, str]:
    """Return the paths of the line and its tip between the boxes at these corners."""
    x, y, to_y = x + _WIDTH, y + _HEIGHT // 2, to_y + _HEIGHT // 2
    bend = max(24, (to_x - x) // 2)
    line = f"M{x} {y}C{x + bend} {y} {to_x - bend} {to_y} {to_x - 5} {to_y}"
    return {"line": line, "tip": f"M{to_x} {to_y}l-8 -4.5v9z"}


def _figures(node: NodeView) -> str:
    if node.waits_for:
        return f"waits for {node.waits_for}"
    if node.records_in is None and node.records_out is None:
        return f"{node.dead:,} dead" if node.dead else ""
    count = node.records_out if node.kind == "source" or node.records_in is None else node.records_in
    dead = f" · {node.dead:,} dead" if node.dead else ""
    dropped = f" · {node.dropped:,} dropped" if node.dropped else ""
    return f"{count:,} records{dead}{dropped}"


def _abridged(name: str) -> str:
    """Shorten a name in the middle, since names of neighbours often begin alike."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 7]}…{name[-6:]}"


_WIDE, _HIGH = 600, 150


def rates(points: Sequence[tuple[float, float, float]], label: str) -> Markup:
    """Draw records written per second as an area, dead ones as a line over it.

    The drawing is stretched to the available space, so the labels of its axes are outside of it.
    """
    if len(points) < 2:
        return Markup("")
    highest = _round_up(max(max(written, dead) for _, written, dead in points))
    begin, end = points[0][0], points[-1][0]

    def at(when: float, value: float) -> str:
        return (
            f"{(when - begin) / ((end - begin) or 1) * _WIDE:.1f} {_HIGH - value / highest * (_HIGH - 4):.1f}"
        )

    most = max(written for _, written, _ in points)
    return draw(
        "rates",
        w=_WIDE,
        h=_HIGH,
        label=f"{label}: {_short(points[-1][1])} now, at most {_short(most)}",
        written="L".join(at(when, value) for when, value, _ in points),
        dead="L".join(at(when, value) for when, _, value in points),
        has_dead=any(value for _, _, value in points),
        heights=[_short(highest * share) for share in (1, 0.5, 0)],
        times=[datetime.fromtimestamp(begin + (end - begin) * share, UTC) for share in (0, 0.5, 1)],
    )


def _round_up(value: float) -> float:
    if value <= 1:
        return 1.0
    size = 10.0 ** (len(str(int(value))) - 1)
    return next(size * step for step in (1, 2, 2.5, 5, 10) if value <= size * step)


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def bars(causes: Sequence[tuple[str, str, int]], limit: int = 6) -> Markup:
    """Draw (where, cause, number) as horizontal bars, most frequent first."""
    shown = causes[:limit]
    highest = max((number for _, _, number in shown), default=1)
    return draw("bars", causes=shown, highest=highest) if shown else Markup("")


_CELL, _PER_ROW = 14, 48


def split_grid(splits: Sequence[SplitView]) -> Markup:
    """Draw a square for each split."""
    if not splits:
        return Markup("")
    return draw(
        "splits",
        splits=splits,
        width=min(len(splits), _PER_ROW) * _CELL,
        height=-(-len(splits) // _PER_ROW) * _CELL,
        done=sum(one.state == "done" for one in splits),
        per_row=_PER_ROW,
        cell=_CELL,
    )
