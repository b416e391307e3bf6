"""Every entry of the full scale from its server to its reader, on small files with the real names, trees and oddities.

The entries are those of ``datasets.yaml``; only address, size and hash are those of the small files. Image sources from
end to end are in ``test_layouts``; here are their bad copies, and all others: texts, captions, shards, descriptions.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_archives
from http_server import PAGE, Server
from PIL import Image
from small_archives import Files, jpg, tar_of, zip_of
from test_archives import debian
from test_caption_sources import NOUNS, arrow, notes, parquet, wit
from test_layouts import SOURCES as LAYOUT_SOURCES
from test_text_images import nuswide, refcoco, tagmask

from ovss.config.datasets import Datasets, fetch_params, labels_params, prepare_params
from ovss.data import by_hand, fetch, index_pairs, prepare, prepare_texts
from ovss.data.archives import extract
from ovss.data.descriptions import read_sentences
from ovss.data.images import Images
from ovss.data.labels import lookup_table
from ovss.data.pairs import Pairs
from ovss.data.places import MANUAL, manual_path
from ovss.data.text_images import TextImages
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.retrieval.sources import Tally, caption_files, read_captions


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


Fetch = Callable[..., Path]


@pytest.fixture
def fetched(server: Server, config: Datasets, tmp_path: Path) -> Fetch:
    """Run the fetch job of a real archive with the small files in place of its own.

    What has an address comes from the server under ``mode``, the rest is placed by hand; ``facts`` False: neither size
    nor hash is known. Files that are not given stay away.
    """

    def make(archive: str, files: Files, mode: str = "plain", facts: bool = True) -> Path:
        server.files = files
        params = fetch_params(config, archive)
        for entry in params["files"]:
            data = files.get(entry["name"])
            if entry.get("url") is None and data is not None:
                place = manual_path(archive, entry["name"])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            elif data is not None:
                entry["url"], entry["mirrors"] = server.url(mode, entry["name"]), []
            known = {"size": len(data or b""), "md5": md5(data or b"")} if facts else {}
            for key in ("size", "sha256", "sha1", "md5"):
                entry[key] = known.get(key)
        params["files"] = [entry for entry in params["files"] if entry["name"] in files or entry.get("url") is None]
        out = tmp_path / "fetch" / archive
        out.mkdir(parents=True, exist_ok=True)
        fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=out))
        return out

    return make


# --- bad copies of every source of images

SOURCES = {
    "voc2012_val": "voc2012",
    "context_val": "context",
    "coco_val2017": "coco_stuff",
    "cityscapes_val": "cityscapes",
    "ade20k_val": "ade20k",
}
# labels of 16 bits, MATLAB files, colours and polygons; no table of the papers has them
WIDE_SOURCES = {
    "sbd_train_aug": ("sbd", "train_aug"),
    "sbd_aug": ("sbd", "aug"),
    "context459_val": ("pascal_context_459", "val"),
    "context459_train": ("pascal_context_459", "train"),
    "ade20k_full_val": ("ade20k_full", "validation"),
    "ade20k_full_train": ("ade20k_full", "training"),
    "lvis_val": ("lvis", "val"),
    "lvis_train": ("lvis", "train"),
    "imagenet_s50_val": ("imagenet_s", "ImageNetS50"),
    "imagenet_s300_val": ("imagenet_s", "ImageNetS300"),
    "imagenet_s919_val": ("imagenet_s", "ImageNetS919"),
    "coco_things_val2017": ("coco_instances", "val2017"),
    "coco_things_train2017": ("coco_instances", "train2017"),
}
BAD_ANSWERS = {"truncated": "cut short", "page": "web page", "missing/": "answers 404", "empty": "it is empty"}


BY_HAND = ("cityscapes_val", "ade20k_full_val")
ONE_EACH = ("sbd_aug", "context459_val", "ade20k_full_val", "lvis_val", "imagenet_s50_val")
LAYOUT_OF = SOURCES | {source: WIDE_SOURCES[source][0] for source in ONE_EACH}


def one_file(config: Datasets, source: str) -> tuple[str, str, bytes]:
    """An archive of a source, its first file, and the small copy."""
    files = small_archives.BUILDERS[LAYOUT_OF[source]]()[0]
    archive = config.sources[source].archives[0]
    name = config.archives[archive].files[0].name
    return archive, name, files[name]


@pytest.mark.parametrize("mode", BAD_ANSWERS)
@pytest.mark.parametrize("source", [source for source in LAYOUT_OF if source not in BY_HAND])
def test_a_bad_answer_for_an_archive_is_named_and_nothing_is_kept(
    source: str, mode: str, config: Datasets, fetched: Fetch, tmp_path: Path
) -> None:
    archive, name, data = one_file(config, source)
    with pytest.raises(UserError, match=rf"^{re.escape(name)}: .*{BAD_ANSWERS[mode]}.*data/manual/{archive}/"):
        fetched(archive, {name: data}, mode)
    assert not list((tmp_path / "fetch" / archive).iterdir())


@pytest.mark.parametrize("mode", ["no-range", "redirect", "once", "gzip"])
def test_a_slow_way_to_an_archive_is_still_a_way(mode: str, config: Datasets, fetched: Fetch) -> None:
    archive, name, data = one_file(config, "ade20k_val")
    assert (fetched(archive, {name: data}, mode) / name).read_bytes() == data


def test_files_without_a_published_hash_are_used(fetched: Fetch) -> None:
    maps = small_archives.coco()[0]["stuffthingmaps_trainval2017.zip"]
    out = fetched("coco_stuffthingmaps", {"stuffthingmaps_trainval2017.zip": maps}, facts=False)
    assert md5((out / "stuffthingmaps_trainval2017.zip").read_bytes()) == md5(maps)


def test_cityscapes_asks_for_both_zips_by_name_and_compares_their_md5(config: Datasets, fetched: Fetch) -> None:
    with pytest.raises(
        UserError,
        match=r"^data/manual/cityscapes/gtFine_trainvaltest\.zip: this file has to be placed by hand; .make plan. says",
    ):
        fetched("cityscapes", {})
    files = small_archives.cityscapes()[0]
    for name in files:
        manual_path("cityscapes", name).parent.mkdir(parents=True, exist_ok=True)
        manual_path("cityscapes", name).write_bytes(PAGE)
    params = fetch_params(config, "cityscapes")
    with pytest.raises(UserError, match=r"gtFine_trainvaltest\.zip: it is a web page"):
        fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=Path()))
    manual_path("cityscapes", "gtFine_trainvaltest.zip").write_bytes(files["gtFine_trainvaltest.zip"])
    with pytest.raises(UserError, match=r"its md5 is \w+ instead of 4237c19de34c8a376e9ba46b495d6f66"):
        fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=Path()))


def test_the_test_split_of_cityscapes_has_nothing_to_score(config: Datasets, fetched: Fetch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"cityscapes": fetched("cityscapes", small_archives.cityscapes(values=(0,))[0])}
    params = {**prepare_params(config, "cityscapes_val"), "split": "test", "images": 1}
    facts = prepare.run(JobContext(seed=0, machine=Machine(), params=params, inputs=inputs, out=out))
    assert facts["pixels_of_value"] == {"0": 32 * 64}


BAD_MEMBERS = {"../evil": "outside the target", "/evil": "outside the target", "link": "link or a device"}


@pytest.mark.parametrize("member", BAD_MEMBERS)
@pytest.mark.parametrize("source", LAYOUT_OF)
def test_a_verified_archive_with_a_hostile_member_is_refused(
    source: str, member: str, config: Datasets, fetched: Fetch, tmp_path: Path
) -> None:
    """Also a right hash says only that it is the file that was stated."""
    files = small_archives.BUILDERS[LAYOUT_OF[source]]()[0]
    listed = [file.name for archive in config.sources[source].archives for file in config.archives[archive].files]
    name = next(name for name in listed if name in files and holds_images(files[name]))
    files = {**files, name: with_member(files[name], member)}
    inputs = {archive: fetched(archive, files) for archive in config.sources[source].archives}
    out = tmp_path / "job" / "out"
    out.mkdir(parents=True)
    params = {**prepare_params(config, source), "images": None}
    with pytest.raises(UserError, match=rf"{re.escape(name)}: .*{BAD_MEMBERS[member]}"):
        prepare.run(JobContext(seed=0, machine=Machine(), params=params, inputs=inputs, out=out))
    assert not list(tmp_path.rglob("evil*")) and not any(path.is_symlink() for path in tmp_path.rglob("*"))


def holds_images(archive: bytes) -> bool:
    if archive.startswith(b"{"):
        return False
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return any(name.endswith(IMAGE_ENDS) for name in opened.namelist())
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened_tar:
        return any(name.endswith(IMAGE_ENDS) for name in opened_tar.getnames())


IMAGE_ENDS = (".jpg", ".JPEG", "_leftImg8bit.png", "_labelIds.png")


def with_member(archive: bytes, kind: str) -> bytes:
    """The archive with its images under a hostile name, or as symbolic links."""
    target, images = io.BytesIO(), IMAGE_ENDS
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w") as new:
            for number, info in enumerate(old.infolist()):
                data = old.read(info)
                if info.filename.endswith(images) and kind == "link":
                    info.external_attr = 0o120777 << 16
                elif info.filename.endswith(images):
                    info.filename = f"{kind}{number}"
                new.writestr(info, data)
        return target.getvalue()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old_tar, tarfile.open(fileobj=target, mode="w") as new_tar:
        for entry in old_tar:
            stream = old_tar.extractfile(entry)
            if entry.name.endswith(images) and kind == "link":
                entry.type, entry.linkname, entry.size, stream = tarfile.SYMTYPE, "/etc/passwd", 0, None
            elif entry.name.endswith(images):
                entry.name = kind
            new_tar.addfile(entry, stream)
    return target.getvalue()


@pytest.mark.parametrize("source", WIDE_SOURCES)
def test_every_source_that_no_table_has_comes_from_its_archives(
    source: str, config: Datasets, fetched: Fetch, tmp_path: Path
) -> None:
    layout, split = WIDE_SOURCES[source]
    files, labels = small_archives.BUILDERS[layout]()
    inputs = {archive: fetched(archive, files) for archive in config.sources[source].archives}
    out = tmp_path / "out"
    out.mkdir()
    params = {**prepare_params(config, source), "images": len(labels[split])}
    facts = prepare.run(JobContext(seed=0, machine=Machine(), params=params, inputs=inputs, out=out))
    tables = {"raw": np.arange(65536, dtype=np.uint16)}
    tables |= {
        name: lookup_table(labels_params(config, name)["labels"])
        for name, entry in config.datasets.items()
        if entry.source == source
    }
    samples = list(Images(out, tables))
    assert [sample.id for sample in samples] == sorted(labels[split])
    wide = max(params["allowed_values"]) > 255
    for sample in samples:
        truth = labels[split][sample.id]
        np.testing.assert_array_equal(sample.labels["raw"], truth)
        assert all((sample.labels[name] == table[truth]).all() for name, table in tables.items())
        assert sample.image.dtype == np.uint8 and sample.image.shape == (*truth.shape, 3)
        with Image.open(out / f"labels/{sample.id}.png") as label:
            assert label.mode == ("I;16" if wide else "L")
    values, pixels = np.unique(np.concatenate([label.ravel() for label in labels[split].values()]), return_counts=True)
    assert facts["pixels_of_value"] == dict(zip(map(str, values.tolist()), pixels.tolist(), strict=True))
    assert sorted(path.name for path in out.iterdir()) == ["facts.json", "images", "index.csv", "labels"]
    assert not Path("opened").exists()


# --- images with texts


def refs(name: str, by: str) -> Files:
    """RefCOCO's small files under another name, with the trees of the published zips; list ``by`` is read."""
    with zipfile.ZipFile(io.BytesIO(refcoco()["refcoco.zip"])) as opened:
        members = {info.filename.replace("refcoco/", f"{name}/"): opened.read(info) for info in opened.infolist()}
    listed = members.pop(f"{name}/refs(unc).p")
    return {f"{name}.zip": zip_of({**members, f"{name}/refs({by}).p": listed})}


