"""What a user forbids downloads, by environment variables: the network, or more than a number of bytes."""

from __future__ import annotations

import os
import re

from ovss.errors import UserError

OFFLINE = "OVSS_OFFLINE"
"""Set (to anything but 0): no connection is opened."""
MAX_DOWNLOAD = "OVSS_MAX_DOWNLOAD"
"""At most so many bytes: 50G, 1.5T, 700M, 512MiB, or a number."""

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def offline() -> bool:
    """Whether no connection may be opened."""
    return os.environ.get(OFFLINE, "0").strip().lower() not in ("", "0", "no", "false")


def most_bytes() -> int | None:
    """How many bytes may be downloaded; None: any number.

    Raises:
        UserError: the variable holds something else.
    """
    text = os.environ.get(MAX_DOWNLOAD, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(I?)B?", text.upper())
    if found is None:
        raise UserError(f"{MAX_DOWNLOAD}: {text[:40]!a} is no size; write 50G, 1.5T or 700M, or unset it")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])


class Budget:
    """Bytes that may still be downloaded (``left``; None: any number)."""

    def __init__(self, most: int | None = None) -> None:
        self.most = self.left = most

    def need(self, name: str, size: int) -> None:
        """Check that ``size`` more bytes may come; ``name`` is what the message calls what they belong to.

        Raises:
            UserError: they may not.
        """
        if self.left is not None and size > self.left:
            raise UserError(
                f"{name}: {size} bytes would be downloaded, {MAX_DOWNLOAD} allows {self.left} more (of {self.most}); "
                "raise it or unset it"
            )

    def spend(self, name: str, size: int) -> None:
        """Take note of bytes that came.

        Raises:
            UserError: they are more than may come.
        """
        self.need(name, size)
        if self.left is not None:
            self.left -= size
