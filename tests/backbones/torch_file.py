"""Writes legacy torch files without torch: right ones, and ones that lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@dataclass(frozen=True)
class Name:
    """`module name`, as the pickle instruction GLOBAL has it."""

    text: str


@dataclass(frozen=True)
class Call:
    function: object
    arguments: object


@dataclass(frozen=True)
class Persistent:
    reference: object


ORDERED_DICT = Call(Name("collections OrderedDict"), ())


def tensor(
    key: str = "1",
    *,
    count: object = 6,
    storage_type: str = "torch FloatStorage",
    location: object = "cpu",
    view: object = None,
    offset: object = 0,
    shape: object = (2, 3),
    strides: object = (3, 1),
    hooks: object = ORDERED_DICT,
) -> Call:
    storage = Persistent(("storage", Name(storage_type), key, location, count, view))
    return Call(Name("torch._utils _rebuild_tensor_v2"), (storage, offset, shape, strides, False, hooks))


def torch_file(
    tensors: Mapping[object, object] | bytes,
    storages: Sequence[tuple[str, int, bytes]] = (("1", 6, struct.pack("<6f", *range(6))),),
    *,
    protocol: object = 1001,
    info: object = INFO,
) -> bytes:
    """The bytes of a file; `storages` are key, stated count, values, and `tensors` may be a whole pickle."""
    state_dict = tensors if isinstance(tensors, bytes) else pickled(dict(tensors))
    head = MAGIC + pickled(protocol) + pickled(info) + state_dict + pickled([key for key, _, _ in storages])
    return head + b"".join(struct.pack("<q", count) + values for _, count, values in storages)


def pickled(value: object) -> bytes:
    return b"\x80\x02" + _code(value) + b"."


def _code(value: object) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(content)]) + content
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_code(key) + _code(item) for key, item in value.items()) + b"u"
        case Name(text):
            return b"c" + text.replace(" ", "\n").encode() + b"\n"
        case Call(function, arguments):
            return _code(function) + _code(arguments) + b"R"
        case Persistent(reference):
            return _code(reference) + b"Q"
    raise TypeError(f"No pickle code for {value!r}")
