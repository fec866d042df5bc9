import pytest
import torch

from conversion.inspection import inspect
from weights.errors import UserError


def test_a_sat_directory(nano_sat):
    found = inspect(nano_sat)
    assert found.detection.variant.name == "nano"
    assert (found.transformer.num_layers, found.transformer.num_heads) == (4, 2)
    assert found.vae.channels == (16, 32, 32, 64)
    assert found.text_encoder == nano_sat / "t5-v1_1-xxl"
    assert [file.dtypes for file in found.files] == [("float32",), ("float32",)]
    assert found.carries == ()
    assert found.lora_rank is None


@pytest.mark.parametrize(("name", "rank"), [("lora_2b", 4), ("lora_5b", 3)])
def test_a_checkpoint_with_lora(name, rank, golden):
    found = inspect(golden / name / "sat" / "transformer", golden / name / "model.yaml")
    assert found.detection.variant.name == f"cogvideox-{name.removeprefix('lora_')}"
    assert found.lora_rank == rank
    assert found.lora_modules == 4


def test_what_a_training_save_carries(golden):
    carries = inspect(golden / "lora_2b" / "sat" / "transformer").carries
    assert any("T5" in words and "conditioner." in words for words in carries)
    assert any("VAE" in words for words in carries)
    training = inspect(golden / "deepspeed" / "zero2").carries
    assert any("optimizer" in words for words in training)


def test_a_vae_alone(golden_vae):
    found = inspect(golden_vae)
    assert found.vae.channels == (32, 64, 32, 32)
    assert found.transformer is None


def test_sizes_that_leave_the_variant_open_are_told_all_the_same(golden):
    found = inspect(golden / "2b" / "sat" / "transformer")
    assert found.detection is None
    assert "--config" in found.undetected
    assert found.transformer.num_layers == 2


def test_a_file_of_something_else(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    found = inspect(tmp_path / "a.pt")
    assert found.transformer is None
    assert found.vae is None
    assert found.files[0].parameters == 3


def test_an_empty_directory(tmp_path):
    with pytest.raises(UserError, match="neither transformer/ nor"):
        inspect(tmp_path)
