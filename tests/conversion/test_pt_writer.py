import io
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conversion.checkpoint import open_checkpoint
from conversion.pt_writer import write_pt
from conversion.rules import Piece, PlannedTensor
from conversion.tensor_source import FileTensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def whole(name, tensor):
    return PlannedTensor(name, tuple(tensor.shape), (Piece(name, 0, tensor.shape[0]),))


def written(tensors, **options):
    file = io.BytesIO()
    plan = [whole(name, tensor) for name, tensor in tensors.items()]
    write_pt(file, "module", plan, FileTensors(tensors), **options)
    return file


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
)
def test_torch_loads_what_was_written(shapes, dtype):
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    file = written(tensors, prefix="model.")
    file.seek(0)
    content = torch.load(file, weights_only=True)
    assert list(content) == ["module"]
    assert list(content["module"]) == [f"model.{name}" for name in tensors]
    for name, tensor in tensors.items():
        read = content["module"][f"model.{name}"]
        assert read.dtype == dtype
        assert read.is_contiguous()
        assert torch.equal(read, tensor)


def test_it_loads_memory_mapped_and_passes_our_own_gate(tmp_path):
    tensors = {"a": torch.randn(7, 3), "b": torch.randn(5).half()}
    (tmp_path / "a.pt").write_bytes(written(tensors).getvalue())
    mapped = torch.load(tmp_path / "a.pt", mmap=True, weights_only=True)["module"]
    assert all(torch.equal(mapped[name], tensor) for name, tensor in tensors.items())
    assert open_checkpoint(tmp_path / "a.pt").tensors.keys() == tensors.keys()


def test_storages_are_aligned_and_checksums_hold():
    file = written({"a": torch.randn(3), "b": torch.randn(100), "c": torch.randn(1)})
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            lengths = file.read(4)
            start = info.header_offset + 30 + lengths[0] + lengths[2] + 256 * lengths[3]
            assert start % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED


def test_entries_over_4_gib_stay_aligned():
    """The header of a zip64 entry is longer; the padding must know."""
    from conversion.pt_writer import _entry

    for size in (1000, 5 << 30):
        with zipfile.ZipFile(io.BytesIO(), "w") as archive:
            info = _entry(archive, "data/0", size)
            info.CRC, info.compress_size = 0, size
            zip64 = size * 1.05 > zipfile.ZIP64_LIMIT
            assert len(info.FileHeader(zip64)) % 64 == 0


def test_the_same_tensors_give_the_same_bytes():
    tensors = {"a": torch.ones(4)}
    assert written(tensors).getvalue() == written(tensors).getvalue()


def test_progress_counts_every_byte():
    counts = []
    written({"a": torch.zeros(10), "b": torch.zeros(3).half()}, advance=counts.append)
    assert sum(counts) == 46


def test_an_unknown_dtype_is_a_defect():
    with pytest.raises(KeyError):
        written({"a": torch.zeros(3, dtype=torch.int8)})
