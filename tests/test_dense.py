"""The pieces of CLIP: variants against slow independent forms, features by name, text, model directories, weights."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_clip import CONFIG, RESNET_CONFIG, small_clip, state, windows, write_model_directory

from ovss import methods
from ovss.errors import UserError
from ovss.jobs import Item, JobContext, Machine
from ovss.models import dense, features, gem, weights
from ovss.models.clip import load_clip, without_text
from ovss.models.features import Features
from ovss.models.openclip import open_clip
from ovss.models.position import position_table
from ovss.models.templates import templates
from ovss.models.text import encode_words, load_vocabulary, query_list
from ovss.models.text import run as run_text


@pytest.fixture(scope="module")
def clip():
    return small_clip()


def made(clip, height: int = 40, width: int = 56, count: int = 2) -> Features:
    return Features(clip, windows(count, height, width))


def test_the_vanilla_full_block_is_the_network_as_trained(clip) -> None:
    native = windows(2, 32, 32)
    tokens = clip.visual.forward_intermediates(native, output_fmt="NLC", normalize_intermediates=True)
    expected = F.normalize(tokens["image_intermediates"][-1] @ clip.visual.proj, dim=-1)
    ours = Features(clip, native).get("dense", variant="vanilla", family="full_block")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_the_image_feature_is_open_clips(clip) -> None:
    native = windows(3, 32, 32)
    expected = clip.model.encode_image(native, normalize=True)
    torch.testing.assert_close(Features(clip, native).get("image"), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(Features(clip, native).get("image", position="antialias"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", dense.VARIANTS)
def test_mixed_values_equal_explicit_attention_matrices(clip, variant: str) -> None:
    block = clip.visual.transformer.resblocks[-1]
    heads = dense.split_heads(block, torch.randn(2, 9, 32))

    def attention(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.softmax(a @ b.transpose(-1, -2) / 8**0.5, dim=-1)

    matrix = {
        "vanilla": attention(heads.query, heads.key),
        "MaskCLIP": torch.eye(9),
        "SCLIP": attention(heads.query, heads.query) + attention(heads.key, heads.key),
        "ClearCLIP": attention(heads.query, heads.query),
    }[variant]
    torch.testing.assert_close(dense.mix_values(heads, variant), matrix @ heads.value, rtol=0, atol=1e-5)


def test_families_agree_where_they_must(clip) -> None:
    made_once = made(clip)

    def of(variant: str, family: str) -> torch.Tensor:
        return made_once.get("dense", variant=variant, family=family)

    torch.testing.assert_close(of("ClearCLIP", "freecp_block"), of("ClearCLIP", "attention_only"))
    for variant in ("vanilla", "MaskCLIP", "SCLIP"):
        values = [of(variant, family) for family in dense.FAMILIES]
        assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.pairwise(values))


def test_patch_features_have_unit_norm_and_one_row_per_patch(clip) -> None:
    patches = made(clip, 43, 59).get("dense", variant="SCLIP", family="full_block")
    assert patches.shape == (2, 5 * 7, 16)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 35))


def test_features_are_computed_once_and_shared_blocks_too(clip, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(features.dense, "encode", lambda *a: calls.append(a) or ([torch.randn(2, 36, 32)] * 3, {}))
    shared = made(clip)
    first = shared.get("dense", variant="SCLIP", family="full_block")
    shared.get("dense", variant="ClearCLIP", family="attention_only")
    shared.get("affinity")
    assert shared.get("tokens", variant="SCLIP", family="full_block")[:, 1:].data_ptr() == first.data_ptr()
    assert len(calls) == 1


def test_chunks_of_windows_change_nothing_beyond_rounding(clip, monkeypatch) -> None:
    names = [("dense", {"variant": "SCLIP", "family": "freecp_block"}), ("gem", {"depth": 3, "iterations": 1}),
             ("image", {}), ("affinity", {})]  # fmt: skip
    whole = [made(clip, count=5).get(name, **settings) for name, settings in names]
    monkeypatch.setattr(features, "CHUNK_TOKENS", 80)
    parts = [made(clip, count=5).get(name, **settings) for name, settings in names]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", ["mean", "first"])
def test_affinity_is_the_mean_attention_of_all_blocks_but_the_last(clip, heads: str) -> None:
    tokens = dense.embed(clip.visual, windows(2, 40, 56), "scale")
    expected = torch.zeros(2, 35, 35)
    for block in clip.visual.transformer.resblocks[:-1]:
        normed = block.ln_1(tokens)
        _, matrix = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        expected += (matrix.mean(1) if heads == "mean" else matrix[:, 0])[:, 1:, 1:] / 2
        tokens = block(tokens)
    torch.testing.assert_close(made(clip).get("affinity", heads=heads), expected, rtol=0, atol=1e-5)


def test_unknown_features_are_refused(clip) -> None:
    with pytest.raises(UserError, match="'depth' is not one of affinity, companion_affinity, dense"):
        made(clip).get("depth")


@pytest.mark.parametrize("rule", ["scale", "antialias"])
def test_position_table_is_untouched_at_the_native_grid(rule: str) -> None:
    table = torch.randn(1 + 16, 8)
    torch.testing.assert_close(position_table(table, (4, 4), (4, 4), rule), table, rtol=0, atol=0)


def test_position_rules_differ_and_keep_the_class_row() -> None:
    table = torch.randn(1 + 16, 8)
    scale, antialias = (position_table(table, (4, 4), (3, 7), rule) for rule in ("scale", "antialias"))
    assert scale.shape == antialias.shape == (22, 8)
    assert torch.equal(scale[0], table[0]) and torch.equal(antialias[0], table[0])
    assert (scale - antialias).abs().max() > 0.05


def test_a_grid_of_as_many_patches_takes_the_table_as_it_is() -> None:
    table = torch.randn(1 + 16, 8)
    assert torch.equal(position_table(table, (4, 4), (2, 8), "scale"), table)
    assert not torch.equal(position_table(table, (4, 4), (2, 8), "antialias"), table)


@pytest.mark.parametrize(("layers", "depth", "first"), [(12, 7, 6), (24, 7, 18), (4, 7, 1), (4, 3, 2)])
def test_gem_starts_at_the_last_depth_minus_one_blocks(layers: int, depth: int, first: int) -> None:
    assert gem.first_block(layers, depth, "layers") == first


def test_gem_depth_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="gem_depth: 7 needs at least 7 blocks, the model has 4"):
        gem.first_block(4, 7, "none")
    with pytest.raises(UserError, match="leaves no self-self block"):
        gem.first_block(4, 1, "layers")


def test_gem_streams_differ_by_what_the_first_block_was_given(clip) -> None:
    inputs = dense.encode(clip.visual, windows(1, 40, 40), "antialias")[0]
    whole = gem.gem_tokens(clip.visual, inputs, 2, 1, "accumulate")
    branch = gem.gem_tokens(clip.visual, inputs, 2, 1, "last_block")
    torch.testing.assert_close(whole, inputs[2] + branch)


def test_more_gem_iterations_change_the_result(clip) -> None:
    one, two = (made(clip).get("gem", depth=2, iterations=count) for count in (1, 2))
    assert (one - two).abs().max() > 1e-4


def test_a_model_without_its_text_tower_sees_the_same(clip) -> None:
    blind, images = without_text(clip), windows(2, 40, 48)
    for name, settings in (("dense", {"variant": "SCLIP", "family": "full_block"}), ("image", {})):
        assert torch.equal(Features(blind, images).get(name, **settings), Features(clip, images).get(name, **settings))
    kept = {name.partition(".")[0] for name, _ in blind.model.named_parameters()}
    assert kept == {"visual", "logit_scale"}
    assert "token_embedding.weight" in dict(clip.model.named_parameters())


def test_resnet_drops_pixels_that_fill_no_position() -> None:
    clip, images = small_clip(RESNET_CONFIG), windows(1, 95, 127)
    ragged, whole = Features(clip, images), Features(clip, images[:, :, :64, :96])
    assert ragged.patch_grid() == (2, 3)
    made = ragged.get("dense", variant="MaskCLIP", family="full_block")
    assert torch.equal(made, whole.get("dense", variant="MaskCLIP", family="full_block"))


def test_resnet_features_are_the_value_and_output_convolutions() -> None:
    clip = small_clip(RESNET_CONFIG)
    images, visual, pool = windows(1, 64, 96), clip.visual, clip.visual.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    value = F.conv2d(maps, pool.v_proj.weight[:, :, None, None], pool.v_proj.bias)
    expected = F.conv2d(value, pool.c_proj.weight[:, :, None, None], pool.c_proj.bias).flatten(2).transpose(1, 2)
    shared = Features(clip, images)
    patches = shared.get("dense", variant="MaskCLIP", family="attention_only")
    torch.testing.assert_close(patches, F.normalize(expected, dim=-1))
    torch.testing.assert_close(shared.get("image"), patches.mean(1))
    with pytest.raises(UserError, match="SCLIP needs a transformer"):
        shared.get("dense", variant="SCLIP", family="full_block")


def test_word_features_are_means_of_unit_prompts_and_do_not_depend_on_other_words(clip) -> None:
    forms = ("a {}.", "the {} over there.")
    prompts = clip.model.encode_text(clip.tokenizer(["a cat.", "the cat over there."]))
    expected = F.normalize(F.normalize(prompts, dim=-1).mean(0), dim=-1)
    alone, together = encode_words(clip, ["cat"], forms), encode_words(clip, ["aeroplane", "cat"], forms)
    torch.testing.assert_close(alone[0], expected, rtol=0, atol=1e-6)
    assert torch.equal(alone[0], together[1])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "the list is empty"),
        ([["cat"], []], "class 1 has an empty name"),
        ([["cat"], [" "]], "class 1 has an empty name"),
        ([["cat"], ["dog"], ["cat"]], "classes 0 and 2 are both 'cat'"),
    ],
)
def test_class_names_that_cannot_work_are_refused(classes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        query_list(classes)


def test_a_word_may_be_a_background_query_and_a_class() -> None:
    queries, classes = query_list([["sky", "bed"], ["bed"]])
    assert queries == ("sky", "bed", "bed") and classes.tolist() == [0, 0, 1]


def test_templates_by_name_or_by_their_lines() -> None:
    assert len(templates("openai80")) == 80 and templates("none") == ("{}",)
    assert templates("own", ["a {}."]) == ("a {}.",)
    with pytest.raises(UserError, match="'own' is not one of openai80, photo, none"):
        templates("own")
    with pytest.raises(UserError, match="'no slot' must have one"):
        templates("own", ["no slot"])


def text_item(model: Path, out: Path, queries: list[list[str]]) -> Item:
    out.mkdir()
    return Item({"queries": queries, "templates": "own", "template_lines": ["a {}.", "{}!"]}, {"model": model}, out)


def test_text_stage_gives_the_same_bytes_alone_and_beside_others(tmp_path: Path) -> None:
    model = write_model_directory(tmp_path / "model")
    names = {"a": [["sky", "wall"], ["cat"]], "b": [["cat"], ["dog"]]}
    both = {name: text_item(model, tmp_path / name, queries) for name, queries in names.items()}
    finished = []
    run_text(JobContext(0, Machine(), items=both, finish=lambda name, facts: finished.append((name, facts["queries"]))))
    alone = text_item(model, tmp_path / "alone", names["b"])
    run_text(JobContext(0, Machine(batch_size=1), items={"x": alone}, finish=lambda *_: None))
    assert finished == [("a", 3), ("b", 2)]
    for file in ("features.safetensors", "text.json"):
        assert (tmp_path / "b" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    vocabulary = load_vocabulary(tmp_path / "a")
    assert vocabulary.queries == ("sky", "wall", "cat")
    assert (vocabulary.num_classes, vocabulary.num_background) == (2, 2)
    torch.testing.assert_close(vocabulary.features.norm(dim=-1), torch.ones(3))


def test_a_model_directory_loads_with_its_own_statistics(tmp_path: Path) -> None:
    clip = load_clip(write_model_directory(tmp_path / "model"))
    assert (clip.image_size, clip.patch_size, clip.mean) == (32, 8, (0.5, 0.4, 0.3))
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert not clip.model.training


def test_a_model_directory_with_something_wrong_is_refused(tmp_path: Path) -> None:
    folder = write_model_directory(tmp_path / "model")
    with pytest.raises(UserError, match=r"nowhere.*not a readable open_clip configuration"):
        load_clip(tmp_path / "nowhere")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if name != "logit_scale"}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"do not fit.*logit_scale"):
        load_clip(folder)
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_clip(folder)


class _Wrapped(torch.nn.Module):
    """Names of an OpenAI archive: the model's tensors and three numbers beside them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            *path, last = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, value)


