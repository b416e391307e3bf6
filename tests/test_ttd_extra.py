"""Parts that some rows of TTD need: the CRF against an exact one, HQ-SAM's refinement, CLIP Surgery's scores."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_clip import RESNET_CONFIG, small_clip, windows
from torch import Tensor

from ovss.errors import UserError
from ovss.methods import clip_surgery
from ovss.methods._ttd_refine import HqSamRefine, bounding_box, refine, rough_logits
from ovss.models import crf, crf_library
from ovss.models.hq_sam import HqSam, load_hq_sam
from ovss.models.hq_sam_checkpoint import VARIANTS, transformers_name, write_hq_sam
from ovss.models.resized import Norm
from ovss.models.templates import templates
from ovss.models.text import encode_texts

NORM = Norm((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """torch.testing would do, but importing it costs 4 seconds."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=atol)


# Dense CRF


def blurred(channels: int, size: tuple[int, int], seed: int) -> Tensor:
    return F.interpolate(random(1, channels, 4, 4, seed=seed), size, mode="bilinear", align_corners=False)[0]


def scene(size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Energies (N, 4) and colours (H, W, 3) of a blurred picture with noise."""
    colours = (blurred(3, size, seed).permute(1, 2, 0) * 60 + 128 + 5 * random(*size, 3, seed=seed)).clamp(0, 255)
    return crf.unary_energy((2 * blurred(4, size, seed + 9)).softmax(0)), colours.byte()


def exact_marginals(unary: Tensor, colours: Tensor, bilateral: tuple[float, float, float], steps: int) -> Tensor:
    """Mean field with every pair of pixels, in 64 bits; kernels divided by the roots of both row sums."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in colours.shape[:2]), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1).double()
    total = torch.zeros(())
    for points, weight in (
        (places, 3.0),
        (torch.cat([places / bilateral[0], colours.flatten(0, 1) / bilateral[1]], 1), bilateral[2]),
    ):
        kernel = (-torch.cdist(points, points).square() / 2).exp()
        scale = kernel.sum(dim=1).rsqrt()
        total = total + weight * scale[:, None] * kernel * scale
    marginals = torch.softmax(-unary.double(), dim=1)
    for _ in range(steps):
        marginals = torch.softmax(total @ marginals - unary, dim=1)
    return marginals


@pytest.mark.parametrize("bilateral", [(67.0, 3.0, 4.0), (67.0, 20.0, 4.0), (10.0, 10.0, 4.0)])
def test_the_crf_is_near_one_that_joins_every_pair_of_pixels(bilateral: tuple[float, float, float]) -> None:
    unary, colours = scene((24, 28), seed=0)
    found = crf_library.marginals(unary, colours, (1.0, 3.0), bilateral, 10)
    exact, start = exact_marginals(unary, colours, bilateral, 10), torch.softmax(-unary, dim=1)
    assert float((found - exact).abs().mean()) < 0.02 < 0.1 < float((start - exact).abs().mean())
    assert float((found.argmax(1) == exact.argmax(1)).float().mean()) > 0.97
    assert float((start.argmax(1) == exact.argmax(1)).float().mean()) < 0.95


def test_the_library_s_crf_has_our_numbers() -> None:
    pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf is not installed; crf_backend: torch does not need it"
    )
    unary, colours = scene((24, 28), seed=3)
    for bilateral in ((67.0, 3.0, 4.0), (20.0, 10.0, 4.0)):
        ours, library = (crf_library.marginals(unary, colours, (1.0, 3.0), bilateral, 10, backend)
                         for backend in crf_library.BACKENDS)  # fmt: skip
        near(ours, library, 1e-3)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    unary, colours = scene((8, 8), seed=0)
    with pytest.raises(UserError, match=r"settings\.crf_backend: .* install it or set crf_backend to torch"):
        crf_library.marginals(unary, colours, (1.0, 3.0), (67.0, 3.0, 4.0), 1, "pydensecrf")


# HQ-SAM


