"""Models beside CLIP: affinities against slow independent forms, model directories, official checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_clip import RESNET_CONFIG, small_clip

from ovss.data import fetch
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models import dino, maskformer, timm_models, weights
from ovss.models.companions import load_companion
from ovss.models.features import Features
from ovss.models.resized import Norm

NORM = Norm((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
SAM = {"img_size": 64, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, "window_size": 4,
       "global_attn_indexes": [1], "neck_chans": 8}  # fmt: skip


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.5 if value.ndim > 1 else 0.1))
    return model.eval().requires_grad_(False)


def colours(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def normalised(images: torch.Tensor) -> torch.Tensor:
    values = (images.numpy() - np.reshape(NORM.mean, (1, 3, 1, 1))) / np.reshape(NORM.std, (1, 3, 1, 1))
    return torch.from_numpy(values.astype(np.float32))


def near(found: torch.Tensor, expected: torch.Tensor | np.ndarray, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """torch.testing would do, but importing it costs 4 seconds."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol)


def write(directory: Path, model: torch.nn.Module, config: dict) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "timm_config.json").write_text(json.dumps({**config, "mean": NORM.mean, "std": NORM.std}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, directory / "model.safetensors")
    return directory


def vit(**changes: int) -> torch.nn.Module:
    return randomise(timm_models.import_timm().VisionTransformer(**{**VIT, "dynamic_img_size": True, **changes}))


@pytest.fixture
def dino_directory(tmp_path: Path) -> Path:
    return write(tmp_path / "dino", vit(), {"architecture": {**VIT, "dynamic_img_size": True}})


def sam() -> torch.nn.Module:
    model = randomise(timm_models.import_timm().create_model("samvit_base_patch16", pretrained=False, **SAM))
    model.neck[3].weight.fill_(1)
    model.neck[3].bias.zero_()
    return model


def hooked_attention(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Attention of every block of timm's own forward pass, (blocks, W, H, N, N)."""
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, result: seen.append(result))
    model.forward_features(images)
    return torch.stack(seen)


def test_dino_affinity_is_the_mean_attention_of_all_blocks_but_the_last(dino_directory: Path) -> None:
    images = colours(2, 24, 40)
    found = load_companion(dino_directory).affinity(images, (3, 5))
    maps = hooked_attention(vit(), normalised(images))
    near(found, maps[:-1].mean((0, 2))[:, 1:, 1:], rtol=1e-4, atol=1e-6)
    assert (found - maps.mean((0, 2))[:, 1:, 1:]).abs().max() > 1e-3


def test_dino_sees_the_grid_of_clip_whatever_its_own_patches(dino_directory: Path) -> None:
    images = colours(1, 36, 60)
    found = load_companion(dino_directory).affinity(images, (3, 5))
    scaled = torch.nn.functional.interpolate(images, (24, 40), mode="bilinear", align_corners=False)
    maps = hooked_attention(vit(), normalised(scaled))
    near(found, maps[:-1].mean((0, 2))[:, 1:, 1:], rtol=1e-4, atol=1e-6)


def test_a_long_sequence_of_windows_changes_no_window(dino_directory: Path, monkeypatch) -> None:
    companion, images = load_companion(dino_directory), colours(5, 32, 32)
    whole = companion.affinity(images, (4, 4))
    monkeypatch.setattr(dino, "CHUNK_TOKENS", 40)
    near(companion.affinity(images, (4, 4)), whole, rtol=1e-5, atol=1e-7)


def test_attention_ignores_where_patches_are_if_positions_are_equal(tmp_path: Path) -> None:
    model = vit()
    model.pos_embed.zero_()
    companion = load_companion(write(tmp_path, model, {"architecture": {**VIT, "dynamic_img_size": True}}))
    images = colours(1, 16, 24)
    images[..., :8, :8] = images[..., 8:, 16:]
    found = companion.affinity(images, (2, 3))[0]
    near(found[0], found[5], rtol=1e-5, atol=1e-7)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_sam_affinity_is_the_cosine_of_features_of_the_part_that_is_image(tmp_path: Path) -> None:
    companion = load_companion(write(tmp_path, sam(), {"model": "samvit_base_patch16", "architecture": SAM}))
    images = colours(2, 32, 64)
    found = companion.affinity(images, (2, 4))
    square = torch.zeros(2, 3, 64, 64)
    square[:, :, :32] = normalised(images)
    features = sam().forward_features(square)[:, :, :4].numpy()
    pooled = features.reshape(2, 8, 2, 2, 4, 2).mean((3, 5)).reshape(2, 8, 8)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    cosine = np.einsum("wci,wcj->wij", unit, unit)
    assert cosine.min() < 0
    near(found, np.maximum(cosine, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "grid"), [((24, 40), (3, 5)), ((30, 18), (7, 2)), ((8, 64), (1, 8))])
def test_sam_takes_windows_and_grids_of_any_shape(tmp_path: Path, window: tuple[int, int], grid) -> None:
    companion = load_companion(write(tmp_path, sam(), {"model": "samvit_base_patch16", "architecture": SAM}))
    found, count = companion.affinity(colours(1, *window), grid), math.prod(grid)
    assert found.shape == (1, count, count) and found.dtype == torch.float32
    near(found.diagonal(dim1=1, dim2=2), torch.ones(1, count))


def small_maskformer():
    import transformers

    swin = transformers.MaskFormerSwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    detr = transformers.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, num_queries=5)  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=swin, decoder_config=detr, fpn_feature_size=32, mask_feature_size=32, num_labels=3)  # fmt: skip
    torch.manual_seed(0)
    return transformers.MaskFormerForInstanceSegmentation(config).eval().requires_grad_(False)


