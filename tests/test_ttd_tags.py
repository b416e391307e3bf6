"""TTD's choice of words: scores, the largest gap, words of captions, nouns, language models and the measures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovss.data.captions_words import CaptionWords, nouns, without_stop_words
from ovss.errors import UserError
from ovss.evaluation.caption_metrics import boxes, caption_score, count_mask, overall_iou
from ovss.evaluation.tag_metrics import average_precision, class_aps, count_words, macro, pooled, rates, sample_map
from ovss.methods import _ttd_scores as scores
from ovss.methods._ttd_llm import CUE, LlmSettings, answered_tags, llm_tags, load_llm
from ovss.methods._ttd_scores import TagSelection, largest_gap, select, tag_scores
from ovss.retrieval.taggers import load_tagger


def embeddings(tags: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*size, generator=generator) for size in ((8, 4, 5), (8,), (tags, 8)))  # type: ignore[return-value]


def gap_by_hand(values: list[float]) -> list[bool]:
    """The rule as the paper words it, in plain Python."""
    order = sorted(range(len(values)), key=lambda place: -values[place])
    gaps = [values[one] - values[two] for one, two in pairwise(order)]
    if not gaps or max(gaps) == 0:
        return [True] * len(values)
    kept = order[: gaps.index(max(gaps)) + 1]
    return [place in kept for place in range(len(values))]


GRID = st.lists(st.integers(-8, 8).map(lambda value: value / 8), min_size=1, max_size=9)


@given(GRID)
def test_the_largest_gap_is_the_first_of_equal_gaps(values: list[float]) -> None:
    assert largest_gap(torch.tensor(values)).tolist() == gap_by_hand(values)


@given(st.lists(GRID, min_size=1, max_size=4))
def test_captions_of_different_lengths_are_selected_as_alone(captions: list[list[float]]) -> None:
    longest = max(map(len, captions))
    table = torch.full((len(captions), longest), 0.77)
    valid = torch.zeros(table.shape, dtype=torch.bool)
    for row, values in enumerate(captions):
        table[row, : len(values)], valid[row, : len(values)] = torch.tensor(values), True
    found = largest_gap(table, valid)
    for row, values in enumerate(captions):
        assert found[row].tolist() == [*gap_by_hand(values), *[False] * (longest - len(values))]


def test_no_tags_no_selection() -> None:
    assert largest_gap(torch.empty(0)).shape == (0,)


@pytest.mark.parametrize("scoring", ["pixel", "image", "text", "image_text", "segment_share"])
@pytest.mark.parametrize("selection", ["largest_gap", "threshold"])
def test_the_order_of_tags_and_the_length_of_vectors_change_no_choice(
    scoring: scores.Scoring, selection: scores.Selection
) -> None:
    pixels, caption, tags = embeddings(6)
    settings = TagSelection(scoring=scoring, selection=selection)
    found = select(tag_scores(pixels, caption, tags, settings), settings)
    other = select(tag_scores(pixels, 3 * caption, 2 * tags.flip(0), settings), settings)
    assert torch.equal(found, other.flip(0))


def test_a_threshold_on_shares_of_one_takes_one_tag_and_their_sum_up_to_three() -> None:
    for seed in range(20):
        pixels, caption, tags = embeddings(7, seed)
        for scoring, most in (("image", 1), ("text", 1), ("segment_share", 1), ("image_text", 3)):
            settings = TagSelection(scoring=scoring, selection="threshold")  # type: ignore[arg-type]
            assert select(tag_scores(pixels, caption, tags, settings), settings).sum() <= most


def test_the_switch_to_minmax_always_takes_the_best_tag_and_never_the_worst() -> None:
    pixels, caption, tags = embeddings(5)
    settings = TagSelection(scoring="text", selection="threshold", score_range="minmax")
    found = tag_scores(pixels, caption, tags, settings)
    chosen = select(found, settings)
    assert (found.max(), found.min()) == (1, 0)
    assert chosen[found.argmax()]
    assert not chosen[found.argmin()]


def test_a_pixel_that_two_equal_tags_win_belongs_to_the_first() -> None:
    maps = torch.tensor([[[0.2, 0.5]], [[0.2, 0.1]], [[0.2, 0.5]]])
    assert scores.segment_shares(maps).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"scoring": "nouns"}, "scoring"), ({"threshold": 1.5}, "threshold"), ({"scale": 0.0}, "scale")],
)
def test_a_selection_that_means_nothing_is_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=f"settings.{named}"):
        TagSelection(**settings)  # type: ignore[arg-type]


# Words


def test_a_repeated_word_has_one_tag_and_its_score_everywhere() -> None:
    caption = CaptionWords.of("The dog\tand the Cat .")
    assert caption.words == ("the", "dog", "and", "the", "cat", ".")
    assert caption.tags == ("the", "dog", "and", "cat", ".")
    assert caption.per_word([1, 2, 3, 4, 5]) == [1, 2, 3, 1, 4, 5]
    with pytest.raises(ValueError, match="5 tags"):
        caption.per_word([1])


def test_stop_words_can_be_rejected_after_the_selection() -> None:
    caption = CaptionWords.of("ribs on the tray")
    assert without_stop_words(caption, [True, True, True, False]) == [True, False, False, False]


class Fixed:
    """A tagger that gives the same answer to everything."""

    def __init__(self, *answers: list[tuple[str, str]]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def tags(self, text: str) -> list[tuple[str, str]]:
        self.asked.append(text)
        return self.answers.pop(0)


def test_nouns_of_a_caption() -> None:
    caption = CaptionWords.of("a brown dog, on the tray")
    chosen = nouns(caption, load_tagger("pattern"))
    assert [tag for tag, noun in zip(caption.tags, chosen, strict=True) if noun] == ["dog,", "tray"]


def test_a_word_that_is_a_noun_somewhere_is_a_noun() -> None:
    tagger = Fixed([("ride", "NN"), ("a", "DT"), ("ride", "VB"), ("-", ":"), ("on", "IN")])
    assert nouns(CaptionWords.of("ride a ride -on"), tagger) == [True, False, False]
    assert tagger.asked == ["ride a ride -on"]


def test_a_tagger_that_respells_a_caption_is_asked_word_by_word() -> None:
    tagger = Fixed([("&slash;", "SYM"), ("dog", "NN")], [("&slash;", "SYM")], [("dog", "NN")])
    assert nouns(CaptionWords.of("/ dog"), tagger) == [False, True]


# Language models


def test_only_words_of_the_caption_are_taken_from_an_answer() -> None:
    caption = CaptionWords.of("Grilled pork ribs on the tray, outside .")
    assert answered_tags(caption, f"Sure, the words:\n\n{CUE} Ribs, 'tray', grill, knife\non, the") == [
        tag in ("ribs", "tray,") for tag in caption.tags
    ]
    assert not any(answered_tags(caption, ""))


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokens are words; it mostly says what its embedding of the last word is nearest to."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("llm")
    words = ["<s>", "</s>", "<unk>", "dog", "cat", "mat", "on", "the", "a", ",", ":", "caption", "visible", "words"]
    rule = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    rule.normalizer = tokenizers.normalizers.Lowercase()
    rule.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=rule, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=1.0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


CAPTIONS = ("the dog on the mat", "a cat", "a dog", "dog on a cat", "the cat on the mat")


def test_a_language_model_chooses_words_and_the_batch_changes_nothing(tiny_llm: Path) -> None:
    model, captions = load_llm(tiny_llm), [CaptionWords.of(each) for each in CAPTIONS]
    found = llm_tags(captions, model, LlmSettings(longest=8))
    assert found == llm_tags(captions, model, LlmSettings(longest=8, batch=1))
    assert found[::-1] == llm_tags(captions[::-1], model, LlmSettings(longest=8))
    assert [len(each) for each in found] == [len(caption.tags) for caption in captions]
    assert any(map(any, found))


def test_an_answer_is_what_the_model_alone_would_say(tiny_llm: Path) -> None:
    model, settings = load_llm(tiny_llm), LlmSettings(longest=6)
    ids = torch.tensor([model.tokenizer(settings.prompt.replace("{caption}", CAPTIONS[0]) + CUE)["input_ids"]])
    words = []
    for _ in range(settings.longest):
        word = model.model(ids).logits[0, -1].argmax()
        if word == model.tokenizer.eos_token_id:
            break
        words.append(int(word))
        ids = torch.cat([ids, word[None, None]], dim=1)
    expected = model.tokenizer.decode(words, skip_special_tokens=True)
    assert words
    assert model.answers(CAPTIONS, settings)[0] == expected


def test_a_folder_without_a_language_model_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable configuration"):
        load_llm(tmp_path)
    (tmp_path / "config.json").write_text((tiny_llm / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="not a language model that can be loaded"):
        load_llm(tmp_path)


def test_a_prompt_needs_a_place_for_the_caption() -> None:
    with pytest.raises(UserError, match="no place"):
        LlmSettings(prompt="Which words?")


# Measures

BOOLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(st.lists(BOOLS, min_size=1, max_size=5))
def test_pooled_figures_do_not_know_where_a_caption_ends(captions: list[list[tuple[bool, bool]]]) -> None:
    counts = np.stack([count_words(*np.array(pairs).T) for pairs in captions])
    together = count_words(*np.array([pair for pairs in captions for pair in pairs]).T)
    assert pooled(counts) == pooled(together[None])
    assert counts.sum() == sum(map(len, captions))


def test_f1_is_the_harmonic_mean_and_empty_denominators_are_zero() -> None:
    found = rates(np.array([[3, 1, 2, 4], [0, 0, 0, 5], [0, 0, 1, 1]]))
    assert found["f1"][0] == pytest.approx(2 / (1 / found["precision"][0] + 1 / found["recall"][0]))
    assert [found[name][1] for name in ("precision", "recall", "f1", "accuracy")] == [0, 0, 0, 100]
    assert macro(np.array([[1, 0, 0, 0], [0, 1, 0, 0]]))["precision"] == 50


def test_average_precision_ranks_equal_scores_in_the_given_order() -> None:
    assert average_precision(np.array([False, True, True]), np.array([0.5, 0.5, 0.9])) == pytest.approx(
        100 * (1 + 2 / 3) / 2
    )
    tied = np.tile([0.2, 0.7], 50)
    assert average_precision(np.arange(100) == 99, tied) == pytest.approx(100 / 50)
    assert np.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))
    with pytest.raises(ValueError, match="finite"):
        average_precision(np.array([True]), np.array([np.nan]))


def test_without_any_positive_there_is_no_mean_average_precision() -> None:
    with pytest.raises(UserError, match="caption"):
        sample_map([np.zeros(2, bool)], [np.arange(2.0)])
    with pytest.raises(UserError, match="no word"):
        pooled(np.zeros((3, 4), np.int64))
    assert np.isnan(class_aps(np.array([[True, False]]), np.array([[0.1, 0.2]]))).tolist() == [False, True]


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=5))
def test_iou_and_both_rates_add_up_to_one(rows: list[tuple[int, int, int, int]]) -> None:
    counts = np.array(rows)
    for mean in ("sample_fg", "pooled_fg", "sample_bgfg", "pooled_bgfg"):
        seen = counts[:, :3].any() or ("bgfg" in mean and counts.any())
        if not seen:
            with pytest.raises(UserError, match="no pair"):
                caption_score(counts, mean)  # type: ignore[arg-type]
            continue
        score = caption_score(counts, mean)  # type: ignore[arg-type]
        assert score.iou / 100 + score.fpr + score.fnr == pytest.approx(1)


def test_a_pair_without_any_foreground_is_left_out_and_pixels_that_do_not_count_too() -> None:
    truth, nothing = np.array([[True, False, True]]), np.zeros((1, 3), bool)
    counts = np.stack([count_mask(truth, ~nothing, np.array([[True, True, False]])), count_mask(nothing, nothing)])
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 3]]
    assert caption_score(counts).iou == 50
    assert overall_iou(counts) == 50
    with pytest.raises(ValueError, match="bool"):
        count_mask(truth.astype(np.uint8) * 255, nothing)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="caption_mean"):
        caption_score(counts, "foreground")  # type: ignore[arg-type]


def test_a_box_holds_its_mask_and_touches_it_on_all_sides() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1, 4], mask[3, 2] = True, True
    assert boxes([mask, np.zeros((5, 7), bool)]) == [(2, 1, 4, 3), None]
