"""TAG's segments: k-means and CRF against slow direct forms, and a pass whose results depend on nothing else."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from small_clip import small_clip, write_model_directory

from ovss.errors import UserError
from ovss.evaluation import cluster_maps as clusters
from ovss.evaluation import segments
from ovss.evaluation.batch import make_view
from ovss.evaluation.protocol import Protocol
from ovss.evaluation.segments_file import SegmentsFile
from ovss.jobs import Item, JobContext, Machine
from ovss.methods import _tag_segment
from ovss.methods._tag_cluster import Clustering, cluster_maps, released_colours
from ovss.methods._tag_segment import Embedding, Segmenting, embed, propose, segment_embeddings
from ovss.models import crf
from ovss.models.clip import load_clip
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.kmeans import Patches, Pixels, Upsampling, draw_starts, kmeans
from ovss.models.lattice import Bags, make_lattice
from ovss.models.resized import Norm
from ovss.models.timm_models import import_timm

NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0,
       "dynamic_img_size": True}  # fmt: skip
PROTOCOL = {"short_side": 48, "crop": None, "stride": None, "resize": "square", "normalisation": "unit",
            "names": "", "templates": "none", "logit_scale": 1}  # fmt: skip
# Of each row the settings of both steps, and what its protocol has of its own.
ROWS: dict[str, tuple[dict, dict, dict]] = {
    "released": ({"n_clusters": 5}, {}, {}),
    "more": ({"n_clusters": 9}, {"gem_depth": 2, "gem_iterations": 2}, {}),
    "paper": ({"n_clusters": 5, "kmeans_on": "pixels", "assign": "euclidean", "crf": False}, {}, {}),
    "own_norms": ({"n_clusters": 5, "dino_position": "timm", "crf_colours": "image"}, {"dense": "MaskCLIP"},
                  {"normalisation": "model"}),
}  # fmt: skip
SIZES = [(50, 70), (33, 41), (64, 48)]
SEEDS = st.integers(0, 2**16)


def vit(seed: int = 0, **changes: object) -> torch.nn.Module:
    model = import_timm().VisionTransformer(**{**VIT, **changes})
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) * 0.5)
    return model.eval().requires_grad_(False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=tolerance)


def upsampled(tokens: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Features of all pixels, (H*W, D)."""
    maps = tokens.T.reshape(1, -1, *grid)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0].flatten(1).T


