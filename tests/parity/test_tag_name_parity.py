"""From candidate words to counted pixels against the published code: scores, both masks, classes, confusion counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaged_sentences import sentence_directory

from ovss.evaluation.clusters import cluster_classes, count_cells, count_clusters
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.metrics import metric, per_class_iou
from ovss.methods._tag_name import assign, choose, cosines, prompt, similarities
from ovss.models.clip import build_clip, read_state
from ovss.models.sentences import SentenceEncoder, load_sentences
from ovss.retrieval.encode import encode_unit

CLUSTERS = 5
THRESHOLDS = ("-1.0", "0.0", "0.5", "0.8")


@pytest.fixture(scope="module")
def arrays(tag_golden: Path) -> dict[str, np.ndarray]:
    names = ["target", "case2_target", "cluster_map", "scores", "word_embeddings", "segment_embeddings",
             "sbert_sims", "sbert_gt_embeddings", "sbert_word_embeddings", "case2_word_embeddings"]  # fmt: skip
    for threshold in THRESHOLDS:
        for what in ("pred_class_map_th", "confusion_pred_by_gt_th"):
            names += [f"{what}{threshold}", f"case2_{what}{threshold}"]
    with np.load(tag_golden / "arrays.npz", allow_pickle=False) as found:
        return {name: found[name] for name in names}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def words(tag_golden: Path) -> list[str]:
    return (tag_golden / "words.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return load_sentences(sentence_directory(tmp_path_factory.mktemp("sentences")))


def test_clip_encodes_bare_words_as_published(tag_golden: Path, arrays: dict, words: list[str]) -> None:
    state = read_state(tag_golden / "tiny_clip.safetensors")
    rows = state.pop("token_embedding.used_rows").float()
    table = torch.zeros(49408, rows.shape[1])
    table[state.pop("token_embedding.used_ids").long()] = rows
    clip = build_clip(read(tag_golden, "config.json")["clip"], {**state, "token_embedding.weight": table})
    found = encode_unit(clip, [prompt(word) for word in words]).numpy()
    np.testing.assert_allclose(found, arrays["word_embeddings"], atol=1e-5)


def test_scores_are_the_published_cosines(arrays: dict) -> None:
    found = [cosines(segment, arrays["word_embeddings"]) for segment in arrays["segment_embeddings"]]
    np.testing.assert_allclose(np.stack(found), arrays["scores"], atol=1e-6)


@pytest.mark.parametrize(("mask", "zero"), [("official_zero_mask", True), ("paper_inf_mask", False)])
def test_the_word_of_every_segment_is_the_published_one_under_every_switch(
    tag_golden: Path, arrays: dict, words: list[str], mask: str, zero: bool
) -> None:
    place = {word: number for number, word in enumerate(words)}
    chosen = read(tag_golden, "chosen_words.json")
    for switch, candidates in read(tag_golden, "words.json")["candidates"].items():
        found = []
        for segment, own in enumerate(candidates):
            scores = arrays["scores"][segment, [place[word] for word in own]]
            # The published code takes foreign words from its whole batch, here both images.
            others = [word for other, each in enumerate(candidates) if other != segment for word in each]
            found.append(choose(scores, own, others if zero else ())[0])
        assert found == chosen[switch][mask], switch
    if zero:
        assert chosen["all_min5"]["official_zero_mask"] != chosen["all_min5"]["paper_inf_mask"]


def test_sentence_vectors_are_those_of_sentence_transformers(
    tag_golden: Path, arrays: dict, words: list[str], encoder: SentenceEncoder
) -> None:
    evaluation = read(tag_golden, "eval.json")
    ours, names = encoder.encode(words), encoder.encode(evaluation["gt_names"])
    np.testing.assert_allclose(ours, arrays["sbert_word_embeddings"], atol=2e-6)
    np.testing.assert_allclose(names, arrays["sbert_gt_embeddings"], atol=2e-6)
    np.testing.assert_allclose(similarities(ours, names), arrays["sbert_sims"], atol=5e-6)
    case2 = [word for each in evaluation["case2_segment_words"] for word in each]
    expected = arrays["case2_word_embeddings"].reshape(len(case2), -1)
    np.testing.assert_allclose(encoder.encode(case2), expected, atol=2e-6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", ["", "case2_"])
def test_classes_confusion_counts_and_scores_are_the_published_ones(
    tag_golden: Path, arrays: dict, encoder: SentenceEncoder, case: str, threshold: str
) -> None:
    evaluation = read(tag_golden, "eval.json")
    names = encoder.encode(evaluation["gt_names"])
    counts = []
    for image, segment_words in enumerate(evaluation[f"{case}segment_words"]):
        similarity = similarities(encoder.encode(segment_words), names).numpy()
        index, _ = assign(similarity, float(threshold))
        target = np.where(arrays[f"{case}target"][image] == 20, 255, arrays[f"{case}target"][image])
        clusters = arrays["cluster_map"][image]
        classes = cluster_classes(np.arange(CLUSTERS), index, 20, "dropped")
        np.testing.assert_array_equal(classes[clusters], arrays[f"{case}pred_class_map_th{threshold}"][image])
        counts.append((str(image), count_clusters(count_cells(clusters, target), classes, 20)))
    collected = ConfusionCounts.collect(counts, 20)
    table = np.zeros((20, 20), np.int64)
    np.add.at(table, (collected.prediction, collected.truth), collected.pixels)
    np.testing.assert_array_equal(table, arrays[f"{case}confusion_pred_by_gt_th{threshold}"])
    hit, truth, predicted = (each.sum(axis=0) for each in collected.areas())
    expected = evaluation[f"{case}metrics_percent"][threshold]
    iou = [np.nan if value is None else value for value in expected["IoU"]]
    np.testing.assert_allclose(per_class_iou(hit, truth + predicted - hit), iou, atol=1e-4)
    assert metric("miou")(hit, truth, predicted, "skip") == pytest.approx(expected["mIoU"], abs=1e-4)
    assert metric("pixel_accuracy")(hit, truth, predicted, "skip") == pytest.approx(expected["Accuracy"], abs=1e-4)
