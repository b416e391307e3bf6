"""Descriptions: files that are read and never run, shipped sets, text features made of them, and their generator."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from http_server import serve
from safetensors.torch import load_file
from small_clip import small_clip, write_model_directory

from ovss import describe as generator
from ovss.config.base import validate
from ovss.config.datasets import Datasets, fetch_params, load_datasets
from ovss.config.descriptions import DescriptionSet, TextNeeds, description_set
from ovss.data import fetch
from ovss.data.class_names import read_class_names
from ovss.data.descriptions import read_sentences, sentences_of
from ovss.errors import UserError
from ovss.jobs import Item, JobContext, Machine
from ovss.models import text
from ovss.world import captions
from ovss.world.classes import CLASSES, nouns

RELEASED = """VOC = {
    "sky": [
        "A sky is wide.",
        " A sky is \\"blue\\", fa\\u00e7ade. ",
        "",
        "A sky is wide."
    ],
    "ship": ["A ship floats."]
}
"""


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


# --- files


def test_a_released_file_gives_its_sentences_stripped_without_empty_ones_and_with_repeated_ones(tmp_path: Path) -> None:
    table = read_sentences(write(tmp_path, "voc21.py", RELEASED))
    assert table == {
        "sky": ("A sky is wide.", 'A sky is "blue", façade.', "A sky is wide."),
        "ship": ("A ship floats.",),
    }
    plain = write(tmp_path, "a.json", json.dumps(table))
    nested = write(tmp_path, "b.json", json.dumps({"made_by": {"seed": 0}, "sentences": table}))
    assert read_sentences(plain) == read_sentences(nested) == table
    assert read_sentences(write(tmp_path, "c.json", '{"sentences": ["Two sentences."]}')) == {
        "sentences": ("Two sentences.",)  # a class of that name
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("call.py", 'VOC = {"cat": [open("MARK", "w").write("run")]}'),
        ("first.py", 'open("MARK", "w")\nVOC = {"cat": ["A cat."]}'),
        ("import.py", 'import os\nVOC = {"cat": ["A cat."]}'),
        ("format.py", "VOC = {\"cat\": [f\"{open('MARK', 'w')}\"]}"),
        ("comprehension.py", 'VOC = {str(i): ["A cat."] for i in range(3)}'),
        ("two.py", 'VOC = {"cat": ["A cat."]}\nVOC["dog"] = ["A dog."]'),
        ("list.py", 'VOC = ["A cat."]'),
        ("cut.py", 'VOC = {"cat": ["A ca'),
        ("deep.py", "VOC = " + '{"a": ' * 5000),
        ("string.py", 'VOC = {"cat": "A cat."}'),
        ("number.json", '{"cat": [1]}'),
        ("cut.json", '{"cat": ["A ca'),
        ("list.json", '["A cat."]'),
        ("python.json", 'VOC = {"cat": ["A cat."]}'),
    ],
)
def test_anything_but_one_table_of_plain_text_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(name)):
        read_sentences(write(tmp_path, name, content))
    assert not (tmp_path / "MARK").exists()


def test_a_class_without_a_sentence_is_named_with_the_file_and_what_to_do(tmp_path: Path) -> None:
    file = write(tmp_path, "voc21.py", 'VOC = {"cat": ["A cat."], "dog": [" "]}')
    table = read_sentences(file)
    assert sentences_of(table, ["cat"], "x") == {"cat": ("A cat.",)}
    with pytest.raises(UserError, match=r"voc21\.py: there is no sentence for 'dog' \(and 1 more classes\); add some"):
        sentences_of(table, ["dog", "cat", "cow"], str(file))


# --- sets


@pytest.fixture(scope="module")
def datasets(root: Path) -> Datasets:
    return load_datasets(root / "datasets.yaml")


def test_freecp_released_descriptions_are_fetched_at_one_commit_for_its_eight_data_sets(datasets: Datasets) -> None:
    files = fetch_params(datasets, "freecp_vicuna")["files"]
    address = re.compile(
        r"https://raw\.githubusercontent\.com/chenqi1126/FreeCP/([0-9a-f]{40})/prompts/vicuna13b/(\S+)"
    )
    found = [address.fullmatch(file["url"]) for file in files]
    assert len({match[1] for match in found if match}) == 1
    assert [match[2] for match in found if match] == [file["name"] for file in files]
    sets = ("voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k")
    needs = [description_set(datasets.descriptions, "vicuna", name, ["any"], Path()) for name in sets]
    assert all(isinstance(need, TextNeeds) and need.archive == "freecp_vicuna" for need in needs)


def test_sentences_at_hand_become_parameters_of_the_asked_words_alone(tmp_path: Path, datasets: Datasets) -> None:
    sets = {"gpt35": datasets.descriptions["gpt35"]}
    asked = ("gpt35", "ade20k", ["cat"], tmp_path)
    missing = description_set(sets, *asked)
    assert isinstance(missing, str) and missing.startswith(
        "data to be placed by hand: data/manual/descriptions_gpt35/ade20k.json (FreeCP did not publish them"
    )
    folder = tmp_path / "data" / "manual" / "descriptions_gpt35"
    folder.mkdir(parents=True)
    write(folder, "ade20k.json", '{"cat": ["A cat."], "dog": ["A dog."]}')
    assert description_set(sets, *asked) == TextNeeds({"sentences": {"cat": ["A cat."]}})
    with pytest.raises(UserError, match=r"descriptions gpt35 \(.*ade20k\.json\): there is no sentence for 'cow'"):
        description_set(sets, "gpt35", "ade20k", ["cow"], tmp_path)
    with pytest.raises(UserError, match=r"no set 'gpt3' \(did you mean 'gpt35'\?\)"):
        description_set(sets, "gpt3", "ade20k", ["cat"], tmp_path)
    assert description_set(datasets.descriptions, "vicuna", "coco_stuff27", ["cat"], tmp_path) == (
        "there are no descriptions 'vicuna' for coco_stuff27"
    )


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({}, "exactly one of 'resource', 'archive' and 'manual'"),
        ({"resource": "a.json", "manual": "write it"}, "exactly one of"),
        ({"archive": "freecp_vicuna"}, "'archive' and 'files'"),
        ({"archive": "freecp_vicuna", "files": {"voc20": "voc12.py"}}, r"s\.new\.files: voc12\.py is not in"),
        ({"archive": "freecp_vicuna", "files": {"voc12": "voc21.py"}}, r"s\.new\.files: voc12 is not in"),
        ({"archive": "freecp", "files": {"voc20": "voc21.py"}}, r"s\.new\.archive: freecp is not in"),
    ],
)
def test_a_set_names_exactly_one_place_and_files_that_exist(datasets: Datasets, places, message: str) -> None:
    data = datasets.model_dump()
    data["descriptions"] = {"new": {"title": "t", "licence": "l", **places}}
    with pytest.raises(UserError, match=message):
        validate(data, Datasets, "datasets.yaml")


def caption_words() -> set[str]:
    parts = [*captions.ADJECTIVES, *captions.LINKS, *captions.PLACES, *captions.ENDINGS, *captions.WRONG, "view"]
    parts += [*captions.templates(), *(noun for name in CLASSES for noun in nouns(name)), "an"]
    return {word for part in parts for word in re.findall(r"[a-z]+", part.lower())}


@pytest.mark.parametrize("name", ["tiny_scenes", "tiny_names"])
def test_a_shipped_set_has_15_sentences_in_the_worlds_words_for_every_class(
    name: str, root: Path, datasets: Datasets
) -> None:
    lists = {
        file for key, entry in datasets.datasets.items() if key.startswith("tiny_") for file in entry.classes.values()
    }
    words = sorted({word for file in lists for names in read_class_names(file) for word in names})
    assert len(words) == 29
    found = description_set(datasets.descriptions, name, "tiny_voc21", words, root)
    assert isinstance(found, TextNeeds)
    known = caption_words() | {"background"}
    for word, sentences in found.params["sentences"].items():
        named = nouns(word) if word in CLASSES else ("background", "view", "scene")
        assert len(set(sentences)) == len(sentences) == 15, word
        for sentence in sentences:
            said = re.findall(r"[a-z]+", sentence)
            assert set(said) <= known and set(said) & set(named), sentence


# --- text features


def text_job(model: Path, out: Path, params: dict, sentences: Path | None = None) -> Item:
    out.mkdir()
    return Item(params, {"model": model, **({"sentences": sentences} if sentences else {})}, out)


def features(item: Item) -> torch.Tensor:
    text.run(JobContext(0, Machine(), items={"x": item}, finish=lambda *_: None))
    return load_file(item.out / "features.safetensors")["query_features"]


def test_a_released_file_is_fetched_read_and_averaged_raw_into_text_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    with serve({"voc21.py": RELEASED.encode()}) as server:
        files = [{"name": "voc21.py", "url": server.url("plain", "voc21.py")}]
        fetch.run(JobContext(0, Machine(), {"archive": "freecp_vicuna", "files": files}, out=fetched))
    assert "no hash is published" in capsys.readouterr().err

    model = write_model_directory(tmp_path / "model")
    params = {"queries": [["sky"], ["ship"]], "templates": "vicuna", "sentences_file": "voc21.py"}
    got = features(text_job(model, tmp_path / "a", params, fetched))
    clip = small_clip()
    lines = ["A sky is wide.", 'A sky is "blue", façade.', "A sky is wide."]
    units = F.normalize(clip.model.encode_text(clip.tokenizer(lines)), dim=-1)
    torch.testing.assert_close(got[0], F.normalize(units.mean(0), dim=-1).detach(), rtol=0, atol=1e-6)

    inline = {"queries": params["queries"], "templates": "vicuna", "sentences": read_sentences(fetched / "voc21.py")}
    assert torch.equal(got, features(text_job(model, tmp_path / "b", inline)))
    with pytest.raises(UserError, match="descriptions vicuna: there is no sentence for 'cat'"):
        features(text_job(model, tmp_path / "c", {**inline, "queries": [["sky"], ["cat"]]}))


def test_a_word_with_the_same_sentences_is_encoded_once_and_braces_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model_directory(tmp_path / "model")
    encoded: list[tuple[str, ...]] = []
    mean = text.mean_feature
    monkeypatch.setattr(text, "mean_feature", lambda clip, texts: encoded.append(tuple(texts)) or mean(clip, texts))
    one = {"queries": [["cat"], ["dog"]], "templates": "own", "sentences": {"cat": ["A {} cat."], "dog": ["A dog."]}}
    two = {"queries": [["dog"], ["cat"]], "templates": "own", "sentences": {"cat": ["A tom."], "dog": ["A dog."]}}
    items = {name: text_job(model, tmp_path / name, params) for name, params in (("one", one), ("two", two))}
    text.run(JobContext(0, Machine(), items=items, finish=lambda *_: None))
    assert encoded == [("A {} cat.",), ("A dog.",), ("A tom.",)]


# --- generator


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ('"A cat has four legs."', "A cat has four legs."),
        ("1. A cat\n has   whiskers. It is", "A cat has whiskers."),
        ("“A cat” is soft. It purrs!", "A cat is soft. It purrs!"),
        ("a cat without an end", "a cat without an end"),
        ("As an apple ripens it turns red.", "As an apple ripens it turns red."),
        ("Short one. " + "word " * 58 + "end.", "Short one."),
        ("word " * 80, " ".join(["word"] * 60)),
        ("I'm sorry, there is no image.", None),
        ("I’m unable to.", None),
        ("Sure, here it is: a cat.", None),
        ("As an AI language model, I cannot see.", None),
        (' "" ', None),
        ("...", None),
    ],
)
def test_an_answer_is_cut_to_its_whole_sentences_and_refusals_are_dropped(answer: str, sentence: str | None) -> None:
    assert generator.clean(answer) == sentence


def answers(instruction: str, seed: int) -> list[str]:
    """A stand-in for a model: answers that depend on the instruction and the seed, one of them a refusal."""
    return ["Sure, a cat.", *(f"{instruction} {seed + number}." for number in range(4))]


def test_words_give_the_same_sentences_in_any_order_and_after_an_interruption(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    generator.describe(["cat", "dog", "cat"], whole, "m", 3, answers)

    def dies(instruction: str, seed: int) -> list[str]:
        if "cat" in instruction:
            raise KeyboardInterrupt
        return answers(instruction, seed)

    with pytest.raises(KeyboardInterrupt):
        generator.describe(["dog", "cat"], parts, "m", 3, dies)
    assert list(read_sentences(parts)) == ["dog"]
    asked: list[str] = []
    generator.describe(["dog", "cat"], parts, "m", 3, lambda i, seed: asked.append(i) or answers(i, seed))
    assert asked and not any("dog" in instruction for instruction in asked)
    assert read_sentences(parts) == read_sentences(whole)
    assert [len(sentences) for sentences in read_sentences(whole).values()] == [15, 15]
    assert not list(tmp_path.glob("*.part-*"))
    other = tmp_path / "other.json"
    generator.describe(["cat"], other, "m", 4, answers)
    assert not set(read_sentences(other)["cat"]) & set(read_sentences(whole)["cat"])
    with pytest.raises(UserError, match=r"whole\.json: it does not say that it has the same seed"):
        generator.describe(["cow"], whole, "m", 4, answers)


def test_a_model_that_only_refuses_is_reported_and_what_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "d.json"
    generator.describe(["cat"], out, "m", 0, answers)
    with pytest.raises(UserError, match="m gave no usable sentence for 'dog'"):
        generator.describe(["cat", "dog"], out, "m", 0, lambda instruction, seed: ["I'm sorry."] * 5)
    assert list(read_sentences(out)) == ["cat"]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm")
    words = ["<unk>", "</s>", ".", *sorted(caption_words())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_command_writes_a_set_with_a_local_model_twice_the_same(
    tmp_path: Path, language_model: Path, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSS_DEVICE", "cpu")
    monkeypatch.setattr(generator, "MAX_TOKENS", 12)
    folder = tmp_path / "data" / "manual" / "descriptions_gpt35"
    words = write(tmp_path, "words.txt", "sky, wall\ncat\n")
    for out in (folder / "ade20k.json", tmp_path / "again.json"):
        assert generator.main(str(words), str(language_model), out, 0) == 0
    assert (tmp_path / "again.json").read_bytes() == (folder / "ade20k.json").read_bytes()
    found = description_set(datasets.descriptions, "gpt35", "ade20k", ["sky", "wall", "cat"], tmp_path)
    assert isinstance(found, TextNeeds)
    sentences = found.params["sentences"]
    assert [len(lines) for lines in sentences.values()] == [15, 15, 15]
    assert all(len(line.split()) <= 60 for lines in sentences.values() for line in lines)
    made_by = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))["made_by"]
    assert (made_by["model"], made_by["seed"]) == (language_model.name, 0)


def test_an_instruction_is_put_into_the_chat_format_of_a_model_that_has_one(language_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    plain = generator._prompt(tokenizer, "a cat")["input_ids"][0]
    tokenizer.chat_template = (
        "{% for m in messages %}dog {{ m.content }} {% endfor %}{% if add_generation_prompt %}bird{% endif %}"
    )
    chat = generator._prompt(tokenizer, "a cat")["input_ids"][0]
    assert (tokenizer.decode(plain), tokenizer.decode(chat)) == ("a cat", "dog a cat bird")


def test_pickled_weights_and_folders_without_a_model_are_refused(tmp_path: Path, language_model: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in language_model.iterdir():
        if file.suffix == ".json":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(language_model / "model.safetensors"), pickled / "pytorch_model.bin")
    for folder in (pickled, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"no language model can be loaded.*give a folder with"):
            generator.load_asker(str(folder))


def test_a_description_set_is_refused_with_an_unknown_key() -> None:
    with pytest.raises(UserError, match="unknown key"):
        validate({"title": "t", "licence": "l", "resource": "a.json", "url": "x"}, DescriptionSet, "x")
