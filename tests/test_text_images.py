"""Images with texts: from archives through fetch and prepare to the iterator, on the generated world and by hand."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_archives import Files, jpg, png, stripes, zip_of

from ovss.data import fetch, prepare_texts, rle, text_images
from ovss.data.captions_words import CaptionWords
from ovss.data.polygons import fill
from ovss.data.text_images import TextImage, TextImages, read_texts
from ovss.data.text_layouts import words_of
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.world import tags
from ovss.world.classes import CLASSES, INDEX, nouns
from ovss.world.expressions import targets
from ovss.world.files import to_pickle
from ovss.world.tag_archives import true_words

PARAMS = {"variants": 2, "tags": 12, "masks": 5, "concepts": 4, "objects": 3, "cc3m": 2}
WORLD = tags.WorldTexts.model_validate(PARAMS)
SEED = 3
REFS = ("refcoco.zip", "refcoco+.zip", "refcocog.zip", "train2014.zip")
TAGMASK, NUSWIDE = ("cc3m_for_evaluation.zip",), ("NUS-WIDE.zip", "Flickr.zip")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("texts")
    tags.run(JobContext(seed=SEED, machine=Machine(), params=PARAMS, out=out))
    return out


@pytest.fixture
def fetched(world: Path, tmp_path: Path) -> Path:
    """Every file of the world's archives through the fetch stage."""
    out = tmp_path / "fetched"
    out.mkdir()
    files = [{"name": name, "url": f"world://{name}"} for name in (*TAGMASK, *NUSWIDE, *REFS)]
    params = {"archive": "all", "files": files}
    fetch.run(JobContext(seed=0, machine=Machine(), params=params, inputs={"world": world}, out=out))
    return out


Prepare = Callable[..., Path]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """Prepare a split of files in a folder, or given as name -> bytes."""

    def make(files: Path | Files, layout: str, split: str, workers: int = 1, **expected: int | None) -> Path:
        folder = files if isinstance(files, Path) else tmp_path / "files"
        if not isinstance(files, Path):
            folder.mkdir(exist_ok=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir()
        params = {"source": "it", "archives": ["a"], "layout": layout, "split": split, "expected": expected}
        machine = Machine(workers=workers)
        facts = prepare_texts.run(JobContext(seed=0, machine=machine, params=params, inputs={"a": folder}, out=out))
        assert json.loads((out / "facts.json").read_text()) == facts
        return out

    return make


def facts(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "facts.json").read_text())
    return found


# --- the generated world


def test_true_words_are_those_that_the_image_shows(fetched: Path, prepared: Prepare) -> None:
    found = list(TextImages(prepared(fetched, "cc3m_tagmask", "tags", images=12, texts=12, masks=0)))
    for number, one in enumerate(found):
        view, caption = tags.draw(SEED, (tags.TAGS, number), WORLD)
        shown = {noun for index in np.unique(view.label) for noun in nouns(CLASSES[int(index)])}
        relevant = [word for word, is_true in zip(one.words, one.relevant or (), strict=True) if is_true]
        assert one.caption == caption.text and one.words == tuple(caption.text.lower().split())
        assert relevant == true_words(caption) and set(relevant) <= shown and bool(relevant) == bool(caption.named)
        assert not set(relevant) & {noun for index in caption.wrong for noun in nouns(CLASSES[index])}
        assert one.mask is None and one.image.shape == view.image.shape
    assert 0 < sum(sum(one.relevant or ()) for one in found) < sum(len(one.words) for one in found) / 2


def test_a_captions_mask_is_the_union_of_what_it_names(fetched: Path, prepared: Prepare) -> None:
    out = prepared(fetched, "cc3m_tagmask", "masks", texts=5, masks=5)
    found = list(TextImages(out))
    assert len(found) == 5 and any(sum(one.relevant or ()) > 1 for one in found)
    for one in found:
        view, caption = tags.draw(SEED, (tags.TAGS, int(one.id)), WORLD)
        assert one.mask is not None and one.mask.dtype == np.bool_ and one.mask.any()
        np.testing.assert_array_equal(one.mask, np.isin(view.label, caption.named))
    assert sorted(path.name for path in out.iterdir()) == ["facts.json", "images", "masks", "texts.jsonl"]
    assert set(np.unique(np.array(Image.open(out / "masks" / f"{found[0].id}.png")))) == {0, 255}


