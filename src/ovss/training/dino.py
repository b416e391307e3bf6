"""Train a small self-distilled ViT on the procedural world's views, without captions or labels.

DINO (Caron et al. 2021): student and teacher see different crops of a scene; the student's class-token distribution
must match the teacher's, which is centred and sharpened; the teacher is a moving average of the student. Patches
hidden from the student are matched as well (iBOT, Zhou et al. 2022). At this size and length of training the features
are weak; they are a working part, not evidence about DINO.
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ovss.config.world import DinoTrainParams
from ovss.jobs import JobContext
from ovss.training.loop import Curves, fit, one_thread, open_curves
from ovss.training.views import HELD_OUT, MEAN, STD, TRAIN, normalise, sample_box, scene_of
from ovss.world.scenes import load_banks, render

CENTRE_MOMENTUM = 0.9
MASK_SHARE = 0.3
VAL_IMAGES = 32


def architecture(params: DinoTrainParams) -> dict[str, int | bool]:
    """Arguments of timm's VisionTransformer."""
    return {
        "img_size": params.image_size,
        "patch_size": params.patch_size,
        "embed_dim": params.width,
        "depth": params.layers,
        "num_heads": params.heads,
        "num_classes": 0,
        "dynamic_img_size": True,
    }


class Tower(nn.Module):
    """Backbone and DINO head (three layers, then a cosine layer onto the prototypes)."""

    def __init__(self, params: DinoTrainParams) -> None:
        super().__init__()
        width, hidden = params.width, 4 * params.width
        self.backbone = VisionTransformer(**architecture(params))  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.prototypes = nn.Parameter(torch.randn(params.prototypes, width))
        self.mask_token = nn.Parameter(torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> cosines with the prototypes, (B, 1 + n, K), class token first."""
        features = functional.normalize(self.head(self.backbone.forward_features(images)), dim=-1)
        return features @ functional.normalize(self.prototypes, dim=-1).T


def crops(
    seed: int, step: int, params: DinoTrainParams, stream: int = TRAIN
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two global crops (2, B, S, S, 3) and the local crops (n, B, S/2, S/2, 3) of each of the step's scenes."""
    batch, size = params.schedule.batch, params.image_size
    banks = load_banks(seed, params.views.variants)
    wide = params.views.model_copy(update={"zoom": 1.0, "crop": (0.6, 1.0), "aimed": 0.0})
    close = params.views.model_copy(update={"zoom": 1.0, "crop": (0.25, 0.5)})
    large = np.empty((2, batch, size, size, 3), np.uint8)
    small = np.empty((params.local_crops, batch, size // 2, size // 2, 3), np.uint8)
    for k in range(batch):
        scene = scene_of(seed, stream, step * batch + k, params.views, banks)
        rng = np.random.default_rng([seed, stream, step * batch + k, 0])
        for target, views in ((large, wide), (small, close)):
            for crop in range(len(target)):
                image = render(scene, banks, target.shape[2:4], sample_box(rng, scene, views)).image
                target[crop, k] = image[:, ::-1] if rng.random() < 0.5 else image
    return large, small


def hide(images: Tensor, token: Tensor, patch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace random patches of (B, 3, H, W) by ``token`` (3,); returns the images and the mask (B, n)."""
    batch, _, height, width = images.shape
    rows, columns = height // patch, width // patch
    mask = torch.rand((batch, rows, columns), generator=generator) < MASK_SHARE
    pixels = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return torch.where(pixels, token.view(1, 3, 1, 1), images), mask.flatten(1)


class Distillation:
    """Teacher, its centres, and the loss of a step."""

    def __init__(self, params: DinoTrainParams, seed: int) -> None:
        self.params, self.seed = params, seed
        self.student, self.teacher = Tower(params), Tower(params)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.centres = torch.zeros(2, params.prototypes)
        self.generator = torch.Generator().manual_seed(seed)

    def _targets(self, cosines: Tensor) -> Tensor:
        """Teacher distributions (B, 1 + n, K), centred (class token and patches apart) and sharpened."""
        centred = torch.cat([cosines[:, :1] - self.centres[0], cosines[:, 1:] - self.centres[1]], dim=1)
        batch_means = torch.stack([cosines[:, 0].mean(0), cosines[:, 1:].mean((0, 1))])
        self.centres.lerp_(batch_means, 1 - CENTRE_MOMENTUM)
        return functional.softmax(centred / self.params.teacher_temperature, dim=-1)

    def loss_of(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """DINO loss over all pairs of different crops plus the masked-patch loss."""
        p = self.params
        large, small = crops(self.seed, step, p)
        views = [normalise(image) for image in large]
        with torch.no_grad():
            targets = self._targets(self.teacher(torch.cat(views))).chunk(2)
        hidden, mask = hide(torch.cat(views), self.student.mask_token, p.patch_size, self.generator)
        guesses = (self.student(hidden) / p.student_temperature).log_softmax(dim=-1)
        masked = torch.cat(targets)[:, 1:][mask] * guesses[:, 1:][mask]
        patch_loss = -masked.sum(-1).mean()
        students = [part[:, 0] for part in guesses.chunk(2)]
        for image in small:
            students.append((self.student(normalise(image))[:, 0] / p.student_temperature).log_softmax(dim=-1))
        pairs = [(t, s) for t in range(2) for s in range(len(students)) if s != t]
        image_loss = torch.stack([-(targets[t][:, 0] * students[s]).sum(-1).mean() for t, s in pairs]).mean()
        used = torch.cat(targets)[:, 0].mean(0)
        spread = (-(used * used.clamp_min(1e-9).log()).sum()).exp()
        return image_loss + p.patch_loss * patch_loss, {
            "image_loss": image_loss.item(),
            "patch_loss": patch_loss.item(),
            "prototypes_used": spread.item(),
        }

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the teacher towards the student; the momentum rises to 1 along a cosine."""
        done = step / max(1, self.params.schedule.steps)
        momentum = 1 - (1 - self.params.momentum) * 0.5 * (1 + math.cos(math.pi * done))
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


@torch.no_grad()
def same_class_ratio(backbone: VisionTransformer, seed: int, params: DinoTrainParams) -> dict[str, float]:
    """Mean cosine of patch pairs of one class minus that of pairs of two classes, over held-out scenes.

    Also for the mean colours of the patches (``raw_*``): a representation worth having exceeds them.
    """
    banks, size, patch = load_banks(seed, params.views.variants), params.image_size, params.patch_size
    gaps: dict[str, list[float]] = {"same_minus_different": [], "raw_same_minus_different": []}
    for k in range(VAL_IMAGES):
        scene = scene_of(seed, HELD_OUT, k, params.views, banks)
        view = render(scene, banks, (size, size), (0.0, 0.0, 1.0, 1.0))
        label = torch.from_numpy(view.label[patch // 2 :: patch, patch // 2 :: patch].astype(np.int64)).flatten()
        same = label[:, None] == label[None, :]
        if bool(same.all()):
            continue
        image = normalise(view.image[None])
        raw = functional.avg_pool2d(image, patch)[0].flatten(1).T
        for name, tokens in (("", backbone.forward_features(image)[0, 1:]), ("raw_", raw)):
            unit = functional.normalize(tokens - tokens.mean(0), dim=-1)
            cosine = unit @ unit.T
            gaps[name + "same_minus_different"].append((cosine[same].mean() - cosine[~same].mean()).item())
    return {name: float(np.mean(values)) for name, values in gaps.items()}


def run(ctx: JobContext) -> dict[str, object]:
    """Stage ``train_dino``: params {model: ``DinoTrainParams``}; writes a timm model directory with curves."""
    params = DinoTrainParams.model_validate(ctx.params["model"])
    with one_thread(ctx.seed), open_curves(ctx.out / "curves.csv") as file:
        distillation = Distillation(params, ctx.seed)
        teacher = distillation.teacher.backbone

        def check() -> dict[str, float]:
            return same_class_ratio(teacher.eval(), ctx.seed, params)

        fit(distillation.student, params.schedule, distillation.loss_of, Curves(file), distillation.follow, check)
    config = {"architecture": architecture(params), "mean": list(MEAN), "std": list(STD)}
    text = json.dumps(config, sort_keys=True, indent=1) + "\n"
    (ctx.out / "timm_config.json").write_text(text, encoding="utf-8")
    save_file({k: v.contiguous() for k, v in teacher.state_dict().items()}, str(ctx.out / "model.safetensors"))
    return {"parameters": sum(p.numel() for p in teacher.parameters())}
