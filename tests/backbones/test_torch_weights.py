from __future__ import annotations

import pickle
import random
import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from tests.backbones.torch_file import MAGIC, ORDERED_DICT, Call, Name, pickled, tensor, torch_file

from graft.backbones import package, torch_weights
from graft.backbones.torch_weights import TorchFileError

SIX = struct.pack("<6f", *range(6))
GOOD = torch_file({"weight": tensor()})


def test_reads_tensors_of_every_layout() -> None:
    tensors = {
        "rows": tensor(),
        "columns": tensor(shape=(3, 2), strides=(1, 3)),
        "part": tensor(offset=4, shape=(2,), strides=(1,)),
        "counter": tensor("2", count=1, storage_type="torch LongStorage", shape=(), strides=()),
        # The stride of an axis of length 1 is arbitrary.
        "flat": tensor(shape=(1, 6), strides=(2**62, 1)),
    }
    weights = torch_weights.parse(torch_file(tensors, [("1", 6, SIX), ("2", 1, struct.pack("<q", -7))]))
    assert list(weights) == list(tensors)
    np.testing.assert_array_equal(weights["rows"], np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(weights["columns"], weights["rows"].T)
    np.testing.assert_array_equal(weights["part"], np.float32([4, 5]))
    np.testing.assert_array_equal(weights["flat"], np.arange(6, dtype=np.float32)[np.newaxis])
    assert weights["counter"].dtype == np.int64
    assert weights["counter"] == -7
    assert not any(weight.flags.writeable for weight in weights.values())


def test_reads_the_real_weights() -> None:
    weights = torch_weights.parse(package.find("efficientnet_lite0").read_bytes())
    assert len(weights) == 296
    assert sum(weight.size for weight in weights.values()) == 4_694_073
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].dtype == np.float32


