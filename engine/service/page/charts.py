"""Drawings as SVG: the graph of a pipeline, rates over time, causes, and splits as a grid.

Colours come from the style sheet by class, so that both themes work; there are no style attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from engine.service.operations import NodeView, SplitView

__all__ = ["bars", "graph", "in_brief", "rates", "split_grid"]

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
    parts = [
        Markup(
            '<svg class="graph{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        ).format(" fits" if width <= _FITS else "", width, height, width, height, _in_words(nodes))
    ]
    for node in nodes:
        parts += [_edge(place[name], place[node.name], node.state) for name in node.inputs if name in place]
    parts += [_box(node, *place[node.name], is_slowest=node.name == bottleneck) for node in nodes]
    return Markup("").join([*parts, Markup("</svg>")])


def in_brief(nodes: Sequence[NodeView]) -> str:
    """Return the flow in one line; nodes at the same distance from a source are joined by commas."""
    columns: dict[int, list[str]] = {}
    for name, (column, _) in _places(nodes).items():
        columns.setdefault(column, []).append(_cut(name, 40))
    return " → ".join(_shortened([", ".join(_shortened(columns[column])) for column in sorted(columns)]))


def _shortened(names: list[str]) -> list[str]:
    """Name the first ones and the last; the number of the others stands for them."""
    if len(names) <= _BRIEF:
        return names
    return [*names[: _BRIEF - 2], f"… {len(names) - _BRIEF + 1} more …", names[-1]]


def _in_words(nodes: Sequence[NodeView]) -> str:
    return "; ".join(f"{one.name}, {one.kind} {one.component}, {one.state}" for one in nodes)


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


def _corner(column: int, row: int) -> tuple[int, int]:
    return _MARGIN + column * (_WIDTH + _ACROSS), _MARGIN + row * (_HEIGHT + _DOWN)


def _edge(begin: tuple[int, int], end: tuple[int, int], state: str) -> Markup:
    x, y = _corner(*begin)
    x, y = x + _WIDTH, y + _HEIGHT // 2
    to_x, to_y = _corner(*end)
    to_y += _HEIGHT // 2
    bend = max(24, (to_x - x) // 2)
    line = Markup('<path class="edge {}" d="M{} {}C{} {} {} {} {} {}"/>').format(
        state, x, y, x + bend, y, to_x - bend, to_y, to_x - 5, to_y
    )
    tip = Markup('<path class="tip {}" d="M{} {}l-8 -4.5v9z"/>').format(state, to_x, to_y)
    return line + tip


def _box(node: NodeView, column: int, row: int, *, is_slowest: bool) -> Markup:
    x, y = _corner(column, row)
    marked = " slowest" if is_slowest else ""
    figures = _figures(node)
    title = f"{node.name}: {node.kind} {node.component}, {node.state}{figures and f'; {figures}'}"
    parts = [
        Markup('<g class="node {} {}{}"><title>{}</title>').format(node.kind, node.state, marked, title),
        Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="10"/>').format(x, y, _WIDTH, _HEIGHT),
        Markup('<circle class="state" cx="{}" cy="{}" r="4.5"/>').format(x + _WIDTH - 15, y + 17),
        Markup('<text class="kind" x="{}" y="{}">{}</text>').format(x + 14, y + 19, node.kind),
        Markup('<text class="name" x="{}" y="{}">{}</text>').format(x + 14, y + 36, _abridged(node.name)),
        Markup('<text class="component" x="{}" y="{}">{}</text>').format(
            x + 14, y + 51, _cut(node.component, 20)
        ),
        Markup('<text class="figures" x="{}" y="{}">{}</text>').format(x + 14, y + 68, _cut(figures, 23)),
    ]
    if node.share is not None:
        parts.append(
            Markup('<rect class="track" x="{}" y="{}" width="{}" height="4" rx="2"/>').format(
                x + 14, y + 76, _WIDTH - 28
            )
        )
        parts.append(
            Markup('<rect class="share" x="{}" y="{}" width="{:.1f}" height="4" rx="2"/>').format(
                x + 14, y + 76, (_WIDTH - 28) * node.share
            )
        )
    return Markup("").join([*parts, Markup("</g>")])


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


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


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

    written = "L".join(at(when, value) for when, value, _ in points)
    dead = "L".join(at(when, value) for when, _, value in points)
    has_dead = any(value for _, _, value in points)
    drawing = Markup(
        '<svg viewBox="0 0 {w} {h}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        '<path class="grid" d="M0 {top}H{w}M0 {middle}H{w}M0 {h}H{w}"/>'
        '<path class="area" d="M{written}L{w} {h}L0 {h}Z"/><path class="line" d="M{written}"/>{dead}</svg>'
    ).format(
        w=_WIDE,
        h=_HIGH,
        top=4,
        middle=_HIGH // 2 + 2,
        label=f"{label}: {_short(points[-1][1])} now, at most {_short(max(one for _, one, _ in points))}",
        written=written,
        dead=Markup('<path class="line dead" d="M{}"/>').format(dead) if has_dead else "",
    )
    heights = [_short(highest * share) for share in (1, 0.5, 0)]
    times = [datetime.fromtimestamp(begin + (end - begin) * share, UTC) for share in (0, 0.5, 1)]
    return Markup('<div class="chart"><div class="ys">{}</div>{}<div class="xs">{}</div></div>').format(
        Markup("").join(Markup("<span>{}</span>").format(text) for text in heights),
        drawing,
        Markup("").join(Markup("<span>{}</span>").format(f"{when:%H:%M:%S}") for when in times),
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
    rows = [
        Markup(
            '<li><span class="cause">{cause} <span class="soft">{where}</span></span>'
            '<span class="number">{number}</span>'
            '<svg width="100%" height="8" aria-hidden="true">'
            '<rect class="track" width="100%" height="8" rx="4"/>'
            '<rect class="bar" width="{share:.1f}%" height="8" rx="4"/></svg></li>'
        ).format(cause=cause, where=where, number=f"{number:,}", share=max(1.5, number / highest * 100))
        for where, cause, number in shown
    ]
    return Markup('<ol class="bars">{}</ol>').format(Markup("").join(rows)) if rows else Markup("")


_CELL, _PER_ROW = 14, 48


def split_grid(splits: Sequence[SplitView]) -> Markup:
    """Draw a square for each split."""
    if not splits:
        return Markup("")
    columns = min(len(splits), _PER_ROW)
    rows = -(-len(splits) // _PER_ROW)
    done = sum(one.state == "done" for one in splits)
    parts = [
        Markup('<svg class="splits" viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">').format(
            columns * _CELL, rows * _CELL, columns * _CELL, f"{done} of {len(splits)} splits done"
        )
    ]
    for index, split in enumerate(splits):
        row, column = divmod(index, _PER_ROW)
        parts.append(
            Markup(
                '<rect class="{}" x="{}" y="{}" width="11" height="11" rx="2"><title>{}</title></rect>'
            ).format(split.state, column * _CELL, row * _CELL, f"{split.node}: {split.key}, {split.state}")
        )
    return Markup("").join([*parts, Markup("</svg>")])
