import hashlib
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file

from conversion.rules import Piece, PlannedTensor
from conversion.safetensors_writer import Cast, plan_shards, write_index, write_shard
from conversion.tensor_source import FileTensors
from weights.errors import OperationError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def whole(name, tensor):
    return PlannedTensor(name, tuple(tensor.shape), (Piece(name, 0, tensor.shape[0]),))


def written(tensors, plan=None, cast=None, **options):
    """The bytes of the one shard that the tensors make."""
    cast, source = cast or Cast(), FileTensors(tensors)
    plan = plan or [whole(name, tensor) for name, tensor in tensors.items()]
    (shard,) = plan_shards(plan, source, cast)
    file = io.BytesIO()
    digest = write_shard(file, shard, source, allow_overflow=cast.allow_overflow, **options)
    content = file.getvalue()
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


@given(data=st.data(), dtype=st.sampled_from(DTYPES), cast=st.sampled_from([None, *DTYPES]))
def test_what_is_written_is_what_safetensors_reads(data, dtype, cast):
    shapes = data.draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1))
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    advanced = []
    read = load(written(tensors, cast=Cast(cast), advance=advanced.append))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.to(cast or dtype))
    assert sum(advanced) == sum(tensor.nbytes for tensor in read.values())


def test_pieces_are_joined_in_order():
    tensors = {"a": torch.arange(12.0).reshape(6, 2)}
    plan = [PlannedTensor("b", (4, 2), (Piece("a", 4, 6), Piece("a", 0, 2)))]
    assert torch.equal(load(written(tensors, plan))["b"], tensors["a"][[4, 5, 0, 1]])


def test_a_tensor_larger_than_a_block_and_not_contiguous():
    tensors = {"a": torch.randn(1100, 5000).T}
    read = load(written(tensors, cast=Cast(torch.bfloat16)))
    assert torch.equal(read["a"], tensors["a"].bfloat16())


def test_shards_stay_under_the_limit_and_are_indexed(tmp_path):
    tensors = {f"t{i}": torch.randn(10, 10) for i in range(5)}
    source = FileTensors(tensors)
    plan = [whole(name, tensor) for name, tensor in tensors.items()]
    shards = plan_shards(plan, source, Cast(), max_shard_bytes=1000)
    assert [shard.name for shard in shards] == [
        f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    for shard in shards:
        assert shard.data_size <= 1000
        with (tmp_path / shard.name).open("wb") as file:
            write_shard(file, shard, source)
    index = json.loads((tmp_path / write_index(tmp_path, shards)).read_text())
    assert index["metadata"]["total_size"] == 5 * 400
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / shard)[name], tensors[name])


def test_a_tensor_over_the_limit_has_a_shard_of_its_own():
    tensors = {"a": torch.zeros(3), "b": torch.zeros(1000), "c": torch.zeros(3)}
    plan = [whole(name, tensor) for name, tensor in tensors.items()]
    shards = plan_shards(plan, FileTensors(tensors), Cast(), max_shard_bytes=100)
    assert [len(shard.entries) for shard in shards] == [1, 1, 1]


def test_metadata_are_written_beside_the_format(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written({"a": torch.zeros(1)}, metadata={"variant": "nano"}))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "variant": "nano"}


def test_overflow_names_the_tensor():
    tensors = {"big": torch.tensor([1.0, 1e6])}
    with pytest.raises(OperationError, match=r"big holds values up to 1e\+06.*--allow-overflow"):
        written(tensors, cast=Cast(torch.float16))
    read = load(written(tensors, cast=Cast(torch.float16, allow_overflow=True)))
    assert read["big"].tolist() == [1.0, float("inf")]


def test_overflow_is_seen_between_dtypes_of_one_size():
    tensors = {"big": torch.tensor([1e6], dtype=torch.bfloat16)}
    with pytest.raises(OperationError, match="big holds"):
        written(tensors, cast=Cast(torch.float16))


def test_infinity_in_the_checkpoint_is_not_taken_for_overflow():
    tensors = {"a": torch.tensor([float("inf"), 1.0])}
    assert load(written(tensors, cast=Cast(torch.float16)))["a"].isinf().tolist() == [True, False]
