import contextlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictors.lora.adapter_file import read_adapter
from tests.predictors.lora.lora_files import (
    attention_modules,
    kohya_tensors,
    peft_metadata,
    peft_tensors,
    processor_tensors,
    random_pairs,
    sat_tensors,
    write,
)
from weights.errors import UserError
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
FIVE_B = VARIANTS["cogvideox-5b"]
Q0 = "transformer_blocks.0.attn1.to_q"
RANK = 4
ALPHA_NOTE = "alpha = rank is assumed"
SAT_NOTE = "default of 1 is assumed"
OPEN_BASE = "its shapes fit nano-i2v as well"


def file_of(tmp_path, tensors, metadata=None):
    return write(tmp_path / "lora.safetensors", tensors, metadata)


def refusal(tmp_path, tensors, metadata=None, variant=NANO):
    with pytest.raises(UserError) as caught:
        read_adapter(file_of(tmp_path, tensors, metadata), variant)
    message = str(caught.value)
    assert str(tmp_path) not in message
    return message


def scales(adapter):
    return {pair.scale for pair in adapter.pairs.values()}


@pytest.mark.parametrize(
    ("tensors", "style"),
    [
        (sat_tensors, "SAT"),
        (lambda pairs: sat_tensors(pairs, prefix=""), "SAT"),
        (peft_tensors, "PEFT"),
        (lambda pairs: peft_tensors(pairs, prefix=""), "PEFT"),
        (lambda pairs: peft_tensors(pairs, prefix="base_model.model."), "PEFT"),
        (processor_tensors, "attention processor"),
        (lambda pairs: kohya_tensors(pairs, RANK), "kohya"),
    ],
)
def test_every_style_gives_the_same_matrices(tensors, style, tmp_path):
    pairs = random_pairs(NANO)
    adapter = read_adapter(file_of(tmp_path, tensors(pairs)), NANO)
    assert adapter.style == style
    assert adapter.pairs.keys() == pairs.keys()
    for module, (a, b) in pairs.items():
        assert torch.equal(adapter.pairs[module].a, a)
        assert torch.equal(adapter.pairs[module].b, b)
        assert adapter.pairs[module].rank == RANK


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_files_dtype_is_kept(dtype, tmp_path):
    pairs = {m: (a.to(dtype), b.to(dtype)) for m, (a, b) in random_pairs(NANO).items()}
    adapter = read_adapter(file_of(tmp_path, peft_tensors(pairs)), NANO)
    assert {pair.a.dtype for pair in adapter.pairs.values()} == {dtype}


def test_ranks_may_differ_between_modules(tmp_path):
    pairs = random_pairs(NANO, [Q0]) | random_pairs(NANO, ["proj_out", "patch_embed.proj"], rank=2)
    adapter = read_adapter(file_of(tmp_path, sat_free := peft_tensors(pairs)), NANO)
    assert len(sat_free) == 6
    assert {module: pair.rank for module, pair in adapter.pairs.items()} == {
        Q0: 4,
        "proj_out": 2,
        "patch_embed.proj": 2,
    }


# How strongly.


def test_our_own_metadata_give_alpha_and_base(tmp_path):
    metadata = {"variant": "nano", **peft_metadata(2, r=RANK, target_modules=["to_q"])}
    adapter = read_adapter(file_of(tmp_path, peft_tensors(random_pairs(NANO)), metadata), NANO)
    assert scales(adapter) == {2 / RANK}
    assert adapter.notes == ()


def test_alpha_tensors_count_each_for_its_module(tmp_path):
    tensors = kohya_tensors(random_pairs(NANO), alpha=2)
    other, none = attention_modules(4)[:2]
    tensors[f"lora_unet__{other.replace('.', '_')}.alpha"] = torch.tensor(
        [8.0], dtype=torch.float16
    )
    del tensors[f"lora_unet__{none.replace('.', '_')}.alpha"]
    adapter = read_adapter(file_of(tmp_path, tensors), NANO)
    assert adapter.pairs[other].scale == 8 / RANK
    assert adapter.pairs[none].scale == 1
    assert {pair.scale for m, pair in adapter.pairs.items() if m not in (other, none)} == {0.5}
    assert not any("alpha" in note for note in adapter.notes)


