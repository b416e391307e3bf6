"""Tokens, text features and query classes against the published code's, array by array."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_clip import Reference

from ovss.models.templates import templates
from ovss.models.text import encode_texts, encode_words, mean_feature, query_list

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def prompts(reference: Reference) -> list[str]:
    """The reference prompts; the last one is over-long and may be described instead of written out."""
    words, written = reference.cases["words"], list(reference.cases["tokens_prompts"])
    if written[-1].startswith("("):
        written[-1] = "very long text about a " + " ".join(words * 30)
    return written


@torch.inference_mode()
def compute(name: str, reference: Reference, prompts: list[str]) -> torch.Tensor:
    clip, cases = reference.clip, reference.cases
    if name == "tokens":
        return clip.tokenizer(prompts)
    if name == "text_features_raw":
        return encode_texts(clip, prompts)
    if name == "ensemble":
        return encode_words(clip, cases["words"], templates("openai80"))
    if name == "description":
        return torch.stack([mean_feature(clip, cases["descriptions"][word]) for word in cases["words"]])
    if name == "query_class_index":
        return query_list([line.split(", ") for line in cases["class_file_lines"]])[1]
    raise AssertionError(f"no computation for the reference array {name}")


def test_text_array_equals_the_published_code(text_array: str, reference: Reference, prompts: list[str]) -> None:
    expected = reference.text[text_array]
    computed = compute(text_array, reference, prompts).numpy()
    assert computed.shape == expected.shape
    if np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(computed, expected)
    else:
        np.testing.assert_allclose(computed, expected, rtol=0, atol=TOLERANCE)


def test_cutting_the_padding_changes_no_text_feature(reference: Reference, prompts: list[str]) -> None:
    with torch.inference_mode():
        full = reference.clip.model.encode_text(reference.clip.tokenizer(prompts[:1]))
        torch.testing.assert_close(encode_texts(reference.clip, prompts[:1]), full, rtol=0, atol=1e-6)


def test_query_counts_follow_the_class_file(reference: Reference) -> None:
    cases = reference.cases
    queries, classes = query_list([line.split(", ") for line in cases["class_file_lines"]])
    assert len(queries) == cases["num_queries"]
    assert int(classes.max()) + 1 == cases["num_classes"]
    assert int((classes == 0).sum()) == cases["num_background_prompts"]
