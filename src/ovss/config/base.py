"""Reading the YAML files: one clear sentence for anything wrong in them."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ovss.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe loader that refuses a key written twice (plain YAML keeps the last one without a word)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"key '{key_node.value}' is written twice (line {line})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file safely.

    Raises:
        UserError: the file is missing, is not YAML, or holds a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: this file is missing; restore it with 'git checkout -- {path.name}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _allowed(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names allowed beside the unknown key at ``location`` (empty where they cannot be told)."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    node: dict[str, Any] = schema
    for part in location[:-1]:
        node = _step(node, part, definitions)
    return sorted(_resolve(node, definitions).get("properties", {}))


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    for option in node.get("anyOf", []):
        found = _resolve(option, definitions)
        if "properties" in found or "additionalProperties" in found or "items" in found:
            return found
    return node


def _step(node: dict[str, Any], part: int | str, definitions: dict[str, Any]) -> dict[str, Any]:
    node = _resolve(node, definitions)
    inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
    if inner is None:
        inner = node.get("additionalProperties")
    return inner if isinstance(inner, dict) else {}


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        allowed = _allowed(model, error["loc"])
        near = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"{key}: unknown key{hint}" + (f"; allowed here: {', '.join(allowed)}" if allowed else "")
    if error["type"] == "missing":
        return f"{key}: this key is required and is missing"
    given = error.get("input")
    shown = f" (it is {given!r})" if isinstance(given, (str, int, float, bool, type(None))) else ""
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower() + message[1:]}{shown}"


def validate(data: Any, model: type[Model], origin: str) -> Model:
    """Build ``model`` from parsed YAML; ``origin`` names the file in the message.

    Raises:
        UserError: names the file, the key and what is allowed, for the first three problems.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_sentence(model, detail) for detail in error.errors()]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(f"{origin}: " + "; ".join(problems[:3]) + more) from None


def load_yaml(path: Path, model: type[Model], root: Path | None = None) -> Model:
    """Read a YAML file and validate it."""
    shown = path.relative_to(root) if root and path.is_relative_to(root) else path
    return validate(read_yaml(path), model, str(shown))
