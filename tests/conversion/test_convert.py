import hashlib
import json
import os
import shutil

import pytest
import torch
from diffusers import CogVideoXPipeline, DiffusionPipeline
from safetensors.torch import load_file, save_file

from conversion.convert import convert
from conversion.plan import ConversionOptions, plan_conversion
from conversion.safetensors_writer import Cast, plan_shards, write_shard
from tests.conversion.random_checkpoint import write_random_checkpoint
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS


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


def test_an_image_to_video_folder_is_loaded_by_its_own_pipeline(tmp_path):
    write_random_checkpoint(VARIANTS["nano-i2v"], tmp_path / "sat")
    convert(plan_conversion(tmp_path / "sat"), tmp_path / "nano-i2v")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "nano-i2v", dtype=torch.float32)
    assert type(pipe).__name__ == "CogVideoXImageToVideoPipeline"
    assert type(pipe.scheduler).__name__ == VARIANTS["nano-i2v"].scheduler


def test_a_tokenizer_for_transformers_5_alone_is_noted(nano_sat, nano_copy, tmp_path):
    convert(plan_conversion(nano_sat), tmp_path / "nano")
    t5 = nano_copy / "t5-v1_1-xxl"
    shutil.copyfile(tmp_path / "nano" / "tokenizer" / "tokenizer.json", t5 / "tokenizer.json")
    (t5 / "spiece.model").unlink()
    assert any("spiece.model" in note for note in plan_conversion(nano_copy).notes)


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
    convert(
        plan_conversion(nano_sat, ConversionOptions(cast=Cast(torch.bfloat16))), tmp_path / "nano"
    )
    tensors = load_file(tmp_path / "nano" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "nano" / "conversion.json").read_text())["dtype"] == "bfloat16"


