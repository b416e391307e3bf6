"""Every model and data set that the papers' tables name: where it is from, what is known of it, under which licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovss.config.datasets import Archive, load_datasets
from ovss.config.weights import Weight, load_weights

MODELS = {
    "CLIP ViT-B/16": "clip_vitb16_openai", "CLIP ViT-L/14": "clip_vitl14_openai", "CLIP RN50x16": "clip_rn50x16_openai",
    "OpenCLIP ViT-L/14": "openclip_vitl14_laion2b", "DINO": "dino_vitb16", "DINO small": "dino_vits16",
    "DINOv2 L": "dinov2_vitl14", "DINOv2 B": "dinov2_vitb14", "TCL": "tcl", "TCL+TTD": "ttd_tcl", "SAM": "sam_vit_b",
    "SAM H": "sam_vit_h", "HQ-SAM": "hq_sam_vit_b", "Sentence-BERT": "all_mpnet_base_v2", "ReCLIP++": "reclip",
}  # fmt: skip
DATA = {
    "VOC 2012": "voc2012",
    "PASCAL Context": "pascal_context",
    "COCO val": "coco_val2017",
    "COCO train": "coco_train2017",
    "COCO-Stuff": "coco_stuffthingmaps",
    "COCO 2014": "coco2014",
    "Cityscapes": "cityscapes",
    "ADE20K": "ade20k150",
    "CC3M": "cc3m",
    "CC12M": "cc12m",
    "CC3M's images": "cc3m_pairs",
    "CC12M's images": "cc12m_pairs",
    "PMD": "cased_pmd_top5",
    "CaSED CC12M": "cased_cc12m",
    "CaSED WordNet": "cased_wordnet",
    "CaSED words": "cased_english_words",
    "WordNet": "wordnet",
    "English words": "english_words",
    "NUS-WIDE": "nuswide",
    "RefCOCO": "refcoco",
    "RefCOCO+": "refcoco_plus",
    "RefCOCOg": "refcocog",
    "LVIS": "lvis",
    "ImageNet-S": "imagenet_s",
    "ImageNet": "imagenet_val",
    "CC3M-TagMask": "cc3m_tagmask",
    "RedCaps": "redcaps",
}
ROOT = Path(__file__).parents[1]
WEIGHTS = load_weights(ROOT / "weights.yaml").weights
ARCHIVES = load_datasets(ROOT / "datasets.yaml").archives


def test_every_model_and_data_set_of_the_papers_is_there() -> None:
    assert set(MODELS.values()) <= set(WEIGHTS) and set(DATA.values()) <= set(ARCHIVES)
    assert all((WEIGHTS | ARCHIVES)[name].used_in for name in (*MODELS.values(), *DATA.values())), (
        "which tables need it"
    )


@pytest.mark.parametrize("entry", [*WEIGHTS.items(), *ARCHIVES.items()], ids=lambda entry: entry[0])
def test_licence_and_way_are_stated(entry: tuple[str, Weight | Archive]) -> None:
    _, stated = entry
    assert stated.title.strip() and stated.licence.strip()
    for file in stated.files:
        assert file.url or (stated.manual or "").strip(), f"{file.name}: an address, or what a person has to do"
        assert file.url is None or not (file.url.startswith("http://") and file.mirrors) or file.sha256, file.name
    if not stated.files:
        assert (stated.manual or "").strip()


def test_only_what_nobody_publishes_a_hash_of_is_locked_at_its_first_use() -> None:
    """A hash that is lost from the YAML files would be missed by nobody else."""
    world = {name for name, archive in ARCHIVES.items() if name.startswith("tiny_")}
    entries = {name: entry for name, entry in (WEIGHTS | ARCHIVES).items() if name not in world}
    without = {name for name, entry in entries.items()
               for file in entry.files if not (file.sha256 or file.sha1 or file.md5)}  # fmt: skip
    hashed = {
        "clip_vitb16_openai",
        "clip_vitl14_openai",
        "clip_rn50x16_openai",
        "openclip_vitl14_laion2b",
        "dino_vitb16",
        "dinov2_vitl14",
        "dinov2_vitb14",
        "sam_vit_h",
        "sam_vit_l",
        "sam_vit_b",
        "hq_sam_vit_b",
        "hq_sam_vit_l",
        "hq_sam_vit_h",
        "voc2012",
        "pascal_context",
        "coco_val2017",
        "coco_train2017",
        "coco2014",
        "cityscapes",
        "ade20k150",
        "cc3m",
        "cc12m",
        "wordnet",
        "english_words",
        "lvis",
        "redcaps",
    }
    assert not hashed & without
    assert {"refcoco", "coco_stuffthingmaps", "nuswide", "cc3m_tagmask", "cased_pmd_top5", "tcl"} <= without
