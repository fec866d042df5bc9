"""A LoRA goes where SAT's goes, starts as SAT's does, and is all that is trained."""

import math

import pytest
import torch

from tests.training.finetuning.golden_inputs import (
    forward,
    lora_of,
    new_transformer,
    output,
    train_at_random,
)
from tests.training.finetuning.tiny_variants import VARIANT_OF_GOLDEN
from training.finetuning.lora import BLOCK_MODULES, add_lora, block_targets
from training.finetuning.settings import SAT_TARGETS
from weights.errors import UserError
from weights.transformer_modules import block_modules
from weights.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")


def with_lora(golden="2b", *, rank=4, alpha=1.0, targets=SAT_TARGETS, seed=7, dtype=torch.float32):
    model = new_transformer(golden, dtype)
    return model, add_lora(model, rank=rank, alpha=alpha, targets=targets, seed=seed)


def test_the_blocks_of_all_variants_have_modules_of_these_names():
    assert all(tuple(block_modules(variant)) == BLOCK_MODULES for variant in VARIANTS.values())
    block = new_transformer("2b").transformer_blocks[0]
    linear = {name for name, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear == set(BLOCK_MODULES)


def test_targets_are_named_as_in_sat_or_in_full_in_any_order():
    attention = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    assert block_targets(SAT_TARGETS) == attention
    assert block_targets(("attn1.to_out.0", "to_v", "attn1.to_k", "to_q", "to_k")) == attention
    assert block_targets(("ff.net.2", "norm1.linear")) == ("norm1.linear", "ff.net.2")


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (("to_q", "to_x"), "'to_x'"),
        # Modules around the blocks, parts of a module, and what would be a pattern.
        (("proj_out", "norm_out.linear"), "'proj_out', 'norm_out.linear'"),
        (("to_out",), "'to_out'"),
        (("to_.",), "'to_.'"),
        (("norm1.norm",), "'norm1.norm'"),
        ((), "no targets"),
    ],
)
def test_unknown_targets_are_refused_with_the_legal_ones(targets, named):
    model = new_transformer("2b")
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(UserError) as refused:
        add_lora(model, rank=4, alpha=1.0, targets=targets, seed=0)
    assert named in refused.value.given
    assert "to_q, to_k, to_v, to_out.0, norm2.linear, ff.net.0.proj" in refused.value.expected
    assert [name for name, _ in model.named_parameters()] == before


@pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)
@pytest.mark.parametrize("targets", [SAT_TARGETS, BLOCK_MODULES], ids=["as SAT", "all"])
def test_gradients_reach_exactly_the_adapters_parameters(golden, targets):
    model, parameters = with_lora(golden, targets=targets)
    train_at_random(parameters)
    forward(model, golden).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in model.named_parameters() if p.requires_grad}
    assert with_gradient == {
        f"transformer_blocks.{n}.{module}.lora_{factor}.default.weight"
        for n in range(2)
        for module in block_targets(targets)
        for factor in "AB"
    }
    assert all(bool(parameter.grad.abs().max() > 0) for parameter in parameters)
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}


def test_gradients_pass_through_checkpointing_alike():
    model, parameters = with_lora()
    train_at_random(parameters)
    forward(model, "2b").square().sum().backward()
    plain = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad()
    model.train()
    model.enable_gradient_checkpointing()
    forward(model, "2b").square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, plain, strict=True))


@pytest.mark.parametrize("golden", VARIANT_OF_GOLDEN)
def test_at_first_it_changes_nothing(golden):
    assert torch.equal(
        output(with_lora(golden)[0], golden), output(new_transformer(golden), golden)
    )


def test_a_is_kaiming_uniform_and_b_zero():
    _, parameters = with_lora(rank=64)
    a, b = parameters[::2], parameters[1::2]
    bound = 1 / math.sqrt(128)
    assert all(tuple(m.shape) == (64, 128) for m in a)
    assert all(tuple(m.shape) == (128, 64) and not m.any() for m in b)
    # torch's own rule, whose generator is the global one unless it is told another.
    expected = torch.empty(64, 128)
    torch.nn.init.kaiming_uniform_(
        expected, a=math.sqrt(5), generator=torch.Generator().manual_seed(7)
    )
    assert torch.equal(a[0], expected)
    numbers = torch.cat([m.detach().flatten() for m in a])
    assert 0.999 * bound < numbers.abs().max() <= bound
    assert numbers.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert len({m.sum().item() for m in a}) == len(a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_float32_and_the_same_on_a_base_of_any_dtype(dtype):
    model, parameters = with_lora(dtype=dtype)
    assert {p.dtype for p in parameters} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
    wide = with_lora()[1]
    assert all(torch.equal(p, w) for p, w in zip(parameters, wide, strict=True))
    train_at_random(parameters)
    changed = forward(model, "2b")
    assert changed.dtype == dtype
    assert not torch.equal(changed, output(new_transformer("2b", dtype), "2b"))


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = with_lora(seed=1)[1]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second, third = with_lora(seed=1)[1], with_lora(seed=2)[1]
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first[::2], third[::2], strict=True))


def test_the_order_of_targets_makes_no_difference():
    first = lora_of(with_lora(targets=SAT_TARGETS)[0])
    second = lora_of(with_lora(targets=SAT_TARGETS[::-1])[0])
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_result_is_alpha_over_rank_times_what_the_matrices_give():
    model, parameters = with_lora(rank=4, alpha=2.0, targets=("ff.net.2",))
    train_at_random(parameters)
    merged = new_transformer("2b")
    for n, (a, b) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        merged.transformer_blocks[n].ff.net[2].weight.data += 2 / 4 * (b @ a).detach()
    torch.testing.assert_close(output(model, "2b"), output(merged, "2b"), atol=1e-5, rtol=1e-5)


def test_the_state_has_pefts_names_and_nothing_else():
    model, parameters = with_lora()
    state = lora_of(model)
    assert state.keys() == {
        f"transformer_blocks.{n}.attn1.{module}.lora_{factor}.weight"
        for n in range(2)
        for module in SAT_TARGETS
        for factor in "AB"
    }
    shared = {tensor.data_ptr() for tensor in state.values()}
    assert shared == {parameter.data_ptr() for parameter in parameters}
    assert not any(tensor.requires_grad for tensor in state.values())
