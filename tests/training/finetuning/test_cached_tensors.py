"""An entry is used only when it is whole and of the shape and dtype asked for."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from training.finetuning.cached_tensors import CachedTensor
from weights.errors import OperationError

SHAPE = (2, 3)


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "kind" / "key.safetensors"
    return CachedTensor(path=path, name="moments", dtype=torch.float32, shape=SHAPE)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8], ids=str
)
def test_what_is_written_is_read(entry, dtype):
    entry = dataclasses.replace(entry, dtype=dtype)
    tensor = torch.arange(6).reshape(SHAPE).to(dtype)
    assert not entry.is_whole()
    entry.write(tensor)
    assert entry.is_whole()
    assert torch.equal(entry.read(), tensor)
    assert list(load_file(entry.path)) == ["moments"]
    assert [path.name for path in entry.path.parent.iterdir()] == ["key.safetensors"]


def test_a_view_is_written_as_what_it_shows(entry):
    whole = torch.arange(24.0).reshape(4, 6)
    entry.write(whole[::2, 1:4])
    assert torch.equal(entry.read(), whole[::2, 1:4])
    assert entry.path.stat().st_size < 24 * 4 + 100


def test_the_size_is_that_of_the_numbers(entry):
    assert entry.size == 24
    assert dataclasses.replace(entry, dtype=torch.bfloat16).size == 12
    assert dataclasses.replace(entry, shape=()).size == 4


@pytest.mark.parametrize(
    "other",
    [{"name": "embedding"}, {"dtype": torch.float16}, {"shape": (3, 2)}, {"shape": (2, 3, 1)}],
    ids=str,
)
def test_another_tensor_is_not_taken_for_it(entry, other):
    entry.write(torch.zeros(SHAPE))
    assert not dataclasses.replace(entry, **other).is_whole()


def test_a_file_with_more_tensors_is_not_taken_for_it(entry):
    entry.path.parent.mkdir()
    save_file({"moments": torch.zeros(SHAPE), "more": torch.zeros(1)}, entry.path)
    assert not entry.is_whole()


@settings(deadline=None)
@given(st.integers(0, 200))
def test_what_is_cut_off_or_longer_is_not_whole(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cache") / "key.safetensors"
    entry = CachedTensor(path=path, name="moments", dtype=torch.float32, shape=SHAPE)
    whole = save({"moments": torch.zeros(SHAPE)})
    path.write_bytes((whole + bytes(200))[:length])
    assert entry.is_whole() == (length == len(whole))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_thrown_away_when_read(entry, value):
    entry.write(torch.full(SHAPE, value))
    with pytest.raises(OperationError, match=r"damaged.*removed") as raised:
        entry.read()
    assert str(entry.path) in raised.value.given
    assert not entry.path.exists()


def test_what_was_damaged_later_is_thrown_away_when_read(entry):
    entry.write(torch.zeros(SHAPE))
    entry.path.write_bytes(entry.path.read_bytes()[:-1])
    with pytest.raises(OperationError, match="damaged"):
        entry.read()
    assert not entry.path.exists()
    with pytest.raises(OperationError, match="damaged"):
        entry.read()


def test_an_interrupted_write_leaves_what_was_there(entry, monkeypatch):
    entry.write(torch.ones(SHAPE))

    def fail(tensors):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save", fail)
    with pytest.raises(KeyboardInterrupt):
        entry.write(torch.zeros(SHAPE))
    assert torch.equal(entry.read(), torch.ones(SHAPE))
    assert len(list(entry.path.parent.iterdir())) == 1