def test_concepts_are_marked_where_they_are_shown(fetched: Path, prepared: Prepare) -> None:
    out = prepared(fetched, "nuswide", "test", images=3)
    found = list(TextImages(out))
    assert facts(out)["left_out"] == {"image not there": 1}
    for number, one in enumerate(found):
        view, _ = tags.draw(SEED, (tags.CONCEPTS, 1, number), WORLD)
        share = np.bincount(view.label.ravel(), minlength=28) / view.label.size
        assert one.id == f"world_{number + 1:04d}_{20_000_000 + number}"
        assert one.caption == "" and one.words == CLASSES and one.relevant == tuple((share >= 0.02).tolist())


@pytest.mark.parametrize(
    ("split", "texts", "person"),
    [
        ("refcoco/unc/val", 6, None), ("refcoco/unc/testA", 6, True), ("refcoco+/unc/testB", 6, False),
        ("refcocog/umd/val", 6, None),
    ],
)  # fmt: skip
def test_expressions_come_with_the_object_they_single_out(
    split: str, texts: int, person: bool | None, fetched: Path, prepared: Prepare
) -> None:
    out = prepared(fetched, "refcoco", split, images=3, texts=texts, masks=3)
    name, by, part = split.split("/")
    with zipfile.ZipFile(fetched / f"{name}.zip") as opened:
        refs = pickle.loads(opened.read(f"{name}/refs({by}).p"))
    wanted = [(ref, one["sent"]) for ref in refs if ref["split"] == part for one in ref["sentences"]]
    found = list(TextImages(out))
    assert [one.caption for one in found] == [text for _, text in wanted]
    for one, (ref, text) in zip(found, wanted, strict=True):
        kind = ref["category_id"] - 1
        assert one.mask is not None and one.mask.mean() >= 0.02 and one.relevant is None
        assert set(one.words) & set(nouns(CLASSES[kind])) and one.words == words_of(text)
        assert person is None or (kind == INDEX["person"]) == person
        assert ("left" in one.words or "right" in one.words or "middle" in one.words) or "refcoco/" not in split


def test_the_worlds_masks_of_objects_are_exact(fetched: Path, prepared: Prepare) -> None:
    for one in TextImages(prepared(fetched, "refcoco", "refcoco/unc/testB")):
        views = (tags.draw(SEED, (tags.OBJECTS, 2, k), WORLD)[0] for k in range(tags.SCENES_PER_OBJECT * 3))
        same = (view for view in views if view.label.shape == one.image.shape[:2])
        assert any(np.array_equal(target.mask, one.mask) for view in same for target in targets(view))


def test_an_archive_does_not_depend_on_the_others() -> None:
    alone = tags.archives(SEED, WORLD.model_copy(update={"tags": 0, "masks": 0, "concepts": 0, "cc3m": 0}))
    every = tags.archives(SEED, WORLD)
    assert {name: every[name] for name in alone} == alone and set(alone) == set(REFS)
    assert set(every) == {*TAGMASK, *NUSWIDE, *REFS, "cc3m_00000.tar", "cc3m_00001.tar"}


def test_workers_and_ranges_change_nothing(fetched: Path, prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = (prepared(fetched, "refcoco", "refcoco/unc/val", workers=workers) for workers in (1, 3))
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert [(one / name).read_bytes() for name in names] == [(three / name).read_bytes() for name in names]
    read: list[str] = []
    decode = text_images.read_image
    monkeypatch.setattr(text_images, "read_image", lambda path: (read.append(path.name), decode(path))[1])
    every = list(TextImages(one))
    assert len(read) == len(set(read)) == 3, "an image is decoded once for its texts"
    some = list(TextImages(one, 1, 5, workers=2))
    assert [found.id for found in some] == [found.id for found in every][1:5]
    assert all(same(a, b) for a, b in zip(some, every[1:5], strict=True))


def same(a: TextImage, b: TextImage) -> bool:
    assert a.mask is not None and b.mask is not None
    return a.caption == b.caption and np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)


# --- archives by hand

ROOT = "cc3m_for_evaluation"