def test_pefts_alpha_pattern_and_rank_stabilisation(tmp_path):
    metadata = peft_metadata(
        8, alpha_pattern={"to_k": 2, f"^{Q0}": 16, "blocks.3.attn1.to_v": 99}, use_rslora=True
    )
    adapter = read_adapter(file_of(tmp_path, peft_tensors(random_pairs(NANO)), metadata), NANO)
    found = {module: pair.scale for module, pair in adapter.pairs.items()}
    assert found[Q0] == 16 / 2
    assert found["transformer_blocks.3.attn1.to_k"] == 2 / 2
    assert found["transformer_blocks.1.attn1.to_q"] == 8 / 2
    # The pattern is whole words: no module ends with ".blocks.3.attn1.to_v".
    assert found["transformer_blocks.3.attn1.to_v"] == 8 / 2


def test_a_config_saved_for_the_model_alone_is_read_as_well(tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 1, "r": RANK})}
    adapter = read_adapter(file_of(tmp_path, peft_tensors(random_pairs(NANO)), metadata), NANO)
    assert scales(adapter) == {1 / RANK}


@pytest.mark.parametrize(
    ("tensors", "scale", "note"),
    [(sat_tensors, 1 / RANK, SAT_NOTE), (peft_tensors, 1, ALPHA_NOTE)],
)
def test_what_is_not_recorded_is_assumed_and_said(tensors, scale, note, tmp_path):
    adapter = read_adapter(file_of(tmp_path, tensors(random_pairs(NANO))), NANO)
    assert scales(adapter) == {scale}
    assert note in " ".join(adapter.notes)
    assert OPEN_BASE in " ".join(adapter.notes)


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        "[]",
        "{}",
        '{"lora_alpha": null}',
        '{"lora_alpha": 0}',
        '{"lora_alpha": -1}',
        '{"lora_alpha": true}',
        '{"lora_alpha": "8"}',
        '{"lora_alpha": NaN}',
        '{"lora_alpha": Infinity}',
        '{"lora_alpha": 1, "lora_alpha": 2}',
        '{"lora_alpha": 1, "alpha_pattern": ["to_q"]}',
        '{"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}',
        '{"lora_alpha": 1, "alpha_pattern": {"to_q": null}}',
        '{"a":' * 100_000,
    ],
)
def test_a_config_that_cannot_be_used_is_refused(config, tmp_path):
    tensors = peft_tensors(random_pairs(NANO, [Q0]))
    message = refusal(tmp_path, tensors, {"lora_adapter_metadata": config})
    assert "lora_adapter_metadata cannot be used" in message


@pytest.mark.parametrize("alpha", [0.0, -4.0, float("nan"), float("inf")])
def test_an_alpha_is_a_positive_number(alpha, tmp_path):
    tensors = kohya_tensors(random_pairs(NANO, [Q0]), alpha)
    assert f"alpha for {Q0} is {alpha}." in refusal(tmp_path, tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.float8_e4m3fn])
def test_an_alpha_may_have_any_dtype(dtype, tmp_path):
    tensors = kohya_tensors(random_pairs(NANO, [Q0]), 1)
    name = "lora_unet__transformer_blocks_0_attn1_to_q.alpha"
    adapter = read_adapter(file_of(tmp_path, tensors | {name: torch.tensor(2).to(dtype)}), NANO)
    assert scales(adapter) == {2 / RANK}


# For which model.


def only(variant, *modules, rank=1):
    """A small LoRA: one module of a large variant, and any others asked for."""
    return peft_tensors(random_pairs(variant, [Q0, *modules], rank=rank))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "nano"])
def test_a_lora_of_another_size_says_which_models_it_is_for(name, tmp_path):
    message = refusal(tmp_path, only(VARIANTS[name], "patch_embed.proj"))
    assert f"The LoRA has the shapes of {name}." in message
    assert "This server runs nano." in message


def test_blocks_alone_tell_2b_from_the_5bs(tmp_path):
    two_b = VARIANTS["cogvideox-2b"]
    assert "shapes of cogvideox-2b." in refusal(tmp_path, only(two_b), variant=FIVE_B)
    assert (
        "shapes of cogvideox-5b, cogvideox-5b-i2v, cogvideox1.5-5b or cogvideox1.5-5b-i2v."
        in refusal(tmp_path, only(FIVE_B), variant=two_b)
    )


