"""Figures of the page as SVG text with the same bytes every time: bars per table, training curves, per-class IoU."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovss.errors import UserError
from ovss.report.tableview import TableView, Row

INK, MUTED, LINE, OWN, EXTRA, PUBLISHED = "#1c2430", "#5b6675", "#d5dbe3", "#2a6fb0", "#8fb7dc", "#b3401a"
THEME = {INK: "ink", MUTED: "muted", LINE: "line", OWN: "bar", EXTRA: "bar-extra", PUBLISHED: "bad",
         "#ffffff": "paper", "#00714f": "good", "#7a6200": "unsure", "#6b7280": "none"}  # fmt: skip
_SERIES = ("#2a6fb0", "#b3401a", "#00714f", "#7a6200", "#7b4a9e", "#5b6675")
_STYLE = {
    "svg.hashsalt": "ovss", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": MUTED,
    "ytick.color": INK, "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.6, "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "path.simplify": True, "figure.dpi": 96,
}  # fmt: skip
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PANELS, _MOST_POINTS = 4, 200


@contextmanager
def _style() -> Iterator[None]:
    with plt.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_METADATA, facecolor="#ffffff")
    plt.close(figure)
    text = buffer.getvalue()
    return re.sub(r">\s+<", "><", re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL))


def inline(svg: str, prefix: str, label: str) -> str:
    """An SVG file as an element of the page: ids of its own, the page's colours, a name for screen readers.

    Args:
        svg: SVG text as the functions here return it.
        prefix: goes before every id, so that two figures on a page do not share one.
        label: text alternative, already escaped for HTML.
    """
    svg = re.sub(r'<rect [^>]*fill="#ffffff"/>', "", svg)
    svg = re.sub(r'<g id="patch_1"><path[^>]*/></g>', "", svg, count=1)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, name in THEME.items():
        svg = svg.replace(colour, f"var(--{name},{colour})")
    width = re.search(r'<svg[^>]*?width="([\d.]+)', svg)
    size = f' style="width:{float(width[1]) * 4 / 3:.0f}px"' if width else ""
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg{size} role="img" aria-label="{label}" ', 1)


def bars(grid: TableView) -> str:
    """Horizontal bars of our numbers, one panel per column, with intervals; '' if fewer than two rows have numbers."""
    rows = [row for row in grid.rows if any(cell.value is not None for cell in row.cells)]
    columns = [i for i in range(len(grid.own_columns)) if any(row.cells[i].value is not None for row in rows)]
    if len(rows) < 2 or not columns:
        return ""
    wide = min(len(columns), _PANELS)
    high = math.ceil(len(columns) / wide)
    names = 0.2 + 0.072 * max(len(_short(row.name)) for row in rows)
    with _style():
        figure, axes = _panels(high, wide, 1.5, 0.1 + 0.2 * len(rows), names)
        for panel, axis in enumerate(axes.flat):
            if panel < len(columns):
                _bar_panel(axis, grid, rows, columns[panel])
            else:
                axis.set_visible(False)
        return _svg(figure)


def _panels(
    high: int, wide: int, width: float, height: float, names: float, gap: float = 0.16,
    sharey: bool = True,
) -> tuple[Figure, npt.NDArray[np.object_]]:  # fmt: skip
    """Panels of one size in inches, with room for row names at the left: no layout engine, which takes seconds."""
    title, ticks = 0.3, 0.26 if sharey else 0.42
    size = (names + wide * (width + gap), high * (title + height + ticks))
    figure, axes = plt.subplots(high, wide, figsize=size, squeeze=False, sharey=sharey)
    figure.subplots_adjust(
        left=names / size[0], right=1 - gap / size[0], bottom=ticks / size[1], top=1 - title / size[1],
        wspace=gap / width, hspace=(title + ticks) / height,
    )  # fmt: skip
    return figure, axes


def _bar_panel(axis: Axes, grid: TableView, rows: Sequence[Row], index: int) -> None:
    column = grid.own_columns[index]
    for position, row in enumerate(rows):
        cell = row.cells[index]
        if cell.value is None:
            axis.text(0, position, " not run", va="center", color=MUTED, fontsize=7)
            continue
        axis.barh(position, cell.value, height=0.66, color=EXTRA if row.kind == "extra" else OWN)
        if cell.bar:
            ends = [cell.bar[0] * column.top / 100, (cell.bar[0] + cell.bar[1]) * column.top / 100]
            axis.plot(ends, [position, position], color=INK, linewidth=0.9, solid_capstyle="butt")
        if cell.mark is not None:
            axis.plot([cell.mark * column.top / 100], [position], marker="|", markersize=9, color=PUBLISHED)
    axis.set_title(f"{column.label} {column.arrow}".strip(), loc="left")
    axis.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.locator_params(axis="x", nbins=4)
    axis.margins(x=0.02)


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def curves(path: Path) -> str:
    """Training curves of one model from curves.csv (step, split, metric, value), one panel per metric.

    Raises:
        UserError: the file is damaged.
    """
    try:
        frame = pd.read_csv(path)
        frame = frame.astype({"step": "int64", "split": str, "metric": str, "value": "float64"})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no training curves ({error}); delete the folder and rerun its job") from error
    metrics = list(dict.fromkeys(frame["metric"]))
    if not metrics:
        return ""
    splits = list(dict.fromkeys(frame["split"]))
    colours = {split: _SERIES[i % len(_SERIES)] for i, split in enumerate(splits)}
    wide = min(len(metrics), 3)
    high = math.ceil(len(metrics) / wide)
    with _style():
        figure, axes = _panels(high, wide, 2.3, 1.5, 0.5, gap=0.5, sharey=False)
        for i, axis in enumerate(axes.flat):
            axis.set_visible(i < len(metrics))
            if i < len(metrics):
                _curve_panel(axis, _thin(frame[frame["metric"] == metrics[i]]), metrics[i], colours)
        return _svg(figure)


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    """At most about 200 points per split, the last one always among them."""
    kept = []
    for _, part in frame.groupby("split", sort=False):
        part = part.sort_values("step")
        step = max(1, math.ceil(len(part) / _MOST_POINTS))
        kept.append(part.iloc[sorted({*range(0, len(part), step), len(part) - 1})])
    return pd.concat(kept)


def _curve_panel(axis: Axes, frame: pd.DataFrame, metric: str, colours: dict[str, str]) -> None:
    sns.lineplot(frame, x="step", y="value", hue="split", style="split", palette=colours, hue_order=list(colours),
                 style_order=list(colours), estimator=None, linewidth=1.2, ax=axis)  # fmt: skip
    present = set(frame["split"])
    for text, handle in zip(*reversed(axis.get_legend_handles_labels()), strict=True):
        if text not in present:
            handle.set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    shown = [(handle, text) for handle, text in zip(handles, labels, strict=True) if text in present]
    axis.legend([handle for handle, _ in shown], [text for _, text in shown], fontsize=7, loc="best")
    axis.set(title=metric, xlabel="step", ylabel="")


def heat(names: Sequence[str], classes: Sequence[str], values: npt.NDArray[np.float64]) -> str:
    """Heat map of per-class IoU.

    Args:
        names: the methods, M of them, left to right.
        classes: the classes, C of them, top to bottom.
        values: (C, M) float64 in percent; nan where a class is in no image.
    """
    small = len(classes) <= 32 and len(names) <= 16
    with _style():
        size = (1.5 + max(0.36 * len(names), 1.6), 0.9 + (0.19 if small else 0.14) * len(classes))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        sns.heatmap(values, ax=axis, cmap="viridis", vmin=0, vmax=100, annot=small, fmt=".0f", rasterized=True,
                    annot_kws={"fontsize": 6}, cbar_kws={"label": "IoU in %", "shrink": 0.5},
                    xticklabels=[_short(name, 22) for name in names], yticklabels=list(classes))  # fmt: skip
        axis.grid(visible=False)
        axis.set_facecolor(LINE)
        axis.tick_params(axis="x", rotation=60, labelsize=7)
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
        axis.tick_params(axis="y", rotation=0, labelsize=7)
        return _svg(figure)