def tagmask(changes: dict[str, bytes | None] | None = None) -> Files:
    """Two captions, one of them with a mask for each of two words; members replaced, or left out (None)."""
    left, right = (png(stripes(20, 30, values)) for values in ([1, 0, 0], [0, 0, 1]))
    members: dict[str, bytes | None] = {
        f"{ROOT}/image/a_1.jpg": jpg(0, 20, 30), f"{ROOT}/image/b.png": jpg(1, 9, 9, gray=True),
        f"{ROOT}/json_refined/a_1.json": b'{"caption": "A Dog , and a dog by the Sea", "tags": ["dog", "sea"]}',
        f"{ROOT}/json_refined/b.json": b'{"text": "nothing to see", "true_tags": []}',
        f"{ROOT}/mask_using_HQ-SAM/a_1_dog.png": left, f"{ROOT}/mask_using_HQ-SAM/a_1_sea_2.png": right,
        f"{ROOT}/.DS_Store": b"x", **{f"{ROOT}/{name}": data for name, data in (changes or {}).items()},
    }  # fmt: skip
    return {TAGMASK[0]: zip_of({name: data for name, data in members.items() if data is not None})}


def test_a_true_word_counts_wherever_it_stands(prepared: Prepare) -> None:
    first, second = TextImages(prepared(tagmask(), "cc3m_tagmask", "tags"))
    assert first.words == ("a", "dog", ",", "and", "a", "dog", "by", "the", "sea")
    assert first.relevant == (False, True, False, False, False, True, False, False, True)
    assert (second.words, second.relevant) == (("nothing", "to", "see"), (False, False, False))
    assert first.words == CaptionWords.of("A Dog , and a dog by the Sea").words


def test_masks_of_single_words_are_united(prepared: Prepare) -> None:
    shorter_name = {"json_refined/a.json": b'{"caption": "a", "tags": []}', "image/a.jpg": jpg(2, 20, 30)}
    (only,) = TextImages(prepared(tagmask(shorter_name), "cc3m_tagmask", "masks"))
    assert only.id == "a_1"
    np.testing.assert_array_equal(only.mask, stripes(20, 30, [1, 0, 1]) > 0)


def test_what_a_split_has_lost_is_counted(prepared: Prepare) -> None:
    changed = {"image/b.png": None, "json_refined/a_1.json": b'{"caption": "a dog", "tags": ["dog", "sea", "a"]}'}
    out = prepared(tagmask(changed), "cc3m_tagmask", "tags")
    assert facts(out)["left_out"] == {"caption without an image": 1, "true word that is not in its caption": 1}
    assert (facts(out)["texts"], facts(out)["words"], facts(out)["relevant"]) == (1, 2, 2)


NOTE, MASK = "json_refined/a_1.json", "mask_using_HQ-SAM/a_1_dog.png"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({NOTE: b'{"sentence": "a dog", "gt": []}'}, r"a_1\.json: needs a text in caption or text .* it holds: gt, "),
        ({NOTE: b'{"caption": "a dog", "tags": "dog"}'}, r"a list of words in tags or"),
        ({NOTE: b'["a dog"]'}, r"it holds: list"),
        ({NOTE: b"<html>"}, r"a_1\.json: not JSON"),
        ({NOTE: b'{"caption": "a dog", "tags": ["cat", "sea"]}'}, r"2 of 2 true words \(in their captions\) are mis"),
        ({MASK: png(stripes(20, 31, [1, 0]))}, r"a_1_dog\.png: the mask has size \(20, 31\), its image \(20, 30\)"),
        ({MASK: png(stripes(20, 30, [1, 0, 2]))}, r"a_1_dog\.png: a mask has one value beside 0"),
        ({MASK: b"PNG"}, r"a_1_dog\.png: this mask cannot be read"),
        ({"mask_using_HQ-SAM/c.png": b""}, r"mask c\.png belongs to no file of json_refined"),
        ({"image/a_1.jpg": b"<html>"}, r"a_1\.jpg: this image cannot be read"),
        ({MASK: None, "mask_using_HQ-SAM/a_1_sea_2.png": None}, r"it: split 'masks' has no text \(2 caption without"),
    ],
)  # fmt: skip
def test_a_tagmask_archive_of_another_form_is_named(
    changes: dict[str, bytes | None], words: str, prepared: Prepare
) -> None:
    with pytest.raises(UserError, match=words):
        prepared(tagmask(changes), "cc3m_tagmask", "masks")


