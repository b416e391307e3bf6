"""GPU-hours of a plan, estimated before anything is there: operations of the networks over an assumed throughput.

A pass opens an image once, and what several of its rows ask of a network is computed once (``ovss.evaluation``), so
operations are counted for passes, not for rows. Reading, comparing with class names, resizing, CRF and k-means are not
counted: the assumed throughput is low enough to pay for them. It is an estimate of the order, no promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ovss.plan.assumed import DEFAULTS, PROMPTS, THROUGHPUT, TYPICAL
from ovss.plan.flops import Counted
from ovss.plan.job import Job
from ovss.plan.networks import Unknown, beside, language_of, of_window, vision_of, windows_of
from ovss.plan.project import Project
from ovss.plan.stages import STAGES


@dataclass(frozen=True)
class Work:
    """Operations in float32 and in bfloat16."""

    fp32: float = 0.0
    bf16: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Of both."""
        return Work(self.fp32 + other.fp32, self.bf16 + other.bf16)

    @property
    def hours(self) -> float:
        """GPU-hours at the assumed throughput."""
        return (self.fp32 / THROUGHPUT.fp32 + self.bf16 / THROUGHPUT.bf16) / 3600


@dataclass(frozen=True)
class Estimate:
    """Work that could be estimated, and the number of passes of which too little is known."""

    work: Work
    unknown: int = 0

    def __str__(self) -> str:
        """GPU-hours with a plus and a question mark where some are not known."""
        if self.unknown and not self.work.hours:
            return "?"
        return rounded(self.work.hours) + ("+?" if self.unknown else "")


def rounded(hours: float) -> str:
    """Two digits at most: an estimate knows no more."""
    if hours < 0.1:
        return "0" if hours == 0 else "<0.1"
    return f"{hours:.1f}" if hours < 1 else f"{float(f'{hours:.2g}'):,.10g}"


