"""Colours of the figures: fixed in the files, following the page's theme inside it."""

from __future__ import annotations

INK, MUTED, LINE, PAPER = "#1c2430", "#5b6675", "#d5dbe3", "#ffffff"
OWN, EXTRA, PUBLISHED = "#2a6fb0", "#8fb7dc", "#b3401a"
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = "#00714f", "#b3401a", "#7a6200", "#6b7280"
THEME = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", OWN: "bar", EXTRA: "bar-extra", PUBLISHED: "bad",
         SUPPORTED: "good", INCONCLUSIVE: "unsure", NOT_RUN: "none"}  # fmt: skip


def themed(svg: str) -> str:
    """Replace every colour of THEME by the page's variable for it."""
    for colour, name in THEME.items():
        svg = svg.replace(colour, f"var(--{name},{colour})")
    return svg