class Drawn:
    """Answers each box with the whole of it and a column to its right; remembers what it was asked."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.boxes: list[tuple[int, int, int, int]] = []

    def encode(self, image: Tensor) -> tuple[int, int]:
        self.images.append(image)
        return image.shape[0], image.shape[1]

    def mask(self, encoded: tuple[int, int], box: tuple[int, int, int, int], rough: Tensor, hq_only: bool) -> Tensor:
        self.boxes.append(box)
        logits = torch.full(encoded, -1.0)
        logits[box[1] : box[3] + 1, box[0] : box[2] + 2] = 1.0
        assert rough.shape == encoded and rough.max() == 10 and not hq_only
        return logits


LABELS = torch.tensor([[1, 1, 0, 2], [0, 1, 0, 2], [0, 0, 0, 2]])


def drawn(labels: Tensor, scores: Tensor, **arguments: object) -> tuple[list[list[int]], Drawn]:
    sam = Drawn()
    found = refine(torch.zeros(3, 4, 3, dtype=torch.uint8), labels, scores, sam, **arguments)  # type: ignore[arg-type]
    assert len(sam.images) <= 1
    return found.tolist(), sam


def test_a_refined_mask_replaces_the_class_and_the_rest_is_background() -> None:
    found, sam = drawn(LABELS, torch.full((3, 3, 4), 0.5))
    assert sam.boxes == [(0, 0, 1, 1), (3, 0, 3, 2)] and bounding_box(LABELS == 1) == (0, 0, 1, 1)
    assert found == [[1, 1, 1, 2], [1, 1, 1, 2], [0, 0, 0, 2]]
    kept, sam = drawn(LABELS, torch.full((3, 3, 4), 0.5), background=False)
    assert sam.boxes[0] == (0, 0, 2, 2) and kept == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_where_masks_overlap_the_higher_mean_score_inside_the_prediction_wins() -> None:
    labels = torch.tensor([[1, 1, 2, 2]] * 3)
    scores = torch.full((3, 3, 4), 0.9)
    scores[1] = torch.where(labels == 1, 0.4, 1.0)
    assert drawn(labels, scores)[0] == [[1, 1, 2, 2]] * 3
    scores[1] = torch.where(labels == 1, 0.95, 0.0)
    assert drawn(labels, scores)[0] == [[1, 1, 1, 2]] * 3
    assert drawn(labels, torch.full((3, 3, 4), 0.5))[0] == [[1, 1, 1, 2]] * 3


def test_an_image_of_background_alone_is_left_as_it_is() -> None:
    found, sam = drawn(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(1, 3, 4))
    assert found == [[0] * 4] * 3 and not sam.images


def test_each_connected_part_can_have_a_box_of_its_own() -> None:
    labels = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    settings = HqSamRefine(region="component")
    found, sam = drawn(labels, torch.full((2, 3, 4), 0.5), settings=settings)
    assert sam.boxes == [(0, 0, 1, 1), (3, 2, 3, 2)] and found == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_a_rough_mask_is_the_prediction_or_the_score_inside_it() -> None:
    region, score = torch.tensor([[True, True, False]]), torch.tensor([[0.5, 1.0, 0.9]])
    assert rough_logits(region, score, HqSamRefine(strength=4.0)).tolist() == [[4, 4, -4]]
    assert rough_logits(region, score, HqSamRefine(prompt="soft", strength=4.0)).tolist() == [[0, 4, -4]]
    for wrong in ({"region": "part"}, {"prompt": "x"}, {"strength": 0.0}):
        with pytest.raises(UserError, match=rf"settings\.{next(iter(wrong))}: "):
            HqSamRefine(**wrong)  # type: ignore[arg-type]


OFFICIAL = {
    "image_encoder.blocks.0.norm1.weight": "vision_encoder.layers.0.layer_norm1.weight",
    "image_encoder.blocks.1.attn.rel_pos_h": "vision_encoder.layers.1.attn.rel_pos_h",
    "image_encoder.patch_embed.proj.bias": "vision_encoder.patch_embed.projection.bias",
    "image_encoder.neck.1.weight": "vision_encoder.neck.layer_norm1.weight",
    "image_encoder.neck.2.weight": "vision_encoder.neck.conv2.weight",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "shared_image_embedding.positional_embedding",
    "prompt_encoder.point_embeddings.3.weight": "prompt_encoder.point_embed.3.weight",
    "prompt_encoder.mask_downscaling.4.bias": "prompt_encoder.mask_embed.layer_norm2.bias",
    "prompt_encoder.mask_downscaling.6.bias": "prompt_encoder.mask_embed.conv3.bias",
    "mask_decoder.transformer.layers.0.norm4.bias": "mask_decoder.transformer.layers.0.layer_norm4.bias",
    "mask_decoder.transformer.norm_final_attn.bias": "mask_decoder.transformer.layer_norm_final_attn.bias",
    "mask_decoder.output_upscaling.1.bias": "mask_decoder.upscale_layer_norm.bias",
    "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias": "mask_decoder.output_hypernetworks_mlps.2.proj_in.bias",
    "mask_decoder.output_hypernetworks_mlps.2.layers.1.bias": "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias",
    "mask_decoder.iou_prediction_head.layers.2.bias": "mask_decoder.iou_prediction_head.proj_out.bias",
    "mask_decoder.hf_token.weight": "mask_decoder.hq_token.weight",
    "mask_decoder.hf_mlp.layers.2.weight": "mask_decoder.hq_mask_mlp.proj_out.weight",
    "mask_decoder.compress_vit_feat.3.weight": "mask_decoder.compress_vit_conv2.weight",
    "mask_decoder.embedding_encoder.1.weight": "mask_decoder.encoder_norm.weight",
    "mask_decoder.embedding_maskfeature.0.weight": "mask_decoder.mask_conv1.weight",
}
SIDE = 64
TINY = {
    "vision_config": {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8, "mlp_dim": 16},
    "prompt_encoder_config": {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                            "iou_head_hidden_dim": 16, "vit_dim": 16},
}  # fmt: skip


def test_official_names_of_hq_sam_are_known() -> None:
    assert {name: transformers_name(name) for name in OFFICIAL} == OFFICIAL
    assert VARIANTS["vit_h"]["mask_decoder_config"]["vit_dim"] == 1280


def official_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's tensors; perceptrons and those of ``OFFICIAL`` under official names, the tied copy left out."""
    names, state = {other: name for name, other in OFFICIAL.items()}, {}
    for name, value in model.state_dict().items():
        official = names.get(name, name)
        if official == name and any(part in name for part in ("_mlps.", "hq_mask_mlp.", "iou_prediction_head.")):
            official = name.replace(".layers.0.", ".layers.1.").replace("proj_in.", "layers.0.")
            official = official.replace("proj_out.", "layers.2.").replace("hq_mask_mlp.", "hf_mlp.")
        state[official] = value
    del state["prompt_encoder.shared_embedding.positional_embedding"]
    return {**state, "pixel_mean": torch.zeros(3)}