def test_a_layer_too_many_is_another_model(tmp_path):
    pairs = random_pairs(FIVE_B, ["transformer_blocks.41.attn1.to_q"], rank=1)
    short = replace(FIVE_B, num_layers=41)
    assert "shapes of cogvideox-5b," in refusal(tmp_path, peft_tensors(pairs), variant=short)


def test_equal_blocks_are_accepted_with_a_note(tmp_path):
    adapter = read_adapter(file_of(tmp_path, only(FIVE_B)), FIVE_B)
    others = "cogvideox-5b-i2v, cogvideox1.5-5b or cogvideox1.5-5b-i2v"
    assert f"does not record its base model: its shapes fit {others} as well." in adapter.notes[0]
    adapter = read_adapter(file_of(tmp_path, only(FIVE_B, "patch_embed.proj")), FIVE_B)
    assert not any("base model" in note for note in adapter.notes)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("patch_embed.proj", "cogvideox-5b-i2v"),
        ("ofs_embedding.linear_1", "cogvideox1.5-5b-i2v"),
        ("proj_out", "cogvideox1.5-5b or cogvideox1.5-5b-i2v"),
    ],
)
def test_outer_modules_tell_the_5bs_apart(module, name, tmp_path):
    variant = VARIANTS[name.rpartition(" ")[2]]
    assert f"shapes of {name}." in refusal(tmp_path, only(variant, module), variant=FIVE_B)


@pytest.mark.parametrize(
    "metadata",
    [
        {"variant": "cogvideox1.5-5b"},
        peft_metadata(1, base_model_name_or_path="THUDM/CogVideoX1.5-5B"),
        peft_metadata(1, base_model_name_or_path="/models/CogVideoX1.5-5B/"),
    ],
)
def test_the_recorded_base_model_counts_where_shapes_are_equal(metadata, tmp_path):
    message = refusal(tmp_path, only(FIVE_B), metadata, variant=FIVE_B)
    assert "trained for cogvideox1.5-5b, as the file records." in message
    adapter = read_adapter(file_of(tmp_path, only(FIVE_B), metadata), VARIANTS["cogvideox1.5-5b"])
    assert not any("base model" in note for note in adapter.notes)


@pytest.mark.parametrize(
    "metadata", [{"variant": "my-own"}, peft_metadata(1, base_model_name_or_path=None)]
)
def test_a_record_that_names_no_variant_tells_nothing(metadata, tmp_path):
    adapter = read_adapter(file_of(tmp_path, only(FIVE_B), metadata), FIVE_B)
    assert any("base model" in note for note in adapter.notes)


def test_shapes_of_no_model_are_named(tmp_path):
    tensors = only(NANO)
    tensors[f"transformer.{Q0}.lora_A.weight"] = torch.zeros(1, 100)
    message = refusal(tmp_path, tensors)
    assert f"fits no CogVideoX model: {Q0} is 128×100, not 128×128." in message
    tensors = only(VARIANTS["cogvideox1.5-5b-i2v"], "ofs_embedding.linear_1")
    tensors |= only(NANO)
    assert "there is no ofs_embedding.linear_1" in refusal(tmp_path, tensors)


# Whole and a LoRA.


@pytest.mark.parametrize(
    ("names", "guess"),
    [
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA for Wan"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.alpha"], "a LoRA for Stable Diffusion"),
        (["transformer_blocks.0.attn1.to_q.weight", "proj_out.bias"], "a whole CogVideoX"),
        (["text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"], "no LoRA"),
        (["transformer_blocks.0.attn1.to_q.alpha"], "no LoRA"),
    ],
)
def test_a_file_without_a_lora_is_refused_and_named(names, guess, tmp_path):
    message = refusal(tmp_path, {name: torch.zeros(1) for name in names})
    assert "The file holds no LoRA for CogVideoX" in message
    assert guess in message


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(UserError, match="holds no LoRA for CogVideoX: it is empty"):
        read_adapter(tmp_path / "empty", NANO)


def test_unknown_tensors_are_named(tmp_path):
    tensors = only(NANO) | {f"transformer.{Q0}.lora_B.bias": torch.zeros(128)}
    message = refusal(tmp_path, tensors)
    assert f"tensors of unknown names: transformer.{Q0}.lora_B.bias." in message
    tensors = only(NANO) | {
        f"transformer.transformer_blocks.{n}.attn2.to_q.lora_A.weight": torch.zeros(1, 128)
        for n in range(7)
    }
    message = refusal(tmp_path, tensors)
    assert "and 2 more" in message
    assert "looks like a LoRA for LTX-Video" in message


