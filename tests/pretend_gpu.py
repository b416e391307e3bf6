"""A device that is none: its tensors lie in memory and are computed on the CPU, but the CPU's own may not meet them.

So a machine without a GPU refuses what a GPU would: operands on two devices (numbers aside), ``numpy()`` of what is on
the device. Operations are the CPU's, so outputs can be compared; attention may take another kernel. What only CUDA has
is not shown: its memory, its rounding, its kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
_aten = torch.ops.aten
_BETWEEN_DEVICES = frozenset({_aten.copy_.default, _aten._to_copy.default, _aten.to.device, _aten.to.other})
_INDEXED_BY_EITHER = frozenset({_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default})
_TO_PYTHON = frozenset({_aten._local_scalar_dense.default, _aten.item.default})


class Pretended(Tensor):
    """A tensor of the device. held: the CPU's tensor with its values, which nobody else has."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=f"{NAME}:0", requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation on what the tensors hold; its results are on the device where an operand is, or where it says so."""
    if func is _aten._has_compatible_shallow_copy_type.default:
        return isinstance(args[0], Pretended) == isinstance(args[1], Pretended)
    leaves = tree_leaves((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    _refuse_mixed(func, args, tensors)
    ours = _is_ours(devices[0]) if devices else any(isinstance(tensor, Pretended) for tensor in tensors)
    found = func(*tree_map(_held, tuple(args)), **tree_map(_held, dict(kwargs)))
    if func in _TO_PYTHON:
        return found
    known = {id(_held(tensor)): tensor for tensor in tensors}
    return tree_map(lambda value: _placed(value, ours, known), found)


def _refuse_mixed(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """As CUDA does: numbers of the CPU (no dimension) are taken, and its indices."""
    if func in _BETWEEN_DEVICES or (func in _INDEXED_BY_EITHER and isinstance(args[0], Pretended)):
        return
    kinds = {isinstance(tensor, Pretended) for tensor in tensors if tensor.dim() or isinstance(tensor, Pretended)}
    if len(kinds) > 1:
        shapes = ", ".join(f"{tensor.device.type} {tuple(tensor.shape)}" for tensor in tensors)
        raise RuntimeError(f"{func}: tensors on two devices: {shapes}")


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, Pretended) else value


def _placed(value: Any, ours: bool, known: Mapping[int, Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    before = known.get(id(value))  # an operation in place returns its operand
    if before is not None and isinstance(before, Pretended) == ours:
        return before
    return Pretended(value) if ours else value


class _Module(_DummyBackendModule):
    """What torch asks of a device's module, here without any half precision."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return []


@cache
def _register() -> torch.library.Library:
    """The device, and what torch makes on it before it asks any mode: tensors of Python's numbers."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")

    def register(name: str, made: Callable[..., Tensor]) -> None:
        library.impl(name, lambda *sizes, **how: Pretended(made(*sizes, **{**how, "device": "cpu"})), "PrivateUse1")

    def copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        _held(target).copy_(_held(source))
        return target

    register("empty_strided", _aten.empty_strided)
    register("empty.memory_format", _aten.empty)
    library.impl("_copy_from", copy, "PrivateUse1")
    return library


@contextmanager
def pretended_gpu() -> Iterator[str]:
    """The name of the device, while it is there.

    ``inference_mode`` is ``no_grad`` meanwhile: a tensor that holds another one cannot be a view in it.
    """
    _register()
    entered: list[Any] = []

    def enter(mode: Any) -> None:
        entered.append(torch.no_grad())
        entered[-1].__enter__()

    def leave(mode: Any, *what: Any) -> None:
        entered.pop().__exit__(*what)

    with mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave), _Operations():
        yield NAME


def everywhere() -> Callable[[], object]:
    """Have every stage compute on the device unless it is told another; returns what ends it."""
    from ovss.jobs import Machine
    from ovss.retrieval import search

    importlib.import_module("ovss.models.openclip")  # first: stands in for parts of torch that operations here need
    entered = ExitStack()
    device = entered.enter_context(pretended_gpu())
    entered.enter_context(
        mock.patch.object(Machine.__init__, "__defaults__", (device, *Machine.__init__.__defaults__[1:]))
    )
    entered.enter_context(mock.patch.dict(search.BLOCKS, {device: search.BLOCKS["cpu"]}))
    return entered.close
