"""What a SavedModel says of itself: the images that it takes, the features that it gives, how large it is.

TensorFlow's own reader comes with TensorFlow, which takes seconds to import; a wrong module has to be refused before.
So the few fields that matter are read from `saved_model.pb` directly. It is a protocol buffer (protobuf.dev, Encoding):
fields, each with a number and a type; those that are not known are passed over. The numbers are those of TensorFlow's
`saved_model.proto`, `meta_graph.proto`, `saved_object_graph.proto`, `struct.proto` and `tensor_shape.proto`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.digests import remembered_sha256

DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "string", 9: "int64", 14: "bfloat16", 19: "float16"}
FLOATS = ("float32", "float64", "bfloat16", "float16")

# The structures that a function may take or give, by the number of their field in a StructuredValue.
TENSOR_SPEC, LIST, TUPLE, DICT, NAMED_TUPLE = 33, 51, 52, 53, 54
STRUCTURES = {1: "nothing", LIST: "a list", TUPLE: "a tuple", DICT: "a dict", NAMED_TUPLE: "a tuple"}

# TF Hub's name for what a classifier gives, and the usual ones.
CLASSIFIER_OUTPUTS = ("logits", "predictions", "probabilities")

Bytes = memoryview


class Damaged(ValueError):
    """The bytes are no SavedModel."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that a function takes or gives. In `shape` None is any length; None for `shape` is any rank."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {'of any rank' if self.shape is None else self.shape}"


@dataclass(frozen=True)
class Function:
    """One way to call the module.

    Attributes:
        images: Its first argument; None where that is no tensor.
        output: What comes back; in words where that is no tensor.
    """

    images: Tensor | None
    output: Tensor | str


@dataclass(frozen=True)
class Interface:
    """What a SavedModel says of itself; None and nothing where it does not say.

    Attributes:
        callable: Whether the object in it can be called, or has only signatures.
        functions: The ways to call it.
        signature_outputs: The names of what its signature `serving_default` gives.
        parameters: How many numbers its variables hold, trainable or not.
    """

    callable: bool | None = None
    functions: tuple[Function, ...] = ()
    signature_outputs: tuple[str, ...] = ()
    parameters: int | None = None

    @property
    def input_size(self) -> int | None:
        """The only height and width in pixels that it takes; None if it takes others, too, or does not say."""
        sizes = {
            function.images.shape[1:3] for function in self._on_images() if function.images and function.images.shape
        }
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        return height if height == width else None

    @property
    def feature_width(self) -> int | None:
        """How many features it gives."""
        widths = {
            function.output.shape[-1]
            for function in self._on_images()
            if isinstance(function.output, Tensor) and function.output.shape
        }
        return widths.pop() if len(widths) == 1 else None

    def objection(self) -> str | None:
        """Why this is no module from square RGB images to feature vectors; None if nothing speaks against it."""
        if self.callable is False:
            return (
                "the SavedModel cannot be called: it has at most signatures, like a TF1 module or what Keras' "
                "model.export() writes. A reusable SavedModel is needed (tensorflow.org/hub/reusable_saved_models)"
            )
        usable = self._on_images()
        if self.functions and not usable:
            taken = sorted({str(function.images or "no tensor") for function in self.functions})
            return f"the module takes {' or '.join(taken)}; float32 (None, height, width, 3), RGB images, is needed"
        sizes = [function.images.shape[1:3] for function in usable if function.images and function.images.shape]
        if sizes and all(None not in size and size[0] != size[1] for size in sizes):
            return f"the module takes images of {sizes[0][0]} x {sizes[0][1]} pixels; Graft's are square"
        if wrong := [function.output for function in usable if not _is_feature_vector(function.output)]:
            return (
                f"the module gives {wrong[0]}; a feature vector, float32 (None, width), is needed. TF Hub lists such "
                "modules as 'feature vector'"
            )
        return None

    def classifier_output(self) -> str | None:
        """What it calls its output, if that is what a classifier gives."""
        return next((name for name in self.signature_outputs if name in CLASSIFIER_OUTPUTS), None)

    def _on_images(self) -> tuple[Function, ...]:
        return tuple(function for function in self.functions if function.images and _may_be_images(function.images))


def read(folder: Path) -> Interface:
    """What the SavedModel in `folder` says of itself; nothing at all if its graph is kept as text.

    Raises:
        Damaged: if `saved_model.pb` is no SavedModel.
        OSError: if it cannot be read.
    """
    graph = folder / "saved_model.pb"
    return parse(graph.read_bytes()) if graph.is_file() else Interface()


def remembered(folder: Path) -> Interface:
    """As `read`, but a graph is looked through once in a process, which takes a large one a fraction of a second."""
    graph = folder / "saved_model.pb"
    return _read_then(folder, remembered_sha256(graph)) if graph.is_file() else Interface()


@functools.lru_cache(maxsize=16)
def _read_then(folder: Path, _: str) -> Interface:
    return read(folder)


