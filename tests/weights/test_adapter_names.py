import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weights.adapter_names import (
    FACTORS,
    SAT_MODULES,
    AdapterKey,
    diffusers_name,
    is_text_encoder_key,
    looks_like,
    parse_key,
    sat_name,
)
from weights.transformer_modules import module_shapes
from weights.variants import VARIANTS

Q0 = "transformer_blocks.0.attn1.to_q"
MODULES = sorted({module for v in VARIANTS.values() for module in module_shapes(v)})


@pytest.mark.parametrize(
    ("name", "module", "part", "style"),
    [
        ("transformer.layers.3.attention.query_key_value.matrix_A.2", 3, "to_v A", "SAT"),
        ("transformer.layers.0.attention.dense.matrix_B.0", 0, "to_out.0 B", "SAT"),
        (f"transformer.{Q0}.lora_A.weight", 0, "to_q A", "PEFT"),
        (f"{Q0}.lora_B.weight", 0, "to_q B", "PEFT"),
        (f"base_model.model.{Q0}.lora_B.weight", 0, "to_q B", "PEFT"),
        (f"base_model.model.{Q0}.lora_A.default.weight", 0, "to_q A", "PEFT"),
        (f"transformer.{Q0}.lora.down.weight", 0, "to_q A", "attention processor"),
        (f"transformer.{Q0}.lora.up.weight", 0, "to_q B", "attention processor"),
        (f"{Q0}.lora_down.weight", 0, "to_q A", "kohya"),
        (
            "lora_unet__transformer_blocks_12_attn1_to_out_0.lora_up.weight",
            12,
            "to_out.0 B",
            "kohya",
        ),
        ("lora_unet_transformer_blocks_7_attn1_to_k.lora_down.weight", 7, "to_k A", "kohya"),
        ("lora_unet__transformer_blocks_0_attn1_to_q.alpha", 0, "to_q alpha", None),
        (f"transformer.{Q0}.alpha", 0, "to_q alpha", None),
    ],
)
def test_every_style_is_known(name, module, part, style):
    target, part = part.split()
    key = AdapterKey(f"transformer_blocks.{module}.attn1.{target}", part, style)
    assert parse_key(name) == key
    if style == "SAT":
        assert parse_key(f"model.diffusion_model.{name}") == key


@given(module=st.sampled_from(MODULES), factor=st.sampled_from(FACTORS))
@example(module="patch_embed.text_proj", factor="A")
def test_any_module_of_any_variant_is_found_in_every_style(module, factor):
    assert parse_key(diffusers_name(module, factor)) == AdapterKey(module, factor, "PEFT")
    flat = f"lora_unet__{module.replace('.', '_')}"
    ending = {"A": "lora_down.weight", "B": "lora_up.weight"}[factor]
    assert parse_key(f"{flat}.{ending}") == AdapterKey(module, factor, "kohya")
    assert parse_key(f"{flat}.alpha") == AdapterKey(module, "alpha", None)


@given(
    layer=st.integers(0, 9999),
    sat_module=st.sampled_from(sorted(SAT_MODULES)),
    index=st.integers(0, 9),
    factor=st.sampled_from(FACTORS),
)
def test_sats_pairs_are_the_parts_of_its_modules(layer, sat_module, index, factor):
    modules = SAT_MODULES[sat_module]
    expected = None
    if index < len(modules):
        expected = AdapterKey(f"transformer_blocks.{layer}.{modules[index]}", factor, "SAT")
    assert parse_key(sat_name(layer, sat_module, factor, index)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".alpha",
        f"{Q0}.weight",
        f"{Q0}.lora_C.weight",
        f"{Q0}.lora_B.bias",
        f"x{Q0}.lora_A.weight",
        f"transformer.transformer.{Q0}.lora_A.weight",
        "transformer_blocks.0.attn2.to_q.lora_A.weight",
        "transformer_blocks.-1.attn1.to_q.lora_A.weight",
        # Arabic digits: int() would take them.
        "transformer_blocks.\u0663.attn1.to_q.lora_A.weight",
        f"transformer_blocks.{'9' * 5000}.attn1.to_q.lora_A.weight",
        f"transformer.layers.{'9' * 5000}.attention.dense.matrix_A.0",
        "transformer.layers.0.mlp.dense_h_to_4h.matrix_A.0",
        "lora_unet__transformer_blocks_0_attn1_to_z.lora_down.weight",
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
    ],
)
def test_other_names_are_nothing(name):
    assert parse_key(name) is None


@given(st.text(max_size=80))
def test_no_name_is_too_odd(name):
    assert parse_key(name) is None
    is_text_encoder_key(name)
    looks_like([name])


def test_text_encoders_are_told():
    assert is_text_encoder_key("text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight")
    assert is_text_encoder_key("lora_te_encoder_block_0_layer_0_SelfAttention_q.alpha")
    assert is_text_encoder_key("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight")
    assert not is_text_encoder_key(f"transformer.{Q0}.lora_A.weight")


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
        ("unet.mid_block.attentions.0.to_q.lora.down.weight", "Stable Diffusion"),
        ("lora_unet_input_blocks_4_1_proj_in.alpha", "Stable Diffusion"),
        ("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", "Flux"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
        ("lora_unet__blocks_0_cross_attn_k.lora_down.weight", "Wan"),
        ("transformer.blocks.0.attn1.to_q.lora_A.weight", "Wan"),
        ("transformer.transformer_blocks.0.attn2.to_q.lora_A.weight", "LTX-Video"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
        ("transformer_blocks.0.attn1.to_q.lokr_w1", "LoKr"),
        (f"{Q0}.lora_magnitude_vector.weight", "DoRA"),
        ("transformer_blocks.0.attn1.to_q.weight", "whole CogVideoX"),
        (
            "model.diffusion_model.transformer.layers.0.attention.query_key_value.weight",
            "whole CogVideoX",
        ),
        (
            "model.diffusion_model.transformer.layers.0.attention.query_key_value.original.weight",
            "SAT checkpoint",
        ),
    ],
)
def test_other_files_are_told(name, guess):
    assert guess in looks_like(["something.else", name])


def test_what_is_unknown_is_not_guessed():
    assert looks_like(["encoder.weight", f"transformer.{Q0}.lora_A.weight"]) is None
    assert looks_like([]) is None
