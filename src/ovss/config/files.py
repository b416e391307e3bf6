"""What ``datasets.yaml`` and ``weights.yaml`` say of a downloadable file: address, size, hashes and who states them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ovss.config.base import Strict

_DIGITS = {"sha256": 64, "sha1": 40, "md5": 32}


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*", name):
        raise ValueError("a file name is made of letters, digits and _ . + - (no folder)")
    return name


def _address(url: str) -> str:
    if not re.fullmatch(r"(https?|file|world)://\S+", url):
        raise ValueError("an address starts with https://, http://, file:// or world://")
    return url


FileName = Annotated[str, AfterValidator(_file_name)]
Url = Annotated[str, AfterValidator(_address)]


class Verified(Strict):
    """A file's expected size and hashes; each hash names the public source that states it, no hash = none is known."""

    size: int | None = Field(default=None, ge=1)
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    stated_in: dict[Literal["size", "sha256", "sha1", "md5"], tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _hashes(self) -> Verified:
        for kind, digits in _DIGITS.items():
            value = getattr(self, kind)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                raise ValueError(f"{kind} has {digits} lower-case hexadecimal digits")
            if (value is not None) != (kind in self.stated_in):
                raise ValueError(
                    f"{kind} and stated_in.{kind} go together: a hash comes with the source that states it"
                )
        return self


class DownloadedFile(Verified):
    """One file to download, or (url: null) to be placed by hand. about: its size in bytes, roughly, where no exact one
    is known; it is shown before a download and never checked."""

    name: FileName
    about: int | None = Field(default=None, ge=1)
    url: Url | None = None
    mirrors: tuple[Url, ...] = ()
    note: str | None = None

    @property
    def bytes(self) -> int | None:
        """Size, exact or rough; None: not known."""
        return self.size or self.about


def fetched(files: Iterable[DownloadedFile]) -> list[dict[str, Any]]:
    """The files as the fetch job gets them: facts that decide bytes, no prose."""
    keep = {"name", "url", "mirrors", "size", *_DIGITS}
    return [file.model_dump(mode="json", include=keep) for file in files]
