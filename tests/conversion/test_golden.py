"""Converted models against the numbers of the original SAT code; limits from the golden READMEs."""

import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion.convert import convert
from conversion.convert_lora import convert_lora, plan_lora
from conversion.plan import ConversionOptions, plan_conversion

AS_IS = 1e-4
WITH_SATS_EPS = 1e-5
# SAT has this epsilon in the last norm, diffusers 1e-5.
SATS_EPS = 1e-6

VARIANTS = {
    "2b": "cogvideox-2b",
    "5b": "cogvideox-5b",
    "5b_i2v": "cogvideox-5b-i2v",
    "1.5_5b": "cogvideox1.5-5b",
    "1.5_5b_i2v": "cogvideox1.5-5b-i2v",
}
CASES = [(name, case) for name in VARIANTS for case in ("case0", "case1")]
# This case has fewer frames than the learned table; `test_a_cut_position_table` is for it.
CASES.remove(("5b_i2v", "case1"))


@pytest.fixture(scope="module")
def converted(golden, golden_vae, tmp_path_factory):
    """Converts a golden checkpoint once; gives the plan and the folder."""
    done = {}

    def get(name):
        if name not in done:
            folder = tmp_path_factory.mktemp("golden") / name
            source = golden / name
            options = ConversionOptions(config=source / "model.yaml", vae=golden_vae)
            plan = plan_conversion(source / "sat", options)
            convert(plan, folder)
            done[name] = plan, folder
        return done[name]

    return get


def case_tensors(golden, name, case):
    tensors = load_file(golden / name / "io.safetensors")
    return {k.removeprefix(f"{case}."): t for k, t in tensors.items() if k.startswith(f"{case}.")}


def error(model, tensors, reference="out"):
    x = tensors["x"]
    if "image_latents" in tensors:
        x = torch.cat([x, tensors["image_latents"]], dim=2)
    extra = {}
    if "rope_cos" in tensors:
        extra["image_rotary_emb"] = (tensors["rope_cos"], tensors["rope_sin"])
    if "ofs" in tensors:
        extra["ofs"] = tensors["ofs"]
    with torch.no_grad():
        out = model(x, tensors["context"], tensors["timesteps"], **extra).sample
    return (out - tensors[reference]).abs().max().item()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_transformer_computes_what_sat_computes(name, case, golden, converted):
    _, folder = converted(name)
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
    tensors = case_tensors(golden, name, case)
    assert error(model, tensors) <= AS_IS
    model.norm_out.norm.eps = SATS_EPS
    assert error(model, tensors) <= WITH_SATS_EPS


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_told_and_the_config_is_the_golden_one(name, golden, converted):
    plan, folder = converted(name)
    assert plan.detection.variant.name == VARIANTS[name]
    assert not plan.detection.exact
    ours = json.loads((folder / "transformer" / "config.json").read_text())
    theirs = json.loads((golden / name / "diffusers_config.json").read_text())
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_a_wrong_row_would_be_seen(name, golden, converted):
    """The limits above can fail: one tensor rolled by one row exceeds them a hundredfold."""
    _, folder = converted(name)
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
    weight = model.transformer_blocks[1].norm2.linear.weight
    with torch.no_grad():
        weight.copy_(weight.roll(1, dims=0))
    assert error(model, case_tensors(golden, name, "case0")) > 100 * AS_IS


@pytest.fixture(scope="module")
def vae(converted):
    _, folder = converted("2b")
    return diffusers.AutoencoderKLCogVideoX.from_pretrained(folder / "vae").eval()


@pytest.fixture(scope="module")
def vae_tensors(golden):
    return load_file(golden / "vae" / "io.safetensors")


