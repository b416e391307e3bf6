"""Segmentation by the bases of TTD: maps against loops over scales and windows, decisions, and what rows share."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from small_clip import state, write_model_directory
from small_tcl import STAGES, checkpoint

from ovss.errors import UserError
from ovss.evaluation import evaluate
from ovss.evaluation.preprocess import normalise, resize_bilinear
from ovss.evaluation.protocol import Protocol
from ovss.jobs import Item, JobContext, Machine
from ovss.methods import _ttd_crf, _ttd_maps, ttd_segment
from ovss.methods._ttd_maps import PAMR, mean_maps, soft_maps
from ovss.models import crf, text
from ovss.models.clip import MERGES_FILE, load_clip
from ovss.models.clip_pixels import with_background
from ovss.models.grounder import CONFIG_FILE, WEIGHTS_FILE
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.pamr import refine
from ovss.models.tcl import TclModel
from ovss.models.tcl_checkpoint import split_state
from ovss.models.text import encode_texts, load_vocabulary, mean_feature
from ovss.models.ttd_base import open_base
from ovss.models.windows import window_spans

PROTOCOL = {"short_side": 40, "crop": 32, "stride": 16, "names": "own", "templates": "photo", "logit_scale": 1.0,
            "background_threshold": 0.4}  # fmt: skip
TEXT = torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
NAMES = [["nothing", "wall"], ["cat"], ["dog", "puppy"], ["car"]]
SCALES = [1.0, 0.5, 1.5]
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tcl": ({"base": "tcl", "kp_weight": 0.3}, {"pamr": True, "background_threshold": 0.3}),
    "several": ({"base": "tcl"}, {"pamr": True, "scales": SCALES, "flip": True, "background_threshold": 0.3}),
    "maskclip": ({"base": "maskclip"}, {"crf": True, "background_threshold": 0.2}),
    "flipped": ({"base": "maskclip", "background_plane": "always"}, {"flip": True, "background_threshold": 0.2}),
}


def protocol(**changes: Any) -> Protocol:
    return Protocol.read({**PROTOCOL, **changes})


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    blocks = torch.randint(0, 256, (-(-height // 6), -(-width // 6), 3), generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(6, 0).repeat_interleave(6, 1)[:height, :width].to(torch.uint8).contiguous()


def write_tcl(directory: Path) -> Path:
    write_model_directory(directory)
    with gzip.open(directory / MERGES_FILE, "wt", encoding="utf-8") as stream:
        stream.write("#version: 0.2\nt h\n")  # CLIP's own merges take a quarter of a second to read
    save_file(split_state(checkpoint(), "small").grounder, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps({"stages": STAGES}))
    return directory


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TCL, a prepared source of three images, and the texts of NAMES."""
    root = tmp_path_factory.mktemp("project")
    write_tcl(root / "model")
    for folder in ("source/images", "source/labels", "text"):
        (root / folder).mkdir(parents=True)
    with (root / "source/index.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "label", "height", "width"])
        for number, (height, width) in enumerate([(44, 60), (44, 60), (61, 40)]):
            Image.fromarray(picture(height, width, number).numpy()).save(root / f"source/images/{number}.png")
            Image.fromarray(np.full((height, width), number, np.uint8)).save(root / f"source/labels/{number}.png")
            writer.writerow([str(number), f"images/{number}.png", f"labels/{number}.png", height, width])
    item = Item({"queries": NAMES, "templates": "photo"}, {"model": root / "model"}, root / "text")
    text.run(JobContext(0, Machine(), items={"text": item}, finish=lambda *_: None))
    return root


@pytest.fixture(scope="module")
def tcl(project: Path) -> TclModel:
    model = open_base(project / "model", "tcl")
    assert isinstance(model, TclModel)
    return model


# Maps


@pytest.mark.parametrize(("kp_weight", "pamr"), [(0.0, False), (0.0, True), (0.3, True)])
def test_one_window_gives_the_masks_of_tcl(tcl: TclModel, kp_weight: float, pamr: bool) -> None:
    image, wanted = picture(43, 53), protocol(crop=None, stride=None, short_side=43, pamr=pamr)
    seen = normalise(image, wanted.geometry, tcl.clip)[None]
    expected = tcl.generate_masks(seen, TEXT, kp_weight, PAMR if pamr else None)[0]
    found = soft_maps(tcl, image, TEXT, wanted, kp_weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05


def looped(model: TclModel | MaskClipModel, image: torch.Tensor, wanted: Protocol, scales: list[float]) -> torch.Tensor:
    """Window by window at each scale and flip, every map brought to the image's size before it is averaged."""
    size, found = image.shape[:2], []
    for scale in scales:
        factor = scale * wanted.short_side / min(size)
        resized = resize_bilinear(image, (int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)))
        seen = normalise(resized, wanted.geometry, model.clip)
        for flipped in (False, True):
            shown = seen.flip(-1) if flipped else seen
            total, count = torch.zeros(len(TEXT), *shown.shape[1:]), torch.zeros(shown.shape[1:])
            for y0, y1 in window_spans(shown.shape[1], 32, 16):
                for x0, x1 in window_spans(shown.shape[2], 32, 16):
                    extra = {"kp_weight": 0.0} if isinstance(model, TclModel) else {}
                    total[:, y0:y1, x0:x1] += model.generate_masks(shown[None, :, y0:y1, x0:x1], TEXT, **extra)[0]
                    count[y0:y1, x0:x1] += 1
            whole = F.interpolate((total / count)[None], tuple(size), mode="bilinear", align_corners=False)[0]
            found.append(whole.flip(-1) if flipped else whole)
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize("base", ["tcl", "maskclip"])
def test_scales_flips_and_windows_equal_loops_with_pamr_at_the_end(project: Path, base: Any) -> None:
    model, image = open_base(project / "model", base), picture(50, 66)
    several = protocol(scales=SCALES, flip=True)
    expected = looped(model, image, several, SCALES)
    torch.testing.assert_close(soft_maps(model, image, TEXT, several), expected, rtol=0, atol=1e-5)
    colours = normalise(image, several.geometry, model.clip)[None]
    refined = soft_maps(model, image, TEXT, protocol(scales=SCALES, flip=True, pamr=True))
    torch.testing.assert_close(refined, refine(expected[None], colours, PAMR)[0], rtol=0, atol=1e-5)


def test_pamr_refines_windows_of_one_scale_and_the_mean_of_several(tcl: TclModel) -> None:
    image = picture(50, 66)
    for scales, automatic, other in (([1.0], "window", "end"), ([1.0, 0.5], "end", "window")):
        wanted = protocol(scales=scales, pamr=True)
        found = soft_maps(tcl, image, TEXT, wanted)
        assert torch.equal(found, soft_maps(tcl, image, TEXT, wanted, pamr_at=automatic))
        assert not torch.allclose(found, soft_maps(tcl, image, TEXT, wanted, pamr_at=other), atol=1e-3)


def test_a_memo_saves_the_network_and_changes_nothing(tcl: TclModel, monkeypatch: pytest.MonkeyPatch) -> None:
    image, one, several = picture(50, 66), protocol(pamr=True), protocol(scales=SCALES, flip=True)
    alone = [soft_maps(tcl, image, TEXT, one, 0.3), soft_maps(tcl, image, TEXT[:1], several)]
    calls: list[int] = []
    inner = _ttd_maps.image_tokens
    monkeypatch.setattr(_ttd_maps, "image_tokens", lambda *given: (calls.append(1), inner(*given))[1])
    memo: dict[Any, Any] = {}
    shared = [soft_maps(tcl, image, TEXT, one, 0.3, memo=memo), soft_maps(tcl, image, TEXT[:1], several, memo=memo)]
    assert len(calls) == 2 * len(SCALES)
    assert all(torch.equal(*pair) for pair in zip(alone, shared, strict=True))


# The CRF


def test_a_text_after_the_crf_is_above_the_threshold_where_it_is_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, image = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(1)), picture(20, 30)
    found = _ttd_crf.foreground_maps(maps, 0.4, image, "torch", {})
    kernels = [(crf.position_edges((20, 30), 1.0, image.device), 3.0),
               (crf.make_edges(crf.positions_and_colours(image, 67.0, 3.0)), 4.0)]  # fmt: skip
    for one, refined in zip(maps, found, strict=True):
        planes = with_background(one[None], 0.4)
        expected = crf.mean_field(crf.unary_energy(planes / planes.sum(dim=0)), kernels, 10).unflatten(0, (20, 30))
        assert torch.equal(refined > 0.4, expected[..., 1] > expected[..., 0])
    assert ((maps > 0.4) != (found > 0.4)).any() and found.max() <= 1
    monkeypatch.setattr(_ttd_crf, "CRF", _ttd_crf.Crf(steps=0))
    torch.testing.assert_close(_ttd_crf.foreground_maps(maps, 0.4, image, "torch", {}), maps, rtol=0, atol=1e-4)


