"""How inputs are fuzzed: how many, how they are counted, and what ends one that hangs or takes all memory."""

from __future__ import annotations

import functools
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.sweep.apps import LONG

INPUTS: Counter[str] = Counter()
"""How many inputs each target was given."""

# Seconds of this process's own work, not of the clock: a busy machine is no hang.
PATIENCE = 120
# What an input may make its target take beyond what the process had before.
MEMORY = 2**30


def fuzzed(target: str, short: int, long: int, *, memory: int | None = MEMORY) -> Callable[[Any], Any]:
    """For a test with `@given`: runs it on so many inputs, the same ones each time unless GRAFT_LONG=1."""

    def decorate(test: Any) -> Any:
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> None:
            INPUTS[target] += 1
            with _patience(), _memory(memory):
                inner(*args, **kwargs)

        test.hypothesis.inner_test = counted
        limited = settings(
            max_examples=long if LONG else short,
            deadline=None,
            derandomize=not LONG,
            database=None,  # an input that failed becomes a regression test of its own
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(test)
        return pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")(limited)

    return decorate


class Hangs(BaseException):
    """An input takes for ever. No target catches it."""


@contextmanager
def _patience() -> Iterator[None]:
    def end(*_: object) -> None:
        raise Hangs(f"one input took {PATIENCE} s of work")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _memory(most: int | None) -> Iterator[None]:
    if most is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: files with their contents, links with their targets."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "folder" if path.is_dir() else "something else"
    return found


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right once: cut off, with bytes changed, put in, left out, doubled, or all of that."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("cut", "change", "flip", "insert", "leave out", "double", "zeros", "ones"))):
            case "cut":
                del data[place:]
            case "change":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "flip" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[place:place] = draw(st.binary(max_size=20))
            case "leave out":
                del data[place : place + draw(st.integers(1, 40))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 600))]
            case "zeros":
                data[place : place + 8] = bytes(8)
            case "ones":
                data[place : place + 4] = b"\xff" * 4
    return bytes(data)


def variants(target: str, whole: bytes, seed: int, count: int) -> Iterator[bytes]:
    """So many more inputs, the same bytes with other damage each time: faster to make than drawn ones."""
    generator = random.Random(seed)
    for _ in range(count):
        INPUTS[target] += 1
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(data) + 1)
            match generator.randrange(6):
                case 0:
                    data[place : place + 1] = bytes([generator.randrange(256)])
                case 1:
                    data[place : place + 1] = b"\xff" * generator.randint(0, 8)
                case 2:
                    data[place : place + 4] = generator.choice((1, 2**16, 2**31 - 1, 2**32 - 1)).to_bytes(4, "little")
                case 3:
                    data[place : place + generator.randint(0, 40)] = b""
                case 4:
                    data[place:place] = data[(start := generator.randrange(len(data) + 1)) : start + 40]
                case 5 if generator.randrange(4) == 0:
                    del data[place:]
        yield bytes(data)


NAMES = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "cat",
            "a b",
            "größe",
            "猫",
            "-rf",
            "*",
            "$HOME",
            "%s",
            "a,b",
            "a=b",
            "'",
            '"',
            "\t",
            "\x7f",
            "\u202e",
        ]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    # Bytes that are no UTF-8, as Python has them in texts.
    st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), min_size=1, max_size=3),
).filter(lambda name: name not in (".", ".."))
"""What a file may be called."""