def test_without_text_encoder_the_rest_is_written(nano_copy, tmp_path):
    shutil.rmtree(nano_copy / "t5-v1_1-xxl")
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
def test_an_interruption_before_the_first_file_leaves_nothing(
    interruption, nano_sat, tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise interruption

    monkeypatch.setattr("conversion.convert.write_shard", interrupted)
    with pytest.raises(interruption):
        convert(plan_conversion(nano_sat), tmp_path / "out" / "nano")
    assert list((tmp_path / "out").iterdir()) == []


def interrupted_after_the_transformer(monkeypatch, plan, destination):
    """Ends a conversion while the second of its two files is being written."""
    calls = []

    def once(file, shard, source, **options):
        calls.append(shard)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_shard(file, shard, source, **options)

    with monkeypatch.context() as patch:
        patch.setattr("conversion.convert.write_shard", once)
        with pytest.raises(KeyboardInterrupt):
            convert(plan, destination)


def counted_shards(monkeypatch):
    calls = []

    def counting(file, shard, source, **options):
        calls.append(shard)
        return write_shard(file, shard, source, **options)

    monkeypatch.setattr("conversion.convert.write_shard", counting)
    return calls


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_interrupted_conversion_is_resumed_with_the_first_incomplete_file(
    nano_sat, tmp_path, monkeypatch
):
    convert(plan_conversion(nano_sat), tmp_path / "uninterrupted")
    interrupted_after_the_transformer(monkeypatch, plan_conversion(nano_sat), tmp_path / "nano")
    assert not (tmp_path / "nano").exists()
    written = counted_shards(monkeypatch)
    advanced = []
    plan = plan_conversion(nano_sat)
    convert(plan, tmp_path / "nano", resume=True, advance=advanced.append)
    assert len(written) == 1
    assert sum(advanced) == plan.total_bytes
    assert files(tmp_path / "nano") == files(tmp_path / "uninterrupted")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nano", "uninterrupted"]


def test_without_resume_an_interrupted_conversion_starts_anew(nano_sat, tmp_path, monkeypatch):
    interrupted_after_the_transformer(monkeypatch, plan_conversion(nano_sat), tmp_path / "nano")
    written = counted_shards(monkeypatch)
    convert(plan_conversion(nano_sat), tmp_path / "nano")
    assert len(written) == 2


def test_other_options_are_not_resumed(nano_sat, tmp_path, monkeypatch):
    interrupted_after_the_transformer(monkeypatch, plan_conversion(nano_sat), tmp_path / "nano")
    other = plan_conversion(nano_sat, ConversionOptions(cast=Cast(torch.float16)))
    with pytest.raises(UserError, match="with other options"):
        convert(other, tmp_path / "nano", resume=True)
    convert(plan_conversion(nano_sat), tmp_path / "nano", resume=True)


def test_a_changed_source_is_not_resumed(nano_copy, tmp_path, monkeypatch):
    interrupted_after_the_transformer(monkeypatch, plan_conversion(nano_copy), tmp_path / "nano")
    os.utime(nano_copy / "vae" / "3d-vae.pt", (1, 1))
    with pytest.raises(UserError, match="of another source"):
        convert(plan_conversion(nano_copy), tmp_path / "nano", resume=True)


def test_two_conversions_to_one_place_do_not_mix(nano_sat, tmp_path, monkeypatch):
    def meanwhile(*_, **__):
        with pytest.raises(UserError, match="Another process is converting"):
            convert(plan_conversion(nano_sat), tmp_path / "nano")
        raise KeyboardInterrupt

    plan = plan_conversion(nano_sat)
    monkeypatch.setattr("conversion.convert.write_shard", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        convert(plan, tmp_path / "nano")


def test_a_disk_without_space_is_refused_before_anything_is_written(
    nano_sat, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OperationError, match=r"has 1\.0 kB free\. 15\.3 MB are needed"):
        convert(plan_conversion(nano_sat), tmp_path / "out" / "nano")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_over_the_shard_limit_is_written_in_shards(nano_sat, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_shards, "__defaults__", (3_000_000,))
    convert(plan_conversion(nano_sat), tmp_path / "nano")
    assert len(list((tmp_path / "nano" / "transformer").glob("*.safetensors"))) == 3
    CogVideoXPipeline.from_pretrained(tmp_path / "nano", dtype=torch.float32)


def test_a_bare_checkpoint_file_is_a_source(nano_sat, tmp_path):
    file = nano_sat / "transformer" / "1" / "mp_rank_00_model_states.pt"
    options = ConversionOptions(
        config=nano_sat / "model.yaml",
        vae=nano_sat / "vae" / "3d-vae.pt",
        text_encoder=str(nano_sat / "t5-v1_1-xxl"),
    )
    convert(plan_conversion(file, options), tmp_path / "bare")
    convert(plan_conversion(nano_sat), tmp_path / "whole")
    assert files(tmp_path / "bare") == files(tmp_path / "whole")


def test_a_safetensors_file_is_a_source(nano_copy, tmp_path):
    path = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    save_file(torch.load(path, weights_only=True)["module"], nano_copy / "model.safetensors")
    options = ConversionOptions(vae=nano_copy / "vae" / "3d-vae.pt")
    plan = plan_conversion(nano_copy / "model.safetensors", options)
    assert plan.detection.variant.name == "nano"
    convert(plan, tmp_path / "nano")


def test_a_fine_tunes_other_modules_are_left_out_by_prefix(nano_copy, tmp_path):
    """Keys of conditioner and first stage must neither be converted nor garble the others."""
    path = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    names = (
        "conditioner.embedders.0.x",
        "first_stage_model.y",
        "model_ema.diffusion_modelmixinspatch_embedprojweight",
    )
    extra = {name: torch.zeros(1) for name in names}
    torch.save({"module": module | extra, "optimizer": None}, path)
    convert(plan_conversion(nano_copy), tmp_path / "nano")
    record = json.loads((tmp_path / "nano" / "conversion.json").read_text())
    assert set(record["left_out"]) == {*extra, "optimizer"}
