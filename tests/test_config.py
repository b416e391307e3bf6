"""Configuration files: wrong input is one sentence that names file, key and what is allowed."""

from pathlib import Path

import pytest

from ovss import cli
from ovss.config.base import load_yaml, read_yaml
from ovss.config.params import SCALES, Params, load_params
from ovss.config.schemas import MODELS, schema_text
from ovss.errors import UserError


def test_the_schemas_in_the_repository_are_those_of_the_models(root: Path) -> None:
    for name, model in MODELS.items():
        text = (root / "schemas" / f"{name}.json").read_text(encoding="utf-8")
        assert text == schema_text(model), f"schemas/{name}.json is out of date: run 'make schemas'"


def test_the_shipped_params_have_all_four_scales(root: Path) -> None:
    params = load_params(root)
    assert params.scale == "tiny"
    assert all(params.at(name).columns for name in ("smoke", "tiny", "small", "full"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seed: ", "sed: "), r"params\.yaml: .*sed: unknown key \(did you mean 'seed'\?\); allowed here: "),
        (("seed: 0", "seed: many"), r"params\.yaml: seed: input should be a valid integer.*'many'"),
        (("scale: tiny", "scale: huge"), r"params\.yaml: scale: input should be 'smoke', 'tiny', 'small' or 'full'"),
        (("tiny:\n", "tiny:\n  exampels: 3\n"), r"tiny\.exampels: unknown key \(did you mean 'examples'\?\)"),
    ],
)
def test_a_wrong_params_file_names_the_key(root: Path, tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    assert edit[0] in text
    (tmp_path / "params.yaml").write_text(text.replace(*edit, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_yaml(tmp_path / "params.yaml", Params, tmp_path)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: 1\ntwo: 2\none: 3\n")
    with pytest.raises(UserError, match=r"key 'one' is written twice \(line 3\)"):
        read_yaml(tmp_path / "a.yaml")


def test_broken_yaml_and_a_missing_file_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: [1, 2\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="this file is missing"):
        read_yaml(tmp_path / "b.yaml")


def test_the_command_line_knows_the_scales_of_the_params() -> None:
    assert cli.SCALES == SCALES == tuple(name for name in Params.model_fields if name not in ("seed", "scale"))