def test_a_sat_checkpoint_with_its_base_is_for_convert_lora(tmp_path):
    tensors = sat_tensors(random_pairs(NANO, [Q0]))
    layer = "model.diffusion_model.transformer.layers.0.attention.query_key_value"
    tensors[f"{layer}.original.weight"] = torch.zeros(384, 128)
    message = refusal(tmp_path, tensors)
    assert "a SAT checkpoint" in message
    assert "cogvideox convert-lora" in message


@pytest.mark.parametrize("factor", ["A", "B"])
def test_a_matrix_without_its_partner_is_named(factor, tmp_path):
    tensors = only(NANO, "proj_out")
    del tensors[f"transformer.proj_out.lora_{factor}.weight"]
    assert "lacks one of the two matrices for proj_out" in refusal(tmp_path, tensors)


def test_the_same_matrix_under_two_names_is_refused(tmp_path):
    tensors = only(NANO) | peft_tensors(random_pairs(NANO, [Q0]), prefix="")
    assert "which are the same" in refusal(tmp_path, tensors)


def test_mixed_styles_are_refused(tmp_path):
    tensors = only(NANO) | processor_tensors(random_pairs(NANO, ["proj_out"]))
    assert "PEFT and attention processor" in refusal(tmp_path, tensors).replace(
        "attention processor and PEFT", "PEFT and attention processor"
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 128), (128, 3)),
        ((0, 128), (128, 0)),
        ((2, 0), (128, 2)),
        ((128,), (128, 2)),
        ((2, 128, 1), (128, 2, 1)),
        ((2, 128), (128, 2, 1, 1)),
        ((2, 16, 2, 2), (128, 2, 2, 2)),
        ((), ()),
    ],
)
def test_matrices_that_cannot_be_multiplied_are_refused(a, b, tmp_path):
    tensors = peft_tensors({Q0: (torch.zeros(a), torch.zeros(b))})
    assert f"has matrices of {list(a)} and {list(b)} for {Q0}" in refusal(tmp_path, tensors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_values_that_are_not_finite_are_refused(bad, factor, tmp_path):
    tensors = only(NANO)
    tensors[f"transformer.{Q0}.lora_{factor}.weight"][-1, -1] = bad
    assert f"not finite for {Q0}." in refusal(tmp_path, tensors)


def test_other_dtypes_are_refused(tmp_path):
    tensors = only(NANO)
    tensors[f"transformer.{Q0}.lora_A.weight"] = torch.zeros(1, 128, dtype=torch.int8)
    assert "values of the dtype I8" in refusal(tmp_path, tensors)


def test_an_alpha_of_many_numbers_is_refused(tmp_path):
    tensors = kohya_tensors(random_pairs(NANO, [Q0]), 1)
    tensors["lora_unet__transformer_blocks_0_attn1_to_q.alpha"] = torch.ones(2)
    assert "more than one number" in refusal(tmp_path, tensors)


def test_a_text_encoders_part_is_left_out_and_said(tmp_path):
    tensors = only(NANO) | {
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": torch.zeros(1, 8),
        "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight": torch.zeros(8, 1),
    }
    adapter = read_adapter(file_of(tmp_path, tensors), NANO)
    assert list(adapter.pairs) == [Q0]
    assert "Its 2 tensors for the text encoder are left out" in adapter.notes[0]


def test_damaged_files_are_refused_without_their_path(tmp_path):
    whole = file_of(tmp_path, only(NANO)).read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "text": b"<html>not found</html>",
        "bomb": (50 << 20).to_bytes(8, "little") + b"{" * 100,
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name} (1).safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match="The LoRA cannot be read") as caught:
            read_adapter(path, NANO)
        assert str(tmp_path) not in str(caught.value)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="The LoRA cannot be read"):
            read_adapter(path, NANO)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0), byte=st.integers(0, 255))
def test_no_damage_is_anything_but_a_user_error(position, byte, tmp_path):
    content = bytearray(
        file_of(tmp_path, kohya_tensors(random_pairs(NANO, [Q0], rank=1), 1)).read_bytes()
    )
    content[position % len(content)] = byte
    (tmp_path / "hurt").write_bytes(content)
    with contextlib.suppress(UserError):
        read_adapter(tmp_path / "hurt", NANO)
