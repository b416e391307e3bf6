"""Caption search on synthetic vectors: exact streamed, IVF-SQ8, and 64-byte codes with exact comparison of candidates.

    python bench/retrieval.py [--rows 1000000] [--folder DIR] [--threads 2]

Vectors of 768 numbers made to look like CLIP's: a common direction, 400 topics, 20,000 clusters of Zipf's sizes, a
spectrum that falls like a power. Queries of the kind "text" are drawn like the captions; those of the kind "image"
have their own mean and more noise, as embeddings of segments have; TAG's are of that kind and are harder. Goals:
recall@10 of image queries 0.95 or more at 100 bytes a vector or less, peak memory of the build below 4 GB, and a build
that is killed and goes on gives the same bytes. Every step runs in a process of its own. 1,000,000 rows take about 30
minutes on two busy cores and 3.5 GB of disk, 50,000 rows four minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ovss.retrieval.build_index import build
from ovss.retrieval.caption_index import INDEX_FILE, CaptionIndex, recall_of
from ovss.retrieval.index import finish
from ovss.retrieval.recipes import Recipe, choose
from ovss.retrieval.search import search_exact
from ovss.retrieval.shards import Collection, Shard, publish, write_shard

DIMENSION, TOPICS, CLUSTERS, SEED = 768, 400, 20_000, 0
QUERIES = 1000
SHARES = {"cone": 0.26, "topic": 0.12, "cluster": 0.40, "noise": 0.22}
"""Squared lengths of a caption's parts: two random captions have cosine 0.26, two of a cluster 0.78."""
IMAGE = {"cone": 0.024, "mean": 0.53, "content": 0.13, "noise": 0.316}
"""Squared lengths of an image query's parts: cosine 0.08 with a random caption, 0.3 with the nearest."""
SCALES = {"CC12M": (12_423_374, "IVF16384,SQ8"), "PMD": (70_000_000, "IVF32768_HNSW32,PQ64np")}
ALL_SEGMENTS = 128_000
Vectors = npt.NDArray[np.float32]