def job(source: Path, out: Path, name: str, files: list[str], load: dict, **params: object) -> JobContext:
    out.mkdir()
    norm = {**NORM.record(), "interpolation": None}
    values = {"weights": name, "files": files, "format": "pickle", "load": load, "norm": norm, **params}
    return JobContext(0, Machine(), values, {"file": source}, out)


def test_maskformer_affinity_counts_shared_masks_of_queries_that_show_something(tmp_path: Path, monkeypatch) -> None:
    model, source, out = small_maskformer(), tmp_path / "source", tmp_path / "out"
    model.save_pretrained(source, safe_serialization=True)
    files, load = ["model.safetensors", "config.json"], {"transformers": "some/maskformer", "timm": "other"}
    facts = weights.run(job(source, out, "m", files, load, format="safetensors", input=64))
    assert facts["parameters"] == sum(value.numel() for value in model.parameters())
    assert json.loads((out / "preprocess.json").read_text()) == {**NORM.record(), "input": 64}
    images = colours(2, 64, 96)
    found = load_companion(out).affinity(images, (4, 6))
    output = model(normalised(images))
    masks = output.masks_queries_logits.sigmoid().reshape(2, 5, 4, 4, 6, 4).mean((3, 5)).flatten(2).numpy()
    shown = 1 - output.class_queries_logits.softmax(-1)[..., 3].numpy()
    expected = np.einsum("wq,wqi,wqj->wij", shown, masks, masks)
    near(found, expected, rtol=1e-4)
    monkeypatch.setattr(maskformer, "CHUNK", 1)
    near(load_companion(out).affinity(images, (4, 6)), found, rtol=1e-5, atol=1e-6)
    small = load_companion(out).affinity(colours(1, 48, 80), (3, 5))
    assert small.shape == (1, 15, 15) and small.min() > 0
    refuse_damage(out)


