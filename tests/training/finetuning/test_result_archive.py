"""The tar of a training: what a predictor takes, the same each time, and nothing else in it."""

import shutil
import tarfile

import pytest
from safetensors.numpy import save_file

from predictors.lora.archive import settle
from training.finetuning import result_archive
from training.finetuning.result_archive import pack_result
from weights.errors import OperationError

CARD, CLIP = "# A LoRA\n", b"a video"


@pytest.fixture
def result(tmp_path):
    """A result with a card, a clip and what a training leaves beside them."""
    import numpy as np

    folder = tmp_path / "result"
    (folder / "validation" / "step-7").mkdir(parents=True)
    save_file({"a": np.arange(3.0)}, folder / "lora.safetensors")
    (folder / "README.md").write_text(CARD)
    (folder / "validation" / "step-7" / "1.mp4").write_bytes(CLIP)
    (folder / "cache").mkdir()
    shutil.copy(folder / "lora.safetensors", folder / "cache" / "clip.safetensors")
    (folder / "state.pt").write_bytes(b"state")
    return folder


def test_a_predictor_takes_the_lora_out_of_it(result, tmp_path):
    lora = result / "lora.safetensors"
    pack_result(result, lora, tmp_path / "lora.tar")
    with (tmp_path / "lora.tar").open("r+b") as file:
        settle(file, "the tar", 1 << 20)
    assert (tmp_path / "lora.tar").read_bytes() == lora.read_bytes()


def test_card_and_clips_lie_beside_it_and_nothing_else(result, tmp_path):
    pack_result(result, result / "lora.safetensors", tmp_path / "lora.tar")
    with tarfile.open(tmp_path / "lora.tar") as tar:
        files = {member.name: member for member in tar.getmembers() if member.isfile()}
        assert tar.extractfile("README.md").read().decode() == CARD
        assert tar.extractfile("validation/step-7/1.mp4").read() == CLIP
    assert files.keys() == {"lora.safetensors", "README.md", "validation/step-7/1.mp4"}
    assert {(m.mtime, m.mode, m.uid, m.uname) for m in files.values()} == {(0, 0o644, 0, "")}


def test_the_same_result_gives_the_same_bytes(result, tmp_path):
    again = shutil.copytree(result, tmp_path / "again", copy_function=shutil.copyfile)
    for folder in (result, again):
        pack_result(folder, folder / "lora.safetensors", folder.with_suffix(".tar"))
    assert result.with_suffix(".tar").read_bytes() == again.with_suffix(".tar").read_bytes()


def test_a_lora_alone_is_a_result(result, tmp_path):
    (result / "README.md").unlink()
    shutil.rmtree(result / "validation")
    pack_result(result, result / "lora.safetensors", tmp_path / "lora.tar")
    with tarfile.open(tmp_path / "lora.tar") as tar:
        assert tar.getnames() == ["lora.safetensors"]


def test_a_full_disk_is_reported_and_leaves_nothing(result, tmp_path, monkeypatch):
    def full(folder, needed):
        raise OperationError("The disk is full.", "", "")

    monkeypatch.setattr(result_archive, "check_space", full)
    with pytest.raises(OperationError, match="disk is full"):
        pack_result(result, result / "lora.safetensors", tmp_path / "lora.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