def tiny_hq_sam(directory: Path) -> dict[str, Tensor]:
    """A model directory with random weights, and the checkpoint it came from."""
    import transformers

    model = transformers.SamHQModel(transformers.SamHQConfig(**TINY))
    state = model.state_dict()
    for number, (name, value) in enumerate(state.items()):
        value.copy_(random(*value.shape, seed=number) * (0.5 if value.ndim > 1 else 0.1) + ("norm.w" in name))
    directory.mkdir()
    checkpoint = {name: value.clone() for name, value in official_state(model).items()}
    assert write_hq_sam(directory, TINY, NORM, checkpoint, SIDE, "tiny") == sum(
        value.numel() for value in model.parameters()
    )
    return checkpoint


def reference_mask(sam: HqSam, image: Tensor, box: list[int], prompt: Tensor) -> Tensor:
    """transformers' own way from an image and a box to a mask, all at once."""
    import transformers

    processor = transformers.SamHQProcessor(transformers.SamImageProcessor(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, image_mean=list(NORM.mean),
        image_std=list(NORM.std)))  # fmt: skip
    inputs = processor(images=image.permute(2, 0, 1), input_boxes=[[box]], return_tensors="pt")
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    near(sam.encode(image).features, sam.model.get_image_embeddings(inputs["pixel_values"])[0], 0.15)
    output = sam.model(**{**inputs, "input_boxes": inputs["input_boxes"].float()}, input_masks=prompt,
                       multimask_output=False)  # fmt: skip
    return processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0][0, 0]