def lloyd(points: torch.Tensor, starts: torch.Tensor, steps: int) -> tuple[np.ndarray, float]:
    """Labels and inertia of the best start, point by point in double precision."""
    best: tuple[np.ndarray, float] = (np.empty(0), np.inf)
    values = points.double().numpy()
    for start in starts.double().numpy():
        centres = start.copy()
        for _ in range(steps):
            labels = ((values[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
            means = [values[labels == k].mean(0) if (labels == k).any() else 0 * centres[k] for k in range(len(start))]
            centres = np.stack(means)
        inertia = float(((values - centres[labels]) ** 2).sum())
        if inertia < best[1]:
            best = labels, inertia
    return best


@given(SEEDS, st.integers(1, 6), st.booleans())
def test_kmeans_is_lloyd_s_on_patches_and_on_upsampled_pixels(seed: int, clusters: int, on_pixels: bool) -> None:
    grid, size = (3, 4), (7, 10)
    tokens = random(12, 5, seed=seed)
    upsampling = Upsampling.between(grid, size)
    points = Pixels(tokens, upsampling) if on_pixels else Patches(tokens)
    direct = upsampled(tokens, grid, size) if on_pixels else tokens
    starts = draw_starts(points.count, clusters, 3, seed)
    near(points.at(starts), direct[starts])
    found = kmeans(points, points.at(starts), 60, 1e-6)
    labels, inertia = lloyd(direct, direct[starts], 60)
    assert found.inertia == pytest.approx(inertia, rel=1e-4, abs=1e-3)
    np.testing.assert_array_equal(found.labels.numpy(), labels)


def test_an_empty_cluster_s_centre_becomes_zero_and_the_first_of_equal_centres_takes_all() -> None:
    tokens = random(8, 3) + 5
    starts = torch.stack([torch.stack([tokens[0], tokens[0], tokens[1]])])
    found = kmeans(Patches(tokens), starts, 20, 1e-6)
    assert found.centres[1].tolist() == [0, 0, 0] and not (found.labels == 1).any()
    same = kmeans(Patches(torch.ones(6, 2)), torch.ones(2, 3, 2), 5, 1e-6)
    assert same.labels.tolist() == [0] * 6 and same.start == 0


@given(SEEDS)
def test_starts_are_different_points_and_the_seed_alone_draws_them(seed: int) -> None:
    drawn = draw_starts(20, 6, 4, seed)
    assert drawn.equal(draw_starts(20, 6, 4, seed)) and not drawn.equal(draw_starts(20, 6, 4, seed + 1))
    assert all(len(set(row)) == 6 for row in drawn.tolist())


@given(SEEDS)
def test_assignment_of_pixels_is_by_product_or_by_distance(seed: int) -> None:
    grid, size = (3, 4), (9, 8)
    tokens, centres = random(12, 5, seed=seed), random(4, 5, seed=seed + 1)
    pixels = upsampled(tokens, grid, size)
    upsampling = Upsampling.between(grid, size)
    product = cluster_maps(tokens, centres, Clustering(), upsampling)
    near(product.flatten(1), centres @ pixels.T)
    distance = cluster_maps(tokens, centres, Clustering(assign="euclidean"), upsampling)
    squares = torch.cdist(centres, pixels).square()
    near(distance.flatten(1) - distance[0].flatten(), (squares[0] - squares) / 2, 1e-4)


def test_a_segment_s_embedding_is_the_mean_over_its_pixels_and_not_a_number_without_any() -> None:
    grid, size = (3, 4), (9, 8)
    dense, labels = random(12, 5), torch.arange(72).reshape(9, 8) % 3
    found, pixels = segment_embeddings(labels, 4, dense, Upsampling.between(grid, size))
    direct = upsampled(dense, grid, size)
    near(found[:3], torch.stack([direct[labels.flatten() == k].mean(0) for k in range(3)]))
    assert found[3].isnan().all() and pixels.tolist() == [24, 24, 24, 0]


def test_the_lattice_filter_is_near_a_gaussian_and_its_transpose() -> None:
    points = random(60, 2) * 1.5
    matrix = make_lattice(points).filter(torch.eye(60))
    exact = (-torch.cdist(points, points).square() / 2).exp()
    ratio = matrix.diagonal().mean() / exact.diagonal().mean()
    near(matrix, exact * ratio, 0.3)
    assert float((matrix - exact * ratio).abs().mean()) < 0.03
    rows = crf.make_edges(points).message(torch.eye(60))
    assert float(rows.sum(dim=1).mean()) == pytest.approx(1, abs=0.1)


def test_many_points_in_one_corner_add_up_and_a_lone_point_has_no_neighbour() -> None:
    together = make_lattice(torch.zeros(1000, 3))
    assert len(together.splat[0].starts) > together.corners == 4
    alone = make_lattice(torch.zeros(1, 3)).filter(torch.ones(1, 2))
    near(together.filter(torch.ones(1000, 2)), 1000 * alone.expand(1000, 2), 1e-2)


@given(SEEDS, st.sampled_from([0.2, 1.0, 5.0]))
def test_sums_one_after_the_other_as_one_are_the_same_filter(seed: int, spread: float) -> None:
    points, values = random(50, 2, seed=seed) * spread, random(50, 3, seed=seed)
    lattice = make_lattice(points)
    near(functools.reduce(Bags.then, lattice.steps)(values), lattice.filter(values), 1e-4)
    inside, outside = random(50, seed=seed + 1), random(50, seed=seed + 2)
    weighted = lattice.slice.weighted(outside=outside)(lattice.splat[1](lattice.splat[0].weighted(inside)(values)))
    plain = lattice.slice(lattice.splat[1](lattice.splat[0](values * inside[:, None]))) * outside[:, None]
    near(weighted, plain, 1e-4)


def test_edges_of_pixels_with_corners_of_their_own_join_nothing() -> None:
    (step,) = crf.make_edges(crf.positions((9, 7), 0.25)).steps
    near(step(torch.eye(63)), torch.eye(63))
    assert len(crf.make_edges(crf.positions((9, 7), 1)).steps) > 1


def test_points_too_far_apart_to_number_the_corners_are_refused() -> None:
    with pytest.raises(UserError, match="raise crf_bilateral_srgb"):
        make_lattice(torch.tensor([[0.0] * 5, [1e6] * 5]))


@given(SEEDS)
def test_permuting_the_labels_permutes_the_marginals(seed: int) -> None:
    size, order = (6, 7), torch.tensor([2, 0, 3, 1])
    colours = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    kernels = [(crf.make_edges(crf.positions(size, 1)), 3.0),
               (crf.make_edges(crf.positions_and_colours(colours, 5, 40)), 4.0)]  # fmt: skip
    unary = crf.unary_energy(random(4, *size, seed=seed).softmax(0))
    marginals = crf.mean_field(unary, kernels, 5)
    near(crf.mean_field(unary[:, order], kernels, 5), marginals[:, order], 1e-4)
    near(marginals.sum(dim=1), torch.ones(42))
    direct = torch.softmax(-unary, dim=1)
    for _ in range(5):
        direct = torch.softmax(sum(weight * edges.message(direct) for edges, weight in kernels) - unary, dim=1)
    near(marginals, direct, 1e-4)


def test_released_colours_of_an_input_that_was_never_normalised_are_pale() -> None:
    colours = released_colours(torch.stack([torch.zeros(2, 2), torch.ones(2, 2), torch.full((2, 2), 0.5)]))
    assert colours[0, 0].tolist() == [int(0.485 * 255), int((0.224 + 0.456) * 255), int((0.1125 + 0.406) * 255)]


@pytest.mark.parametrize("kind", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"reg_tokens": 2}])
@torch.inference_mode()
def test_hub_and_timm_positions_agree_at_the_native_grid_and_differ_elsewhere(kind: dict) -> None:
    dino = Dino(vit(**kind), Norm.of(NORM))
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    hub, timm = (dino.tokens(images, (4, 4), rule) for rule in ("hub", "timm"))  # type: ignore[arg-type]
    near(hub, timm)
    other, reference = dino.tokens(images, (6, 6), "hub"), dino.tokens(images, (6, 6), "timm")
    assert other.shape == (2, 36, 16) and float((other - reference).abs().max()) > 1e-3
    assert float((dino.tokens(images, (4, 4), "hub", normalise=False) - hub).abs().max()) > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize(("normalisation", "own"), [("unit", False), ("model", True), ("imagenet", True)])
def test_unit_normalisation_gives_both_networks_the_same_colours(normalisation: str, own: bool) -> None:
    clip, given = small_clip(), []
    dino = Dino(vit(), Norm.of(NORM))
    view = make_view("a", np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8),
                     Protocol.read({**PROTOCOL, "normalisation": normalisation}).geometry, clip)  # fmt: skip
    dino.model.patch_embed.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    propose(
        view, Features(clip, view.windows(), view.colours, {"segmenter": dino}), Segmenting(n_clusters=4, crf=False)
    )
    colours = view.colours()
    assert torch.equal(view.input, colours[0]) != own
    near(given[0], (colours - torch.tensor(NORM["mean"])[:, None, None]) / torch.tensor(NORM["std"])[:, None, None]
         if own else colours)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Three images, a CLIP and a DINO."""
    root = tmp_path_factory.mktemp("project")
    write_model_directory(root / "model")
    (root / "dino").mkdir()
    (root / "dino/timm_config.json").write_text(json.dumps({"architecture": VIT, **NORM}))
    save_file({name: value.contiguous() for name, value in vit().state_dict().items()}, root / "dino/model.safetensors")
    generator = np.random.default_rng(0)
    (root / "source/images").mkdir(parents=True)
    with (root / "source/index.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "label", "height", "width"])
        for number, size in enumerate(SIZES):
            blocks = generator.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
            pixels = blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
            Image.fromarray(pixels).save(root / f"source/images/im{number}.png")
            Image.fromarray(np.zeros(size, dtype=np.uint8)).save(root / f"source/images/label{number}.png")
            writer.writerow([f"im{number}", f"images/im{number}.png", f"images/label{number}.png", *size])
    return root


def items(project: Path, out: Path, row: str, shard: tuple[int, int] = (0, 1), **changes: object) -> tuple[Item, Item]:
    """The items of both stages; the second reads what the first writes."""
    clustering, embedding, protocol = ROWS[row]
    common = {"method": "tag", "protocol": {**PROTOCOL, **protocol}, "shard": list(shard)}
    source = {"source": project / "source"}
    first = Item({**common, "settings": {**clustering, **changes}}, {**source, "segmenter": project / "dino"},
                 out / "clusters" / row)  # fmt: skip
    second = Item({**common, "settings": embedding}, {**source, "model": project / "model", "clusters": first.out},
                  out / "segments" / row)  # fmt: skip
    return first, second


def run_stage(stage: ModuleType, made: dict[str, Item], machine: Machine | None = None) -> dict[str, dict]:
    facts: dict[str, dict] = {}
    stage.run(JobContext(0, machine or Machine(), items=made, finish=facts.__setitem__))
    return facts


def run(pairs: dict[str, tuple[Item, Item]], machine: Machine | None = None) -> dict[str, dict[str, dict]]:
    """Facts of each stage, by row."""
    return {stage: run_stage(module, {row: pair[number] for row, pair in pairs.items()}, machine)
            for number, (stage, module) in enumerate((("clusters", clusters), ("segments", segments)))}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory) -> tuple[Path, dict[str, dict[str, dict]]]:
    out = tmp_path_factory.mktemp("whole")
    return out, run({row: items(project, out, row) for row in ROWS})


def test_a_pass_writes_maps_and_the_segments_that_have_pixels(whole) -> None:
    out, facts = whole
    for row, (settings, _, _) in ROWS.items():
        made = contents(out / "clusters" / row)
        assert sorted(made) == ["clusters.json", "images.txt", "maps.zip"]
        kept = contents(out / "segments" / row)
        assert sorted(kept) == ["images.txt", "maps.zip", "segments.safetensors"]
        assert (made["maps.zip"], made["images.txt"]) == (kept["maps.zip"], kept["images.txt"])
        found = SegmentsFile.open(out / "segments" / row)
        assert found.images == ("im0", "im1", "im2") and found.embeddings.shape[1] == 16
        counts = facts["segments"][row]
        assert counts["segments"] + counts["empty"] == 3 * settings["n_clusters"]
        assert counts["not_finite"] == 0 and found.embeddings.isfinite().all()
        assert facts["clusters"][row] == {"images": 3, "empty": counts["empty"]}
        for number, name in enumerate(found.images):
            cluster_map = found.map(name)
            ours = found.image == number
            assert cluster_map.shape == (48, 48)
            counted = dict(zip(*np.unique(cluster_map, return_counts=True), strict=True))
            assert dict(zip(found.cluster[ours].tolist(), found.pixels[ours].tolist(), strict=True)) == counted
    assert sum(each["empty"] for each in facts["clusters"].values()) > 0
    assert len({(out / "segments" / row / "maps.zip").read_bytes() for row in ROWS}) == len(ROWS)
    assert len({(out / "segments" / row / "segments.safetensors").read_bytes() for row in ROWS}) == len(ROWS)


@torch.inference_mode()
@pytest.mark.cpu
def test_both_steps_at_once_give_what_the_stages_write(project: Path, whole) -> None:
    clip = load_clip(project / "model", "cpu")
    dino = clusters.load_segmenter(project / "dino", "cpu")
    for row, (clustering, embedding, protocol) in ROWS.items():
        settings = Segmenting(**{**clustering, **embedding})
        found = SegmentsFile.open(whole[0] / "segments" / row)
        geometry = Protocol.read({**PROTOCOL, **protocol}).geometry
        view = make_view("im1", np.array(Image.open(project / "source/images/im1.png")), geometry, clip)
        proposal = propose(view, Features(clip, view.windows(), view.colours, {"segmenter": dino}), settings)
        assert (proposal.map == found.map("im1")).all()
        assert torch.equal(proposal.embeddings[found.cluster[found.image == 1]], found.embeddings[found.image == 1])


@pytest.mark.parametrize("machine", [Machine(workers=3, batch_size=1), Machine(workers=1, batch_size=64)])
def test_batch_size_and_workers_change_no_byte(project: Path, whole, tmp_path: Path, machine: Machine) -> None:
    run({row: items(project, tmp_path, row) for row in ROWS}, machine)
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_alone_gives_the_bytes_it_gives_beside_others(project: Path, whole, tmp_path: Path, row: str) -> None:
    facts = run({row: items(project, tmp_path, row)})
    for stage, each in facts.items():
        assert each == {row: whole[1][stage][row]}
        assert contents(tmp_path / stage / row) == contents(whole[0] / stage / row)


def test_shards_together_are_the_whole(project: Path, whole, tmp_path: Path) -> None:
    parts = []
    for index in range(2):
        run({"row": items(project, tmp_path / str(index), "released", shard=(index, 2))})
        parts.append(SegmentsFile.open(tmp_path / str(index) / "segments/released"))
    found = SegmentsFile.open(whole[0] / "segments/released")
    assert sum((part.images for part in parts), ()) == found.images
    assert torch.equal(torch.cat([part.embeddings for part in parts]), found.embeddings)
    assert all((part.map(name) == found.map(name)).all() for part in parts for name in part.images)


def test_segments_whose_embedding_is_not_finite_are_left_out_and_counted(project, tmp_path, monkeypatch) -> None:
    def spoiled(*arguments):
        proposal = embed(*arguments)
        proposal.embeddings[1, 2], proposal.pixels[3] = torch.inf, 0
        return proposal

    monkeypatch.setattr(segments, "embed", spoiled)
    facts = run({"row": items(project, tmp_path, "paper")})["segments"]["row"]
    assert facts == {"images": 3, "segments": 9, "empty": 3, "not_finite": 3}
    assert not set(SegmentsFile.open(tmp_path / "segments/paper").cluster.tolist()) & {1, 3}


def test_more_clusters_than_patches_and_steps_that_tag_lacks_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"settings\.n_clusters: 145 clusters of the 12x12 patches of image im0"):
        run({"row": items(project, tmp_path / "a", "released", n_clusters=145)})
    with pytest.raises(UserError, match="at least 1 of each"):
        run({"row": items(project, tmp_path / "b", "released", kmeans_restarts=0)})
    pair = items(project, tmp_path, "released")
    run({"row": pair})
    for stage, row in zip((clusters, segments), pair, strict=True):
        for key, value in (("flip", True), ("pamr", True)):
            wrong = Item({**row.params, "protocol": {**row.params["protocol"], key: value}}, row.inputs, row.out)
            with pytest.raises(UserError, match=rf"protocol\.{key}: method tag has no such step"):
                run_stage(stage, {"row": wrong})
        other = Item({**row.params, "method": "freecp"}, row.inputs, row.out)
        with pytest.raises(UserError, match=rf"method: stage {row.out.parent.name} knows tag, not 'freecp'"):
            run_stage(stage, {"row": other})
    cut = {**row.params, "protocol": {**row.params["protocol"], "crop": 32, "stride": 16}}
    with pytest.raises(UserError, match=r"protocol\.crop: TAG segments a whole image"):
        run_stage(segments, {"row": Item(cut, row.inputs, row.out)})
    small = {**row.params, "protocol": {**row.params["protocol"], "short_side": 40}}
    with pytest.raises(
        UserError, match=r"image im0: its cluster map has \(48, 48\) pixels, the network input \(40, 40\)"
    ):
        run_stage(segments, {"row": Item(small, row.inputs, row.out)})


@torch.inference_mode()
def test_settings_of_a_step_are_those_of_both_steps_and_another_model_is_no_segmenter(project: Path) -> None:
    assert {field.name for field in fields(Segmenting)} == {
        field.name for kind in (Clustering, Embedding) for field in fields(kind)
    }
    clip = small_clip()
    view = make_view("a", np.zeros((40, 50, 3), np.uint8), Protocol.read(PROTOCOL).geometry, clip)
    with pytest.raises(UserError, match=r"companions\.segmenter: TAG clusters patch features of a DINO, not of int"):
        _tag_segment.scene_of(view, Features(clip, view.windows(), view.colours, {"segmenter": 3}))  # type: ignore[dict-item]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"clusters": null}', '{"clusters": "many"}'])
def test_damaged_clusters_are_refused_by_name(project: Path, whole, tmp_path: Path, text: str) -> None:
    shutil.copytree(whole[0] / "clusters/paper", tmp_path / "clusters/paper")
    (tmp_path / "clusters/paper/clusters.json").write_text(text)
    with pytest.raises(UserError, match=r"paper/clusters\.json: cannot be read .* make it again"):
        run_stage(segments, {"row": items(project, tmp_path, "paper")[1]})


def test_damaged_maps_are_refused_by_name(project: Path, whole, tmp_path: Path) -> None:
    shutil.copytree(whole[0] / "clusters/paper", tmp_path / "clusters/paper")
    maps = tmp_path / "clusters/paper/maps.zip"
    maps.write_bytes(maps.read_bytes()[:100])
    with pytest.raises(UserError, match=r"clusters/paper: its cluster maps cannot be read"):
        run_stage(segments, {"row": items(project, tmp_path, "paper")[1]})


def test_a_damaged_segments_directory_is_refused_by_name(whole, tmp_path: Path) -> None:
    row = tmp_path / "row"
    shutil.copytree(whole[0] / "segments/paper", row)
    with pytest.raises(UserError, match=r"maps\.zip: the map of image nowhere cannot be read"):
        SegmentsFile.open(row).map("nowhere")
    (row / "images.txt").write_text("im0\n")
    with pytest.raises(UserError, match="do not belong together"):
        SegmentsFile.open(row)
    (row / "segments.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable segments directory"):
        SegmentsFile.open(row)
