"""Words of captions: the cases at the edges, the taggers and the singulars."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovss.errors import UserError
from ovss.retrieval import taggers, words
from ovss.retrieval.singular import load_singular
from ovss.retrieval.taggers import load_tagger
from ovss.retrieval.words import WordSteps, pos, word_candidates

TEXTS = st.text(alphabet=st.sampled_from("abdsxXD .'-<>/_&0é\t\n"), max_size=40) | st.text(max_size=20)
TAG = taggers.textblob_tag()


class Nouns:
    """Calls every word a noun."""

    def tags(self, text: str) -> list[tuple[str, str]]:
        return [(word, "NN") for word in text.split()]


def candidates(*captions: str, **steps: object) -> list[str]:
    return word_candidates(captions, WordSteps(**steps), load_tagger("pattern"), load_singular("official"))


@pytest.mark.parametrize(
    "captions", [(), ("",), ("", "  "), ("<PERSON>", "http://a.b/c.jpg"), ("photo", "A picture"), ("of the", "of the")]
)
def test_a_segment_without_a_word_is_called_object(captions: tuple[str, ...]) -> None:
    assert candidates(*captions) == ["object"]


def test_the_word_object_itself_counts_as_no_word() -> None:
    assert candidates("object dog", "an object and a dog") == ["dog"]


def test_words_of_other_scripts_lose_their_letters_but_never_fail() -> None:
    assert candidates("Café 猫", "café 猫 ÜBER", "naïve") == ["caf"]
    assert candidates("猫", "犬") == ["object"]
    assert candidates("Cafés 猫", "Cafés 猫", remove=False) == ["café", "猫"]


def test_addresses_go_only_where_they_start_with_a_lower_case_http() -> None:
    assert words.drop_urls("cat https://a.b/c?d=e HTTP://X www.y.z") == "cat  HTTP://X www.y.z"
    assert words.removed("cat https://a.b/dog HTTP://fox www.cow.org") == "cat HTTPfox www"


def test_placeholders_go_and_a_lone_bracket_stays_a_special_character() -> None:
    assert words.drop_tokens("<PERSON> with <two words> 3 < 4") == " with  3 < 4"
    assert words.removed("<PERSON> rides 3 < 4 horses") == "rides horses"


def test_a_captions_own_repeats_count() -> None:
    assert candidates("dog dog and a cat", "horse") == ["dog"]


@pytest.mark.parametrize(
    ("min_count", "frequency", "expected"),
    [
        (0, "at_least", "a a a b b c"),
        (1, "at_least", "a a a b b c"),
        (2, "at_least", "a a a b b"),
        (3, "at_least", "a a a"),
        (4, "at_least", "a a a"),
        (20, "at_least", "a a a"),
        (1, "more_than", "a a a b b c"),
        (2, "more_than", "a a a"),
        (3, "more_than", "a a a"),
    ],
)
def test_the_frequency_filter_falls_back_to_the_largest_count(
    min_count: int, frequency: words.Frequency, expected: str
) -> None:
    assert words.freq("a a a b b c", min_count, frequency) == expected


def test_more_than_twice_is_stricter_than_twice() -> None:
    captions = "a dog and a cat", "a dog and a cat", "a dog"
    assert candidates(*captions, frequency="at_least") == ["cat", "dog"]
    assert candidates(*captions, frequency="more_than") == ["dog"]


def test_frequency_comes_before_parts_of_speech() -> None:
    """The commonest word is no noun: it sets the fall-back and is then dropped."""
    assert candidates("the dog", "the cat", min_count=5) == ["object"]
    assert candidates("the dog", "the cat", min_count=5, parts_of_speech=False) == ["the"]


def test_participles_and_adjectives_are_kept_and_verbs_are_not() -> None:
    assert candidates("wooden boats floating and painted go the", min_count=1) == [
        "boat",
        "floating",
        "painted",
        "wooden",
    ]


@given(st.lists(TEXTS, max_size=4), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 5))
def test_candidates_are_sorted_unique_and_never_none(
    captions: list[str], remove: bool, standardize: bool, keep: bool, min_count: int
) -> None:
    steps = WordSteps(remove, standardize, keep, min_count)
    found = word_candidates(captions, steps, Nouns(), load_singular("official"))
    assert found == sorted(set(found)) and found
    assert all(word and word == "".join(word.split()) for word in found)


@pytest.mark.parametrize(
    ("values", "key"),
    [({"frequency": "often"}, "frequency"), ({"min_count": -1}, "min_count"), ({"min_count": 1.5}, "min_count")],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: "):
        WordSteps(**values)


@pytest.mark.parametrize(
    ("word", "official", "dictionary"),
    [
        ("horses", "horse", "horse"),
        ("knives", "knife", "knife"),
        ("women", "women", "woman"),
        ("ladies", "ladies", "lady"),
        ("shoes", "shoes", "shoe"),
        ("gas", "ga", "gas"),
        ("lens", "len", "lens"),
        ("bus", "bus", "bus"),
        ("glass", "glass", "glass"),
        ("qwertyzs", "qwertyz", "qwertyzs"),
        ("s", "s", "s"),
        ("", "", ""),
    ],
)
def test_singular_forms(word: str, official: str, dictionary: str) -> None:
    assert (load_singular("official")(word), load_singular("dictionary")(word)) == (official, dictionary)


@given(TEXTS)
def test_no_text_is_too_odd_for_the_singular_or_the_tagger(text: str) -> None:
    for name in ("official", "dictionary"):
        assert len(words.singular(text, load_singular(name)).split()) == len(text.split())
    load_tagger("pattern").tags(text)


@given(TEXTS | st.lists(st.sampled_from(["the", "red", "cats", "running", "xd", "ox", "s", "nt"])).map(" ".join))
def test_remembered_tags_are_those_of_the_library(text: str) -> None:
    assert load_tagger("pattern").tags(text) == TAG(text)


def test_a_changed_answer_of_the_tagger_does_not_change_the_next_one() -> None:
    tagger = load_tagger("pattern")
    first = tagger.tags("Red Cats")
    first.clear()
    assert [word for word, _ in tagger.tags("Red Cats")] == ["Red", "Cats"]


def test_unknown_names_are_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="tagger: 'nltk' is not one of pattern, flair"):
        load_tagger("nltk")
    with pytest.raises(UserError, match="singular: 'wordnet' is not one of official, dictionary"):
        load_singular("wordnet")


def flair_cache(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / "models" / "pos-english-fast" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())


def install_flair(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package flair whose tagger calls every word a noun; returns the list of files it will have loaded."""
    loaded: list[str] = []
    label = types.SimpleNamespace(value="NN")

    class Model:
        label_type = "pos"

        @classmethod
        def load(cls, path: str) -> Model:
            loaded.append(Path(path).name)
            return cls()

        def predict(self, sentence: list[object]) -> None:
            for token in sentence:
                token.get_label = lambda kind: {"pos": label}[kind]

    flair, data, models = (types.ModuleType(name) for name in ("flair", "flair.data", "flair.models"))
    flair.__spec__ = types.SimpleNamespace(name="flair")
    data.Sentence = lambda text: [types.SimpleNamespace(text=word) for word in text.split()]
    models.SequenceTagger = Model
    for module in (flair, data, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return loaded


def test_flair_is_used_where_the_package_and_one_model_file_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAIR_CACHE_ROOT", str(tmp_path))
    loaded = install_flair(monkeypatch)
    with pytest.raises(UserError, match=r"no model file below .*pos-english-fast .*or set tagger: pattern"):
        load_tagger("flair")
    flair_cache(tmp_path, "snapshots/a/pytorch_model.bin")
    assert taggers.FlairTagger(taggers.flair_model()).tags("red cat") == [("red", "NN"), ("cat", "NN")]
    assert loaded == ["pytorch_model.bin"]
    flair_cache(tmp_path, "snapshots/b/pytorch_model.bin")
    with pytest.raises(UserError, match="holds 2 model files"):
        load_tagger("flair")


def test_without_the_package_flair_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAIR_CACHE_ROOT", str(tmp_path))
    flair_cache(tmp_path, "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "flair", None)
    with pytest.raises(UserError, match=r"the package flair is not installed.*or set tagger: pattern"):
        load_tagger("flair")


def test_importing_the_words_loads_no_word_library() -> None:
    """And loading them raises no warning in a fresh process."""
    code = (
        "import sys, ovss.retrieval.words, ovss.retrieval.singular as s, ovss.retrieval.taggers as t;"
        "heavy = {'inflect', 'textblob', 'lemminflect', 'torch', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "print(s.load_singular('official')('cats'), s.load_singular('dictionary')('women'),"
        " t.load_tagger('pattern').tags('red'), 'nltk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("cat woman [('red', 'JJ')] False\n", "")


def test_nouns_alone_leave_out_adjectives_and_participles() -> None:
    tagger = load_tagger("pattern")
    text = "red dog running red dog running"
    assert pos(text, tagger).split() == text.split()
    assert pos(text, tagger, "nouns").split() == ["dog", "dog"]
    candidates = word_candidates([text], WordSteps(kept_words="nouns"), tagger, load_singular("official"))
    assert candidates == ["dog"]
    with pytest.raises(UserError, match="kept_words: 'verbs' is not one of released, nouns"):
        WordSteps(kept_words="verbs")  # type: ignore[arg-type]
