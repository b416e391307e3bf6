"""Low-rank adapters of another program, folded into the weights of a TCL.

The layout of TTD's released adapters is not documented. Known are the two that its time's libraries write: pairs
``lora_A`` and ``lora_B`` beside a layer (PEFT) or inside a parametrisation of its weight (minLoRA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ovss.errors import UserError

# layer [.parametrizations.weight.0] .lora_A [.default] [.weight]
_FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.parametrizations\.(?P<weight>\w+)\.\d+)?\.lora_(?P<side>[AB])(?:\.default)?(?:\.weight)?"
)
_WRAPPER = "base_model.model."


def is_adapters(state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds adapters and nothing else of use."""
    return any(_FACTOR.fullmatch(key) for key in state)


def merge_adapters(
    state: Mapping[str, Tensor], adapters: Mapping[str, Tensor], name: str, scale: float = 1.0
) -> dict[str, Tensor]:
    """A state with W + scale * B A in place of every adapted W (Hu et al. 2022); other tensors are shared.

    Args:
        state: tensors of the base, official names.
        adapters: the pairs; keys that are no pair must repeat keys of the base and replace them.
        name: what error messages call the adapters.
        scale: alpha over rank.

    Raises:
        UserError: a key belongs to no tensor of the base, half of a pair is missing, or shapes do not fit.
    """
    merged, pairs = dict(state), dict[str, dict[str, Tensor]]()
    for key, value in adapters.items():
        match = _FACTOR.fullmatch(key.removeprefix(_WRAPPER))
        if match:
            pairs.setdefault(_target(match, state, name), {})[match["side"]] = value
        elif key.removeprefix(_WRAPPER) in merged:
            merged[key.removeprefix(_WRAPPER)] = value
        else:
            raise UserError(f"{name}: '{key}' belongs to no tensor of the base; use the adapters of this base")
    for target, pair in pairs.items():
        merged[target] = _changed(merged[target], pair, scale, f"{name}: {target}")
    return merged


def _target(match: re.Match[str], state: Mapping[str, Tensor], name: str) -> str:
    target = f"{match['layer']}.{match['weight'] or 'weight'}"
    if target not in state:
        raise UserError(f"{name}: the base has no tensor '{target}'; use the adapters of this base")
    return target


def _changed(weight: Tensor, pair: Mapping[str, Tensor], scale: float, place: str) -> Tensor:
    if set(pair) != {"A", "B"}:
        raise UserError(f"{place}: half of the pair lora_A, lora_B is missing; fetch the file again")
    inner, outer = pair["A"].flatten(1).float(), pair["B"].flatten(1).float()
    if outer.shape[1] != inner.shape[0] or len(outer) * inner.shape[1] != weight.numel() or len(outer) != len(weight):
        raise UserError(f"{place}: lora_B {tuple(outer.shape)} and lora_A {tuple(inner.shape)} do not fit the weight "
                        f"{tuple(weight.shape)}; use the adapters of this base")  # fmt: skip
    return (weight.float() + scale * (outer @ inner).view_as(weight)).to(weight.dtype)
