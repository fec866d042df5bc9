import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conversion.checkpoint import open_checkpoint
from weights.errors import UserError

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
# The other folders reach the VAE by a link, which a checkout may have made a small text file.
GOLDEN_FILES = [path for path in sorted(GOLDEN.glob("**/*.pt")) if path.stat().st_size > 1000]

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
]


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


MAPS = Path("/proc/self/maps")
on_linux = pytest.mark.skipif(not MAPS.exists(), reason="needs Linux's /proc")


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and as_bytes(a) == as_bytes(b)


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_real_saves_open_and_so_do_their_tensors_as_safetensors(path, tmp_path):
    tensors = open_checkpoint(path).tensors
    assert tensors
    copy = tmp_path / "copy.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, copy)
    again = open_checkpoint(copy)
    assert again.other_entries == ()
    assert again.tensors.keys() == tensors.keys()
    assert all(same(tensors[name], again.tensors[name]) for name in tensors)


@pytest.mark.parametrize("zero", ["zero0", "zero2"])
def test_deepspeed_saves_with_random_state_open(zero, golden):
    file = open_checkpoint(golden / "deepspeed" / zero / "500" / "mp_rank_00_model_states.pt")
    assert "np_rng_state" in file.other_entries
    assert file.tensors


def open_files() -> list[str]:
    return sorted(str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists())


def save(tensors, path):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"module": tensors}, path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_odd_shapes_open(dtype, suffix, tmp_path):
    # One byte before the others: they start on no boundary of their dtype.
    tensors = {
        "a": torch.zeros(1, dtype=torch.uint8),
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
    }
    save(tensors, tmp_path / f"x{suffix}")
    opened = open_checkpoint(tmp_path / f"x{suffix}").tensors
    assert opened.keys() == tensors.keys()
    assert all(same(tensors[name], opened[name]) for name in tensors)


def test_safetensors_off_every_boundary_open(tmp_path):
    """The format does not promise alignment; older writers did not give it."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2))
    assert len(header) % 4
    assert (open_checkpoint(path).tensors["a"] * 2).tolist() == [3, -4]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_content_decides_not_the_name(suffix, tmp_path):
    save({"a": torch.ones(3)}, tmp_path / f"x{suffix}")
    for name in ("weights", "weights.bin", "weights.ckpt"):
        (tmp_path / f"x{suffix}").rename(tmp_path / name)
        assert open_checkpoint(tmp_path / name).tensors["a"].tolist() == [1, 1, 1]
        (tmp_path / name).rename(tmp_path / f"x{suffix}")


def test_safetensors_whose_length_starts_like_a_pickle_open(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x80)
    path = tmp_path / "weights.bin"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\7")
    assert open_checkpoint(path).tensors["a"].tolist() == [7]


@on_linux
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_are_views_of_the_file(suffix, tmp_path):
    path = tmp_path / f"big{suffix}"
    save({"a": torch.zeros(1 << 20), "b": torch.ones(1 << 20)}, path)
    files = open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors = open_checkpoint(path).tensors
    spans = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in MAPS.read_text().splitlines()
        if str(path) in line
    ]
    assert all(
        any(start <= tensor.data_ptr() < end for start, end in spans) for tensor in tensors.values()
    )
    assert open_files() == files
    tensors["b"].zero_()
    assert open_checkpoint(path).tensors["b"].sum() == 1 << 20, "the file is never written"


def test_parameters_open_as_plain_tensors(tmp_path):
    torch.save({"module": {"a": torch.nn.Parameter(torch.ones(2))}}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").tensors["a"].numpy().tolist() == [1, 1]


def test_a_state_dict_as_a_module_gives_it_opens(tmp_path):
    """It is an OrderedDict with an attribute, and its weights are tied."""
    module = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 300))
    module[1].weight = module[0].weight
    torch.save(module.state_dict(), tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert isinstance(module.state_dict(), OrderedDict)
    assert opened.tensors["1.weight"].equal(module[0].weight)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"module": {"a": torch.zeros(1)}, "x": RunsCode()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="asks to run code"):
        open_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError("something new"), r"torch does not read it \(something new\)"),
        (pickle.UnpicklingError("Try weights_only=False"), "torch finds more in it than tensors"),
    ],
)
def test_what_torch_itself_refuses_is_a_user_error(error, message, tmp_path, monkeypatch):
    torch.save({"module": {"a": torch.zeros(1)}}, tmp_path / "x.pt")

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..\\x", "\x1b[2J", "", "a" * 1000])
def test_names_that_could_be_paths_are_refused(name, suffix, tmp_path):
    save({name: torch.zeros(1)}, tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match="has an entry with the name"):
        open_checkpoint(tmp_path / f"x{suffix}")


def test_a_truncated_file_is_refused(tmp_path, golden_vae):
    whole = golden_vae.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{size}.pt"
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            open_checkpoint(path)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "notes.pt"
    path.write_text("these are no weights")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        open_checkpoint(path)


def test_a_zip_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(UserError, match="another kind of zip file"):
        open_checkpoint(path)


def test_a_file_of_torch_before_1_6_is_told_what_to_do(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"before version 1\.6.*save it again"):
        open_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*absent\.pt"):
        open_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [torch.zeros(2), {}, {"module": {}}, {"a": 1}])
def test_a_file_without_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="it holds"):
        open_checkpoint(tmp_path / "empty.pt")


def test_lora_is_seen(golden):
    path = golden / "lora_2b" / "sat" / "transformer" / "1" / "mp_rank_00_model_states.pt"
    assert len(open_checkpoint(path).lora_layers) == 4
