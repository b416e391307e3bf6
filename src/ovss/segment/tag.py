"""TAG on one's own pictures: propose, search, name. The steps are those of the stages, with no class list anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ovss import methods
from ovss.errors import UserError
from ovss.evaluation.batch import View, make_view
from ovss.evaluation.cluster_maps import load_segmenter, read_geometry
from ovss.evaluation.named_segments import Found, choose_words, read_candidates
from ovss.evaluation.protocol import Geometry
from ovss.evaluation.segments_file import write_segments
from ovss.methods import _tag_segment
from ovss.methods._tag_name import Reading, assign, prompt, similarities
from ovss.methods._tag_segment import propose
from ovss.methods.tag import Settings
from ovss.models.clip import Clip, load_clip
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.sentences import SentenceEncoder, load_sentences
from ovss.retrieval.caption_index import CaptionIndex
from ovss.retrieval.encode import encode_unit
from ovss.retrieval.neighbours import duplicate_links, pack_links, write_neighbours
from ovss.retrieval.retrieve import texts_of
from ovss.retrieval.search import search_exact
from ovss.retrieval.shards import Collection
from ovss.retrieval.vectors import check_encoder, encoder_of, gather
from ovss.segment.pictures import Picture, read_picture
from ovss.segment.recipe import CAPTIONS, INDEX, MODEL, SEGMENTER, SENTENCES, Words
from ovss.segment.results import Results

Clusters = npt.NDArray[np.uint8]
Proposed = tuple[str, Clusters, torch.Tensor, Sequence[int], Sequence[int]]
"""Name, cluster map, embeddings, and number and pixels of each segment."""


@dataclass(frozen=True)
class Tag:
    """The loaded models and captions of TAG; ``index`` None: the captions are searched exactly."""

    settings: Settings
    geometry: Geometry
    clip: Clip
    segmenter: Dino
    collection: Collection
    index: CaptionIndex | None
    sentences: SentenceEncoder | None
    device: str

    @classmethod
    def load(cls, recipe: Words, at: Mapping[str, Path], clusters: int | None, device: str) -> Tag:
        """Load everything; ``at``: output directories by the recipe's names, ``sentences`` if words get classes.

        Raises:
            UserError: an output is damaged, or the captions are of another model.
        """
        values = {**recipe.settings, **({} if clusters is None else {"n_clusters": clusters})}
        settings = methods.read_settings(Settings, values, recipe.row.method)
        collection = Collection.open(at[CAPTIONS])
        check_encoder(collection.encoder, at[CAPTIONS], encoder_of(at[MODEL]))
        clip = load_clip(at[MODEL], device)
        return cls(
            settings=settings,
            geometry=read_geometry(recipe.protocol),
            clip=clip,
            segmenter=load_segmenter(at[SEGMENTER], device),
            collection=collection,
            index=CaptionIndex.open(at[INDEX], collection, check=False) if INDEX in at else None,
            sentences=load_sentences(at[SENTENCES], device) if SENTENCES in at else None,
            device=device,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of how it was made."""
        return {"settings": asdict(self.settings), "captions": self.collection.name,
                "search": "exact" if self.index is None else str(self.index.facts["recipe"])}  # fmt: skip

    @torch.inference_mode()
    def segment(
        self, results: Results, classes: Sequence[str], scratch: Path
    ) -> Iterator[tuple[Picture, Clusters, list[dict[str, Any]]]]:
        """Segments of pictures, with words and, if class names are given, the most similar class of each word.

        All pictures are segmented first, then all segments are searched in one pass over the captions.

        Args:
            results: has the pictures; each is read here, and those that cannot be are left out.
            classes: names, or none.
            scratch: an empty folder for what is on the way.

        Yields:
            The picture, its cluster map (h, w) at the size of the network input, and its segments, largest first.

        Raises:
            UserError: the only picture cannot be read, or none of the segments of one has usable features.
        """
        pictures: list[Picture] = []
        found = self._found(self._proposals(results, pictures), scratch)
        if found is None:
            return
        words, scores, candidates = self._name(found)
        nearest = self._classes(words, classes)
        for number, picture in enumerate(pictures):
            clusters = found.segments.map(str(number))
            segments = [
                {**self._facts(found, each, clusters.size), "word": words[each], "score": _rounded(scores[each]),
                 **nearest.get(words[each], {}), "candidates": candidates[each],
                 "captions": self._captions(found, each)}
                for each in found.of_image[number]
            ]  # fmt: skip
            yield picture, clusters, sorted(segments, key=lambda one: (-one["pixels"], one["cluster"]))

    def _found(self, proposals: Iterator[Proposed], scratch: Path) -> Found | None:
        """Segments of all pictures and their nearest captions; None: there is no picture."""
        first = next(proposals, None)
        if first is None:
            return None
        embeddings = write_segments(scratch / "segments", chain([first], proposals)).embeddings.numpy()
        many = self.settings.num_samples
        if self.index is None:
            ids, cosines = search_exact(embeddings, self.collection, many, self.device)
        else:
            ids, cosines = self.index.search(embeddings, many)
        links = pack_links(duplicate_links(gather(ids, self.collection), self.settings.duplicate_cosine))
        (scratch / "neighbours").mkdir()
        write_neighbours(scratch / "neighbours", ids, cosines, links, texts_of(ids, self.collection.captions))
        return Found.open(scratch / "segments", scratch / "neighbours")

    def _proposals(self, results: Results, kept: list[Picture]) -> Iterator[Proposed]:
        """Segments of the pictures that can be read; they are added to ``kept`` and named by their number there."""
        for picture in results.each():
            try:
                view = make_view(str(picture.path), read_picture(picture.path), self.geometry, self.clip)
            except UserError as error:
                results.fail(error)
                continue
            kept.append(picture)
            yield self._propose(str(len(kept) - 1), picture, view)

    def _propose(self, name: str, picture: Picture, view: View) -> Proposed:
        features = Features(self.clip, view.windows(), view.colours, {_tag_segment.SEGMENTER: self.segmenter})
        proposal = propose(view, features, self.settings)
        kept = torch.isfinite(proposal.embeddings).all(dim=1).nonzero()[:, 0]
        if not len(kept):
            raise UserError(f"{picture.path}: no segment of it has finite features; the model's weights are damaged")
        return name, proposal.map, proposal.embeddings[kept], kept.tolist(), proposal.pixels[kept].tolist()

    def _name(self, found: Found) -> tuple[list[str], list[float], list[list[str]]]:
        """Word, score and candidates of every segment."""
        vocabulary: dict[str, int] = {}
        reading = Reading.of(self.settings)
        candidates = read_candidates(found, [reading], vocabulary)[reading]
        words = list(vocabulary)
        vectors = encode_unit(self.clip, [prompt(word) for word in words]).numpy()
        chosen = choose_words(found, candidates, vocabulary, vectors, self.settings.foreign_words)
        own = [[words[number] for number in candidates.of(segment)] for segment in range(len(found))]
        return [words[number] for number in chosen.word], chosen.score.tolist(), own

    def _classes(self, words: Sequence[str], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Class and similarity by word, where class names are given."""
        if not classes or self.sentences is None:
            return {}
        used = sorted(set(words))
        table = similarities(self.sentences.encode(used), self.sentences.encode(classes)).cpu().numpy()
        best, similarity = assign(table, -1.0)
        return {word: {"class": classes[number], "similarity": _rounded(value)}
                for word, number, value in zip(used, best.tolist(), similarity.tolist(), strict=True)}  # fmt: skip

    @staticmethod
    def _facts(found: Found, segment: int, pixels: int) -> dict[str, Any]:
        own = int(found.segments.pixels[segment])
        return {"cluster": int(found.segments.cluster[segment]), "pixels": own, "share": _rounded(own / pixels)}

    def _captions(self, found: Found, segment: int) -> list[dict[str, Any]]:
        """The captions that the candidates come from, the nearest first."""
        ids, cosines = found.neighbours.ids[segment], found.neighbours.scores[segment]
        places = found.neighbours.kept(segment, self.settings.num_samples, self.settings.dedup)
        return [
            {"text": found.neighbours.text(int(ids[place])), "cosine": _rounded(cosines[place])} for place in places
        ]


def _rounded(value: float) -> float:
    return round(float(value), 6)
