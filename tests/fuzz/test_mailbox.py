"""What arrives in a mailbox, in whatever pieces and beside whatever else: every whole message, once and in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.examples import damaged, fuzzed

from graft.sweep.mailbox import Inbox, post

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
MESSAGES = st.dictionaries(st.text(max_size=6), JSON, max_size=4).map(lambda fields: {**fields, "kind": "line"})
DEEP = st.tuples(st.sampled_from([b"[", b'{"a":', b"[{"]), st.integers(1, 100_000)).map(lambda t: t[0] * t[1])
JUNK = st.one_of(st.binary(max_size=40), DEEP, st.just(b"9" * 5_000), damaged(MESSAGES.map(json.dumps).map(str.encode)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mailbox") / "to_worker"


@fuzzed("mailbox", 150, 8_000)
@given(st.lists(st.one_of(MESSAGES, JUNK), max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_whole_messages_arrive_once_and_in_order_whatever_lies_between(
    file: Path, parts: list[dict[str, Any] | bytes], looks: list[bool]
) -> None:
    file.write_bytes(b"")
    inbox, arrived = Inbox(file), []
    for part, look in zip(parts, looks, strict=False):
        if isinstance(part, bytes):
            with file.open("ab") as appended:
                appended.write(part)
        else:
            post(file, part)
        arrived += inbox.look() if look else []
    post(file, {"kind": "end"})
    arrived += inbox.look()
    assert inbox.look() == []
    rest = iter(arrived)
    # Junk may be a message by chance; none of ours may be missing.
    assert all(message in rest for message in parts if isinstance(message, dict))
    assert all(isinstance(message, dict) for message in arrived)
    if not any(isinstance(part, bytes) for part in parts):
        assert arrived == [*parts, {"kind": "end"}]
    again = Inbox(file, from_now=True)
    assert again.look() == []
