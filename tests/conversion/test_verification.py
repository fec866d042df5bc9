import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion.convert import convert
from conversion.plan import ConversionOptions, plan_conversion
from conversion.safetensors_writer import Cast
from conversion.trial_forward import try_forward
from conversion.verification import plan_verification, verify
from weights.errors import UserError

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def nano_folder(nano_sat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "nano"
    convert(plan_conversion(nano_sat), folder)
    return folder


@pytest.fixture
def altered(nano_folder, tmp_path):
    """A copy of the folder whose transformer went through a change."""

    def alter(change):
        shutil.copytree(nano_folder, tmp_path / "altered")
        tensors = load_file(tmp_path / "altered" / WEIGHTS)
        change(tensors)
        save_file(tensors, tmp_path / "altered" / WEIGHTS, metadata={"format": "pt"})
        return tmp_path / "altered"

    return alter


def report(folder, source, **options):
    return verify(plan_verification(folder, source, **options), folder)


def test_a_conversion_is_verified_bit_for_bit(nano_sat, nano_folder):
    counted = []
    plan = plan_verification(nano_folder, nano_sat)
    found = verify(plan, nano_folder, advance=counted.append)
    assert found.ok
    assert found.variant == "nano"
    for model in found.models:
        assert model.identical == model.source_tensors > 0
        assert model.rounded == 0
    assert sum(counted) == plan.total_bytes
    assert found.files == len(json.loads((nano_folder / "conversion.json").read_text())["files"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_is_verified_as_rounding(dtype, nano_sat, tmp_path):
    convert(plan_conversion(nano_sat, ConversionOptions(cast=Cast(dtype))), tmp_path / "nano")
    found = report(tmp_path / "nano", nano_sat)
    assert found.ok
    assert all(model.identical == 0 for model in found.models)
    assert all(model.rounded == model.source_tensors for model in found.models)


@pytest.mark.parametrize(
    ("name", "lora", "frames"),
    [
        ("lora_2b", "merge", None),
        ("lora_5b", "leave out", None),
        ("5b_i2v", "refuse", 5),
        ("1.5_5b_i2v", "refuse", None),
    ],
)
def test_the_recorded_settings_are_followed(name, lora, frames, golden, golden_vae, tmp_path):
    config = golden / name / "model.yaml"
    options = ConversionOptions(config=config, vae=golden_vae, lora=lora, frames=frames)
    convert(plan_conversion(golden / name / "sat", options), tmp_path / "folder")
    found = report(tmp_path / "folder", golden / name / "sat", config=config, vae=golden_vae)
    assert found.ok


def one_value(tensors):
    tensors["transformer_blocks.1.attn1.to_k.weight"][3, 5] += 1e-6


def two_rows(tensors):
    name = "transformer_blocks.2.norm1.linear.weight"
    tensors[name] = tensors[name].roll(1, dims=0)


@pytest.mark.parametrize(
    ("change", "source_tensor"),
    [
        (one_value, "transformer.layers.1.attention.query_key_value.weight"),
        (two_rows, "mixins.adaln_layer.adaLN_modulations.2.1.weight"),
    ],
)
def test_a_wrong_value_is_found_in_its_source_tensor(change, source_tensor, altered, nano_sat):
    folder = altered(change)
    found = report(folder, nano_sat)
    assert not found.ok
    assert found.models[0].different == (source_tensor,)
    assert found.models[1].ok
    assert found.altered_files == (WEIGHTS,)


def test_missing_and_unknown_tensors_are_found(altered, nano_sat):
    def rename(tensors):
        tensors["norm_last.weight"] = tensors.pop("norm_final.weight")

    found = report(altered(rename), nano_sat)
    assert found.models[0].missing == ("norm_final.weight",)
    assert found.models[0].unknown == ("norm_last.weight",)
    assert found.models[0].different == ("transformer.final_layernorm.weight",)


def test_another_source_is_not_this_ones(nano_folder, tmp_path):
    from tests.conversion.random_checkpoint import write_random_checkpoint
    from weights.variants import VARIANTS

    write_random_checkpoint(VARIANTS["nano"], tmp_path / "other", seed=1)
    found = report(nano_folder, tmp_path / "other")
    assert not found.ok
    assert found.altered_files == ()


def test_a_changed_config_is_found_by_its_digest(nano_folder, nano_sat, tmp_path):
    shutil.copytree(nano_folder, tmp_path / "copy")
    path = tmp_path / "copy" / "vae" / "config.json"
    path.write_text(path.read_text().replace('"scaling_factor": 1.0', '"scaling_factor": 0.8'))
    assert report(tmp_path / "copy", nano_sat).altered_files == ("vae/config.json",)


def test_a_folder_without_record_is_refused(nano_folder, nano_sat, tmp_path):
    shutil.copytree(nano_folder, tmp_path / "copy")
    (tmp_path / "copy" / "conversion.json").unlink()
    with pytest.raises(UserError, match=r"conversion\.json cannot be read"):
        plan_verification(tmp_path / "copy", nano_sat)


def test_a_forward_runs_both_models(nano_folder):
    assert [(trial.model, trial.finite) for trial in try_forward(nano_folder)] == [
        ("transformer", True),
        ("vae", True),
    ]


@pytest.mark.parametrize("name", ["2b", "5b", "5b_i2v", "1.5_5b", "1.5_5b_i2v"])
def test_a_forward_runs_every_variant(name, golden, golden_vae, tmp_path):
    options = ConversionOptions(config=golden / name / "model.yaml", vae=golden_vae)
    convert(plan_conversion(golden / name / "sat", options), tmp_path / "folder")
    assert all(trial.finite for trial in try_forward(tmp_path / "folder"))


def test_a_forward_notices_what_is_not_finite(altered):
    def spoil(tensors):
        tensors["proj_out.weight"][0, 0] = float("nan")

    trials = {trial.model: trial.finite for trial in try_forward(altered(spoil))}
    assert trials == {"transformer": False, "vae": True}


def test_a_forward_without_memory_is_not_run_and_said_so(nano_folder, monkeypatch):
    monkeypatch.setattr("conversion.trial_forward._available_bytes", lambda: 1000)
    assert {trial.finite for trial in try_forward(nano_folder)} == {None}
