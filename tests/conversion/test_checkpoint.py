import os
import zipfile
from pathlib import Path

import pytest
import torch

from conversion.checkpoint import open_checkpoint
from weights.errors import UserError


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists a process's mapped files")
def test_tensors_are_views_of_the_file(golden_vae):
    file = open_checkpoint(golden_vae)
    assert file.tensors["encoder.conv_in.conv.weight"].shape == (32, 3, 3, 3, 3)
    assert str(golden_vae) in MAPS.read_text()


@pytest.mark.parametrize("zero", ["zero0", "zero2"])
def test_deepspeed_saves_with_random_state_open(zero, golden):
    file = open_checkpoint(golden / "deepspeed" / zero / "500" / "mp_rank_00_model_states.pt")
    assert "np_rng_state" in file.other_entries
    assert file.tensors


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"module": {"a": torch.zeros(1)}, "x": RunsCode()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="asks to run code"):
        open_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


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
        archive.writestr("a", "b")
    with pytest.raises(UserError, match="damaged"):
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
