"""Progress lines on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """Prints how many of ``total`` are done, the rate and the time left, at most every ``every`` seconds."""

    def __init__(self, what: str, total: int, unit: str = "images", every: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.started = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Report that ``done`` are complete; the last one is always printed."""
        now = time.monotonic()
        if done < self.total and now - self.last < self.every:
            return
        self.last = now
        rate = done / max(now - self.started, 1e-9)
        left = (self.total - done) / rate if rate else 0.0
        print(
            f"{self.what}: {done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {left:.0f} s left",
            file=sys.stderr, flush=True,
        )  # fmt: skip