def nested_key() -> bytes:
    """A dict whose key is a tuple of a tuple of ..., doubled 60 times: its hash takes 2^60 steps."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    return b"\x80\x02}" + b"N" + doubled + b"Ns."


REFUSED = {
    "nothing": b"",
    "no torch file": b"\x89PNG\r\n\x1a\n",
    "a plain pickle": pickle.dumps({"weight": 1}),
    "only the magic number": MAGIC,
    "another protocol": torch_file({}, [], protocol=1002),
    "a big-endian file": torch_file({}, [], info={"little_endian": False}),
    "facts that are no dict": torch_file({}, [], info=[True]),
    "a call of the shell": torch_file({"weight": Call(Name("os system"), ("touch harm",))}),
    "a call of eval": torch_file({"weight": Call(Name("builtins eval"), ("open('harm', 'w')",))}),
    "a call of torch's loader": torch_file({"weight": Call(Name("torch.storage _load_from_bytes"), ("",))}),
    "a call of a class of weights": torch_file({"weight": Call(Name("torch FloatStorage"), (6,))}),
    "a call of a text": torch_file({"weight": Call("os system", ())}),
    "a filled OrderedDict": torch_file({"weight": Call(Name("collections OrderedDict"), ([("a", 1)],))}),
    "a state that is set on a number": torch_file(b"\x80\x02K\x01}b."),
    "an object made by its class": torch_file(b"\x80\x02cos\nsystem\n)\x81."),
    "a protocol 4 name": torch_file(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
    "a float": torch_file({"weight": 0.5}),
    "a weight that is a text": torch_file({"weight": "1"}),
    "a state dict that is a list": torch_file(pickled([])),
    "a key that is a number": torch_file({1: tensor()}),
    "a key that never ends to be hashed": torch_file(nested_key()),
    "a key without a value": torch_file(b"\x80\x02}(X\x01\x00\x00\x00au."),
    "an item set on nothing": torch_file(b"\x80\x02NNs."),
    "a list that is set like a dict": torch_file(b"\x80\x02]X\x01\x00\x00\x00aNs."),
    "a dict that is appended to": torch_file(b"\x80\x02}Na."),
    "a value from an empty stack": torch_file(b"\x80\x02\x85."),
    "a group that was never opened": torch_file(b"\x80\x02Nt."),
    "a group that is never closed": torch_file(b"\x80\x02(N."),
    "two values": torch_file(b"\x80\x02NN."),
    "a memo of nothing": torch_file(b"\x80\x02q\x00."),
    "a memo that was never made": torch_file(b"\x80\x02h\x05."),
    "a memo with a huge index": torch_file(b"\x80\x02Nr\xff\xff\xff\xff."),
    "a text of four gigabytes": torch_file(b"\x80\x02X\xff\xff\xff\xffa."),
    "bytes of 2^62": torch_file(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."),
    "a frame of 2^62": torch_file(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."),
    "more instructions than any weights": torch_file(b"\x80\x02" + b"N" * torch_weights.MAX_INSTRUCTIONS + b"."),
    "an unknown storage type": torch_file({"weight": tensor(storage_type="torch HalfStorage")}),
    "a storage on a GPU": torch_file({"weight": tensor(location="cuda:0")}),
    "a view of a storage": torch_file({"weight": tensor(view=("1", 0, 6))}),
    "a count that is a text": torch_file({"weight": tensor(count="6")}),
    "a negative count": torch_file({"weight": tensor(count=-6)}, [("1", -6, SIX)]),
    "a storage in two ways": torch_file({"a": tensor(), "b": tensor(count=5, shape=(5,), strides=(1,))}),
    "hooks": torch_file({"weight": tensor(hooks={"a": 1})}),
    "a shape beyond the storage": torch_file({"weight": tensor(shape=(2, 4), strides=(4, 1))}),
    "strides beyond the storage": torch_file({"weight": tensor(strides=(4, 1))}),
    "an offset beyond the storage": torch_file({"weight": tensor(offset=1)}),
    "a negative offset": torch_file({"weight": tensor(offset=-1)}),
    "an offset that is a text": torch_file({"weight": tensor(offset="0")}),
    "a negative stride": torch_file({"weight": tensor(offset=5, strides=(-3, -1))}),
    "a negative length": torch_file({"weight": tensor(shape=(-2, -3))}),
    "a length that is true": torch_file({"weight": tensor(shape=(True, 3))}),
    "a shape that is a list": torch_file({"weight": tensor(shape=[2, 3])}),
    "more strides than axes": torch_file({"weight": tensor(strides=(3, 1, 1))}),
    "fewer strides than axes": torch_file({"weight": tensor(strides=(3,))}),
    "100 axes": torch_file({"weight": tensor(shape=(1,) * 100, strides=(1,) * 100)}),
    "an empty tensor": torch_file({"weight": tensor(shape=(0, 2**62), strides=(1, 1))}),
    "one value that poses as 2^40": torch_file({"weight": tensor(shape=(2**40,), strides=(0,))}),
    "an offset that is true": torch_file({"weight": tensor(offset=True, shape=(2,), strides=(1,))}),
    "a stride of 600 digits": torch_file({"weight": tensor(shape=(1, 6), strides=(2**2000, 1))}),
    "a huge length": torch_file({"weight": tensor(shape=(2**200, 1), strides=(1, 1))}),
    "another count before the values": torch_file({"weight": tensor()}, [("1", 7, SIX)]),
    "2^62 values": torch_file({"weight": tensor(count=2**62)}, [("1", 2**62, SIX)]),
    "a storage that is missing": torch_file({"weight": tensor()}, []),
    "a storage that nobody uses": torch_file({}),
    "a storage listed twice": torch_file({"weight": tensor()}, [("1", 6, SIX), ("1", 6, SIX)]),
    "no list of storages": MAGIC + pickled(1001) + pickled({"little_endian": True}) + pickled({}) + pickled(1),
    "a byte too many": GOOD + b"\0",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_everything_else(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError) as refusal:
            torch_weights.parse(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(refusal.value)) < 400
    assert peak < 100_000 + 20 * len(data)
    assert not list(tmp_path.iterdir()), "the file ran something"


def test_refuses_the_zip_files_of_newer_torch() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickled({}))
    with pytest.raises(TorchFileError):
        torch_weights.parse(archive.getvalue())


def test_refuses_a_file_cut_anywhere() -> None:
    assert torch_weights.parse(GOOD)
    for length in range(len(GOOD)):
        with pytest.raises(TorchFileError):
            torch_weights.parse(GOOD[:length])


def test_survives_any_damage() -> None:
    """Damaged values cannot be told from right ones, but nothing else than a refusal may come of it."""
    counter = tensor("2", count=1, storage_type="torch LongStorage", shape=(), strides=())
    good = torch_file({"a": tensor(), "b": counter}, [("1", 6, SIX), ("2", 1, bytes(8))])
    generator = random.Random(0)
    for _ in range(5_000):
        damaged = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            weights = torch_weights.parse(bytes(damaged))
        except TorchFileError:
            continue
        assert sum(weight.size for weight in weights.values()) <= 14


def test_the_module_versions_on_the_state_dict_are_read_over() -> None:
    state_dict = pickled({"weight": tensor()})[:-1] + pickled({"_metadata": ORDERED_DICT})[2:-1] + b"b."
    assert list(torch_weights.parse(torch_file(state_dict))) == ["weight"]