@pytest.mark.parametrize("frames", [1, 9])
def test_vae_encodes_as_sat(frames, vae, vae_tensors):
    with torch.no_grad():
        ours = vae.encode(vae_tensors[f"encode{frames}.video"]).latent_dist.parameters
    torch.testing.assert_close(ours, vae_tensors[f"encode{frames}.moments"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("latents", "reference"), [(1, "full"), (3, "full"), (3, "chunked"), (5, "chunked")]
)
def test_vae_decodes_as_sat(latents, reference, vae, vae_tensors):
    with torch.no_grad():
        ours = vae.decode(vae_tensors[f"decode{latents}.latents"]).sample
    theirs = vae_tensors[f"decode{latents}.{reference}"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def cut_to_case1(golden, golden_vae, folder):
    source = golden / "5b_i2v"
    options = ConversionOptions(config=source / "model.yaml", vae=golden_vae, frames=5)
    convert(plan_conversion(source / "sat", options), folder)
    return diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")


def test_a_cut_position_table_computes_what_sat_computes(golden, golden_vae, tmp_path, converted):
    """With the whole table diffusers swaps it for another one, and is wrong by 3."""
    tensors = case_tensors(golden, "5b_i2v", "case1")
    _, uncut = converted("5b_i2v")
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(uncut / "transformer")
    assert error(model, tensors) > 1
    model = cut_to_case1(golden, golden_vae, tmp_path / "cut")
    assert model.config.sample_frames == 5
    assert error(model, tensors) <= AS_IS
    model.norm_out.norm.eps = SATS_EPS
    assert error(model, tensors) <= WITH_SATS_EPS


@pytest.fixture(scope="module", params=["lora_2b", "lora_5b"])
def lora(request, golden, golden_vae, tmp_path_factory):
    """A golden LoRA: its name, the folder of its base, and the adapter."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    source, config = golden / name / "sat", golden / name / "model.yaml"
    options = ConversionOptions(config=config, vae=golden_vae, lora="leave out")
    convert(plan_conversion(source, options), root / "base")
    convert_lora(plan_lora(source, config=config), root / "adapter.safetensors")
    return name, root / "base", root / "adapter.safetensors"


def base_pipeline(folder):
    """A pipeline with nothing but what a transformer adapter needs."""
    return diffusers.CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer"),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_a_plainly_loaded_lora_computes_what_sat_computes(case, lora, golden):
    name, base, adapter = lora
    tensors = case_tensors(golden, name, case)
    pipe = base_pipeline(base)
    assert error(pipe.transformer, tensors) > 100 * AS_IS
    pipe.load_lora_weights(str(adapter))
    assert error(pipe.transformer, tensors) <= AS_IS
    pipe.transformer.norm_out.norm.eps = SATS_EPS
    assert error(pipe.transformer, tensors) <= WITH_SATS_EPS


def test_without_its_metadata_the_lora_would_be_wrong(lora, golden, tmp_path):
    name, base, adapter = lora
    save_file(load_file(adapter), tmp_path / "bare.safetensors", metadata={"format": "pt"})
    pipe = base_pipeline(base)
    pipe.load_lora_weights(str(tmp_path / "bare.safetensors"))
    assert error(pipe.transformer, case_tensors(golden, name, "case0")) > 100 * AS_IS


def test_the_base_of_a_lora_computes_what_sat_computes_without_it(lora, golden):
    name, base, _ = lora
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(base / "transformer")
    assert error(model, case_tensors(golden, name, "case0"), "out_without_lora") <= AS_IS


@pytest.mark.parametrize("name", ["lora_2b", "lora_5b"])
def test_a_merged_lora_computes_what_sat_computes(name, golden, golden_vae, tmp_path):
    options = ConversionOptions(config=golden / name / "model.yaml", vae=golden_vae, lora="merge")
    convert(plan_conversion(golden / name / "sat", options), tmp_path / "merged")
    folder = tmp_path / "merged" / "transformer"
    model = diffusers.CogVideoXTransformer3DModel.from_pretrained(folder)
    assert error(model, case_tensors(golden, name, "case0")) <= AS_IS
    model.norm_out.norm.eps = SATS_EPS
    assert error(model, case_tensors(golden, name, "case1")) <= WITH_SATS_EPS


def test_what_was_left_out_is_named(converted):
    plan, _ = converted("5b")
    left_out = [name for model in plan.models for name in model.left_out]
    assert "model.diffusion_model.mixins.pos_embed.freqs_sin" in left_out
    assert "model.diffusion_model.transformer.position_embeddings.weight" in left_out
    assert sum(name.startswith("loss.") for name in left_out) == 15
