"""TCL against the published code, array by array: texts, tokens, masks, refinement, whole inference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.models import clip_pixels as pixels
from ovss.models.clip import build_clip
from ovss.models.grounder import make_grounder
from ovss.models.maskclip_map import maskclip_masks
from ovss.models.pamr import Pamr, refine, refine_coarse
from ovss.models.tcl import TclModel
from ovss.models.tcl_checkpoint import split_state
from ovss.models.tcl_text import mean_embedding
from ovss.models.text import encode_tokens

TOLERANCE = 1e-4
INPUTS = {"tokens", "template_tokens", "a_image", "b_image", "pamr_image", "pamr_mask_in"}


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def expected(ttd_golden: Path) -> dict[str, Tensor]:
    return arrays(ttd_golden / "tcl_io.npz")


@pytest.fixture(scope="module")
def model(ttd_golden: Path) -> TclModel:
    sizes = json.loads((ttd_golden / "tcl_config.json").read_text())
    vision = {"image_size": sizes["image_resolution"], "layers": sizes["vlayers"], "width": sizes["vwidth"],
              "head_width": sizes["vwidth"] // sizes["vheads"], "patch_size": sizes["patch"]}  # fmt: skip
    text = {"context_length": sizes["context"], "vocab_size": sizes["vocab"], "width": sizes["twidth"],
            "heads": sizes["theads"], "layers": sizes["tlayers"]}  # fmt: skip
    parts = split_state(arrays(ttd_golden / "tcl_weights.npz"), "reference")
    config = {"embed_dim": sizes["embed_dim"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    clip = build_clip(config, parts.clip)
    return TclModel(clip, make_grounder(clip.visual, parts.grounder, 2, "reference")).eval()


@pytest.fixture(scope="module")
def computed(model: TclModel, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {**texts(model, expected), **from_tokens(model, expected), **refined(expected),
                **whole(model, expected, "a"), **whole(model, expected, "b")}  # fmt: skip


def texts(model: TclModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    forms = given["template_tokens"]
    each = encode_tokens(model.clip, forms.flatten(0, 1)).unflatten(0, forms.shape[:2])
    return {"text_emb": encode_tokens(model.clip, given["tokens"]), "template_text_emb": mean_embedding(each)}


def from_tokens(model: TclModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the tokens before the last block on; from the image, where the folder has it."""
    visual, found, text = model.clip.visual, {}, given["text_emb"]
    tokens = given["a_image_feat"].transpose(0, 1)
    grid = tuple(given["a_maskclip_pixel_emb"].shape[-2:])
    if "a_image" in given:
        tokens = pixels.image_tokens(visual, given["a_image"])
    found["a_image_feat"] = tokens.transpose(0, 1)
    last = pixels.value_tokens(visual.transformer.resblocks[-1], tokens[:, 1:])
    found["a_clip_last_spatial"] = last.transpose(1, 2).unflatten(2, grid)
    found["a_maskclip_pixel_emb"] = pixels.maskclip_embeddings(visual, tokens, grid)
    found["a_clip_global_emb"] = visual.ln_post(visual.transformer.resblocks[-1](tokens)[:, 0]) @ visual.proj
    found["a_grounder_pixel_emb"] = model.grounder(tokens, grid)
    found["a_simmap"] = pixels.similarity_maps(found["a_grounder_pixel_emb"], text)
    found["a_softmask"] = model.to_masks(found["a_simmap"])
    found["a_hardmask"] = (found["a_softmask"] > 0.5).float()
    kept = maskclip_masks(pixels.similarity_maps(found["a_maskclip_pixel_emb"], text))
    kept = torch.nn.functional.interpolate(kept, found["a_softmask"].shape[-2:], mode="bilinear")
    found["a_kp_softmask"] = 0.3 * kept + 0.7 * found["a_softmask"]
    if "a_image" in given:
        found["a_pamr_softmask"] = refine_coarse(found["a_softmask"], given["a_image"], Pamr())
    return found


def refined(given: dict[str, Tensor]) -> dict[str, Tensor]:
    masks, image = given["pamr_mask_in"], given["pamr_image"]
    return {
        "pamr_out_iter10": refine(masks, image, Pamr()),
        "pamr_out_iter1_d12": refine(masks, image, Pamr(1, (1, 2))),
    }


def whole(model: TclModel, given: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    if f"{which}_image" not in given:
        return {}
    image, text = given[f"{which}_image"], given["text_emb"]
    padded, _ = pixels.pad_images(image, model.clip.patch_size)
    found = {f"{which}_generate_simmap": pixels.similarity_maps(model.pixel_embeddings(padded), text)}
    for pamr, weight in ((pamr, weight) for pamr in (0, 1) for weight in (0.0, 0.3)):
        masks = model.generate_masks(image, text, weight, Pamr() if pamr else None)
        found[f"{which}_generate_masks_pamr{pamr}_kp{weight}"] = masks
    labels = pixels.with_background(masks, 0.4).argmax(dim=1)
    return {**found, f"{which}_argmax_bg0.4_pamr1_kp0.3": labels.to(torch.uint8)}


def test_every_array_of_the_published_code_is_compared(computed, expected) -> None:
    assert set(expected) - INPUTS <= set(computed)


@pytest.mark.parametrize("group", ["text", "template", "a_", "b_", "pamr_"])
def test_arrays_equal_those_of_the_published_code(computed, expected, group: str) -> None:
    names = [name for name in expected if name.startswith(group) and name in computed]
    assert names
    for name in names:
        assert computed[name].shape == expected[name].shape, name
        if name.endswith(("hardmask", "kp0.3")) and expected[name].dtype == torch.uint8:
            assert (computed[name] != expected[name]).float().mean() < 1e-3, name
        else:
            np.testing.assert_allclose(computed[name], expected[name], rtol=0, atol=TOLERANCE, err_msg=name)