def test_another_count_than_expected_is_named(prepared: Prepare) -> None:
    with pytest.raises(UserError, match=r"split 'masks' has 1 masks, 680 are expected.*expected\.masks in datasets"):
        prepared(tagmask(), "cc3m_tagmask", "masks", texts=None, masks=680)
    with pytest.raises(UserError, match=r"has the splits tags and masks, not 'val'"):
        prepared(tagmask(), "cc3m_tagmask", "val")


def nuswide(labels: bytes = b"0\n1\n0\n0\n", names: tuple[str, ...] = ("0001_5", "0002_6", "0003_7")) -> Files:
    """Four images in the list, the last one is not there; the third shows no concept."""
    listing = b"actor\\0001_5.jpg\r\nactor\\0002_6.jpg\r\nsea\\0003_7.jpg\r\nsea\\0004_8.jpg\r\n\r\n"
    members = {
        "x/ConceptsList/Concepts81.txt": b"airport\r\nsky\r\n", "x/ImageList/TestImagelist.txt": listing,
        "x/ImageList/TrainImagelist.txt": b"actor\\0009_9.jpg\n",
        "x/Groundtruth/TrainTestLabels/Labels_airport_Test.txt": labels,
        "x/Groundtruth/TrainTestLabels/Labels_sky_Test.txt": b"1\n1\n0\n1\n",
        "x/Groundtruth/AllLabels/Labels_sky.txt": b"0\n" * 5, "x/NUS_WID_Tags/Test_Tags81.txt": b"1 1\n" * 4,
    }  # fmt: skip
    photos = {f"Flickr/{'sea' if '3' in name else 'actor'}/{name}.jpg": jpg(k, 8, 12) for k, name in enumerate(names)}
    return {"NUS-WIDE.zip": zip_of(members), "Flickr.zip": zip_of({**photos, "Flickr/actor/0009_9.jpg": b"unread"})}


def test_labels_go_with_the_images_of_the_list(prepared: Prepare) -> None:
    found = list(TextImages(prepared(nuswide(), "nuswide", "test")))
    assert [(one.id, one.words, one.relevant) for one in found] == [
        ("actor_0001_5", ("airport", "sky"), (False, True)), ("actor_0002_6", ("airport", "sky"), (True, True)),
        ("sea_0003_7", ("airport", "sky"), (False, False)),
    ]  # fmt: skip
    out = prepared(nuswide(), "nuswide", "test_labelled")
    assert TextImages(out).ids == ["actor_0001_5", "actor_0002_6"]
    assert facts(out)["left_out"] == {"image not there": 1, "no concept": 1}
    first, second = read_texts(out)
    assert first.words is second.words, "one list in memory, however many images"


@pytest.mark.parametrize(
    ("files", "split", "words"),
    [
        (nuswide(labels=b"0\n1\n0\n"), "test", r"Labels_airport_Test\.txt: needs a line 0 or 1 for each of the 4 im"),
        (nuswide(labels=b"0\n1\n0\n-1\n"), "test", r"Labels_airport_Test\.txt: needs a line 0 or 1"),
        (nuswide(names=("0001_5",)), "test", r"3 of 4 images of TestImagelist\.txt are missing"),
        (nuswide(), "train", r"there is no TrainTestLabels/Labels_airport_Train\.txt"),
        (nuswide(), "val", r"has the splits train, test"),
        ({"NUS-WIDE.zip": zip_of({}), "Flickr.zip": zip_of({})}, "test", r"there is no ConceptsList/Concepts81"),
    ],
)  # fmt: skip
def test_lists_and_labels_that_do_not_agree_are_named(files: Files, split: str, words: str, prepared: Prepare) -> None:
    with pytest.raises(UserError, match=words):
        prepared(files, "nuswide", split)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("opened"),)  # type: ignore[return-value]


SQUARE, HOLE = [2.0, 3.0, 12.0, 3.0, 12.0, 11.0, 2.0, 11.0], [20.0, 2.0, 24.0, 2.0, 24.0, 9.0, 20.0, 9.0]


