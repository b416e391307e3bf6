"""TAG's segments and their embeddings against the published code's, step by step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss.methods._tag_cluster import Scene, cluster_maps, find_clusters, refine, released_colours
from ovss.methods._tag_segment import Segmenting, patch_features, segment_embeddings
from ovss.models import crf
from ovss.models.clip import Clip, build_clip, read_state
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.kmeans import Patches, Upsampling, kmeans
from ovss.models.resized import Norm
from ovss.models.timm_models import import_timm

TOLERANCE = 1e-4
SIDE, PATCH = 112, 14
RELEASED = Segmenting(n_clusters=5)


@dataclass(frozen=True)
class Golden:
    arrays: dict[str, np.ndarray]
    clip: Clip
    dino: Dino

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])


@pytest.fixture(scope="module")
def golden(tag_golden: Path) -> Golden:
    config = json.loads((tag_golden / "config.json").read_text(encoding="utf-8"))
    with np.load(tag_golden / "arrays.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    state = read_state(tag_golden / "tiny_clip.safetensors")
    rows = state.pop("token_embedding.used_rows")
    table = torch.zeros(config["clip"]["text_cfg"]["vocab_size"], rows.shape[1])
    table[state.pop("token_embedding.used_ids").long()] = rows.float()
    clip = build_clip(config["clip"], {**state, "token_embedding.weight": table})
    model = import_timm().VisionTransformer(**config["dino"])
    model.load_state_dict(read_state(tag_golden / "tiny_dino.safetensors"))
    norm = Norm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    dino = Dino(model.eval().requires_grad_(False), norm)
    return Golden(arrays, clip, dino)


@pytest.fixture(scope="module")
def upsampling() -> Upsampling:
    return Upsampling.between((SIDE // PATCH,) * 2, (SIDE, SIDE))


def features_of(golden: Golden, image: int) -> Features:
    colours = golden.tensor("images")[image : image + 1]
    return Features(golden.clip, colours, lambda: colours, {"segmenter": golden.dino})


def near(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=TOLERANCE)


def test_dino_tokens_are_those_of_timm(golden: Golden) -> None:
    near(golden.dino.tokens(golden.tensor("images"), (8, 8), "timm", False), golden.arrays["dino_tokens"])


@torch.inference_mode()
@pytest.mark.parametrize("image", [0, 1])
def test_gem_s_projected_tokens_are_those_of_the_published_code(golden: Golden, image: int) -> None:
    tokens = features_of(golden, image).get("gem_projected", depth=7, iterations=1)[0]
    near(tokens, golden.arrays["gem_tokens"][image])


@pytest.mark.parametrize("image", [0, 1])
def test_kmeans_from_the_same_starts_ends_in_the_same_clusters(golden: Golden, image: int) -> None:
    starts = golden.tensor("kmeans_init_centers")[image]
    found = kmeans(Patches(golden.tensor("dino_tokens")[image]), starts, 100, 1e-4)
    np.testing.assert_array_equal(found.labels.numpy(), golden.arrays["kmeans_labels"][image])
    near(found.centres, golden.arrays["kmeans_centers"][image])
    assert found.inertia == pytest.approx(golden.arrays["kmeans_inertia"][image], rel=1e-5)


@pytest.mark.parametrize("image", [0, 1])
def test_pixel_logits_are_centres_times_upsampled_tokens(golden: Golden, upsampling: Upsampling, image: int) -> None:
    tokens, centres = golden.tensor("dino_tokens")[image], golden.tensor("kmeans_centers")[image]
    maps = cluster_maps(tokens, centres, RELEASED, upsampling)
    near(maps, golden.arrays["dino_logits"][image])
    assert (maps.argmax(0).numpy() != golden.arrays["cluster_map"][image]).mean() <= 0.001


@pytest.mark.parametrize("image", [0, 1])
def test_the_crf_s_marginals_are_pydensecrf_s(golden: Golden, image: int) -> None:
    colours = released_colours(golden.tensor("images")[image])
    kernels = [(crf.make_edges(crf.positions((SIDE, SIDE), 1)), 3.0),
               (crf.make_edges(crf.positions_and_colours(colours, 67, 3)), 4.0)]  # fmt: skip
    found = refine(golden.tensor("dino_logits")[image], kernels, RELEASED)
    near(found, golden.arrays["crf_q"][image])
    assert (found.argmax(0).numpy() != golden.arrays["cluster_map_crf"][image]).mean() <= 0.001


@pytest.mark.parametrize("ending", ["", "_crf", "_empty_cluster"])
def test_segment_embeddings_are_means_of_upsampled_tokens(golden: Golden, upsampling: Upsampling, ending: str) -> None:
    maps = golden.tensor(f"cluster_map{ending}").long()
    for image, labels in enumerate(maps):
        dense = golden.tensor("gem_tokens")[image, 1:]
        found, pixels = segment_embeddings(labels, 5, dense, upsampling)
        near(found, golden.arrays[f"segment_embeddings{ending}"].reshape(2, 5, -1)[image])
        assert pixels.tolist() == torch.bincount(labels.flatten(), minlength=5).tolist()


@torch.inference_mode()
@pytest.mark.parametrize("image", [0, 1])
def test_the_whole_way_from_an_image_gives_the_published_map(
    golden: Golden, upsampling: Upsampling, image: int, monkeypatch
) -> None:
    starts = golden.tensor("kmeans_init_centers")[image]
    monkeypatch.setattr("ovss.models.kmeans.Patches.at", lambda self, index: starts)
    settings = Segmenting(
        n_clusters=5, dino_position="timm", crf_gaussian_sxy=448 / SIDE, crf_bilateral_sxy=67 * 448 / SIDE
    )
    colours = golden.tensor("images")[image]
    pixels = (colours * 255).round().byte().permute(1, 2, 0)
    labels = find_clusters(Scene(str(image), pixels, False, golden.dino, finer=colours), settings)
    assert (labels.numpy() != golden.arrays["cluster_map_crf"][image]).mean() <= 0.001
    dense = patch_features(features_of(golden, image), settings)
    found, _ = segment_embeddings(labels, 5, dense, upsampling)
    near(found, golden.arrays["segment_embeddings_crf"].reshape(2, 5, -1)[image])