def write_checkpoint(path: Path, kind: str, tensors: dict[str, torch.Tensor]) -> None:
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    elif kind == "pickle":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}, path)
    else:
        extra = {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)}
        module = _Wrapped({name: value.half() for name, value in tensors.items()} | extra)
        torch.jit.save(torch.jit.script(module), str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", ["torchscript", "pickle", "safetensors"])
def test_checkpoints_of_every_format_become_model_directories(tmp_path: Path, monkeypatch, kind: str) -> None:
    monkeypatch.setattr(weights, "model_config", lambda name: CONFIG)
    (tmp_path / "out").mkdir()
    write_checkpoint(tmp_path / "file.bin", kind, state())
    norm = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": None}
    params = {"weights": "w", "files": ["file.bin"], "format": kind, "load": {"open_clip": ["tiny", "t"]}, "norm": norm}
    facts = weights.run(JobContext(0, Machine(), params, {"file": tmp_path}, tmp_path / "out"))
    clip = load_clip(tmp_path / "out")
    assert facts["parameters"] == sum(value.numel() for value in clip.model.parameters())
    assert clip.mean == (0.1, 0.2, 0.3)
    native = windows(1, 32, 32)
    torch.testing.assert_close(Features(clip, native).get("image"), Features(small_clip(), native).get("image"),
                               rtol=0, atol=2e-2 if kind == "torchscript" else 0)  # fmt: skip


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "bad.bin"
    torch.save({"state_dict": Attack()}, path)
    with pytest.raises(UserError, match=r"bad\.bin: cannot be read as pickle"):
        weights.read_checkpoint(path, "pickle")
    path.write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(UserError, match=r"bad\.bin: cannot be read as"):
        weights.read_checkpoint(path, "pickle")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(("kind", "message"), [("torchscript", "cannot be read as torchscript"), ("onnx", "'onnx' is"),
                                               ("safetensors", "no readable safetensors")])  # fmt: skip
def test_a_damaged_or_unknown_checkpoint_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(UserError, match=message):
        weights.read_checkpoint(tmp_path / "file", kind)


def test_architectures_come_from_open_clip() -> None:
    assert weights.model_config("ViT-B-16-quickgelu") == open_clip.get_model_config("ViT-B-16-quickgelu")
    with pytest.raises(UserError, match="no architecture 'ViT-nowhere'"):
        weights.model_config("ViT-nowhere")


def test_methods_are_listed_without_importing_them_and_loaded_by_name() -> None:
    assert "dense_clip" in methods.available()
    assert methods.load("dense_clip").Settings("SCLIP").family == "full_block"
    with pytest.raises(UserError, match=r"method: 'densclip' is not one of .*dense_clip"):
        methods.load("densclip")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "SLIP"}, r"settings\.variant: 'SLIP' is not one of vanilla, MaskCLIP"),
        ({"variant": "SCLIP", "depth": 3}, r"settings\.depth: method dense_clip has no such setting"),
        ({"variant": "GEM", "gem_depth": 2.5}, r"settings\.gem_depth: 2\.5 is not of type int"),
        ({}, "needs it, and there is no default"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.read_settings(methods.load("dense_clip").Settings, values, "dense_clip")


def test_importing_the_models_leaves_no_stand_in_behind() -> None:
    for name in ("timm", "transformers", "torch._dynamo", "torch._dynamo.utils"):
        assert name not in sys.modules or sys.modules[name].__spec__ is not None


@pytest.mark.slow
def test_the_compiler_and_timm_can_be_imported_after_the_models() -> None:
    code = (
        "import sys, ovss.models.clip; heavy = 'torch._dynamo' in sys.modules or 'transformers' in sys.modules;"
        "import torch._dynamo, timm; print(heavy, hasattr(torch._dynamo, 'explain'), hasattr(timm, 'create_model'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def test_listing_methods_imports_no_torch() -> None:
    code = "import sys, ovss.methods; ovss.methods.available(); print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", "import json;" + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
