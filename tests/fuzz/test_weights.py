"""Files that may pose as legacy torch files: tensors that lie inside the file, or a TorchFileError."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.backbones.torch_file import INFO, MAGIC, ORDERED_DICT, Call, Name, Persistent, pickled, tensor, torch_file
from tests.fuzz.examples import damaged, fuzzed, variants

from graft.backbones.torch_weights import TorchFileError, parse

HUGE = st.sampled_from([-1, 0, 1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**200, -(2**63), 10**20])
SIZES = st.one_of(st.integers(0, 8), HUGE)
TEXTS = st.one_of(st.sampled_from(["1", "2", "weight", "cpu", "cuda:0", "", "x" * 5000]), st.text(max_size=5))
NAMES = st.sampled_from(
    [
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
        "os system",
        "builtins eval",
        "torch HalfStorage",
        "numpy.core.multiarray _reconstruct",
    ]
).map(Name)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), HUGE, TEXTS, NAMES, st.just(ORDERED_DICT)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=6).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.tuples(st.one_of(NAMES, inner), inner).map(lambda pair: Call(*pair)),
        inner.map(Persistent),
    ),
    max_leaves=8,
)
TUPLES = st.one_of(st.lists(SIZES, max_size=3).map(tuple), st.lists(SIZES, max_size=40).map(tuple), ANYTHING)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """A tensor of which some parts lie."""
    right: dict[str, Any] = {}
    for part, values in (
        ("count", SIZES),
        ("offset", SIZES),
        ("shape", TUPLES),
        ("strides", TUPLES),
        ("key", TEXTS),
        ("storage_type", NAMES.map(lambda name: name.text)),
        ("location", TEXTS),
        ("view", ANYTHING),
        ("hooks", ANYTHING),
    ):
        if draw(st.integers(0, 4)) == 0:
            right[part] = draw(values)
    return tensor(**right)


STORAGES = st.lists(
    st.one_of(
        st.just(("1", 6, struct.pack("<6f", *range(6)))),
        st.tuples(TEXTS, st.one_of(st.integers(0, 8), st.integers(-(2**63), 2**63 - 1)), st.binary(max_size=48)),
    ),
    max_size=3,
)
LYING = st.builds(
    torch_file,
    st.one_of(st.dictionaries(st.one_of(TEXTS, st.integers(), st.none()), st.one_of(tensors(), ANYTHING), max_size=3)),
    STORAGES,
    protocol=st.one_of(st.just(1001), ANYTHING),
    info=st.one_of(st.just(INFO), st.just({"little_endian": True}), ANYTHING),
)
COUNTER = tensor("2", count=1, storage_type="torch LongStorage", shape=(), strides=())
WHOLE = torch_file({"a": tensor(), "b": COUNTER}, [("1", 6, struct.pack("<6f", *range(6))), ("2", 1, bytes(8))])
# Any of pickle's instructions, in any order, where the state dict should be.
PROGRAMS = st.lists(
    st.one_of(
        st.integers(0, 255).map(lambda code: bytes([code])),
        st.binary(max_size=9),
        ANYTHING.map(lambda v: pickled(v)[2:-1]),
    ),
    max_size=30,
).map(lambda parts: torch_file(b"\x80\x02" + b"".join(parts) + b".", []))


@fuzzed("weights", 300, 6_000)
@given(st.one_of(damaged(st.just(WHOLE)), damaged(LYING), LYING, PROGRAMS, st.binary(max_size=200).map(MAGIC.__add__)))
def test_any_bytes_are_weights_within_the_file_or_refused(data: bytes) -> None:
    weights_or_refused(data)


@fuzzed("weights", 10, 1_500)
@given(st.one_of(st.just(WHOLE), LYING), st.integers(0, 2**32))
def test_any_damage_leaves_weights_within_the_file_or_is_refused(whole: bytes, seed: int) -> None:
    for data in variants("weights", whole, seed, 40):
        weights_or_refused(data)


def weights_or_refused(data: bytes) -> None:
    try:
        weights = parse(data)
    except TorchFileError as refused:
        assert 0 < len(str(refused)) < 600
        return
    assert all(isinstance(name, str) for name in weights)
    assert all(weight.nbytes <= len(data) for weight in weights.values())
    again = parse(data)
    for name, weight in weights.items():
        # Every value can be read, and is the same each time: none lies outside.
        assert np.array_equal(weight.copy().view(np.uint8), again[name].copy().view(np.uint8)) if weight.shape else True


@fuzzed("weights", 50, 1_000)
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3))
def test_a_file_that_is_cut_off_or_too_long_is_refused(length: int, more: bytes) -> None:
    for data in (WHOLE[:length], WHOLE + b"x" + more):
        try:
            parse(data)
        except TorchFileError:
            continue
        raise AssertionError("it was taken")