def refcoco(refs: object = None, data: bytes | None = None) -> Files:
    """An object of two parts, another one as a crowd; ``refs`` in place of their references, or the pickle itself."""
    crowd = np.zeros((20, 30), bool)
    crowd[4:9, 7:21] = True
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 20, "width": 30}
    objects = [
        {"id": 5, "image_id": 9, "category_id": 1, "segmentation": [SQUARE, HOLE]},
        {"id": 6, "image_id": 9, "category_id": 1, "segmentation": rle.encode(crowd), "iscrowd": 1},
    ]
    known = [
        {"ref_id": 2, "ann_id": 6, "image_id": 9, "split": "val", "sentences": [{"sent_id": 3, "sent": "the  Crowd"}]},
        {"ref_id": 1, "ann_id": 5, "image_id": 9, "split": "val", "category_id": 1,
         "sentences": [{"sent_id": k, "sent": text} for k, text in enumerate(("two boxes", " ", "left"))]},
        {"ref_id": 3, "ann_id": 7, "image_id": 8, "split": "train", "sentences": []},
    ]  # fmt: skip
    listed = data if data is not None else pickle.dumps(known if refs is None else refs, protocol=2)
    members = {
        "refcoco/instances.json": json.dumps({"images": [image], "annotations": objects, "categories": []}).encode(),
        "refcoco/refs(unc).p": listed, "refcoco/refs(google).p": pickle.dumps([Bomb()], protocol=2),
    }  # fmt: skip
    photos = {"train2014/COCO_train2014_000000000009.jpg": jpg(0, 20, 30), "train2014/other.jpg": b"unread"}
    return {"refcoco.zip": zip_of(members), "train2014.zip": zip_of(photos)}


def test_references_come_from_the_pickle_in_the_zip(prepared: Prepare) -> None:
    out = prepared(refcoco(), "refcoco", "refcoco/unc/val", images=1, texts=3, masks=2)
    found = list(TextImages(out))
    assert [one.caption for one in found] == ["two boxes", "left", "the Crowd"]
    assert facts(out)["left_out"] == {"empty expression": 1}
    boxes, _, crowd = (one.mask for one in found)
    assert boxes is not None and crowd is not None
    np.testing.assert_array_equal(np.argwhere(boxes)[[0, -1]], [[2, 20], [10, 11]])
    assert (boxes.sum(), crowd.sum()) == (10 * 8 + 4 * 7, 5 * 14)
    assert not list(out.rglob("*.p")), "what comes after reads the lines"


def test_a_pickle_that_would_run_something_is_refused(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"refcoco\.zip: refcoco/refs\(google\)\.p: not a pickle of plain values.*fetch"
    ):
        prepared(refcoco(), "refcoco", "refcoco/google/val")
    assert not list(tmp_path.rglob("opened"))
    assert pickle.loads(pickle.dumps([Bomb()])) == [None] and (tmp_path / "opened").is_file(), "the bomb is alive"


def test_references_written_by_python_2_are_read(prepared: Prepare) -> None:
    """Protocol 0, byte texts with an accent, a long, and one text used twice."""
    data = (
        b"(lp1\n(dp2\nS'ref_id'\np3\nL1L\nsS'ann_id'\np4\nI5\nsS'image_id'\np5\nI9\nsS'split'\np6\nS'val'\np7\n"
        b"sS'sentences'\np8\n(lp9\n(dp10\nS'sent'\np11\nS'caf\\xe9 \\'left\\''\np12\nsa(dg11\ng7\nsasa."
    )
    found = list(TextImages(prepared(refcoco(data=data), "refcoco", "refcoco/unc/val")))
    assert [one.caption for one in found] == ["café 'left'", "val"]


REF = {"ref_id": 1, "ann_id": 5, "image_id": 9, "split": "val", "sentences": [{"sent": "left"}]}


