"""Pickles that hold nothing but lists, tuples, dictionaries, texts, numbers, true, false and None.

A pickle is a small program, which may call anything and may ask for more memory than there is. So its steps are read
first, without doing them, and only those that build plain values are allowed; what does them can look up nothing by
name; and what comes out is counted. Python 2's byte texts become texts of the same code points (latin1).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any, NoReturn

from ovss.errors import UserError

LARGEST = 100 << 20
"""Bytes of a pickle; the published lists of references are smaller."""
LARGEST_STEPS = 1 << 24
"""Steps of a pickle: the shortest ones take one byte and make 64."""
LARGEST_VALUES = 1 << 24
"""Values in what comes out, those that occur twice counted twice: a few steps can nest a list in itself for ever."""
LARGEST_NUMBER = 1 << 64
DEEPEST = 20

_ALLOWED = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG",
    "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET",
    "BINGET", "LONG_BINGET",
})  # fmt: skip
_TO_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_END = object()
# what unpickling damaged bytes raises
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, OverflowError, AttributeError,
           MemoryError, RecursionError)  # fmt: skip


def read_plain(data: bytes, name: str) -> Any:
    """The value in a pickle of protocol 0 to 4.

    Args:
        data: the pickle.
        name: what the messages call it.

    Raises:
        UserError: it is damaged or too large, or would do anything but build plain values; nothing of it was run then.
    """
    if len(data) > LARGEST:
        raise _refused(name, f"it has {len(data)} bytes, {LARGEST} are allowed")
    try:
        _check_steps(io.BytesIO(data))
        value = PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
        _check_value(value)
    except _Refusal as refusal:
        raise _refused(name, str(refusal)) from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:99]
        raise _refused(name, f"{type(error).__name__}: {reason}" if reason else type(error).__name__) from error
    return value


def _refused(name: str, reason: str) -> UserError:
    return UserError(f"{name}: not a pickle of plain values ({reason}); nothing of it was run; fetch the archive again")


class _Refusal(Exception):
    """What a pickle must not do."""


class PlainUnpickler(pickle.Unpickler):
    """Looks up nothing by name, so that nothing can be called."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        """Refuse the name of a class or function."""
        raise _Refusal(f"it asks for {module[:40]!a}.{name[:40]!a}")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        """Refuse a reference to something outside the pickle."""
        raise _Refusal("it refers to something outside itself")


def _line(stream: IO[bytes]) -> bytes:
    """A text of Python 2 in quotes; the table's own reader knows only ASCII."""
    return stream.readline()


_STEPS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    step.code.encode("latin1"): (
        step.name,
        _line if step.name == "STRING" else step.arg.reader if step.arg is not None else None,
    )
    for step in pickletools.opcodes
}


def _check_steps(stream: IO[bytes]) -> None:
    """Read the steps up to the last without doing them.

    Raises:
        _Refusal: one is not allowed, or makes too much.
        ValueError: they are damaged.
    """
    for count in range(LARGEST_STEPS):
        name, reader = _STEPS.get(stream.read(1), ("", None))
        if name not in _ALLOWED:
            raise _Refusal(f"it has the step {name}" if name else "it is cut short or has an unknown step")
        argument: Any = reader(stream) if reader is not None else None
        if name in _TO_MEMO and not 0 <= argument <= count:  # the memo is made as long as the highest number
            raise _Refusal(f"it puts a value in place {argument}")
        if isinstance(argument, int) and not -LARGEST_NUMBER < argument < LARGEST_NUMBER:
            raise _Refusal("it holds a number of more than 64 bits")
        if name == "STOP":
            return
    raise _Refusal(f"it has more than {LARGEST_STEPS} steps")


def _check_value(value: Any) -> None:
    """Count the values, each as often as it occurs.

    Raises:
        _Refusal: there are too many, they lie too deep, or one is not plain.
    """
    levels: list[Iterator[Any]] = [iter((value,))]
    for _ in range(LARGEST_VALUES):
        one: Any = _END
        while levels and (one := next(levels[-1], _END)) is _END:
            levels.pop()
        if not levels:
            return
        kind = type(one)
        if kind in _SCALARS:
            continue
        if kind not in (list, tuple, dict):
            raise _Refusal(f"it holds a {kind.__name__}")
        if len(levels) > DEEPEST:
            raise _Refusal(f"it holds lists in lists, deeper than {DEEPEST}")
        levels.append(chain(one, one.values()) if kind is dict else iter(one))
    raise _Refusal(f"it holds more than {LARGEST_VALUES} values")
