"""Words of captions against the published code's: every operation alone, in order, and the candidates that result."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ovss.retrieval import words
from ovss.retrieval.singular import load_singular
from ovss.retrieval.taggers import load_tagger

OPERATIONS: dict[str, Callable[[str], str]] = {
    "drop_tokens": words.drop_tokens,
    "drop_urls": words.drop_urls,
    "drop_special": words.drop_special,
    "drop_ext": words.drop_ext,
    "separators": words.separators,
    "drop_short3": words.drop_short3,
    "drop_nonalpha": words.drop_nonalpha,
    "lower": words.lower,
    "singular": partial(words.singular, singular_of=load_singular("official")),
    "drop_words": words.drop_words,
}
# The rows of the reference: what they are called and what they switch on.
GROUPS = {"none": (False, False, False), "remove": (True, False, False), "remove_std": (True, True, False)}


@pytest.fixture(scope="module")
def golden(tag_golden: Path) -> dict[str, Any]:
    return json.loads((tag_golden / "words.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def captions(tag_golden: Path) -> list[list[str]]:
    """Of every segment: the captions left of its ten nearest."""
    lines = (tag_golden / "captions.txt").read_text(encoding="utf-8").split("\n")
    kept = json.loads((tag_golden / "retrieved_after_dedup.json").read_text(encoding="utf-8"))["10"]
    return [[lines[number] for number in ids] for ids in kept]


def steps_of(name: str) -> words.WordSteps:
    if name in GROUPS:
        remove, standardize, keep = GROUPS[name]
        return words.WordSteps(remove=remove, standardize=standardize, filter=keep)
    count = name.removeprefix("all_min").removesuffix("_without_pos")
    return words.WordSteps(min_count=int(count), parts_of_speech=not name.endswith("_without_pos"))


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_an_operation_alone_changes_a_string_as_published(operation: str, tag_golden: Path) -> None:
    cases = json.loads((tag_golden / "text_op_unit_cases.json").read_text(encoding="utf-8"))
    assert cases
    assert {case["in"]: OPERATIONS[operation](case["in"]) for case in cases} == {
        case["in"]: case[operation] for case in cases
    }


def test_the_operations_follow_each_other_as_published(golden: dict[str, Any], captions: list[list[str]]) -> None:
    assert len(golden["segments"]) == len(captions)
    for segment in golden["segments"]:
        text = " ".join(captions[segment["segment"]])
        assert text == segment["joined"]
        for name, operation in OPERATIONS.items():
            text = operation(text)
            assert text == segment[name], name


def test_the_groups_are_the_operations_in_order(golden: dict[str, Any]) -> None:
    for segment in golden["segments"]:
        assert words.removed(segment["joined"]) == segment["drop_nonalpha"]
        assert words.standardized(segment["drop_nonalpha"], load_singular("official")) == segment["drop_words"]


def test_the_frequency_filter_keeps_what_the_published_one_keeps(golden: dict[str, Any]) -> None:
    for segment in golden["segments"]:
        found = {count: words.freq(segment["drop_words"], int(count)) for count in segment["freq"]}
        assert found == segment["freq"]


def test_the_tagger_gives_the_tags_of_the_reference(golden: dict[str, Any]) -> None:
    tagger = load_tagger("pattern")
    assert golden["pos_tags_used"]
    for text, tags in golden["pos_tags_used"].items():
        assert tagger.tags(text) == [tuple(pair) for pair in tags]


def test_the_candidates_are_those_of_the_reference(golden: dict[str, Any], captions: list[list[str]]) -> None:
    tagger, singular = load_tagger("pattern"), load_singular("official")
    assert set(GROUPS) < set(golden["candidates"])
    for name, expected in golden["candidates"].items():
        steps = steps_of(name)
        assert [words.word_candidates(few, steps, tagger, singular) for few in captions] == expected, name
