"""Forest plots: the differences a claim is about, with their intervals, as a small SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ovss.report import formats
from ovss.report.colours import CONTRADICTED, INCONCLUSIVE, INK, LINE, MUTED, NOT_RUN, PAPER, SUPPORTED

_COLOURS = {"supported": SUPPORTED, "contradicted": CONTRADICTED, "inconclusive": INCONCLUSIVE, "not_run": NOT_RUN}
_WIDTH, _LEFT, _RIGHT, _STEP, _TOP = 424, 92, 154, 19, 6


@dataclass(frozen=True)
class Line:
    """One line of the plot: a name, a difference with its interval, and what it says."""

    name: str
    difference: float
    low: float
    high: float
    verdict: str
    total: bool = False


def lines(claim: Mapping[str, Any]) -> list[Line]:
    """The lines of one claim: its columns, then all of them together if there are several."""
    named = ((column, str(column["column"]).removesuffix("_miou")) for column in claim["columns"])
    found = [line for column, name in named if (line := _line(column, name)) is not None]
    whole = _line(claim, "together", total=True)
    return [*found, whole] if whole is not None and len(found) != 1 else found


def _line(values: Mapping[str, Any], name: str, total: bool = False) -> Line | None:
    if not formats.is_number(values.get("difference")):
        return None
    difference = float(values["difference"])
    ends = [values.get(end) for end in ("low", "high")]
    low, high = (difference if end is None else float(end) for end in ends)
    return Line(name, difference, low, high, str(values.get("verdict", "not_run")), total)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(high - low))
    for divisor in (1, 2, 5, 10):
        if (high - low) / (step / divisor) >= 3:
            step /= divisor
            break
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def places(shown: Sequence[Line]) -> int:
    """Decimals for differences of this size."""
    largest = max((abs(value) for line in shown for value in (line.low, line.high)), default=1.0)
    return 1 if largest >= 3 else 2 if largest >= 0.3 else 3


def svg(shown: Sequence[Line], label: str) -> str:
    """An SVG of the lines on one axis with zero marked; '' if there is nothing to show."""
    if not shown:
        return ""
    low = min(0.0, *(line.low for line in shown))
    high = max(0.0, *(line.high for line in shown))
    margin = 0.06 * (high - low) if high - low > 1e-9 else 1.0
    low, high = low - margin, high + margin
    span = _WIDTH - _LEFT - _RIGHT

    def x(value: float) -> str:
        return f"{_LEFT + span * (value - low) / (high - low):.1f}"

    bottom = _TOP + _STEP * len(shown)
    digits = places(shown)
    parts = [_axis(x, _ticks(low, high), bottom)]
    parts += [_mark(line, x, _TOP + _STEP * index + _STEP / 2, digits) for index, line in enumerate(shown)]
    return (f'<svg class="forest" viewBox="0 0 {_WIDTH} {bottom + 22}" xmlns="http://www.w3.org/2000/svg" role="img" '
            f'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12"><title>{escape(label)}</title>'
            f'{"".join(parts)}</svg>')  # fmt: skip


def _axis(x: Callable[[float], str], ticks: Sequence[float], bottom: float) -> str:
    digits = max((len(f"{tick:.6g}".partition(".")[2]) for tick in ticks), default=0)
    parts = []
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    every = 1 if len(ticks) * (digits + 3) <= 24 else 2  # wide numbers stand at every other tick, zero among them
    for tick in ticks:
        zero = abs(tick) < 1e-12
        parts.append(f'<path d="M{x(tick)} {_TOP - 4}V{bottom + 3}" style="stroke:{MUTED if zero else LINE};'
                     f'stroke-width:{1.4 if zero else 1}"/>')  # fmt: skip
        if round(tick / step) % every == 0:
            parts.append(f'<text x="{x(tick)}" y="{bottom + 15}" text-anchor="middle" style="fill:{MUTED}">'
                         f'{formats.signed(0.0 if zero else tick, digits)}</text>')  # fmt: skip
    return "".join(parts)


def _mark(line: Line, x: Callable[[float], str], y: float, digits: int) -> str:
    colour = _COLOURS[line.verdict]
    weight = 'font-weight="600" ' if line.total else ""
    name = line.name if len(line.name) <= 12 else f"{line.name[:11]}…"
    words = (
        f"{formats.signed(line.difference, digits)} [{formats.number(line.low, digits)}, "
        f"{formats.number(line.high, digits)}]"
    )
    return (f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" {weight}text-anchor="end" style="fill:{INK}">{escape(name)}</text>'
            f'<path d="M{x(line.low)} {y:.1f}H{x(line.high)}" style="stroke:{colour};stroke-width:2"/>'
            f'{_shape(float(x(line.difference)), y, line)}'
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{y + 4:.1f}" {weight}style="fill:{INK}">{words}</text>')  # fmt: skip


def _shape(x: float, y: float, line: Line) -> str:
    """Diamond: together; disc: supported; cross: contradicted; ring: inconclusive or not run."""
    colour = _COLOURS[line.verdict]
    if line.total:
        return f'<path d="M{x - 6:.1f} {y:.1f}l6 -5 6 5 -6 5z" style="fill:{colour}"/>'
    if line.verdict == "contradicted":
        return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" style="stroke:{colour};stroke-width:2.4;fill:none"/>'
    fill = colour if line.verdict == "supported" else PAPER
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{fill};stroke:{colour};stroke-width:1.6"/>'


def stack(panels: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """All plots of a paper below each other in one standalone SVG file; '' if there are none."""
    parts, top = [], 8
    for title, shown in panels:
        if shown:
            plot = svg(shown, title).replace("<svg ", f'<svg x="0" y="{top + 20}" width="{_WIDTH}" ', 1)
            height = _TOP + _STEP * len(shown) + 22
            plot = plot.replace('role="img"', f'height="{height}"', 1)
            parts.append(f'<text x="8" y="{top + 12}" style="fill:{INK};font-weight:600">{escape(title)}</text>{plot}')
            top += height + 34
    body = "".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
            f'font-family="DejaVu Sans, sans-serif" font-size="12"><rect width="100%" height="100%" fill="{PAPER}"/>'
            f"{body}</svg>\n") if parts else ""  # fmt: skip
