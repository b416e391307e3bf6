"""The stage that trains TTD's adapters on a base model and folds them into it (Jo et al. 2024, sections 3 and 4.1)."""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import torch

from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.methods._ttd_llm import load_llm
from ovss.training.ttd.bases import write_merged
from ovss.training.ttd.fit import CURVES_FILE
from ovss.training.ttd.merge import ADAPTERS_FILE
from ovss.training.ttd.processes import joined
from ovss.training.ttd.settings import lora_settings, train_settings
from ovss.training.ttd.sources import Sources, open_sources
from ovss.training.ttd.tagging import ask_llm
from ovss.training.ttd.worker import Request, learn, learn_together, write_request

FACTS_FILE = "facts.json"
LLM = "companion_llm"


def run(ctx: JobContext) -> dict[str, object]:
    """Train a base model with TTD's losses.

    Params: ``ovss.config.ttd.TtdJob``. Inputs: ``model``; ``index_<collection>``, ``shards_<collection>``; ``kept``
    where pairs were pruned; ``companion_llm`` for ``tagging: llm``. Output: a model directory as the base's, with the
    trained weights, and ``adapters.safetensors``, ``curves.csv``, ``facts.json``. A killed run goes on from its last
    saved state; on the CPU it ends with the same bytes as one that was not.

    Returns:
        {"steps", "epochs", "pairs", "collections": {name: {"pairs", "expected", "kept"}},
        "parameters": {"base", "with_adapters", "trained"}, "seed"}.

    Raises:
        UserError: an input is missing or does not fit the settings, or the training fails.
    """
    ctx.scratch.mkdir(parents=True, exist_ok=True)
    inputs = {name: str(path) for name, path in ctx.inputs.items()}
    machine = ctx.machine
    request = Request(dict(ctx.params), inputs, str(ctx.scratch), ctx.seed, machine.device, machine.workers)
    job, sources = request.job, open_sources(ctx.inputs, request.job.collections)
    settings = train_settings(job, len(sources.pairs), ctx.seed)
    # A run that was killed between the last step and the merged weights has its adapters already.
    if not (ctx.scratch / ADAPTERS_FILE).is_file():
        _learn(request, sources)
    parameters = write_merged(ctx.inputs["model"], job.base, ctx.scratch / ADAPTERS_FILE, lora_settings(job), ctx.out)
    for name in (ADAPTERS_FILE, CURVES_FILE):
        shutil.copyfile(ctx.scratch / name, ctx.out / name)
    facts: dict[str, object] = {
        "steps": settings.steps, "epochs": round(settings.steps * job.batch / len(sources.pairs), 3),
        "pairs": len(sources.pairs), "collections": sources.facts, "parameters": parameters, "seed": ctx.seed,
    }  # fmt: skip
    (ctx.out / FACTS_FILE).write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return facts


def _learn(request: Request, sources: Sources) -> None:
    started, job = time.monotonic(), request.job
    write_request(request)
    if job.tagging == "llm":
        if LLM not in request.paths:
            raise UserError(f"train_ttd: tagging: llm needs a language model; name one as the input {LLM}")
        device = "auto" if request.device == "cuda" else "cpu"
        ask_llm(sources.pairs, partial(load_llm, request.paths[LLM], device), Path(request.folder))
        if request.device == "cuda":
            torch.cuda.empty_cache()  # what the language model took, also for other processes
    if job.processes > 1:
        learn_together(request, job.processes)
    else:
        with joined(request.device) as process:
            learn(request, process)
    print(f"trained on {len(sources.pairs)} pairs in {(time.monotonic() - started) / 3600:.2f} h", file=sys.stderr)