def photos() -> Files:
    return {"train2014.zip": refcoco()["train2014.zip"]}


TEXT_SOURCES: dict[str, tuple[dict[str, Files], list[str]]] = {
    "cc3m_tags": ({"cc3m_tagmask": tagmask()}, ["a_1", "b"]),
    "cc3m_tagmask": ({"cc3m_tagmask": tagmask()}, ["a_1"]),
    "nuswide": ({"nuswide": nuswide()}, ["actor_0001_5", "actor_0002_6"]),
    "refcoco_val": ({"coco2014": photos(), "refcoco": refs("refcoco", "unc")}, ["two boxes", "left", "the Crowd"]),
    "refcoco_plus_val": (
        {"coco2014": photos(), "refcoco_plus": refs("refcoco+", "unc")},
        ["two boxes", "left", "the Crowd"],
    ),
    "refcocog_val": ({"coco2014": photos(), "refcocog": refs("refcocog", "umd")}, ["two boxes", "left", "the Crowd"]),
}


@pytest.mark.parametrize("source", TEXT_SOURCES)
def test_every_source_of_texts_comes_from_its_archives(
    source: str, config: Datasets, fetched: Fetch, tmp_path: Path
) -> None:
    archives, expected = TEXT_SOURCES[source]
    assert set(archives) == set(config.text_sources[source].archives)
    inputs = {name: fetched(name, files) for name, files in archives.items()}
    out = tmp_path / "out"
    out.mkdir()
    params = {**config.text_sources[source].params(source), "expected": {}}
    prepare_texts.run(JobContext(seed=0, machine=Machine(), params=params, inputs=inputs, out=out))
    found = list(TextImages(out))
    assert [one.caption if source.startswith("ref") else one.id for one in found] == expected
    assert all(one.image.dtype == np.uint8 and one.image.shape[2] == 3 for one in found)
    assert all(one.mask is None or one.mask.shape == one.image.shape[:2] for one in found)
    assert not (tmp_path / "opened").exists() and not Path("opened").exists()


