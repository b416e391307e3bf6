"""Pickles: plain values are read, all else is refused in one sentence and runs nothing."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hostile import FEW, damaged, flips, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.data import plain_pickle
from ovss.data.plain_pickle import read_plain

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), 1 << 63), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.tuples(inner), st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=12,
)
GOOD = [pickle.dumps([{"ref_id": 1, "sents": ["a", ("b", None)], "x": 1.5, "big": 1 << 40}], protocol=p)
        for p in range(5)]  # fmt: skip


@settings(FEW, max_examples=60)
@given(value=PLAIN, protocol=st.integers(0, 4))
def test_plain_values_are_read(value: object, protocol: int) -> None:
    assert read_plain(pickle.dumps(value, protocol=protocol), "it") == value


class Command:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch OWNED",)


class State:
    """An object of a class of one's own."""

    def __init__(self) -> None:
        self.a = 1


HOSTILE = {
    "a command": lambda protocol: pickle.dumps([Command()], protocol=protocol),
    "an object": lambda protocol: pickle.dumps(State(), protocol=protocol),
    "a function": lambda protocol: pickle.dumps([len, os.system], protocol=protocol),
    "a date": lambda protocol: pickle.dumps([datetime.date(2020, 1, 1)], protocol=protocol),
    "another dictionary": lambda protocol: pickle.dumps(collections.OrderedDict(a=1), protocol=protocol),
    "an array": lambda protocol: pickle.dumps([np.arange(3)], protocol=protocol),
    "a set": lambda protocol: pickle.dumps([{1, 2}], protocol=protocol),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_plain_value_is_refused_and_runs_nothing(
    what: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(lambda: read_plain(HOSTILE[what](protocol), "refcoco.zip: refs(unc).p"))
    assert said is not None and said.startswith("refcoco.zip: refs(unc).p: not a pickle of plain values")
    assert not list(tmp_path.iterdir())


def test_the_command_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["a command"](2))
    assert (tmp_path / "OWNED").is_file()


CALLS = {
    "GLOBAL": b"cos\nsystem\n(S'touch OWNED'\ntR.",
    "INST": b"(S'touch OWNED'\nios\nsystem\n.",
    "OBJ": b"(NS'touch OWNED'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93(\x8c\x0btouch OWNEDtR.",
    "PERSID": b"Pabc\n.",
    "BINPERSID": b"U\x03abcQ.",
    "EXT1": b"\x82\x01.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "BUILD": b"(d(dS'a'\nI1\nsb.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "REDUCE": b"NN\x85R.",
    "NEWOBJ": b"N)\x81.",
    "DUP": b"]2a.",
    "LONG4": b"\x8b\x01\x00\x00\x00\x01.",
}


@pytest.mark.parametrize("step", CALLS)
def test_every_step_that_calls_or_points_outside_is_refused_by_name(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"it has the step {step})" in str(refusal(lambda: read_plain(CALLS[step], "it")))
    assert not list(tmp_path.iterdir())


def test_nothing_can_be_looked_up_even_where_the_steps_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "_check_steps", lambda stream: None)
    assert "it asks for 'posix'.'system'" in str(refusal(lambda: read_plain(HOSTILE["a command"](2), "it")))
    assert "refers to something outside" in str(refusal(lambda: read_plain(CALLS["BINPERSID"], "it")))


def nested(depth: int, width: int) -> bytes:
    """Lists of ``width`` times the same list, ``depth`` deep: a few bytes, width ** depth values."""
    return b"]q\x00" + b"".join(b"](" + b"h" + bytes([k]) + b"".join(b"h" + bytes([k]) for _ in range(width - 1))
                                + b"eq" + bytes([k + 1]) for k in range(depth)) + b"."  # fmt: skip


BOMBS = {
    "lists that hold each other": (nested(19, 9), "more than"),
    "a list in itself": (b"]q\x00h\x00a.", "deeper than"),
    "deep lists": (b"]" * 100_000 + b"a" * 99_999 + b".", "deeper than"),
    "deep tuples": (b")" + b"\x85" * 100_000 + b".", "deeper than"),
    "a place far behind": (b"]r\xff\xff\xff\x7f.", "in place 2147483647"),
    "a place before the first": (b"]p-5\n.", "in place -5"),
    "a text of 4 GiB": (b"X\xff\xff\xff\xffabc.", "ValueError"),
    "a text of 2 GiB": (b"T\xff\xff\xff\x7fabc.", "ValueError"),
    "a text of 2^60 bytes": (b"\x8d" + (1 << 60).to_bytes(8, "little") + b"abc.", "the step BINUNICODE8"),
    "a frame of 2^60 bytes": (b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N.", "not a pickle"),
    "a number of 255 bytes": (b"\x8a\xff" + b"\x7f" * 255 + b".", "more than 64 bits"),
    "a number of a million digits": (b"L" + b"9" * 1_000_000 + b"L\n.", "not a pickle"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_little_time_and_memory(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "LARGEST_VALUES", 100_000)
    data, words = BOMBS[bomb]
    assert words in str(refusal(lambda: read_plain(data, "it"), 2.0, 128))


def test_size_and_number_of_steps_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "LARGEST", 50)
    assert "it has 60 bytes, 50 are allowed" in str(refusal(lambda: read_plain(b"]" * 60, "it")))
    monkeypatch.setattr(plain_pickle, "LARGEST_STEPS", 40)
    assert "more than 40 steps" in str(refusal(lambda: read_plain(b"]" * 45, "it")))
    assert plain_pickle.LARGEST_STEPS <= 1 << 24, "16 million lists take a gigabyte"


@settings(FEW, max_examples=60)
@given(data=st.binary(max_size=60))
def test_random_bytes_are_refused_or_plain(data: bytes) -> None:
    refusal(lambda: read_plain(data, "it"), 2.0, 128)


@settings(FEW, max_examples=60)
@given(good=st.sampled_from(GOOD), places=flips, length=st.floats(0.1, 1.0))
def test_damaged_pickles_are_refused_or_plain(good: bytes, places: list[tuple[float, int]], length: float) -> None:
    refusal(lambda: read_plain(damaged(good, places, length), "it"), 2.0, 128)


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_is_cut_short_anywhere_is_refused(protocol: int) -> None:
    good = GOOD[protocol]
    for end in range(len(good)):
        assert refusal(partial(read_plain, good[:end], "it"))
