"""A job: one stage with its parameters and inputs, and the content key of its output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

KEY_LENGTH = 16


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Content key of a JSON value: the first 16 hex digits of its sha256."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:KEY_LENGTH]


def file_name(words: Iterable[str], length: int = 140) -> str:
    """A job's name for people, as part of a path."""
    return "-".join(words).replace("/", "_").replace(" ", "_")[:length]


@dataclass(frozen=True, eq=False)
class Job:
    """One output directory ``work/<stage>/<name>.<key>`` and everything that decides what is in it.

    ``name`` is for people and is not part of the key; ``group`` names the process that makes this output together with
    others (None: one of its own); ``seed`` is part of the key of stages that draw random numbers.
    """

    stage: str
    name: str
    module: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Job]
    sources: Mapping[str, str]
    packages: Mapping[str, str]
    group: str | None = None
    seed: int | None = None

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What the key is made of."""
        return {
            "stage": self.stage,
            "command": self.module,
            "params": dict(self.params),
            "inputs": {name: job.key for name, job in sorted(self.inputs.items())},
            "sources": dict(self.sources),
            "packages": dict(self.packages),
            **({} if self.seed is None else {"seed": self.seed}),
        }

    @cached_property
    def key(self) -> str:
        """Content key (16 hex digits)."""
        return digest(self.parts)

    @property
    def directory(self) -> str:
        """Output directory, relative to the project."""
        return f"work/{self.stage}/{self.name}.{self.key}"

    @property
    def done(self) -> str:
        """The file whose existence says that the output is complete: it appears with the directory, by one rename."""
        return f"{self.directory}/origin.json"
