"""Low-rank adapters of TTD's base models (Hu et al. 2022; TTD names LoRA but neither rank nor targets).

The paper prints 149.6 M -> 150.2 M parameters (CLIP) and 178.3 M -> 179.3 M (TCL). Rank 10 on query and value of every
attention and on the four 3x3 convolutions of TCL's grounder fits both; so does rank 4 on the feed-forward layers with
rank 10 on the convolutions.

``import peft`` costs 20 CPU seconds, 18 of them for transformers, whose models it knows and we never give it. It is
imported without; afterwards transformers can be imported normally, but peft does not recognise its models.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ovss.errors import UserError
from ovss.models.left_out import left_out
from ovss.training.ttd.attention import split_attention

Preset = Literal["qv10", "mlp4"]
TARGETS: Mapping[Preset, tuple[str, ...]] = {"qv10": ("q_proj", "v_proj"), "mlp4": ("c_fc", "c_proj")}
RANKS: Mapping[Preset, int] = {"qv10": 10, "mlp4": 4}
CONVOLUTION_RANK = 10
# The convolutions of TCL's grounder: two gated units in each stage of ``net``.
CONVOLUTION = re.compile(r"(?:.*\.)?net\.\d+\.conv2?\.conv")
ADAPTER = "default"
_MODELS = "transformers"
_PARTS = ("utils", "utils.hub", "modeling_outputs", "pytorch_utils", "integrations", "activations")


@dataclass(frozen=True)
class LoraSettings:
    """Adapters: preset, ranks of linear layers (None: the preset's) and of convolutions, scale (alpha over rank)."""

    preset: Preset = "qv10"
    rank: int | None = None
    convolution_rank: int = CONVOLUTION_RANK
    scale: float = 1.0

    @property
    def linear_rank(self) -> int:
        """Rank of the adapters on linear layers."""
        return self.rank or RANKS[self.preset]


def _stand_ins() -> dict[str, types.ModuleType | None]:
    """Entries for sys.modules; what peft takes from transformers is empty classes, of which nothing is an instance."""
    found: dict[str, types.ModuleType | None] = {}
    for name in (_MODELS, *(f"{_MODELS}.{part}" for part in _PARTS)):
        module = types.ModuleType(name)
        module.__path__ = []
        module.__getattr__ = _empty_class  # type: ignore[method-assign]
        found[name] = module
    vars(found[_MODELS])["__version__"] = version(_MODELS)
    return found


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def import_peft() -> Any:
    """The package, imported when adapters are attached."""
    if "peft" not in sys.modules and _MODELS not in sys.modules:
        with left_out(_stand_ins()):
            importlib.import_module("peft")
        # It would ask whether weights are sharded, of a module of torch that transformers has always imported for it.
        vars(importlib.import_module("peft.tuners.tuners_utils"))["_torch_supports_distributed"] = False
    return importlib.import_module("peft")


def target_names(model: nn.Module, preset: Preset) -> list[str]:
    """Names of the layers that get an adapter, in the model's order.

    Raises:
        UserError: the model has none, or an ``nn.MultiheadAttention``, which would never use them.
    """
    dead = [name for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)]
    if dead and preset == "qv10":
        raise UserError(f"LoRA: {dead[0]} is not split, so adapters on it would never be used; split it first")
    ends = TARGETS[preset]
    linear = [n for n, p in model.named_modules() if isinstance(p, nn.Linear) and n.rpartition(".")[2] in ends]
    if not linear:
        raise UserError(f"LoRA: the model has no layer named {' or '.join(ends)}; choose another preset")
    return linear + [n for n, p in model.named_modules() if isinstance(p, nn.Conv2d) and CONVOLUTION.fullmatch(n)]


def attach(model: nn.Module, settings: LoraSettings, seed: int = 0, unread: Collection[str] = ()) -> int:
    """Split the attentions, put adapters on the model in place and freeze everything else.

    Args:
        model: base model, on the CPU or the meta device; its own weights do not change.
        settings: which adapters.
        seed: of their first values. The outer factor starts at zero: the output is that of the base.
        unread: names of layers or groups of layers whose output nothing reads. Their adapters exist, because the
            paper's parameter counts include them, but are frozen.

    Returns:
        Number of parameters added.
    """
    peft = import_peft()
    before = count(model)
    split_attention(model)
    names, rank, wide = target_names(model, settings.preset), settings.linear_rank, settings.convolution_rank
    # PEFT warns of patterns that match nothing.
    pattern = {CONVOLUTION.pattern: wide} if any(map(CONVOLUTION.fullmatch, names)) else {}
    alphas = {name: settings.scale * each for name, each in pattern.items()}
    # LoraConfig declares whole numbers but uses any.
    alpha: Any = settings.scale * rank
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, rank_pattern=pattern, alpha_pattern=alphas, lora_dropout=0.0,
        bias="none", target_modules="|".join(map(re.escape, names)),
    )  # fmt: skip
    on_meta = next(model.parameters()).is_meta
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=on_meta)
    for name, parameter in adapter_parameters(model):
        parameter.requires_grad_(not any(f"{name}.".startswith(f"{part}.") for part in unread))
    return count(model) - before


def count(model: nn.Module) -> int:
    """Number of parameters, adapters included."""
    return sum(each.numel() for each in model.parameters())


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, tensor) of every factor, sorted; names read ``<layer>.lora_A`` and ``<layer>.lora_B``."""
    found = {plain_name(name): each for name, each in model.named_parameters() if ".lora_" in name}
    return iter(sorted(found.items()))


def plain_name(name: str) -> str:
    """The name of an adapter's factor without what PEFT puts behind it."""
    return name.removesuffix(f".{ADAPTER}.weight")


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The factors that learn, sorted by name."""
    return [(name, each) for name, each in adapter_parameters(model) if each.requires_grad]


def refuse_dead(model: nn.Module) -> None:
    """Check after a backward pass that every adapter that learns took part in the loss.

    Raises:
        UserError: some did not; training would leave them at zero without a word.
    """
    dead = [name.rpartition(".")[0] for name, each in trained_parameters(model) if each.grad is None]
    if dead:
        raise UserError(f"LoRA: {len(dead)} factors have no part in the loss, {dead[0]} first; leave such layers out")


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all factors on the CPU, float32."""
    return {name: each.detach().to("cpu", torch.float32, copy=True) for name, each in adapter_parameters(model)}


def put_adapters(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy factors into a model that has adapters.

    Raises:
        UserError: names or shapes differ; the message begins with ``source``.
    """
    wanted = dict(adapter_parameters(model))
    if wanted.keys() != state.keys():
        odd = sorted(wanted.keys() ^ state.keys())
        raise UserError(f"{source}: its adapters are for other layers ({odd[0]}); use the settings it was made with")
    for name, parameter in wanted.items():
        if parameter.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(parameter.shape)}"
            raise UserError(f"{source}: {name} has shape {shapes}; use the rank it was made with")
        with torch.no_grad():
            parameter.copy_(state[name])
