"""Training curves and per-class heat maps as SVG text with the same bytes every time; SVG files made inline."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from ovss.report.colours import INK, LINE, MUTED, PAPER, themed

_SERIES = ("#2a6fb0", "#b3401a", "#00714f", "#7a6200", "#7b4a9e", "#5b6675")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ovss", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": MUTED,
    "ytick.color": INK, "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.6, "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "path.simplify": True, "figure.dpi": 96,
}  # fmt: skip
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_MOST_POINTS = 200


@contextmanager
def _style() -> Iterator[None]:
    with plt.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_METADATA, facecolor=PAPER)
    plt.close(figure)
    text = buffer.getvalue()
    return re.sub(r">\s+<", "><", re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL))


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
    svg = themed(svg)
    width = re.search(r'<svg[^>]*?width="([\d.]+)(pt)?"', svg)
    size = f' style="width:{float(width[1]) * (4 / 3 if width[2] else 1):.0f}px"' if width else ""
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg{size} role="img" aria-label="{label}" ', 1)


def _panels(high: int, wide: int) -> tuple[Figure, list[Axes]]:
    """Panels of one size, their margins in inches: no layout engine, which takes seconds."""
    width, height, gap, title, ticks = 2.3, 1.5, 0.5, 0.3, 0.42
    size = (gap + wide * (width + gap), high * (title + height + ticks))
    figure, axes = plt.subplots(high, wide, figsize=size, squeeze=False)
    figure.subplots_adjust(
        left=gap / size[0], right=1 - gap / size[0], bottom=ticks / size[1], top=1 - title / size[1],
        wspace=gap / width, hspace=(title + ticks) / height,
    )  # fmt: skip
    return figure, list(axes.flat)


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
        figure, axes = _panels(high, wide)
        for i, axis in enumerate(axes):
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
    names = [_short(name, 28) for name in names]
    left, right, bottom, top = 0.2 + 0.062 * max(map(len, classes)), 0.5, 0.2 + 0.055 * max(map(len, names)), 0.1
    # The colour bar takes its share of the width from the map.
    size = (left + max(0.36 * len(names), 1.6) / 0.82 + right, bottom + (0.19 if small else 0.14) * len(classes) + top)
    with _style():
        figure, axis = plt.subplots(figsize=size)
        figure.subplots_adjust(
            left=left / size[0], right=1 - right / size[0], bottom=bottom / size[1], top=1 - top / size[1]
        )
        sns.heatmap(values, ax=axis, cmap="viridis", vmin=0, vmax=100, annot=small, fmt=".0f", rasterized=True,
                    annot_kws={"fontsize": 6}, cbar_kws={"label": "IoU in %", "shrink": 0.5},
                    xticklabels=names, yticklabels=list(classes))  # fmt: skip
        axis.grid(visible=False)
        axis.set_facecolor(LINE)
        axis.tick_params(axis="x", rotation=60, labelsize=7)
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
        axis.tick_params(axis="y", rotation=0, labelsize=7)
        return _svg(figure)