@pytest.mark.parametrize("source", [source for source in TEXT_SOURCES if not source.startswith("ref")])
def test_what_a_person_has_to_place_is_named_with_its_page(source: str, config: Datasets, fetched: Fetch) -> None:
    archive = config.text_sources[source].archives[-1]
    wanted = next(file.name for file in config.archives[archive].files if file.url is None)
    files = {name: data for name, data in TEXT_SOURCES[source][0][archive].items() if name != wanted}
    with pytest.raises(UserError, match=rf"^data/manual/{archive}/{re.escape(wanted)}: this file has to be placed"):
        fetched(archive, files)


# --- captions

CC3M = b"a dog\thttp://x/1\ncaf\xc3\xa9\thttps://x/2\n"
CC12M = b"http://x/1\ta dog\nhttps://x/2\tcaf\xc3\xa9\n"
DATABASE = gzip.compress(
    tar_of({"databases/d/vit-l-14/metadata/0.arrow": arrow(["a dog", "cat"]), "databases/d/vit-l-14/text.index": b"x"}),
    mtime=0,
)
REAL_WORDNET = {
    f"wordnet/{kind}.{part}": NOUNS if (kind, part) == ("index", "noun") else b"x"
    for kind in ("index", "data") for part in ("noun", "verb", "adj", "adv")
} | {"wordnet/lexnames": b"x", "wordnet/LICENSE": b"x", "wordnet/noun.exc": b"x"}  # fmt: skip


