import json
import shutil

import pytest
from diffusers import CogVideoXPipeline

from conversion.convert import convert
from conversion.plan import plan_conversion
from conversion.sat_writer import plan_sat, write_sat
from weights.errors import UserError


@pytest.fixture(scope="module")
def nano_folder(nano_sat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "nano"
    convert(plan_conversion(nano_sat), folder)
    return folder


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.pt")}


def test_nano_comes_back_as_it_was(nano_sat, nano_folder, tmp_path):
    counted = []
    plan = plan_sat(nano_folder)
    write_sat(plan, tmp_path / "sat", advance=counted.append)
    assert files(tmp_path / "sat") == files(nano_sat)
    assert sum(counted) == plan.total_bytes
    for name in ("model.yaml", "transformer/latest", "t5-v1_1-xxl/spiece.model"):
        assert (tmp_path / "sat" / name).read_bytes() == (nano_sat / name).read_bytes()


def test_a_folder_that_plain_diffusers_saved_is_read(nano_sat, nano_folder, tmp_path):
    """Without conversion.json, and with the key order and shards of save_pretrained."""
    pipe = CogVideoXPipeline.from_pretrained(nano_folder)
    pipe.save_pretrained(tmp_path / "saved", max_shard_size="2MB")
    plan = plan_sat(tmp_path / "saved")
    assert plan.variant.name == "nano"
    write_sat(plan, tmp_path / "sat")
    assert files(tmp_path / "sat") == files(nano_sat)


def test_a_folder_without_text_encoder(nano_folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(nano_folder, bare, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    index = json.loads((bare / "model_index.json").read_text())
    index["text_encoder"] = index["tokenizer"] = [None, None]
    (bare / "model_index.json").write_text(json.dumps(index))
    write_sat(plan_sat(bare), tmp_path / "sat")
    assert not (tmp_path / "sat" / "t5-v1_1-xxl").exists()


def test_a_folder_of_another_model_is_refused(nano_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(nano_folder, other)
    (other / "conversion.json").unlink()
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": 5}))
    with pytest.raises(UserError, match="of no variant we know"):
        plan_sat(other)


def test_a_missing_tensor_is_named(nano_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(nano_folder, other)
    path = other / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["proj_out.weight"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"missing: proj_out\.weight"):
        plan_sat(other)


def test_no_weights_folder(tmp_path):
    with pytest.raises(UserError):
        plan_sat(tmp_path)
