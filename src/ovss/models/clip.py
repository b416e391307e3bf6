"""Loading CLIP models from model directories: open_clip's hub layout, safetensors only."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovss.errors import UserError
from ovss.models.openclip import open_clip

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "model.safetensors"
MERGES_FILE = "bpe.txt.gz"

_TEXT_MODULES = frozenset({"transformer", "token_embedding", "ln_final"})
_TEXT_PARAMETERS = frozenset({"positional_embedding", "text_projection"})

# CLIP's normalisation of RGB in 0..1, used where a configuration states none.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode, float32, with what its inputs need.

    mean, std: RGB in 0..1. image_size: native side (pixels). patch_size: patch side (vision transformer) or stride
    (ResNet). logit_scale: factor on cosines, exp of the learned value.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    patch_size: int
    logit_scale: float

    @property
    def visual(self) -> Any:
        """The vision tower (open_clip's VisionTransformer or ModifiedResNet)."""
        return self.model.visual

    @property
    def is_transformer(self) -> bool:
        """Whether the vision tower is a transformer (else a ResNet)."""
        return isinstance(self.model.visual, open_clip.transformer.VisionTransformer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device


def load_clip(directory: Path, device: str = "cpu") -> Clip:
    """Load a model directory: ``open_clip_config.json``, ``model.safetensors``, optional ``bpe.txt.gz``.

    Raises:
        UserError: a file is missing or damaged, or weights and configuration do not fit.
    """
    config_path = directory / CONFIG_FILE
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        model_cfg, preprocess = dict(config["model_cfg"]), config.get("preprocess_cfg", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config_path}: not a readable open_clip configuration ({error}); make it again") from error
    merges = directory / MERGES_FILE
    return build_clip(
        model_cfg,
        read_state(directory / WEIGHTS_FILE),
        device=device,
        mean=preprocess.get("mean", OPENAI_MEAN),
        std=preprocess.get("std", OPENAI_STD),
        merges=merges if merges.exists() else None,
        name=str(directory),
    )


def without_text(clip: Clip) -> Clip:
    """The same model without its text tower, which is of no use once texts are encoded (ViT-B/16: 0.25 GB)."""
    model = copy.copy(clip.model)
    model._modules = {name: part for name, part in model._modules.items() if name not in _TEXT_MODULES}
    model._parameters = {name: part for name, part in model._parameters.items() if name not in _TEXT_PARAMETERS}
    return dataclasses.replace(clip, model=model)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); make it again") from error


def build_clip(
    model_cfg: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    device: str = "cpu",
    mean: Any = OPENAI_MEAN,
    std: Any = OPENAI_STD,
    merges: Path | None = None,
    name: str = "model",
) -> Clip:
    """Build a CLIP from an open_clip model configuration and a state dict (OpenAI's names are the same).

    Args:
        model_cfg: keyword arguments of ``open_clip.CLIP``.
        state: tensors of any float type; they are cast to float32.
        device: torch device.
        mean: RGB mean in 0..1.
        std: RGB deviation in 0..1.
        merges: own BPE merges (.txt.gz); CLIP's where None.
        name: what error messages call the model.

    Raises:
        UserError: the state does not fit the configuration, or the vision tower is of a kind we cannot open up.
    """
    model = instantiate(model_cfg, state, name)
    check_tower(model.visual, name)
    model = model.float().eval().requires_grad_(False).to(device)
    vision = model_cfg["vision_cfg"]
    is_transformer = isinstance(model.visual, open_clip.transformer.VisionTransformer)
    size = vision.get("image_size", 224)
    return Clip(
        model=model,
        tokenizer=_tokenizer(model_cfg, merges),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        image_size=int(size if isinstance(size, int) else size[0]),
        patch_size=int(model.visual.patch_size[0]) if is_transformer else 32,
        logit_scale=float(model.logit_scale.exp()),
    )


def instantiate(model_cfg: Mapping[str, Any], state: Mapping[str, Tensor], name: str) -> Any:
    """An ``open_clip.CLIP`` with these weights.

    Raises:
        UserError: unknown configuration keys, or missing, surplus or misshapen tensors.
    """
    try:
        model = open_clip.CLIP(**model_cfg)
        model.load_state_dict({key: value.float() if value.is_floating_point() else value
                               for key, value in state.items()})  # fmt: skip
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: weights and configuration do not fit: {reason:.300}") from error
    return model


def check_tower(visual: Any, name: str) -> None:
    """Refuse vision towers whose blocks the dense variants cannot take apart.

    Raises:
        UserError: not a plain vision transformer or CLIP ResNet.
    """
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        if not hasattr(visual, "attnpool"):
            raise UserError(f"{name}: vision tower {type(visual).__name__} is not supported; use a ViT or CLIP ResNet")
        return
    plain = all(type(block) is open_clip.transformer.ResidualAttentionBlock for block in visual.transformer.resblocks)
    if visual.attn_pool is not None or not plain or visual.pool_type not in ("tok", "avg"):
        raise UserError(f"{name}: attention pooling and custom blocks are not supported; use a plain ViT")


def _tokenizer(model_cfg: Mapping[str, Any], merges: Path | None) -> Callable[[list[str]], Tensor]:
    length = model_cfg["text_cfg"].get("context_length", 77)
    if merges is None:
        return open_clip.SimpleTokenizer(context_length=length)
    return open_clip.SimpleTokenizer(bpe_path=str(merges), context_length=length)
