"""One process of a training. The stage starts as many as it is told; torchrun can start them on several machines:

    torchrun --nnodes 2 --nproc-per-node 4 ... -m ovss.training.ttd.worker REQUEST

REQUEST is the ``request.json`` that the stage leaves in its scratch folder, which all processes must see.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from ovss.config.base import validate
from ovss.config.ttd import TtdJob
from ovss.errors import UserError
from ovss.training.ttd.bases import open_tower
from ovss.training.ttd.batches import pair_batches
from ovss.training.ttd.fit import fit
from ovss.training.ttd.lora import attach
from ovss.training.ttd.merge import base_id
from ovss.training.ttd.processes import Process, joined
from ovss.training.ttd.settings import to_settings
from ovss.training.ttd.sources import open_sources
from ovss.training.ttd.step import Batch
from ovss.training.ttd.tagging import LlmAnswers, Tags, noun_tags, with_tags

REQUEST_FILE = "request.json"
START = "spawn"
"""How new processes begin: a GPU does not survive a fork."""


@dataclass(frozen=True)
class Request:
    """A training: its parameters (``TtdJob``), input folders, and the folder for adapters, curves and saved states."""

    params: dict[str, Any]
    inputs: dict[str, str]
    folder: str
    seed: int
    device: str
    workers: int

    @property
    def job(self) -> TtdJob:
        """The parameters, checked."""
        return validate(self.params, TtdJob, "train_ttd")

    @property
    def paths(self) -> Mapping[str, Path]:
        """The input folders."""
        return {name: Path(path) for name, path in self.inputs.items()}


def learn(request: Request, process: Process) -> None:
    """This process's part of a training; rank 0 writes ``adapters.safetensors`` and ``curves.csv``.

    Raises:
        UserError: model, pairs or settings cannot be used, or the training fails (``ovss.training.ttd.fit``).
    """
    job, paths, seed = request.job, request.paths, request.seed
    if process.size > job.batch:
        raise UserError(f"training: {process.size} processes cannot share a batch of {job.batch}; start fewer")
    pairs = open_sources(paths, job.collections).pairs
    tower = open_tower(paths["model"], job.base, job.coarse)
    settings, crops = to_settings(job, tower.clip, len(pairs), seed)
    base, tags = base_id(tower.model.state_dict()), _tags(job, Path(request.folder))
    attach(tower.model, settings.lora, seed, tower.unread)
    tower.model.to(process.device)

    def batches(first: int) -> Iterator[Batch]:
        return with_tags(pair_batches(pairs, job.batch, crops, seed, first, process, request.workers), tags)

    fit(tower, batches, settings, base, Path(request.folder), process)


def _tags(job: TtdJob, folder: Path) -> Tags | None:
    if job.tagging == "nouns":
        return noun_tags(job.tagger)
    return LlmAnswers(folder) if job.tagging == "llm" else None


def learn_together(request: Request, processes: int) -> None:
    """``learn`` in so many new processes of this machine; they end when this one does.

    Raises:
        UserError: as ``learn``, or there are fewer GPUs than processes.
    """
    if request.device == "cuda" and processes > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise UserError(f"train.ttd.processes: {processes} processes need as many GPUs, there are {there}; lower it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        multiprocessing.start_processes(_one_of, (request, processes, port), processes, start_method=START)
    except multiprocessing.ProcessRaisedException as error:
        _, found, sentence = str(error).rpartition(f"{UserError.__name__}: ")
        if not found:
            raise
        raise UserError(sentence.strip()) from None


def _one_of(rank: int, request: Request, size: int, port: int) -> None:
    # The signal that the parent has ended; jobs in the background of a shell script are born deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    with joined(request.device) as process:
        learn(request, process)


def write_request(request: Request) -> None:
    """``request.json`` in the training's folder, for torchrun."""
    path = Path(request.folder) / REQUEST_FILE
    path.write_text(json.dumps(asdict(request), sort_keys=True, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Entry point for torchrun."""
    request = Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        with joined(request.device) as process:
            learn(request, process)
    except UserError as error:
        print(f"train_ttd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