class Synthetic:
    """Draws vectors; everything that is fixed is drawn from the seed."""

    def __init__(self) -> None:
        generator = np.random.default_rng(SEED)
        self.rotation = np.linalg.qr(generator.normal(size=(DIMENSION, DIMENSION)))[0].astype(np.float32)
        self.spectrum = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.4
        self.cone, self.mean = np.eye(2, DIMENSION, dtype=np.float32) @ self.rotation
        self.topics, self.clusters = self._directions(generator, TOPICS), self._directions(generator, CLUSTERS)
        self.topic_of = generator.integers(TOPICS, size=CLUSTERS)
        share = 1 / np.arange(1, CLUSTERS + 1)
        self.share = share / share.sum()

    def _directions(self, generator: np.random.Generator, count: int) -> Vectors:
        """Unit vectors (count, D), orthogonal to the cone and to the images' mean."""
        drawn = generator.standard_normal((count, DIMENSION), dtype=np.float32) * self.spectrum
        drawn[:, :2] = 0
        return unit(drawn) @ self.rotation

    def _content(self, generator: np.random.Generator, count: int, noise: float) -> Vectors:
        cluster = generator.choice(CLUSTERS, size=count, p=self.share)
        content = SHARES["topic"] ** 0.5 * self.topics[self.topic_of[cluster]]
        content += SHARES["cluster"] ** 0.5 * self.clusters[cluster]
        return content + noise**0.5 * self._directions(generator, count)

    def captions(self, generator: np.random.Generator, count: int) -> Vectors:
        """Unit vectors (count, D) like those of captions."""
        return unit(SHARES["cone"] ** 0.5 * self.cone + self._content(generator, count, SHARES["noise"]))

    def images(self, generator: np.random.Generator, count: int) -> Vectors:
        """Unit vectors (count, D) like those of image segments."""
        content = IMAGE["content"] ** 0.5 * unit(self._content(generator, count, SHARES["noise"]))
        own = IMAGE["cone"] ** 0.5 * self.cone + IMAGE["mean"] ** 0.5 * self.mean
        return unit(own + content + IMAGE["noise"] ** 0.5 * self._directions(generator, count))


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(folder: Path, rows: int) -> dict[str, Any]:
    """The collection and the queries, shard by shard."""
    drawn, shard_rows = Synthetic(), min(100_000, -(-rows // 10))
    (parts := folder / "parts").mkdir(parents=True)
    (out := folder / "captions").mkdir()
    shards = []
    for number, first in enumerate(range(0, rows, shard_rows)):
        generator, count = np.random.default_rng([SEED, number]), min(shard_rows, rows - first)
        blocks = [
            drawn.captions(generator, min(10_000, count - at)).astype(np.float16) for at in range(0, count, 10_000)
        ]
        texts = [f"caption {first + row}" for row in range(count)]
        shards.append(Shard(f"{number:05d}", count, write_shard(parts, f"{number:05d}", texts, blocks)))
    record = {"collection": "synthetic", "rows": rows, "dimension": DIMENSION, "encoder": "synthetic"}
    publish(parts, out, shards, {**record, "shard_rows": shard_rows, "skipped": {}})
    shutil.rmtree(parts)
    generator = np.random.default_rng([SEED, 1 << 20])
    queries = {"text": drawn.captions(generator, QUERIES), "image": drawn.images(generator, QUERIES)}
    np.savez(folder / "queries.npz", text=queries["text"], image=queries["image"])
    some = np.asarray(Collection.open(out).vectors(0)[:2000], np.float32)
    pairs = {
        kind: round(float((found @ some.T).mean()), 3) for kind, found in {**queries, "caption": some[:500]}.items()
    }
    return {"random_cosine": pairs, "gigabytes": round(rows * DIMENSION * 2e-9, 2)}


def exact(folder: Path) -> dict[str, Any]:
    """Both kinds of queries through the streamed search; remembers the best ten."""
    collection, queries = Collection.open(folder / "captions"), read_queries(folder)
    both = np.concatenate([queries["text"], queries["image"]])
    started = time.perf_counter()
    ids, scores = search_exact(both, collection, 60)
    seconds = time.perf_counter() - started
    np.savez(folder / "truth.npz", text=ids[:QUERIES, :10], image=ids[QUERIES:, :10])
    best = {"text": scores[:QUERIES, 0], "image": scores[QUERIES:, 0]}
    return {"queries_per_second": round(len(both) / seconds, 2),
            "pairs_per_second": round(collection.rows * len(both) / seconds),
            "best_cosine": {kind: round(float(found.mean()), 3) for kind, found in best.items()}}  # fmt: skip


def build_step(folder: Path, recipe: str, place: str, threads: int) -> dict[str, Any]:
    collection, target = Collection.open(folder / "captions"), folder / place
    for path in (target, target / "scratch"):
        path.mkdir(exist_ok=True)
    build(collection, choose(recipe, collection.rows), target / INDEX_FILE, target / "scratch", SEED, threads)
    return {}


def measure(folder: Path, recipe: str, place: str) -> dict[str, Any]:
    """Recall of both kinds, queries a second, at the effort that the stage would choose."""
    collection, queries = Collection.open(folder / "captions"), read_queries(folder)
    scratch = folder / "truth"
    scratch.mkdir(exist_ok=True)
    facts = finish(collection, choose(recipe, collection.rows), queries["image"], folder / place, scratch, SEED)
    opened = CaptionIndex.open(folder / place, collection)
    started = time.perf_counter()
    image, _ = opened.search(queries["image"], 10)
    seconds = time.perf_counter() - started
    with np.load(folder / "truth.npz") as truth:
        recalls = {"image": recall_of(image, truth["image"]),
                   "text": recall_of(opened.search(queries["text"], 10)[0], truth["text"])}  # fmt: skip
    return {"bytes_per_vector": facts["bytes_per_vector"], "nprobe": facts["nprobe"], "rerank": facts["rerank"],
            "recall": {kind: round(recall, 4) for kind, recall in recalls.items()},
            "queries_per_second": round(QUERIES / seconds, 1), "bytes": facts["bytes"]}  # fmt: skip


def read_queries(folder: Path) -> dict[str, Vectors]:
    with np.load(folder / "queries.npz") as found:
        return {kind: found[kind] for kind in ("text", "image")}


def step(
    name: str, arguments: argparse.Namespace, *more: str, watch: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Run a step in a process of its own; it is killed as soon as ``watch`` says so."""
    command = [sys.executable, __file__, "--rows", str(arguments.rows), "--folder", str(arguments.folder),
               "--threads", str(arguments.threads), "--step", name, *more]  # fmt: skip
    started, peak = time.perf_counter(), 0.0
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while process.poll() is None and not watch():
            time.sleep(0.02)
        if process.poll() is None:
            peak = peak_so_far(process.pid)
            process.send_signal(signal.SIGKILL)
        printed, _ = process.communicate()
    found = {"seconds": round(time.perf_counter() - started, 1), "killed": process.returncode == -signal.SIGKILL}
    if process.returncode and not found["killed"]:
        sys.exit(f"step {name} failed with code {process.returncode}")
    found |= {"peak_gb": peak} if found["killed"] else json.loads(printed.splitlines()[-1])
    print(f"{name} {' '.join(more)}: {json.dumps(found)}", flush=True)
    return found


def peak_so_far(pid: int) -> float:
    """Largest resident memory of a process that runs, GB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(round(int(line.split()[1]) / 1e6, 2) for line in lines if line.startswith("VmHWM"))


def run_step(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    folder, more = arguments.folder, arguments.more
    found = {
        "make": lambda: make(folder, arguments.rows),
        "exact": lambda: exact(folder),
        "build": lambda: build_step(folder, more[0], more[1], arguments.threads),
        "measure": lambda: measure(folder, more[0], more[1]),
    }[arguments.step]()
    print(json.dumps({**found, "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}))


def killed_and_gone_on(arguments: argparse.Namespace, recipe: str) -> tuple[dict[str, Any], bool]:
    """Build with a SIGKILL after two shards, go on; then build at one go, with the first build's training."""
    folder: Path = arguments.folder
    scratch = folder / "codes" / "scratch"
    killed = step("build", arguments, recipe, "codes", watch=(scratch / "00001.json").is_file)
    done = step("build", arguments, recipe, "codes")
    (folder / "whole" / "scratch").mkdir(parents=True, exist_ok=True)
    for path in scratch.glob("trained.*"):
        shutil.copy2(path, folder / "whole" / "scratch")
    step("build", arguments, recipe, "whole")
    same = (folder / "codes" / INDEX_FILE).read_bytes() == (folder / "whole" / INDEX_FILE).read_bytes()
    shutil.rmtree(folder / "whole")
    peak = max(done["peak_gb"], killed["peak_gb"])
    return {**done, "seconds": killed["seconds"] + done["seconds"], "peak_gb": peak}, same and killed["killed"]


def extrapolate(
    exact_found: dict[str, Any], built: dict[str, tuple[Recipe, dict[str, Any], dict[str, Any]]], rows: int
) -> None:
    """Times by operations, memory by bytes, for the two large collections."""
    for name, (many, factory) in SCALES.items():
        large = choose(factory, many)
        recipe, build_found, measured = built["SQ8" if "SQ8" in factory else "PQ64np"]
        memory = (measured["bytes"] - fixed_bytes(recipe)) / rows * many + fixed_bytes(large)
        work = operations(large, many) / operations(recipe, rows)
        hours = many * ALL_SEGMENTS / exact_found["pairs_per_second"] / 3600
        print(f"{name}, {many:,} captions: all {ALL_SEGMENTS:,} segments exactly {hours:.1f} h; {factory} "
              f"{memory / 1e9:.1f} GB in memory, built in {build_found['seconds'] * work / 3600:.1f} h")  # fmt: skip


def fixed_bytes(recipe: Recipe) -> int:
    """Bytes that do not grow with the rows: centres of the lists (an HNSW links each to 64) and the codebook."""
    links = 64 * 4 if "HNSW" in recipe.factory else 0
    return recipe.lists * (4 * DIMENSION + links) + (256 * DIMENSION * 4 if recipe.k_factor else 0)


def operations(recipe: Recipe, rows: int) -> float:
    """Multiply-adds of training the lists and of finding each row's list (an HNSW looks at about 2,000 centres)."""
    looked_at = 2000 if "HNSW" in recipe.factory else recipe.lists
    return float(recipe.iterations * recipe.points * recipe.lists**2 + rows * looked_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="keep the data here and use what is there (default: a temporary one)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        return run_step(arguments)
    if arguments.folder:
        return compare(arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        return compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    lists = 1 << round(math.log2(4 * math.sqrt(arguments.rows)))
    if not (arguments.folder / "queries.npz").is_file():
        step("make", arguments)
    exact_found = step("exact", arguments)
    built = {}
    for codes, place in (("SQ8", "sq8"), ("PQ64np", "codes")):
        recipe, same = f"IVF{lists},{codes}", True
        if codes == "SQ8":
            build_found = step("build", arguments, recipe, place)
        else:
            build_found, same = killed_and_gone_on(arguments, recipe)
        measured = step("measure", arguments, recipe, place)
        built[codes] = (choose(recipe, arguments.rows), build_found, measured)
        reached = measured["recall"]["image"] >= 0.95
        print(f"{recipe}: recall {'reached' if reached else 'MISSED'}, {measured['bytes_per_vector']} bytes a vector, "
              f"build peak {build_found['peak_gb']} GB, same bytes after a kill: {same}")  # fmt: skip
    extrapolate(exact_found, built, arguments.rows)


if __name__ == "__main__":
    main()
