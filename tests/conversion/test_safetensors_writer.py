import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from conversion.rules import Piece, PlannedTensor
from conversion.safetensors_writer import planned_bytes, write_safetensors
from weights.errors import OperationError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def whole(name, tensor):
    return PlannedTensor(name, tuple(tensor.shape), (Piece(name, 0, tensor.shape[0]),))


@given(data=st.data(), dtype=st.sampled_from(DTYPES), cast=st.sampled_from([None, *DTYPES]))
def test_what_is_written_is_what_safetensors_reads(data, dtype, cast, tmp_path_factory):
    shapes = data.draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1))
    source = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    plan = [whole(name, tensor) for name, tensor in source.items()]
    folder = tmp_path_factory.mktemp("written")
    advanced = []
    files = write_safetensors(folder, plan, source, dtype=cast, advance=advanced.append)
    assert [file.path for file in files] == ["diffusion_pytorch_model.safetensors"]
    assert sum(advanced) == planned_bytes(plan, source, cast)
    read = load_file(folder / files[0].path)
    assert read.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(read[name], tensor.to(cast or dtype))


def test_pieces_are_joined_in_order(tmp_path):
    source = {"a": torch.arange(12.0).reshape(6, 2)}
    plan = [PlannedTensor("b", (4, 2), (Piece("a", 4, 6), Piece("a", 0, 2)))]
    write_safetensors(tmp_path, plan, source)
    read = load_file(tmp_path / "diffusion_pytorch_model.safetensors")["b"]
    assert torch.equal(read, source["a"][[4, 5, 0, 1]])


def test_a_tensor_larger_than_a_block_and_not_contiguous(tmp_path):
    source = {"a": torch.randn(1100, 5000).T}
    write_safetensors(tmp_path, [whole("a", source["a"])], source, dtype=torch.bfloat16)
    read = load_file(tmp_path / "diffusion_pytorch_model.safetensors")["a"]
    assert torch.equal(read, source["a"].bfloat16())


def test_shards_stay_under_the_limit_and_are_indexed(tmp_path):
    source = {f"t{i}": torch.randn(10, 10) for i in range(5)}
    plan = [whole(name, tensor) for name, tensor in source.items()]
    files = write_safetensors(tmp_path, plan, source, max_shard_bytes=1000)
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 400
    assert sorted(set(index["weight_map"].values())) == [
        f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / shard)[name], source[name])
    for file in files:
        content = (tmp_path / file.path).read_bytes()
        assert (file.size, file.digest) == (
            len(content),
            f"sha256:{hashlib.sha256(content).hexdigest()}",
        )


def test_the_format_is_marked_as_torchs(tmp_path):
    source = {"a": torch.zeros(1)}
    write_safetensors(tmp_path, [whole("a", source["a"])], source)
    with safe_open(tmp_path / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_overflow_names_the_tensor(tmp_path):
    source = {"big": torch.tensor([1.0, 1e6])}
    with pytest.raises(OperationError, match=r"big holds values up to 1e\+06"):
        write_safetensors(tmp_path, [whole("big", source["big"])], source, dtype=torch.float16)


def test_infinity_in_the_checkpoint_is_not_taken_for_overflow(tmp_path):
    source = {"a": torch.tensor([float("inf"), 1.0])}
    write_safetensors(tmp_path, [whole("a", source["a"])], source, dtype=torch.float16)
