"""Reads the weights out of a legacy torch file, without torch and without running anything in it.

Such a file (written by ``torch.save`` before torch 1.6, not a zip) is five pickles and then raw memory:

    magic number | protocol | system facts | state dict | storage keys | for each key: count, values

A pickle is a program. ``pickle.Unpickler`` with its ``find_class`` overridden keeps that program from
calling functions, but not from doing harm with what is left: one five-byte instruction makes it
allocate gigabytes, and a tuple nested in itself and used as a key takes for ever to hash. So `parse`
interprets the few instructions that torch writes itself and refuses every other one. Whatever the
bytes say, it takes time and memory in proportion to their number.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# Lite0's state dict takes 11,000; the bound is there for files that only pretend to be one.
MAX_INSTRUCTIONS = 200_000
MAX_DIMENSIONS = 8
MAX_COUNT = 2**63 - 1

STORAGE_TYPES: Mapping[str, np.dtype[np.generic]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"


class TorchFileError(ValueError):
    """The bytes are no legacy torch file of plain float and integer tensors, or a damaged one."""


def parse(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The state dict that a legacy torch file holds.

    Args:
        data: The whole file.

    Returns:
        For each name its tensor, float32 or int64, in torch's axis order (convolution kernels are
        [output, input, height, width]). The arrays are read-only views into `data`.

    Raises:
        TorchFileError: with the reason; for any other bytes than those described above.
    """
    stream = io.BytesIO(data)
    if _unpickle(stream) != MAGIC_NUMBER:
        raise TorchFileError("the magic number of a legacy torch file is missing")
    if (protocol := _unpickle(stream)) != PROTOCOL:
        raise TorchFileError(f"protocol {PROTOCOL} expected, found {_brief(protocol)}")
    facts = _unpickle(stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise TorchFileError("the file does not say that its values are little-endian")
    tensors = _state_dict(_unpickle(stream))
    storages = _read_storages(data, stream, tensors)
    return {name: _view(name, tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


# What the pickles are made of ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle mentions. It stays a name; nothing is imported or called."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """A piece of memory that lies further down in the file: `count` values of `dtype`."""

    key: str
    dtype: np.dtype[np.generic]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage. Offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class _Machine:
    """The stack that a pickle works on, the values below each open mark, and what it memoised."""

    stack: list[object] = field(default_factory=list)
    below: list[list[object]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def pop(self) -> object:
        if not self.stack:
            raise TorchFileError("a pickle takes a value that it never made")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        if not self.below:
            raise TorchFileError("a pickle closes a group that it never opened")
        group, self.stack = self.stack, self.below.pop()
        return group

    def top_dict(self) -> dict[str, object]:
        if not self.stack or not isinstance(top := self.stack[-1], dict):
            raise TorchFileError("a pickle sets an item or a state of something that is no dict")
        return top

    def top_list(self) -> list[object]:
        if not self.stack or not isinstance(top := self.stack[-1], list):
            raise TorchFileError("a pickle appends to something that is no list")
        return top


def _unpickle(stream: io.BytesIO) -> object:
    """The value of the next pickle: int, bool, None, str, tuple, list, dict or `_Tensor`, nested.

    pickletools decodes the instructions and checks the lengths in them against what is there.
    """
    machine = _Machine()
    try:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if number == MAX_INSTRUCTIONS:
                raise TorchFileError(f"a pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            _execute(machine, instruction.name, argument)
    except TorchFileError:
        raise
    except ValueError as error:
        # pickletools quotes the bytes it choked on, however many they are.
        raise TorchFileError(f"a pickle is damaged: {str(error)[:120]}") from error
    if len(machine.stack) != 1 or machine.below:
        raise TorchFileError("a pickle leaves values over")
    return machine.stack[0]


def _execute(machine: _Machine, instruction: str, argument: object) -> None:
    stack = machine.stack
    match instruction:
        case "PROTO" | "STOP":
            pass
        case "NONE":
            stack.append(None)
        case "NEWTRUE" | "NEWFALSE":
            stack.append(instruction == "NEWTRUE")
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
            stack.append(argument)
        case "BINPUT" | "LONG_BINPUT":
            if not stack:
                raise TorchFileError("a pickle memoises a value that it never made")
            assert isinstance(argument, int)
            machine.memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            assert isinstance(argument, int)
            if argument not in machine.memo:
                raise TorchFileError("a pickle recalls a value that it never memoised")
            stack.append(machine.memo[argument])
        case "MARK":
            machine.below.append(stack)
            machine.stack = []
        case "EMPTY_TUPLE":
            stack.append(())
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            items = [machine.pop() for _ in range(int(instruction[-1]))]
            stack.append(tuple(reversed(items)))
        case "TUPLE":
            group = machine.pop_to_mark()
            machine.stack.append(tuple(group))
        case "EMPTY_LIST":
            stack.append([])
        case "APPEND":
            value = machine.pop()
            machine.top_list().append(value)
        case "APPENDS":
            group = machine.pop_to_mark()
            machine.top_list().extend(group)
        case "EMPTY_DICT":
            stack.append({})
        case "SETITEM":
            value, key = machine.pop(), machine.pop()
            _set_items(machine.top_dict(), [key, value])
        case "SETITEMS":
            group = machine.pop_to_mark()
            _set_items(machine.top_dict(), group)
        case "GLOBAL":
            assert isinstance(argument, str)
            if argument not in (ORDERED_DICT, REBUILD_TENSOR, *STORAGE_TYPES):
                raise TorchFileError(f"a pickle refers to {argument[:120]!r}, which no weights need")
            stack.append(_Name(argument))
        case "REDUCE":
            arguments, function = machine.pop(), machine.pop()
            stack.append(_reduce(function, arguments))
        case "BINPERSID":
            stack.append(_storage(machine.pop()))
        case "BUILD":
            # torch hangs its module versions on the state dict as an attribute; no weights are in it.
            machine.pop()
            machine.top_dict()
        case _:
            raise TorchFileError(f"a pickle has the instruction {instruction}, which torch never writes")


def _set_items(target: dict[str, object], flat: list[object]) -> None:
    if len(flat) % 2:
        raise TorchFileError("a pickle sets a key without a value")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(key, str):
            raise TorchFileError(f"a dict has the key {_brief(key)}; only texts are allowed")
        target[key] = value


def _reduce(function: object, arguments: object) -> object:
    """What a call in the pickle stands for: an empty dict, or a tensor."""
    if function == _Name(ORDERED_DICT) and arguments == ():
        return {}
    if function == _Name(REBUILD_TENSOR):
        match arguments:
            # The last two: whether it wanted gradients, and its hooks (none).
            case (_Storage() as storage, offset, tuple(shape), tuple(strides), bool(), {**hooks}) if not hooks:
                (start,) = _counts((offset,))
                return _Tensor(storage, start, _counts(shape), _counts(strides))
    raise TorchFileError("a pickle calls something that makes neither an empty dict nor a plain tensor")


def _counts(values: tuple[object, ...]) -> tuple[int, ...]:
    """`values`, if they are so many and so large as an offset, a shape or strides can be."""
    counts = tuple(value for value in values if type(value) is int and 0 <= value <= MAX_COUNT)
    if len(counts) != len(values) or len(values) > MAX_DIMENSIONS:
        raise TorchFileError("a tensor has an offset, a shape or strides that no tensor can have")
    return counts


def _storage(reference: object) -> _Storage:
    match reference:
        case ("storage", _Name(type_name), str(key), "cpu", int(count), None) if (
            type_name in STORAGE_TYPES and 0 <= count <= MAX_COUNT
        ):
            return _Storage(key, STORAGE_TYPES[type_name], count)
    raise TorchFileError("a tensor refers to something else than a whole storage of a known type")


# From the pickles to arrays ------------------------------------------------------------------------


def _state_dict(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise TorchFileError(f"a state dict expected, found {_brief(value)}")
    for name, tensor in value.items():
        if not isinstance(tensor, _Tensor):
            raise TorchFileError(f"{_brief(name)} is {_brief(tensor)}, not a tensor")
    return value


def _read_storages(data: bytes, stream: io.BytesIO, tensors: Mapping[str, _Tensor]) -> dict[str, NDArray[np.generic]]:
    """The memory of each storage; `stream` stands before the list of their keys."""
    declared: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if declared.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise TorchFileError(f"storage {_brief(tensor.storage.key)} is declared in two ways")

    keys = _unpickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TorchFileError("the list of storage keys is missing")
    if len(set(keys)) != len(keys) or set(keys) != set(declared):
        raise TorchFileError("the list of storage keys does not match the tensors")

    storages: dict[str, NDArray[np.generic]] = {}
    position = stream.tell()
    for key in keys:
        storage = declared[key]
        if position + 8 > len(data):
            raise TorchFileError("the file ends before its last storage")
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        position += 8
        if count != storage.count:
            raise TorchFileError(f"storage {_brief(key)} should hold {storage.count:,} values, the file says {count:,}")
        end = position + count * storage.dtype.itemsize
        if end > len(data):
            raise TorchFileError(f"the file ends {end - len(data):,} bytes too early")
        storages[key] = np.frombuffer(data, storage.dtype, count, position)
        position = end
    if position != len(data):
        raise TorchFileError(f"{len(data) - position:,} bytes are left after the last storage")
    return storages


def _view(name: str, tensor: _Tensor, memory: NDArray[np.generic]) -> NDArray[np.generic]:
    """`tensor` as a view of `memory`, after a check that every element of it lies inside."""
    size = math.prod(tensor.shape)
    reach = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=False))
    if (
        len(tensor.shape) != len(tensor.strides)
        or tensor.offset + reach >= memory.size
        # A stride of 0 would let a few values pose as any number of them; and no weights are empty.
        or not 0 < size <= memory.size
    ):
        raise TorchFileError(
            f"{_brief(name)} does not fit its storage of {memory.size:,} values: shape {tensor.shape}, "
            f"strides {tensor.strides}, offset {tensor.offset}"
        )
    # An axis of length 1 is never stepped along, so its stride may be any number, and too large a one
    # in bytes for numpy.
    strides = [
        step * memory.itemsize if length > 1 else 0 for length, step in zip(tensor.shape, tensor.strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(memory[tensor.offset :], tensor.shape, strides, writeable=False)


def _brief(value: object) -> str:
    """`value` for a message: short, and never walking through a nest that the file built."""
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, bool | int | None) and (value is None or abs(value) < 10**18):
        return repr(value)
    return f"a {type(value).__name__}"
