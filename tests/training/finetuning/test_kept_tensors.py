"""What is read again comes from memory while there is room, and from the disk else."""

import pytest
import torch

from training.finetuning.cached_tensors import CachedTensor
from training.finetuning.kept_tensors import KeptTensors


@pytest.fixture
def entries(tmp_path):
    """Three tensors of 24 bytes on the disk, each full of its own number."""
    found = []
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        entry = CachedTensor(path=path, name="moments", dtype=torch.float32, shape=(2, 3))
        entry.write(torch.full((2, 3), float(number)))
        found.append(entry)
    return found


@pytest.fixture
def reads(monkeypatch):
    """The files that are read, one after the other."""
    done = []
    read = CachedTensor.read

    def counted(entry):
        done.append(entry.path.stem)
        return read(entry)

    monkeypatch.setattr(CachedTensor, "read", counted)
    return done


@pytest.mark.parametrize(
    ("limit", "again"),
    [(0, ["0", "1", "2"]), (23, ["0", "1", "2"]), (24, ["1", "2"]), (71, ["2"]), (72, [])],
)
def test_the_first_that_fit_are_read_once_and_the_others_each_time(entries, reads, limit, again):
    kept = KeptTensors(limit)
    first = [kept.read(entry) for entry in entries]
    assert reads == ["0", "1", "2"]
    reads.clear()
    second = [kept.read(entry) for entry in entries]
    assert reads == again
    for number, pair in enumerate(zip(first, second, strict=True)):
        assert all(torch.equal(tensor, torch.full((2, 3), float(number))) for tensor in pair)


def test_what_is_too_large_leaves_the_room_to_the_smaller_ones(entries, reads, tmp_path):
    path = tmp_path / "large.safetensors"
    large = CachedTensor(path=path, name="moments", dtype=torch.float32, shape=(100,))
    large.write(torch.zeros(100))
    kept = KeptTensors(24)
    for entry in (large, entries[0], entries[0], large):
        kept.read(entry)
    assert reads == ["large", "0", "large"]
