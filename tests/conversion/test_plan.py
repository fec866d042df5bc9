import shutil

import pytest
import torch

from conversion.plan import ConversionOptions, plan_conversion
from weights.errors import UserError


def test_a_model_without_the_usual_prefix_is_found(nano_copy, tmp_path):
    path = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    bare = {name.removeprefix("model.diffusion_model."): t for name, t in module.items()}
    torch.save(bare, path)
    assert plan_conversion(nano_copy).detection.variant.name == "nano"
    several = {f"{copy}.{name}": t for copy in ("a", "b") for name, t in bare.items()}
    torch.save(several, path)
    with pytest.raises(UserError, match=r"several models, under a\., b\."):
        plan_conversion(nano_copy)


def test_a_named_variant_overrides_with_a_warning(nano_sat):
    plan = plan_conversion(nano_sat, ConversionOptions(variant="cogvideox-2b"))
    assert plan.detection.variant.name == "cogvideox-2b"
    assert any("--variant" in note for note in plan.notes)
    with pytest.raises(UserError, match="Leave --variant out"):
        plan_conversion(nano_sat, ConversionOptions(variant="nano-i2v"))


@pytest.mark.parametrize("frames", [0, 7, 13])
def test_frames_the_table_does_not_hold_are_refused(frames, golden, golden_vae):
    options = ConversionOptions(
        config=golden / "5b_i2v" / "model.yaml", vae=golden_vae, frames=frames
    )
    with pytest.raises(UserError, match="The table holds 1, 5, 9 frames"):
        plan_conversion(golden / "5b_i2v" / "sat", options)


def test_frames_are_refused_for_a_model_without_table(nano_sat):
    with pytest.raises(UserError, match="Leave --frames out"):
        plan_conversion(nano_sat, ConversionOptions(frames=5))


def test_a_lora_checkpoint_is_refused(golden, tmp_path):
    options = ConversionOptions(config=golden / "lora_2b" / "model.yaml")
    with pytest.raises(UserError, match=r"convert-lora.*--merge.*--without-lora"):
        plan_conversion(golden / "lora_2b" / "sat", options)


def test_a_vae_in_the_transformers_place_is_refused(nano_copy):
    transformer = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    shutil.copyfile(nano_copy / "vae" / "3d-vae.pt", transformer)
    with pytest.raises(UserError, match=r"no tensor model\.diffusion_model\."):
        plan_conversion(nano_copy)


def test_a_transformer_in_the_vaes_place_is_refused(nano_copy):
    transformer = nano_copy / "transformer" / "1" / "mp_rank_00_model_states.pt"
    with pytest.raises(UserError, match="no encoder and decoder"):
        plan_conversion(nano_copy, ConversionOptions(vae=transformer))


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