def parse(saved_model: bytes) -> Interface:
    """What the content of a `saved_model.pb` says.

    Raises:
        Damaged: if it is no SavedModel.
    """
    if not saved_model:
        raise Damaged("it is empty")
    metas = _all(Bytes(saved_model), 2)
    if not metas:
        return Interface()
    meta = metas[0]
    outputs = tuple(
        name for key, signature in _map(meta, 5) if key == "serving_default" for name, _ in _map(signature, 2)
    )
    graph = _first(meta, 7)
    if graph is None:
        return Interface(callable=False, signature_outputs=outputs)
    nodes = _all(graph, 1)
    root = dict(_children(nodes[0])) if nodes else {}
    call = _node(nodes, root.get("__call__"))
    function = None if call is None else _first(call, 6)
    if function is None:
        return Interface(callable=False, signature_outputs=outputs, parameters=_parameters(nodes, root))
    names = {_text(name) for name in _all(function, 1)}
    functions = tuple(_function(body) for name, body in _map(graph, 2) if name in names)
    return Interface(True, functions, outputs, _parameters(nodes, root))


def _may_be_images(tensor: Tensor) -> bool:
    shape = tensor.shape
    return tensor.dtype == "float32" and (shape is None or (len(shape) == 4 and shape[3] in (3, None)))


def _is_feature_vector(output: Tensor | str) -> bool:
    if isinstance(output, str):
        return False
    return output.dtype == "float32" and (output.shape is None or len(output.shape) == 2)


# The object graph ----------------------------------------------------------------------------------


def _children(node: Bytes) -> Iterator[tuple[str, int]]:
    for reference in _all(node, 1):
        yield _text(_first(reference, 2) or Bytes(b"")), _number(reference, 1)


def _node(nodes: list[Bytes], index: int | None) -> Bytes | None:
    return nodes[index] if index is not None and 0 <= index < len(nodes) else None


def _parameters(nodes: list[Bytes], root: dict[str, int]) -> int | None:
    listed = _node(nodes, root.get("variables"))
    # Where the module lists no variables, all of them; the list leaves out what an optimizer left behind.
    chosen = nodes if listed is None else [node for _, index in _children(listed) if (node := _node(nodes, index))]
    shapes = [
        shape
        for node in chosen
        if (variable := _first(node, 7)) is not None
        and DTYPES.get(_number(variable, 1)) in FLOATS
        and (shape := _shape(_first(variable, 2))) is not None
    ]
    if not shapes or any(None in shape for shape in shapes):
        return None
    return sum(math.prod(length for length in shape if length is not None) for shape in shapes)


def _function(body: Bytes) -> Function:
    # The arguments are a pair: the positional ones, and those by name.
    arguments = _items(_first(body, 3), TUPLE)
    positional = _items(arguments[0], TUPLE) if arguments else []
    images = _first(positional[0], TENSOR_SPEC) if positional else None
    output = _first(body, 4)
    given = None if output is None else _first(output, TENSOR_SPEC)
    return Function(
        None if images is None else _tensor(images), _structure(output) if given is None else _tensor(given)
    )


def _items(value: Bytes | None, kind: int) -> list[Bytes]:
    held = None if value is None else _first(value, kind)
    return [] if held is None else _all(held, 1)


def _structure(value: Bytes | None) -> str:
    kinds = [number for number, _ in _fields(value)] if value is not None else []
    return STRUCTURES.get(kinds[0], "no tensor") if kinds else "nothing"


def _tensor(spec: Bytes) -> Tensor:
    number = _number(spec, 3)
    return Tensor(DTYPES.get(number, f"type {number}"), _shape(_first(spec, 2)))


def _shape(shape: Bytes | None) -> tuple[int | None, ...] | None:
    if shape is None:
        return ()
    if _number(shape, 3):
        return None
    lengths = [_number(dimension, 1) for dimension in _all(shape, 2)]
    return tuple(length if length < 2**63 else None for length in lengths)  # -1 is any, and comes as 2^64 - 1


# Protocol buffers ----------------------------------------------------------------------------------


def _fields(message: Bytes) -> Iterator[tuple[int, int | Bytes]]:
    """Number and value of each field: whole numbers as they are, all others as their bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise Damaged(f"a field has the type {kind}, which no SavedModel has")
        if position + length > len(message):
            raise Damaged("it ends too early")
        yield number, message[position : position + length]
        position += length


def _varint(message: Bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise Damaged("it ends too early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Damaged("a number in it is too long")


def _all(message: Bytes, number: int) -> list[Bytes]:
    return [value for found, value in _fields(message) if found == number and isinstance(value, Bytes)]


def _first(message: Bytes, number: int) -> Bytes | None:
    return next((value for found, value in _fields(message) if found == number and isinstance(value, Bytes)), None)


def _number(message: Bytes, number: int) -> int:
    return next((value for found, value in _fields(message) if found == number and isinstance(value, int)), 0)


def _map(message: Bytes, number: int) -> Iterator[tuple[str, Bytes]]:
    for entry in _all(message, number):
        yield _text(_first(entry, 1) or Bytes(b"")), _first(entry, 2) or Bytes(b"")


def _text(value: Bytes) -> str:
    return bytes(value).decode("utf-8", "replace")