class Costs:
    """Costs of the jobs of one project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._of_pass: dict[str, Callable[[Sequence[Job]], Work]] = {
            "text": self._texts, "evaluate": self._images, "evaluate_texts": self._images, "clusters": self._images,
            "segments": self._images, "retrieve": self._searches, "captions": self._captions, "prune": self._prunings,
            "train_ttd": self._trainings, "label": self._labels,
        }  # fmt: skip

    def of(self, jobs: Iterable[Job]) -> Estimate:
        """What jobs cost that run together: those of a pass share what they have in common, CPU stages cost nothing."""
        passes: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for job in jobs:
            if STAGES[job.stage].gpus:
                shared = (job.inputs[name].key for name in STAGES[job.stage].shares)
                passes[(job.stage, job.group or job.key, *shared)].append(job)
        works = [self._pass(members) for members in passes.values()]
        return Estimate(sum((work for work in works if work), Work()), works.count(None))

    def _pass(self, jobs: Sequence[Job]) -> Work | None:
        estimate = self._of_pass.get(jobs[0].stage)
        try:
            return None if estimate is None else estimate(jobs)
        except Unknown:
            return None

    # Passes over images.

    def images(self, job: Job) -> tuple[float, tuple[int, int]]:
        """Images of a job's shard, and the size (H, W) of one.

        Raises:
            Unknown: datasets.yaml does not say how many images the source has.
        """
        source, datasets = job.inputs["source"].name, self.project.datasets
        if source in datasets.sources:
            entry = datasets.sources[source]
            images, size = entry.images, TYPICAL.of_layout.get(entry.layout, TYPICAL.image)
        else:
            expected = datasets.text_sources[source].expected
            images, size = expected.get("images") or expected.get("texts"), TYPICAL.image
        if images is None:
            raise Unknown(source)
        return images / job.params["shard"][1], size

    def _images(self, jobs: Sequence[Job]) -> Work:
        """A pass over images: what its rows ask of the networks, each thing once an image."""
        images, size = self.images(jobs[0])
        asked = {request: flops for job in jobs for request, flops in self._requests(job, size).items()}
        return Work(fp32=images * sum(asked.values()))

    def _requests(self, job: Job, size: tuple[int, int]) -> dict[tuple[Any, ...], float]:
        """Operations of one image by what is asked; equal requests of a pass are computed once."""
        protocol, settings = job.params["protocol"], job.params["settings"]
        model = job.inputs["segmenter" if job.stage == "clusters" else "model"]
        found: dict[tuple[Any, ...], float] = {}
        for scale in protocol.get("scales", (1.0,)):
            view = windows_of(protocol, size, scale)
            for flipped in (False, True)[: 1 + protocol.get("flip", False)]:
                for what, flops in of_window(job.stage, settings, protocol, vision_of(model), view).items():
                    found[(model.key, view, flipped, *what)] = view.count * flops
            for name, other in job.inputs.items():
                if name.startswith("companion_") and name.removeprefix("companion_") in settings.values():
                    seen = 1 if name == _WHOLE_IMAGE else view.count
                    found[(other.key, view)] = seen * vision_of(other).image(*beside(other, view))
        return found

    # Texts, captions, pairs.

    def _texts(self, jobs: Sequence[Job]) -> Work:
        return sum((self._text(job) for job in jobs), Work())

    def _text(self, job: Job) -> Work:
        words = sum(len(names) for names in job.params["queries"])
        sentences = job.params.get("sentences")
        lines = len(job.params.get("template_lines", ())) or PROMPTS.get(job.params["templates"], 1)
        texts = sum(map(len, sentences.values())) if sentences else words * lines
        return Work(fp32=texts * language_of(job.inputs["model"]).text(TYPICAL.prompt))

    def rows(self, collection: str) -> int:
        """Captions of a collection, as datasets.yaml states them.

        Raises:
            Unknown: it does not.
        """
        rows = self.project.datasets.captions[collection].rows
        if rows is None:
            raise Unknown(collection)
        return rows

    def _captions(self, jobs: Sequence[Job]) -> Work:
        (job,) = jobs
        one = language_of(job.inputs["model"]).text(TYPICAL.caption)
        return Work(fp32=self.rows(job.params["collection"]) * one)

    def _searches(self, jobs: Sequence[Job]) -> Work:
        """All queries of a pass against every caption: one product."""
        if "captions" not in jobs[0].inputs:
            raise Unknown(jobs[0].name)
        captions = jobs[0].inputs["captions"]
        segments = {job.inputs["segments"].key: job.inputs["segments"] for job in jobs}
        queries = sum(segments_of(self, each) for each in segments.values())
        rows, joint = self.rows(captions.params["collection"]), language_of(captions.inputs["model"]).joint
        return Work(fp32=2 * queries * rows * joint)

    def _labels(self, jobs: Sequence[Job]) -> Work:
        """Candidate words of every segment, at most; the sentence encoder looks at few of them."""
        segments = {job.inputs["segments"].key: job.inputs["segments"] for job in jobs}
        one = language_of(jobs[0].inputs["model"]).text(TYPICAL.word)
        return Work(fp32=TYPICAL.words * one * sum(segments_of(self, each) for each in segments.values()))

    def _pairs(self, job: Job) -> int:
        counts = [other.params["expected"] for name, other in job.inputs.items() if name.startswith("index_")]
        if not counts or None in counts:
            raise Unknown(job.name)
        return sum(counts)

    def _of_pair(self, job: Job, side: int, flip: bool, words: int) -> float:
        """Operations of one image with its caption and words."""
        model, base = job.inputs["model"], job.params["base"]
        vision, text = vision_of(model), language_of(model)
        if isinstance(vision, Counted):
            raise Unknown(model.name)
        image = vision.image(side, side) + (vision.grounder(side, side) if base == "tcl" else 0)
        return image * (1 + flip) + text.text(TYPICAL.caption) + words * text.text(TYPICAL.word)

    def _prunings(self, jobs: Sequence[Job]) -> Work:
        (job,) = jobs
        return _in(
            job.params["precision"], self._pairs(job) * self._of_pair(job, job.params["side"], job.params["flip"], 0)
        )

    def _trainings(self, jobs: Sequence[Job]) -> Work:
        return sum((self._training(job) for job in jobs), Work())

    def _training(self, job: Job) -> Work:
        if "companion_llm" in job.inputs:
            raise Unknown(job.name)  # how long a language model writes is not known
        params = job.params
        kept = TYPICAL.kept if "kept" in job.inputs else 1.0
        images = params["steps"] * params["batch"] if params["steps"] else params["epochs"] * kept * self._pairs(job)
        return _in(
            params["precision"], TYPICAL.learning * images * self._of_pair(job, params["side"], False, TYPICAL.words)
        )


def segments_of(costs: Costs, job: Job) -> float:
    """Segments that a job of the stage segments looks up: images times clusters."""
    images, _ = costs.images(job)
    return images * int(job.inputs["clusters"].params["settings"].get("n_clusters", DEFAULTS["n_clusters"]))


def _in(precision: str, flops: float) -> Work:
    return Work(bf16=flops) if precision == "bf16" else Work(fp32=flops)


_WHOLE_IMAGE = "companion_hq_sam"
"""The companion that looks at the image and not at its windows."""
