"""Train a small CLIP (open_clip's own model, contrastive loss) on the procedural world.

Command: ``ovss run clip`` at a tiny scale. Radford et al. 2021 (CLIP); patch dropout: Li et al. 2023 (FLIP).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ovss.config.world import ClipTrainParams
from ovss.jobs import JobContext
from ovss.training.bpe import learn_merges, load_tokenizer, write_merges
from ovss.training.loop import Curves, fit, one_thread, open_curves
from ovss.training.views import HELD_OUT, MEAN, STD, TRAIN, VOCABULARY, Batch, Views, batches, normalise
from ovss.world.captions import templates
from ovss.world.classes import CLASSES, STUFF, nouns

CAPTIONS_FOR_MERGES = 2000
MAX_LOGIT_SCALE = 100.0


def model_config(params: ClipTrainParams, vocabulary: int) -> dict[str, Any]:
    """The model_cfg of open_clip_config.json."""
    vision = {
        "image_size": params.image_size,
        "patch_size": params.patch_size,
        "width": params.width,
        "layers": params.layers,
        "head_width": params.head_width,
        "mlp_ratio": params.mlp_ratio,
        "patch_dropout": params.patch_dropout,
    }
    text = {
        "context_length": params.context_length,
        "vocab_size": vocabulary,
        "width": params.text_width,
        "heads": params.text_heads,
        "layers": params.text_layers,
    }
    return {"embed_dim": params.embed_dim, "quick_gelu": params.quick_gelu, "vision_cfg": vision, "text_cfg": text}


def learn_vocabulary(params: ClipTrainParams, seed: int) -> list[tuple[str, str]]:
    """Merges from captions of a stream that no model is trained on, and from the prompts of all classes."""
    batch = Views(seed, VOCABULARY, params.views).batch(0, CAPTIONS_FOR_MERGES, 16)
    prompts = [t.format(noun) for name in CLASSES for noun in nouns(name) for t in templates()]
    return learn_merges([c.text for c in batch.captions] + prompts, params.merges)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """``model.encode_text(tokens, normalize=True)`` minus the padding behind the longest text: (B, T) -> (B, D).

    Exact: the text tower is causal and reads the end token only, which has the largest id.
    """
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


def class_features(model: CLIP, tokenizer: SimpleTokenizer) -> Tensor:
    """Zero-shot classifier of the 28 classes from the tiny templates, float32 (28, D), unit norm."""
    rows = [encode_text(model, tokenizer([t.format(name) for t in templates()])).mean(0) for name in CLASSES]
    return functional.normalize(torch.stack(rows), dim=-1)


@torch.no_grad()
def held_out_metrics(model: CLIP, tokenizer: SimpleTokenizer, batch: Batch, chunk: int = 64) -> dict[str, float]:
    """Retrieval R@1 and R@5 (caption of an image) and zero-shot accuracy of the largest thing, in percent."""
    model.eval()
    images = normalise(batch.images)
    features = torch.cat([model.encode_image(part, normalize=True) for part in images.split(chunk)])
    texts = encode_text(model, tokenizer([c.text for c in batch.captions]))
    ranks = (features @ texts.T).argsort(dim=1, descending=True)
    found = ranks == torch.arange(len(ranks))[:, None]
    things = batch.shares[:, len(STUFF) :]
    shown = torch.from_numpy(np.flatnonzero(things.max(axis=1) >= 0.05))
    truth = torch.from_numpy(things.argmax(axis=1))[shown]
    guess = (features[shown] @ class_features(model, tokenizer)[len(STUFF) :].T).argmax(dim=1)
    model.train()
    return {
        "retrieval_r1": 100 * found[:, :1].any(1).double().mean().item(),
        "retrieval_r5": 100 * found[:, :5].any(1).double().mean().item(),
        "zero_shot_thing_top1": 100 * (guess == truth).double().mean().item(),
        "logit_scale": model.logit_scale.exp().item(),
    }


def build_model(config: dict[str, Any], position_std: float) -> CLIP:
    """open_clip's CLIP with small initial position embeddings, so that they stay smooth enough to be resampled."""
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"])
    with torch.no_grad():
        model.visual.positional_embedding.normal_(0.0, position_std)
    return model


def train_clip(
    params: ClipTrainParams, seed: int, tokenizer: SimpleTokenizer, curves: Curves, ahead: bool = False
) -> CLIP:
    """Train from nothing; the caller has seeded torch. ``ahead``: views are drawn by a second process."""
    schedule, size = params.schedule, params.image_size
    model = build_model(model_config(params, tokenizer.vocab_size), params.position_std)
    model.train()
    contrast = ClipLoss()
    held_out = Views(seed, HELD_OUT, params.views).batch(0, params.val_views, size)
    views = batches(Views(seed, TRAIN, params.views), schedule.steps, schedule.batch, size, ahead)
    unmasked_from = round(schedule.steps * (1 - params.unmasked))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        if params.patch_dropout and step == unmasked_from:
            model.visual.patch_dropout.prob = 0.0
        batch = next(views)
        image = model.encode_image(normalise(batch.images), normalize=True)
        text = encode_text(model, tokenizer([c.text for c in batch.captions]))
        loss = contrast(image, text, model.logit_scale.exp())
        return loss, {"logit_scale": model.logit_scale.exp().item()}

    def clamp(step: int) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, float(np.log(MAX_LOGIT_SCALE)))

    fit(model, schedule, loss_of, curves, clamp, lambda: held_out_metrics(model, tokenizer, held_out))
    return model.eval()


def write_model(model: CLIP, config: dict[str, Any], out: Path) -> None:
    """The open_clip hub layout: open_clip_config.json and model.safetensors."""
    preprocess = {"mean": list(MEAN), "std": list(STD), "interpolation": "bilinear"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, sort_keys=True, indent=1)
    (out / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(out / "model.safetensors"))


def write_samples(batch: Batch, out: Path, columns: int = 8, rows: int = 4) -> None:
    """samples.png (a sheet of views) and samples.csv (their captions, in reading order)."""
    count = min(rows * columns, len(batch.images))
    columns = min(columns, count)
    sheet = batch.images[: count // columns * columns].reshape(-1, columns, *batch.images.shape[1:])
    Image.fromarray(np.concatenate([np.concatenate(list(line), axis=1) for line in sheet])).save(out / "samples.png")
    with (out / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["caption"])
        writer.writerows([c.text] for c in batch.captions[:count])


def run(ctx: JobContext) -> dict[str, object]:
    """Stage ``train_clip``: params {model: ``ClipTrainParams``}; writes a model directory with curves and samples."""
    params = ClipTrainParams.model_validate(ctx.params["model"])
    write_merges(ctx.out / "bpe.txt.gz", learn_vocabulary(params, ctx.seed))
    tokenizer = load_tokenizer(ctx.out / "bpe.txt.gz", params.context_length)
    with one_thread(ctx.seed), open_curves(ctx.out / "curves.csv") as file:
        model = train_clip(params, ctx.seed, tokenizer, Curves(file), ahead=True)
    write_model(model, model_config(params, tokenizer.vocab_size), ctx.out)
    write_samples(Views(ctx.seed, TRAIN, params.views).batch(0, params.schedule.batch, params.image_size), ctx.out)
    return {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": tokenizer.vocab_size}