def package(name: str, data: bytes) -> bytes:
    return debian({"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(tar_of({name: data}))})


WIT_ROWS = [["en", "u", "a dog", "x"], ["de", "u", "Hund", "x"]]
COLLECTIONS: dict[str, tuple[str, Files, list[str]]] = {
    "cc3m": ("caption_url_tsv", {"Train_GCC-training.tsv": CC3M}, ["a dog", "café"]),
    "cc12m": ("url_caption_tsv", {"cc12m.tsv": CC12M}, ["a dog", "café"]),
    "cased_pmd_top5": ("cased", {"pmd_top5.tar.gz": DATABASE}, ["a dog", "cat"]),
    "cased_cc12m": ("cased", {"cc12m.tar.gz": DATABASE}, ["a dog", "cat"]),
    "cased_wordnet": ("cased", {"wordnet.tar.gz": DATABASE}, ["a dog", "cat"]),
    "cased_english_words": ("cased", {"english_words.tar.gz": DATABASE}, ["a dog", "cat"]),
    "wordnet": ("wordnet_nouns", {"wordnet.zip": zip_of(REAL_WORDNET)}, ["'hood", "hot dog"]),
    "wordnet_debian": (
        "wordnet_nouns", {"wordnet-base_3.0-37_all.deb": package("usr/share/wordnet/index.noun", NOUNS)},
        ["'hood", "hot dog"],
    ),
    "english_words": ("words", {"words_alpha.zip": zip_of({"words_alpha.txt": b"a\r\naa\r\n"})}, ["a", "aa"]),
    "english_words_debian": (
        "words", {"wamerican_2020.12.07-2_all.deb": package("usr/share/dict/american-english", b"a\naa\n")},
        ["a", "aa"],
    ),
    "coco_annotations2017": (
        "coco_captions",
        {"annotations_trainval2017.zip": zip_of({
            "annotations/captions_train2017.json": notes("a dog"), "annotations/captions_val2017.json": notes("cat"),
            "annotations/instances_val2017.json": b"{", "annotations/person_keypoints_val2017.json": b"{",
        })},
        ["a dog", "cat"],
    ),
    "redcaps": (
        "redcaps",
        {"redcaps_v1.0_annotations.zip": zip_of({
            "LICENSE.txt": b"x", "TERMSOFUSE.txt": b"x", "annotations/dogpictures_2017.json": notes("a dog"),
        })},
        ["a dog"],
    ),
    "wit": ("wit", {"wit_v1.train.all-00000-of-00010.tsv.gz": wit(WIT_ROWS)}, ["a dog"]),
    "sbu": (
        "sbu",
        {"sbu-captions-all.tar.gz": gzip.compress(tar_of({
            "sbu-captions-all.json": b'{"image_urls": ["u"], "captions": ["a dog"], "user_ids": ["v"]}'
        }), mtime=0)},
        ["a dog"],
    ),
    "localized_narratives": (
        "json_lines", {"open_images_train_v6_captions.jsonl": b'{"image_id": "1", "caption": "a dog"}\n'}, ["a dog"],
    ),
    "yfcc_pmd": ("parquet", {"yfcc.parquet": parquet("caption", ["a dog"])}, ["a dog"]),
}  # fmt: skip


@pytest.mark.parametrize("archive", COLLECTIONS)
def test_every_collection_of_captions_comes_from_its_archive(archive: str, fetched: Fetch, tmp_path: Path) -> None:
    kind, files, expected = COLLECTIONS[archive]
    inputs = {archive: fetched(archive, files)}
    sources = [{"input": archive, "format": kind, "files": [*files]}]
    assert list(read_captions(caption_files(sources, inputs), tmp_path / "scratch", Tally())) == expected


def test_the_formats_here_are_those_of_the_collections(config: Datasets) -> None:
    for name, collection in config.captions.items():
        for source in collection.sources if not name.startswith("tiny") else ():
            assert COLLECTIONS[source.archive][0] == source.format, name
            assert set(source.files) <= {file.name for file in config.archives[source.archive].files}


@pytest.mark.parametrize(("archive", "content"), [("cc3m", CC12M), ("cc12m", CC3M)])
def test_swapped_columns_are_noticed(archive: str, content: bytes, fetched: Fetch, tmp_path: Path) -> None:
    kind, (name,), _ = COLLECTIONS[archive]
    inputs = {archive: fetched(archive, {name: content})}
    sources = [{"input": archive, "format": kind, "files": [name]}]
    with pytest.raises(UserError, match="an address in place of the caption: 2"):
        list(read_captions(caption_files(sources, inputs), tmp_path, Tally()))


def test_a_row_with_a_nul_is_a_row(fetched: Fetch, tmp_path: Path) -> None:
    inputs = {"cc3m": fetched("cc3m", {"Train_GCC-training.tsv": b"a\0dog\thttp://x\n\0\n\0\t\0\nfine\thttp://x\n"})}
    sources = [{"input": "cc3m", "format": "caption_url_tsv", "files": ["Train_GCC-training.tsv"]}]
    tally = Tally()
    found = list(read_captions(caption_files(sources, inputs), tmp_path, tally))
    assert found == ["a\0dog", "\0", "fine"] and tally.reasons() == {"wrong number of columns": 1}


# --- shards, descriptions, and what is kept but not read


@pytest.mark.parametrize(
    ("part", "stem", "name"),
    [("cc3m", "", "{:05d}.tar"), ("cc12m", "", "{:05d}.tar"), ("cc3m", "gcc-train", "gcc-train-{:06d}.tar"),
     ("cc12m", "cc", "cc-{:06d}.tar")],
)  # fmt: skip
def test_shards_placed_by_hand_are_linked_indexed_and_read(
    part: str, stem: str, name: str, config: Datasets, server: Server, tmp_path: Path
) -> None:
    entry = config.pairs["cc3m_cc12m"].parts[part]
    (MANUAL / entry.archive).mkdir(parents=True)
    for number, count in enumerate((3, 1)):  # the last shard is short
        keys = [f"{number:06d}{k:04d}" for k in range(count)]
        files: Files = {f"{key}.jpg": jpg(k, 8, 12) for k, key in enumerate(keys)}
        files |= {f"{key}.txt": key.encode() for key in keys[: 2 if count > 1 else 1]}  # one caption is missing
        files |= {f"{key}.json": b'{"status": "success", "error_message": null}' for key in keys}
        (MANUAL / entry.archive / name.format(number)).write_bytes(tar_of(files))
        (MANUAL / entry.archive / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (MANUAL / entry.archive / f"{number:05d}_stats.json").write_text("{}")
    placed = [[path.name, path.stat().st_size] for path in sorted((MANUAL / entry.archive).iterdir())]
    shards, out = tmp_path / "shards", tmp_path / "index"
    shards.mkdir()
    out.mkdir()
    job: dict[str, Any] = {"seed": 0, "machine": Machine()}
    by_hand.run(JobContext(**job, params={"archive": entry.archive, "files": placed}, out=shards))
    params = {"collection": part, "stem": stem, "expected": entry.expected}
    facts = index_pairs.run(
        JobContext(**job, params=params, inputs={"shards": shards}, out=out, scratch=tmp_path / "s")
    )
    assert (facts["pairs"], facts["left_out"], facts["absent_shards"]) == (3, {"no caption": 1}, [])
    assert [pair.caption for pair in Pairs(out, shards).read(range(3))] == ["0000000000", "0000000001", "0000010000"]


def test_descriptions_come_from_their_address(fetched: Fetch) -> None:
    text = b"voc21 = {'cat': ['A cat.', ' '], 'tv monitor': ['A \\'tv\\'.']}\n"
    file = fetched("freecp_vicuna", {"voc21.py": text}, facts=False) / "voc21.py"
    assert read_sentences(file) == {"cat": ("A cat.",), "tv monitor": ("A 'tv'.",)}


KEPT: dict[str, Files] = {
    "nltk_extra": {"stopwords.zip": zip_of({"stopwords/english": b"a\n"}), "words.zip": zip_of({"words/en": b"a\n"})},
}


@pytest.mark.parametrize("archive", KEPT)
def test_what_no_table_reads_is_fetched_verified_and_unpacked_safely(
    archive: str, fetched: Fetch, tmp_path: Path
) -> None:
    for name, data in KEPT[archive].items():
        file = fetched(archive, KEPT[archive]) / name
        assert file.read_bytes() == data
        assert extract(file, tmp_path / "out" / name, lambda _: True)
    assert not Path("opened").exists()


def test_every_archive_and_source_of_the_full_scale_is_met_here_or_in_the_layouts(config: Datasets) -> None:
    with_images = {archive for source in (*SOURCES, *WIDE_SOURCES) for archive in config.sources[source].archives}
    with_texts = {archive for archives, _ in TEXT_SOURCES.values() for archive in archives}
    met = with_images | with_texts | set(COLLECTIONS) | set(KEPT) | {"freecp_vicuna", "coco_train2017"}
    met |= {part.archive for part in config.pairs["cc3m_cc12m"].parts.values()}
    models = {"vicuna_7b", "vicuna_33b", "qwen_72b"}
    assert {name for name in config.archives if not name.startswith("tiny_")} - models == met
    real = {name for name in config.sources if not name.startswith("tiny_")}
    assert real == {*LAYOUT_SOURCES, *WIDE_SOURCES}