def refuse_damage(directory: Path) -> None:
    """Every damage to a model directory of transformers is one sentence that names the file."""
    tensors = load_file(directory / "model.safetensors")
    first = min(tensors)
    save_file({name: value for name, value in tensors.items() if name != first}, directory / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: lacks 1 tensors"):
        load_companion(directory)
    (directory / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="weights and configuration do not fit"):
        load_companion(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: this file is missing"):
        load_companion(directory)
    (directory / "preprocess.json").unlink()
    with pytest.raises(UserError, match=r"preprocess\.json: not a readable record"):
        load_companion(directory)
    (directory / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"config\.json: model_type 'bert' is not one of maskformer"):
        load_companion(directory)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_official_dino_checkpoint_gives_the_affinity_of_the_model_it_came_from(
    tmp_path: Path, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = randomise(timm_models.import_timm().create_model("vit_tiny_patch16_224", num_classes=0,
                                                             dynamic_img_size=True))  # fmt: skip
    state: dict = dict(model.state_dict())
    if wrapped:
        inside = {f"module.backbone.{name}": value for name, value in state.items()}
        state = {"epoch": 3, "teacher": {**inside, "module.head.last.weight": torch.ones(2)}}
    torch.save(state, tmp_path / "dino.pth")
    (tmp_path / "got").mkdir()
    files = [{"name": "dino.pth", "url": (tmp_path / "dino.pth").as_uri()}]
    fetch.run(JobContext(0, Machine(), {"archive": "dino", "files": files}, {}, tmp_path / "got"))
    load = {"timm": "vit_tiny_patch16_224.augreg_in21k"}
    facts = weights.run(job(tmp_path / "got", tmp_path / "out", "dino", ["dino.pth"], load))
    assert facts["parameters"] == sum(value.numel() for value in model.parameters())
    images = colours(1, 48, 32)
    maps = hooked_attention(model, normalised(images))
    found = load_companion(tmp_path / "out").affinity(images, (3, 2))
    near(found, maps[:-1].mean((0, 2))[:, 1:, 1:], rtol=1e-4, atol=1e-6)


def test_an_official_sam_checkpoint_gives_the_affinity_of_the_model_it_came_from(tmp_path: Path) -> None:
    direct = load_companion(write(tmp_path / "direct", sam(), {"model": "samvit_base_patch16", "architecture": SAM}))
    official = {
        "image_encoder." + name.replace("mlp.fc", "mlp.lin"): value for name, value in sam().state_dict().items()
    }
    official["mask_decoder.iou_token.weight"] = torch.ones(1)
    (tmp_path / "out").mkdir()
    timm_models.write_timm(tmp_path / "out", "samvit_base_patch16.sa1b", NORM, official, SAM)
    converted, images = load_companion(tmp_path / "out"), colours(2, 32, 48)
    assert torch.equal(converted.affinity(images, (4, 6)), direct.affinity(images, (4, 6)))


def test_a_directory_that_holds_no_such_model_is_refused(dino_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no timm_config\.json or config\.json"):
        load_companion(tmp_path)
    (dino_directory / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"model\.safetensors: no readable safetensors file"):
        load_companion(dino_directory)
    write(dino_directory, vit(embed_dim=8), {"architecture": {**VIT, "dynamic_img_size": True}})
    with pytest.raises(UserError, match="weights and configuration do not fit"):
        load_companion(dino_directory)
    write(dino_directory, vit(), {"architecture": {**VIT, "colour": 1}})
    with pytest.raises(UserError, match="timm cannot build this architecture"):
        load_companion(dino_directory)
    write(dino_directory, vit(), {"architecture": VIT})
    with pytest.raises(UserError, match="takes one image size only"):
        load_companion(dino_directory)
    write(dino_directory, vit(depth=1), {"architecture": {**VIT, "depth": 1, "dynamic_img_size": True}})
    with pytest.raises(UserError, match="two blocks or more"):
        load_companion(dino_directory)
    (dino_directory / "timm_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"timm_config\.json: not a readable timm configuration"):
        load_companion(dino_directory)


def test_weights_that_nothing_can_load_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"weights a: conversion needs load\.open_clip, load\.timm"):
        weights.run(job(tmp_path, tmp_path / "1", "a", ["a.pth"], {}))
    with pytest.raises(UserError, match="weights a: conversion needs norm"):
        weights.run(job(tmp_path, tmp_path / "2", "a", ["a.pth"], {"timm": "vit_tiny_patch16_224"}, norm=None))
    with pytest.raises(UserError, match="vit_tiny_patch16_224: weights and configuration do not fit"):
        weights.run(job(tmp_path, tmp_path / "3", "a", ["a.pth"], {"timm": "vit_tiny_patch16_224"}))
    with pytest.raises(UserError, match="timm cannot build"):
        weights.run(job(tmp_path, tmp_path / "4", "a", ["a.pth"], {"timm": "vit_nowhere"}))


def test_a_resnet_clip_takes_its_affinity_from_its_companion(dino_directory: Path) -> None:
    clip, images = small_clip(RESNET_CONFIG), colours(2, 64, 96)
    features = Features(clip, images, lambda: images, {"dino": load_companion(dino_directory)})
    patches = features.get("dense", variant="MaskCLIP", family="freecp_block")
    assert patches.shape == (2, 6, 16) and features.patch_grid() == (2, 3)
    assert features.get("companion_affinity", which="dino").shape == (2, 6, 6)
    near(features.get("image"), patches.mean(dim=1))