@pytest.mark.parametrize(
    ("refs", "words"),
    [
        (
            {"refs": []},
            r"refcoco\.zip: refcoco/refs\(unc\)\.p is not a list of references \(TypeError: it holds a dict",
        ),
        ([{**REF, "ann_id": True}], r"ref_id, ann_id and image_id are whole numbers"),
        ([{**REF, "sentences": {"sent": "left"}}], r"sentences a list"),
        ([{**REF, "sentences": [{"sent": 5}]}], r"every sent is a text"),
        ([REF, "left"], r"TypeError: string indices"),
        ([{**REF, "ann_id": "5"}], r"ref_id, ann_id and image_id are whole numbers"),
        ([{key: value for key, value in REF.items() if key != "split"}], r"KeyError: 'split'"),
        ([{**REF, "sentences": [{"raw": "left"}]}], r"KeyError: 'sent'"),
        ([{**REF, "ann_id": 8}], r"object 8 of reference 1 is not in instances\.json"),
        ([{**REF, "image_id": 8}], r"image 8 of reference 1 is not in train2014\.zip"),
        ([REF, REF], r"two texts have the same id"),
        ([{**REF, "split": "testA"}], r"split 'refcoco/unc/val' has no text"),
    ],
)
def test_references_of_another_form_are_named(refs: object, words: str, prepared: Prepare) -> None:
    with pytest.raises(UserError, match=words):
        prepared(refcoco(refs), "refcoco", "refcoco/unc/val")


def test_references_that_are_not_in_the_zip_are_named(prepared: Prepare) -> None:
    with pytest.raises(UserError, match=r"refcoco\.zip: there is no member 'refcoco/refs\(umd\)\.p'"):
        prepared(refcoco(), "refcoco", "refcoco/umd/val")
    with pytest.raises(UserError, match=r"write name/by/part, for example refcoco/unc/val"):
        prepared(refcoco(), "refcoco", "val")


def test_the_worlds_pickles_depend_on_their_values_only() -> None:
    text = "".join(["le", "ft"])
    assert to_pickle([{"a": text, "b": text}]) == to_pickle([{"a": "left", "b": "".join(["lef", "t"])}])


# --- the prepared form


def test_a_damaged_prepared_source_is_named(prepared: Prepare, tmp_path: Path) -> None:
    out = prepared(tagmask(), "cc3m_tagmask", "masks")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(out / "masks/a_1.png")
    with pytest.raises(UserError, match=r"a_1\.png: size \(4, 4\), but \(20, 30\) for its image"):
        list(TextImages(out))
    line = json.loads((out / "texts.jsonl").read_text())
    (out / "texts.jsonl").write_text(json.dumps({**line, "relevant": [True]}) + "\n")
    with pytest.raises(UserError, match=r"texts\.jsonl: damaged \(a_1 has 9 words and 1 marks\)"):
        TextImages(out)
    with pytest.raises(UserError, match="not a prepared source with texts"):
        TextImages(tmp_path)


# --- polygons


POLYGONS = [
    (
        [3.2, 4.7, 41.5, 2.1, 48.0, 30.3, 20.25, 18.9, 6.0, 36.6],
        40,
        50,
        "m33U1;E<D5KO0O2O1O1O1N2O1O1O1N2O1O1O1O10O2O001O001O00001O001O00001O001N10001O0013L4M4K4L5L3Ld1",
    ),
    (
        [-3, 5, 30, -2.5, 70, 20, 25, 44],
        40,
        60,
        "46R11O1O2M2O2N1O1N3N1O2N1O1N3N1O2N1N2O2N1O2N1Oh=0XB1N101N101N101N2O0O2O0O2N101N101N2O0O2O0O2O0O2O1N10B",
    ),
    ([10, 10, 20, 10, 20, 20, 10, 20], 32, 32, "Z::f000000000000000000f;"),
    ([5, 5, 25, 25, 25, 5, 5, 25], 30, 30, "k4c0<N2N2N2N2N2N2N2N2N10O2N2N2N2N2N2N2N2N2`4"),
]


@pytest.mark.parametrize(("polygon", "height", "width", "counts"), POLYGONS)
def test_polygons_are_filled_as_pycocotools_does(polygon: list[float], height: int, width: int, counts: str) -> None:
    """The codes were written by pycocotools."""
    expected = rle.decode({"size": [height, width], "counts": counts})
    np.testing.assert_array_equal(fill([polygon], height, width), expected)
    np.testing.assert_array_equal(fill([polygon, polygon], height, width), expected)


@pytest.mark.parametrize(
    "polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, "x"], [0, 0, 1, 1, float("nan"), 0]]
)
def test_a_damaged_polygon_is_named(polygon: list[object]) -> None:
    with pytest.raises(UserError, match="not three or more corners"):
        fill([polygon], 8, 8)  # type: ignore[list-item]
