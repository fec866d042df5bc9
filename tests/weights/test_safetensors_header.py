"""A .safetensors header is believed only if it describes exactly its file."""

import json
import random

import pytest

from weights.errors import UserError
from weights.safetensors_header import TensorEntry, read_header

FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def contents(header, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_reads_entries(tmp_path):
    file = tmp_path / "a.safetensors"
    empty = {"dtype": "BF16", "shape": [0, 4], "data_offsets": [8, 8]}
    file.write_bytes(contents({"__metadata__": {"format": "pt"}, "a": FLOATS, "none": empty}))
    assert read_header(file) == {
        "a": TensorEntry("F32", (2,), 0, 8),
        "none": TensorEntry("BF16", (0, 4), 8, 8),
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "bool", "int64"])
def test_agrees_with_the_library(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    file = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(3, 5, dtype=getattr(torch, dtype)), "y": torch.zeros(7)}, file)
    assert {name: entry.shape for name, entry in read_header(file).items()} == {
        "x": (3, 5),
        "y": (7,),
    }


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"short",
        bytes(8),
        (1 << 40).to_bytes(8, "little"),
        contents(b"{not json"),
        contents(b"[]"),
        contents(b'{"a": 1}'),
        contents(b'{"a": ' * 100_000),
        contents(b"\xff\xfe"),
        contents({"a": FLOATS}, bytes(7)),
        contents({"a": FLOATS}, bytes(9)),
        contents({"a": FLOATS | {"shape": [3]}}),
        contents({"a": FLOATS | {"shape": [-2]}}),
        contents({"a": FLOATS | {"shape": [True, 2]}}),
        contents({"a": FLOATS | {"dtype": "F33"}}),
        contents({"a": FLOATS | {"dtype": ["F32"]}}),
        contents({"a": FLOATS | {"data_offsets": [8, 0]}}),
        contents({"a": FLOATS | {"data_offsets": [4, 12]}}, bytes(12)),
        contents({"a": FLOATS, "b": FLOATS}),
        contents({"a": FLOATS, "b": FLOATS | {"data_offsets": [16, 24]}}, bytes(24)),
        contents({"a": FLOATS | {"extra": 1}}),
        contents(b'{"a": %s, "a": %s}' % ((json.dumps(FLOATS).encode(),) * 2)),
    ],
)
def test_refuses_what_is_damaged(tmp_path, damaged):
    file = tmp_path / "a.safetensors"
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"a\.safetensors is not a whole"):
        read_header(file)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such regular file"):
        read_header(tmp_path / "gone.safetensors")


def test_any_cut_and_any_noise_is_an_error_or_a_header(tmp_path):
    whole = contents({"a": FLOATS})
    file = tmp_path / "a.safetensors"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_header(file)
    chance = random.Random(0)
    for _ in range(500):
        noisy = bytearray(whole)
        noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        file.write_bytes(noisy)
        try:
            read_header(file)
        except UserError:
            continue


def test_a_million_dimensions_are_refused_without_multiplying_them(tmp_path):
    file = tmp_path / "a.safetensors"
    shape = [2**40] * 1_000_000
    file.write_bytes(contents({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}))
    with pytest.raises(UserError, match="has the shape") as refusal:
        read_header(file)
    assert len(str(refusal.value)) < 500


def test_a_number_that_fits_no_file_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(contents({"a": FLOATS | {"shape": [2**63]}}))
    with pytest.raises(UserError, match="has the shape"):
        read_header(file)