@torch.inference_mode()
def test_hq_sam_gives_the_mask_that_transformers_own_pipeline_gives(tmp_path: Path) -> None:
    checkpoint = tiny_hq_sam(tmp_path / "sam")
    sam = load_hq_sam(tmp_path / "sam")
    image = (
        F.interpolate(random(1, 3, 6, 8), (SIDE // 2, SIDE), mode="bilinear")[0].permute(1, 2, 0) * 50 + 128
    ).byte()
    prompt = torch.full((1, 1, 32, 32), -5.0)
    prompt[..., :16, :] = 5.0
    encoded = sam.encode(image)
    found = sam.mask(encoded, (3, 5, 40, 20), torch.full((32, 64), 5.0))
    expected = reference_mask(sam, image, [3, 5, 40, 20], prompt)
    assert found.shape == (32, 64) and float(found.std()) > 0.05
    near(found, expected, 1e-3)
    assert not torch.equal(found, sam.mask(encoded, (3, 5, 40, 20), torch.full((32, 64), -5.0)))
    assert not torch.equal(found, sam.mask(encoded, (9, 5, 40, 20), torch.full((32, 64), 5.0)))
    assert not torch.equal(found, sam.mask(encoded, (3, 5, 40, 20), torch.full((32, 64), 5.0), hq_only=True))
    large = sam.encode(F.interpolate(image.permute(2, 0, 1)[None], (90, 53))[0].permute(1, 2, 0))
    assert large.inner == (64, 38) and sam.mask(large, (0, 0, 52, 89), torch.ones(90, 53)).shape == (90, 53)
    refuse_damage(tmp_path / "sam", checkpoint)


def refuse_damage(directory: Path, checkpoint: dict[str, Tensor]) -> None:
    (directory / "preprocess.json").write_text('{"mean": [0, 0, 0], "std": [1, 1, 1], "input": 32}')
    with pytest.raises(UserError, match=r"preprocess\.json: input is 32, this model takes 64"):
        load_hq_sam(directory)
    with pytest.raises(UserError, match="tiny: 1 tensors do not belong to HQ-SAM, extra first"):
        write_hq_sam(directory, TINY, NORM, {**checkpoint, "extra": torch.ones(1)}, SIDE, "tiny")
    save_file({"extra": torch.ones(1)}, directory / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: lacks"):
        load_hq_sam(directory)


# CLIP Surgery

CLIP = small_clip()
IMAGE, TEXT = windows(1, 48, 32)[0], random(5, 16, seed=4)


def slow_features(image: Tensor, blocks: int) -> Tensor:
    """Class token and patches head by head, each with the modules of the network itself."""
    visual = CLIP.visual
    patches = visual.conv1(image[None]).flatten(2).transpose(1, 2)
    table = visual.positional_embedding
    grid = table[1:].T.reshape(1, -1, 4, 4)
    grid = F.interpolate(grid, (image.shape[1] // 8, image.shape[2] // 8), mode="bilinear").flatten(2).transpose(1, 2)
    tokens = torch.cat([(visual.class_embedding + table[0])[None, None], patches + grid], dim=1)
    tokens = visual.ln_pre(tokens)
    path = None
    for number, block in enumerate(visual.transformer.resblocks):
        if number == max(0, 3 - blocks):
            path = tokens.clone()
        if path is not None:
            normed = block.ln_1(tokens)
            values = F.linear(normed, block.attn.in_proj_weight[64:], block.attn.in_proj_bias[64:])
            mixed = [torch.softmax(part @ part.transpose(1, 2) / 8**0.5, -1) @ part for part in values.split(8, dim=-1)]
            path = path + block.attn.out_proj(torch.cat(mixed, dim=-1))
        tokens = block(tokens)
    assert path is not None
    return F.normalize(visual.ln_post(torch.cat([tokens[:, :1], path[:, 1:]], dim=1)) @ visual.proj, dim=-1)[0]


@pytest.mark.parametrize("blocks", [1, 2, 6])
@torch.inference_mode()
def test_the_new_path_adds_value_to_value_attention_and_no_feed_forward(blocks: int) -> None:
    for image in (IMAGE, windows(1, 32, 32)[0]):
        found = clip_surgery.surgery_features(CLIP.visual, image[None], clip_surgery.Settings(blocks=blocks))[0]
        near(found, slow_features(image, blocks))


@torch.inference_mode()
def test_scores_lose_the_similarity_to_an_empty_sentence() -> None:
    settings = clip_surgery.Settings()
    empty = F.normalize(encode_texts(CLIP, [form.replace("{}", "") for form in templates("openai80")]), dim=-1)
    empty = F.normalize(empty.mean(0), dim=-1)
    features, unit = slow_features(IMAGE, 6), F.normalize(TEXT, dim=-1)
    found = clip_surgery.class_scores(CLIP, IMAGE, TEXT, settings)
    near(found, features[0] @ unit.T - features[0] @ empty)
    best = clip_surgery.class_scores(CLIP, IMAGE, 7 * TEXT, clip_surgery.Settings(score="best_patch"))
    near(best, (features[1:] @ unit.T - (features[1:] @ empty)[:, None]).max(dim=0).values)
    native = windows(1, 32, 32)[0]
    plain = clip_surgery.class_scores(CLIP, native, TEXT, clip_surgery.Settings(correction="none"))
    near(plain, F.normalize(CLIP.model.encode_image(native[None]), dim=-1)[0] @ unit.T)


@torch.inference_mode()
def test_the_correction_by_a_list_takes_off_the_weighted_mean_of_the_products() -> None:
    features, unit = slow_features(IMAGE, 6), F.normalize(TEXT, dim=-1)
    shares = torch.softmax(2 * features @ unit.T, dim=-1)
    products = features[:, None] * unit * (shares / shares.mean(-1, keepdim=True))[..., None]
    expected = (products - products.mean(dim=1, keepdim=True)).sum(-1)
    for score, part in (("class_token", expected[:1]), ("best_patch", expected[1:])):
        settings = clip_surgery.Settings(correction="class_list", score=score)  # type: ignore[arg-type]
        near(clip_surgery.class_scores(CLIP, IMAGE, TEXT, settings), part.max(dim=0).values)


def test_settings_and_models_that_mean_nothing_are_refused() -> None:
    for wrong in ({"correction": "x"}, {"score": "x"}, {"position": "x"}, {"blocks": 0}, {"temperature": 0.0}):
        with pytest.raises(UserError, match=rf"settings\.{next(iter(wrong))}: "):
            clip_surgery.Settings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="ResNet tower"):
        clip_surgery.class_scores(small_clip(RESNET_CONFIG), IMAGE, TEXT, clip_surgery.Settings())