# Rows of the stage


def row(project: Path, out: Path, name: str, background: bool = True, settings: Any = None, **changes: Any) -> Item:
    out.mkdir(parents=True)
    own, step = ROWS[name]
    params = {"method": "ttd_segment", "settings": {**own, **(settings or {})}, "shard": [0, 1], "examples": 3,
              "dataset": {"name": "own", "labels": {"kind": "identity", "classes": 4}, "num_classes": 4,
                          "background": background},
              "protocol": {**PROTOCOL, **step, **changes}}  # fmt: skip
    inputs = {"model": project / "model", "source": project / "source", "text": project / "text"}
    return Item(params, inputs, out)


def run(items: dict[str, Item]) -> None:
    evaluate.run(JobContext(0, Machine(), items=items, finish=lambda *_: None))


def shown(out: Path, number: int = 0) -> np.ndarray:
    return np.array(Image.open(out / f"examples/{number}.png"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run({name: row(project, out / name, name) for name in ROWS})
    return out


def test_rows_share_models_and_give_the_bytes_they_give_alone(project, whole, tmp_path, monkeypatch) -> None:
    opened: list[str] = []
    inner = ttd_segment.base_on
    monkeypatch.setattr(ttd_segment, "base_on", lambda *given: (opened.append(given[2]), inner(*given))[1])
    run({name: row(project, tmp_path / "again" / name, name) for name in reversed(ROWS)})
    assert sorted(opened) == ["maskclip", "tcl"]
    for name in ROWS:
        run({name: row(project, tmp_path / name, name)})
        assert contents(tmp_path / name) == contents(whole / name) == contents(tmp_path / "again" / name)


def maps_of(project: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft maps of all queries but the background's over the first image, and the class of each."""
    settings, step = ROWS[name]
    vocabulary = load_vocabulary(project / "text")
    model = open_base(project / "model", settings["base"])
    maps = mean_maps(model, picture(44, 60, 0), vocabulary.features, protocol(**step), settings.get("kp_weight", 0.0))
    return maps[2:], vocabulary.query_class[2:]


def test_the_largest_map_wins_unless_it_is_below_the_threshold(project: Path, whole: Path, tmp_path: Path) -> None:
    maps, owners = maps_of(project, "tcl")
    level = float(maps.amax(dim=0).median())
    run({"tcl": row(project, tmp_path / "tcl", "tcl", background_threshold=level)})
    expected = torch.where(maps.amax(dim=0) > level, owners[maps.argmax(dim=0)], 0)
    np.testing.assert_array_equal(shown(tmp_path / "tcl"), expected.numpy())
    assert 0.3 < (expected == 0).float().mean() < 0.7 and len(expected.unique()) > 2


def test_without_a_background_class_a_plane_stands_only_where_it_is_asked_for(project: Path, tmp_path: Path) -> None:
    vocabulary, model = load_vocabulary(project / "text"), open_base(project / "model", "maskclip")
    maps = mean_maps(model, picture(44, 60, 0), vocabulary.features, protocol(flip=True))
    level, best = float(maps.amax(dim=0).median()), vocabulary.query_class[maps.argmax(dim=0)]
    run({"always": row(project, tmp_path / "always", "flipped", background=False, background_threshold=level),
         "never": row(project, tmp_path / "never", "flipped", background=False, background_threshold=level,
                      settings={"background_plane": "with_class"})})  # fmt: skip
    np.testing.assert_array_equal(shown(tmp_path / "never"), best.numpy())
    np.testing.assert_array_equal(shown(tmp_path / "always"), torch.where(maps.amax(dim=0) > level, best, 4).numpy())


def test_all_labels_compete_in_the_crf(project: Path, whole: Path) -> None:
    maps, owners = maps_of(project, "maskclip")
    classes = torch.stack([maps[owners == number].amax(dim=0) for number in (1, 2, 3)])
    image = picture(44, 60, 0)
    scores = _ttd_crf.label_probabilities(with_background(classes, 0.2), image, "torch", {})
    torch.testing.assert_close(scores.sum(dim=0), torch.ones(44, 60))
    labels = scores.argmax(dim=0)
    np.testing.assert_array_equal(shown(whole / "maskclip"), labels.numpy())
    assert len(labels.unique()) > 1 and (labels != with_background(classes, 0.2).argmax(dim=0)).any()


def test_classes_decided_in_parts_are_those_decided_together(project, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ttd_segment, "MAP_VALUES", 1)
    run({name: row(project, tmp_path / name, name) for name in ("several", "flipped")})
    for name in ("several", "flipped"):
        assert (shown(tmp_path / name) == shown(whole / name)).mean() > 0.999
        assert len(np.unique(shown(whole / name))) > 1


@pytest.mark.cpu
def test_hq_sam_gets_labels_and_the_maps_that_decided(project: Path, tmp_path: Path, monkeypatch) -> None:
    given: list[Any] = []

    def refined(image: Any, labels: Any, scores: Any, sam: Any, background: bool, how: Any) -> torch.Tensor:
        given.append((image, labels, scores, sam, background, how))
        return torch.full_like(labels, 2)

    monkeypatch.setattr(ttd_segment, "refine", refined)
    monkeypatch.setattr("ovss.models.companions.load_companion", lambda directory, device: "sam")
    wanted = {"refine": "hq_sam", "sam_prompt": "soft"}
    for background, expected in ((True, 2), (False, 1)):
        item = row(project, tmp_path / str(background), "flipped", background, wanted)
        run({"row": Item(item.params, {**item.inputs, "companion_hq_sam": tmp_path}, item.out)})
        assert (shown(item.out) == expected).all()
        image, labels, scores, sam, told, how = given[0 if background else 3]
        assert torch.equal(image, picture(44, 60, 0)) and sam == "sam" and told and how.prompt == "soft"
        assert torch.equal(scores.argmax(dim=0), labels) and len(scores) == (4 if background else 5)
        assert (scores[0] == 0.2).all()


# Texts


@pytest.mark.cpu
def test_tcls_templates_are_averaged_before_they_are_normalised(project: Path, tmp_path: Path) -> None:
    items = {name: Item({"queries": NAMES, "templates": name, **extra}, {"model": project / "model"}, tmp_path / name)
             for name, extra in (("tcl", {}), ("own", {"template_lines": list(text.templates("tcl"))}))}  # fmt: skip
    for item in items.values():
        item.out.mkdir()
    text.run(JobContext(0, Machine(), items=items, finish=lambda *_: None))
    clip = load_clip(project / "model")
    prompts = text.fill("dog", text.templates("tcl"))
    with torch.inference_mode():
        expected = F.normalize(encode_texts(clip, prompts).mean(dim=0), dim=-1)
        other = mean_feature(clip, prompts)
    assert len(prompts) == 9 and not torch.allclose(expected, other, atol=1e-4)
    assert torch.equal(load_vocabulary(tmp_path / "tcl").features[3], expected)
    assert torch.equal(load_vocabulary(tmp_path / "own").features[3], other)


# What is refused


@pytest.mark.parametrize(
    ("name", "changes", "settings", "message"),
    [
        ("tcl", {"crf": True}, {}, r"protocol\.crf: maps are refined by PAMR or by a CRF, not by both"),
        ("flipped", {}, {"kp_weight": 0.3}, r"settings\.kp_weight: MaskCLIP has nothing to be mixed with"),
        ("tcl", {}, {"kp_weight": 3.0}, r"settings\.kp_weight: 3\.0 is no share"),
        ("tcl", {"background_threshold": None}, {}, r"protocol\.background_threshold: the background's constant map"),
        ("tcl", {"scales": [1.0, 0.0]}, {}, r"protocol\.scales: \[1\.0, 0\.0\] must be positive numbers"),
        ("tcl", {"prob_threshold": 0.3}, {}, r"protocol\.prob_threshold: method ttd_segment has no such step"),
        ("tcl", {}, {"refine": "hq_sam"}, r"companions\.hq_sam: the row needs this model"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(project, tmp_path, name, changes, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        run({name: row(project, tmp_path / "row", name, settings=settings, **changes)})


def test_tcl_needs_a_grounder_and_maskclip_does_not(project: Path, tmp_path: Path) -> None:
    plain = write_model_directory(tmp_path / "clip")
    with pytest.raises(UserError, match=r"base 'tcl' needs a grounder and there is no tcl_config\.json"):
        open_base(plain, "tcl")
    assert torch.equal(open_base(plain, "maskclip").tower.visual.proj, state()["visual.proj"])
    assert isinstance(open_base(project / "model", "maskclip", text=True), MaskClipModel)
    assert not hasattr(open_base(project / "model", "tcl").tower, "token_embedding")
