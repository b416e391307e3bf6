"""An official HQ-SAM checkpoint becomes a model directory of transformers: other names for the same tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import WEIGHTS_FILE
from ovss.models.resized import Norm
from ovss.models.transformers_models import CONFIG_FILE, PREPROCESS_FILE, load_transformers


def _variant(width: int, layers: int, heads: int, whole: tuple[int, ...]) -> dict[str, Any]:
    vision = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
              "global_attn_indexes": list(whole)}  # fmt: skip
    return {"vision_config": vision, "mask_decoder_config": {"vit_dim": width}}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vit_b": _variant(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _variant(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _variant(1280, 32, 16, (7, 15, 23, 31)),
}
"""Configuration of each official model, where it is not transformers' default."""

_PIXELS = ("pixel_mean", "pixel_std")
_SEQUENCES: Mapping[str, Mapping[str, str]] = {
    "neck": {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"},
    "mask_downscaling": {"0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"},
    "output_upscaling": {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"},
    "compress_vit_feat": {"0": "compress_vit_conv1", "1": "compress_vit_norm", "3": "compress_vit_conv2"},
    "embedding_encoder": {"0": "encoder_conv1", "1": "encoder_norm", "3": "encoder_conv2"},
    "embedding_maskfeature": {"0": "mask_conv1", "1": "mask_norm", "3": "mask_conv2"},
}
# Sequences whose own name stays, under this one.
_KEPT = {"neck": "neck.", "mask_downscaling": "mask_embed."}
_PERCEPTRON = re.compile(r"(output_hypernetworks_mlps\.\d+|hf_mlp|iou_prediction_head)\.layers\.([012])\.")
_PERCEPTRON_LAYERS = ("proj_in", "layers.0", "proj_out")
_PARTS = (
    *((f".{sequence}.{number}.", f".{_KEPT.get(sequence, '')}{member}.")
      for sequence, members in _SEQUENCES.items() for number, member in members.items()),
    ("image_encoder.blocks.", "vision_encoder.layers."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("point_embeddings.", "point_embed."),
    ("hf_token.", "hq_token."),
    ("hf_mlp.", "hq_mask_mlp."),
    (".norm", ".layer_norm"),
)  # fmt: skip


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of the official checkpoint."""
    name = _PERCEPTRON.sub(lambda found: f"{found[1]}.{_PERCEPTRON_LAYERS[int(found[2])]}.", name)
    for official, other in _PARTS:
        name = name.replace(official, other)
    return name


def write_hq_sam(
    out: Path, config: Mapping[str, Any], norm: Norm, checkpoint: Mapping[str, Tensor], side: int, name: str
) -> int:
    """Make a model directory of an official checkpoint, check it by loading, return the number of parameters.

    Args:
        out: folder to fill.
        config: one of ``VARIANTS``, or any other keys of transformers' SamHQConfig.
        norm: of colours in 0..1.
        checkpoint: tensors under their official names.
        side: input side in pixels.
        name: what error messages call it.

    Raises:
        UserError: tensors are missing or surplus or have other shapes than the configuration says.
    """
    state = {transformers_name(key): value.contiguous() for key, value in checkpoint.items() if key not in _PIXELS}
    record = {**config, "model_type": "sam_hq", "architectures": ["SamHQModel"]}
    (out / CONFIG_FILE).write_text(json.dumps(record, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    save_file(state, out / WEIGHTS_FILE)
    text = json.dumps({**norm.record(), "input": side}, sort_keys=True, indent=1)
    (out / PREPROCESS_FILE).write_text(text + "\n", encoding="utf-8")
    model = load_transformers(out)
    surplus = sorted(set(state) - set(model.state_dict()))
    if surplus:
        raise UserError(f"{name}: {len(surplus)} tensors do not belong to HQ-SAM, {surplus[0]} first; fetch it again")
    return sum(parameter.numel() for parameter in model.parameters())
