"""Patch and class-token features against the published code's, array by array."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from reference_clip import Reference

from ovss.models.features import Features

TOLERANCE = 1e-4
FAMILIES = {"alt_attnonly_": "attention_only", "alt_fullblock_": "full_block", "": "freecp_block"}


@pytest.fixture(scope="session")
def compute(reference: Reference):
    features = cache(lambda image: Features(reference.clip, reference.images[image]))

    @torch.inference_mode()
    def of(name: str) -> torch.Tensor:
        image, *middle, kind = name.split("__")
        variant = middle[0] if middle else "class"
        if kind == "class_logits":
            position = "antialias" if variant == "GEM" else "scale"
            return reference.clip.logit_scale * features(image).get("image", position=position)[0] @ reference.query.T
        tokens = tokens_of(features(image), variant)[0]
        if kind == "features":
            return tokens
        scale = {"patch_logits": reference.clip.logit_scale, "cosine": 1.0}[kind]
        return scale * tokens[1:] @ reference.query.T

    def tokens_of(image: Features, variant: str) -> torch.Tensor:
        if variant == "GEM":
            return image.get("gem_tokens", depth=reference.gem_depth, iterations=1, limit="none")
        prefix = next(prefix for prefix in FAMILIES if variant.startswith(prefix))
        return image.get("tokens", variant=variant.removeprefix(prefix), family=FAMILIES[prefix])

    return of


def test_dense_array_equals_the_published_code(dense_array: str, reference: Reference, compute) -> None:
    expected = reference.dense[dense_array]
    computed = compute(dense_array).numpy()
    assert computed.shape == expected.shape
    np.testing.assert_allclose(computed, expected, rtol=0, atol=TOLERANCE)
