import hashlib
import json
import shutil

import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file

from conversion import safetensors_writer
from conversion.convert import convert
from conversion.plan import plan_conversion
from weights.errors import UserError


@pytest.fixture
def nano_copy(nano_sat, tmp_path):
    shutil.copytree(nano_sat, tmp_path / "sat")
    return tmp_path / "sat"


def test_plain_diffusers_loads_and_runs_the_folder(nano_sat, tmp_path):
    convert(plan_conversion(nano_sat), tmp_path / "nano")
    pipe = CogVideoXPipeline.from_pretrained(tmp_path / "nano", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red circle moving left",
        width=64,
        height=64,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=16,
        output_type="np",
    ).frames
    assert frames.shape == (1, 9, 64, 64, 3)


def test_the_record_names_sources_files_and_digests(nano_sat, tmp_path):
    plan = plan_conversion(nano_sat)
    convert(plan, tmp_path / "nano")
    record = json.loads((tmp_path / "nano" / "conversion.json").read_text())
    assert (record["variant"], record["dtype"]) == ("nano", "float32")
    assert [s["path"] for s in record["sources"]] == ["mp_rank_00_model_states.pt", "3d-vae.pt"]
    listed = {file["path"]: file for file in record["files"]}
    there = {
        p.relative_to(tmp_path / "nano").as_posix()
        for p in (tmp_path / "nano").rglob("*")
        if p.is_file()
    }
    assert listed.keys() == there - {"conversion.json"}
    for path, file in listed.items():
        content = (tmp_path / "nano" / path).read_bytes()
        assert file["size"] == len(content)
        assert file["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_dtype_is_cast_to(nano_sat, tmp_path):
    convert(plan_conversion(nano_sat, dtype=torch.bfloat16), tmp_path / "nano")
    tensors = load_file(tmp_path / "nano" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "nano" / "conversion.json").read_text())["dtype"] == "bfloat16"


def test_without_text_encoder_the_rest_is_written(nano_copy, tmp_path):
    shutil.rmtree(nano_copy / "t5")
    plan = plan_conversion(nano_copy)
    assert any("--text-encoder" in note for note in plan.notes)
    convert(plan, tmp_path / "nano")
    index = json.loads((tmp_path / "nano" / "model_index.json").read_text())
    assert index["text_encoder"] == index["tokenizer"] == [None, None]
    assert (tmp_path / "nano" / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert not (tmp_path / "nano" / "text_encoder").exists()


def test_a_taken_destination_is_left_alone(nano_sat, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        convert(plan_conversion(nano_sat), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_empty_destination_is_used(nano_sat, tmp_path):
    (tmp_path / "empty").mkdir()
    convert(plan_conversion(nano_sat), tmp_path / "empty")
    assert (tmp_path / "empty" / "model_index.json").is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(interruption, nano_sat, tmp_path, monkeypatch):
    def interrupted(*_):
        raise interruption

    monkeypatch.setattr(safetensors_writer, "_write_shard", interrupted)
    with pytest.raises(interruption):
        convert(plan_conversion(nano_sat), tmp_path / "out" / "nano")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lora_checkpoint_is_refused(golden, tmp_path):
    with pytest.raises(UserError, match="LoRA matrices in 4 modules"):
        plan_conversion(golden / "lora_2b" / "sat", config=golden / "lora_2b" / "model.yaml")


def test_a_vae_in_the_transformers_place_is_refused(nano_copy):
    transformer = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    shutil.copyfile(nano_copy / "vae" / "3d-vae.pt", transformer)
    with pytest.raises(UserError, match=r"no tensor under model\.diffusion_model\."):
        plan_conversion(nano_copy)


def test_a_transformer_in_the_vaes_place_is_refused(nano_copy):
    transformer = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    with pytest.raises(UserError, match="no encoder and decoder"):
        plan_conversion(nano_copy, vae=transformer)


def test_a_missing_vae_is_asked_for(nano_copy):
    (nano_copy / "vae" / "3d-vae.pt").unlink()
    with pytest.raises(UserError, match="--vae FILE"):
        plan_conversion(nano_copy)


def test_a_missing_layer_is_named(nano_copy):
    path = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    kept = {name: t for name, t in module.items() if ".layers.2." not in name}
    torch.save({"module": kept}, path)
    with pytest.raises(UserError, match=r"missing: transformer\.layers\.2\."):
        plan_conversion(nano_copy)


def test_a_fine_tunes_other_modules_are_left_out_by_prefix(nano_copy, tmp_path):
    """Keys of conditioner and first stage must neither be converted nor garble the others."""
    path = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    extra = {"conditioner.embedders.0.x": torch.zeros(1), "first_stage_model.y": torch.zeros(1)}
    torch.save({"module": module | extra, "optimizer": None}, path)
    convert(plan_conversion(nano_copy), tmp_path / "nano")
    record = json.loads((tmp_path / "nano" / "conversion.json").read_text())
    assert set(record["left_out"]) == {*extra, "optimizer"}
