"""Stage ``captions``: captions of some files with their CLIP text vectors, in shards: TAG's database."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovss.data.remote import digest
from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.jobs import JobContext
from ovss.models.clip import WEIGHTS_FILE, Clip, load_clip
from ovss.retrieval.columns import prebuilt_index
from ovss.retrieval.distinct import distinct
from ovss.retrieval.encode import CHUNK, encode_unit
from ovss.retrieval.shards import Shard, publish, write_json, write_shard, wrong_file
from ovss.retrieval.sources import CaptionFile, Tally, caption_files, read_captions

CASED = "cased"
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Planned:
    """A shard to be: its first row in the collection, its rows, a hash of its captions and of the model."""

    name: str
    first: int
    rows: int
    captions: str
    encoder: str


@dataclass(frozen=True)
class Plan:
    """The shards of a collection and what the files held."""

    shards: list[Planned]
    sources: list[dict[str, Any]]
    skipped: dict[str, int]


@dataclass(frozen=True)
class _Sources:
    """Where the captions come from, and how they are cut into shards."""

    files: Sequence[CaptionFile]
    scratch: Path
    shard_rows: int
    deduplicate: bool

    def shards(self, tally: Tally) -> Iterator[list[str]]:
        """Captions of each shard, in order."""
        captions = read_captions(self.files, self.scratch, tally)
        if self.deduplicate:
            captions = distinct(captions)
        while texts := list(islice(captions, self.shard_rows)):
            yield texts

    def prebuilt(self) -> Path | None:
        """The index that CaSED's database brings along; its ids are rows only where it is the only source."""
        single = len(self.files) == 1 and self.files[0].format == CASED
        return prebuilt_index(self.files[0].path, self.scratch) if single else None


def run(ctx: JobContext) -> dict[str, object]:
    """Write a collection (``ovss.retrieval.shards``) of every caption of some files, in order.

    Params: collection (name), sources ([{"input", "format", "files"}]), shard_rows, deduplicate.
    Inputs: ``model`` (CLIP, for its text tower) and the folders that the sources name.

    Everything is read twice: first to check it, to count it and to see which shards a killed run has finished, then to
    encode the missing ones. A finished shard counts when its own record states the same rows at the same place, the
    same captions and model, and the bytes of its files.

    Returns:
        {"rows", "dimension", "encoder", "shards", "skipped"}.

    Raises:
        UserError: a source cannot be read or is not what it should be (see ``ovss.retrieval.sources``).
    """
    sources = _sources(ctx.params, ctx.inputs, ctx.scratch)
    encoder = digest(ctx.inputs["model"] / WEIGHTS_FILE, "sha256")
    plan = _plan(sources, encoder)
    folder = ctx.scratch / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    done = {planned.name: found for planned in plan.shards if (found := _finished(folder, planned)) is not None}
    missing = [planned for planned in plan.shards if planned.name not in done]
    if missing:
        clip = load_clip(ctx.inputs["model"], ctx.machine.device)
        done |= _encode(clip, sources, missing, folder)
    shards = [done[planned.name][0] for planned in plan.shards]
    facts: dict[str, object] = {
        "rows": sum(shard.rows for shard in shards), "dimension": done[shards[0].name][1], "encoder": encoder,
        "skipped": plan.skipped,
    }  # fmt: skip
    record = {"collection": ctx.params["collection"], "shard_rows": sources.shard_rows, "sources": plan.sources}
    publish(folder, ctx.out, shards, facts | record, sources.prebuilt())
    return {**facts, "shards": len(shards)}


def _sources(params: Mapping[str, Any], inputs: Mapping[str, Path], scratch: Path) -> _Sources:
    files = caption_files(params["sources"], inputs)
    again = bool(params["deduplicate"])
    if again and any(file.format == CASED for file in files):
        raise UserError("captions: 'deduplicate' would part CaSED's captions from their rows in its index; turn it off")
    return _Sources(files, scratch, int(params["shard_rows"]), again)


def _hash(texts: Sequence[str]) -> str:
    """Hash of captions and of where each ends."""
    sha256 = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        sha256.update(len(encoded).to_bytes(8, "little"))
        sha256.update(encoded)
    return sha256.hexdigest()


def _plan(sources: _Sources, encoder: str) -> Plan:
    """Read everything once: what is wrong with a file shows before a model is loaded."""
    tally, shards, first = Tally(), list[Planned](), 0
    for number, texts in enumerate(sources.shards(tally)):
        shards.append(Planned(f"{number:05d}", first, len(texts), _hash(texts), encoder))
        first += len(texts)
    skipped = tally.reasons()
    if repeated := sum(tally.rows.values()) - first:
        skipped[DUPLICATE] = repeated
    _report(tally, repeated)
    found = [{"file": file.path.name, "format": file.format, "rows": tally.rows[file.path]} for file in sources.files]
    return Plan(shards, found, dict(sorted(skipped.items())))


def _report(tally: Tally, repeated: int) -> None:
    def say(what: str, rows: int, skipped: Counter[str]) -> None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        print(f"{what}: {rows} captions" + (f"; left out: {reasons}" if reasons else ""), file=sys.stderr)

    for path, rows in tally.rows.items():
        say(path.name, rows, tally.skipped[path])
    if repeated:
        say("all files", sum(tally.rows.values()) - repeated, Counter({DUPLICATE: repeated}))


def _encode(clip: Clip, sources: _Sources, missing: Sequence[Planned], folder: Path) -> dict[str, tuple[Shard, int]]:
    """Encode and write the missing shards: shard and dimension by name."""
    wanted = {int(planned.name): planned for planned in missing}
    progress, before, done = Progress("captions", sum(p.rows for p in missing), "captions"), 0, {}
    for number, texts in enumerate(islice(sources.shards(Tally()), max(wanted) + 1)):
        if (planned := wanted.get(number)) is None:
            continue
        if _hash(texts) != planned.captions:
            raise UserError(f"captions: shard {planned.name} reads differently the second time; leave the files alone")
        files = write_shard(folder, planned.name, texts, _vectors(clip, texts, progress, before))
        before += planned.rows
        dimension = encode_unit(clip, []).shape[1]
        write_json(folder / f"{planned.name}.json", {**vars(planned), "dimension": dimension, "files": files})
        done[planned.name] = Shard(planned.name, planned.rows, files), dimension
    return done


def _vectors(clip: Clip, texts: Sequence[str], progress: Progress, before: int) -> Iterator[NDArray[np.float16]]:
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        yield encode_unit(clip, chunk).half().numpy()
        progress(before + start + len(chunk))


def _finished(folder: Path, planned: Planned) -> tuple[Shard, int] | None:
    """What a killed run wrote for this very shard (and its dimension), if every byte of it is there."""
    path = folder / f"{planned.name}.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if any(record.get(key) != value for key, value in vars(planned).items()):
        return None
    if wrong_file(folder, record["files"]) is not None:
        return None
    return Shard(planned.name, planned.rows, record["files"]), int(record["dimension"])
