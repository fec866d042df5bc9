"""Estimates against real modules that are trained at full size, without content."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from predictors.memory_estimate import variant_sizes
from tests.predictors.meta_models import PeakMemory, meta_vae
from tests.training.finetuning.meta_training import meta_model, sampling_peak, step_memory
from training.finetuning.activation_memory import sampling_memory
from training.finetuning.memory_estimate import (
    estimate,
    memory_table,
    require_fits,
    ways_to_fit,
)
from training.finetuning.optimizer import new_optimizer
from training.finetuning.settings import FinetuneSettings
from training.finetuning.training_memory import TrainingPlan, training_memory
from weights.errors import UserError
from weights.variants import VARIANTS

WORKSPACE = 64 << 20
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYWHERE = (*ATTENTION, "ff.net.0.proj", "ff.net.2")
FULL = {"full": True}


def plan_of(name, *, layers=None, frames=None, processes=1, **settings):
    variant = VARIANTS[name]
    return TrainingPlan(
        variant=replace(variant, num_layers=layers or variant.num_layers),
        # 8 bits: a step of that optimizer takes nothing beside, which would hide the passes' peak.
        settings=FinetuneSettings(**{"eight_bit_optimizer": True, **settings}),
        frames=frames or variant.default_frames,
        width=variant.width,
        height=variant.height,
        processes=processes,
    )


def passes(plan):
    """What a forward and backward pass takes by estimate, gradients included."""
    needed = training_memory(plan)
    held = needed.weights + needed.trained + needed.optimizer + needed.average
    return needed.step - held - WORKSPACE


def at_length(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "layers", "settings"),
    [
        ("cogvideox-5b", 2, {"checkpointing": True}),
        at_length("cogvideox-5b", 5, {"checkpointing": True}),
        at_length("cogvideox-2b", 4, {}),
        at_length("cogvideox-2b", 4, {"checkpointing": True}),
        at_length("cogvideox-5b", 5, {}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "batch": 3, "frames": 17}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "rank": 512, "frames": 17}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "precision": "fp32"}),
        at_length("cogvideox-5b", 4, {"precision": "fp32"}),
        at_length("cogvideox-5b", 4, {"precision": "fp32", "targets": EVERYWHERE}),
        at_length("cogvideox-5b", 4, {"targets": EVERYWHERE}),
        at_length("cogvideox-5b", 4, {"targets": EVERYWHERE, "checkpointing": True}),
        at_length("cogvideox-5b", 4, {"targets": ("to_q", "attn1.to_v")}),
        at_length("cogvideox1.5-5b", 4, {"checkpointing": True}),
        at_length("cogvideox1.5-5b-i2v", 4, {}),
    ],
)
def test_a_step_of_a_lora_takes_what_the_transformer_takes(name, layers, settings):
    plan = plan_of(name, layers=layers, **settings)
    assert passes(plan) == pytest.approx(step_memory(plan), rel=0.03)


@pytest.mark.parametrize(
    ("name", "layers", "settings"),
    [
        ("cogvideox-2b", 2, {"checkpointing": True, "batch": 4}),
        at_length("cogvideox-2b", 4, {}),
        at_length("cogvideox-2b", 4, {"checkpointing": True}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "batch": 4}),
        at_length("cogvideox-5b", 4, {}),
        at_length("cogvideox-5b", 5, {"checkpointing": True}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "batch": 16}),
        at_length("cogvideox-5b", 4, {"precision": "fp32"}),
        at_length("cogvideox-5b", 4, {"checkpointing": True, "precision": "fp32"}),
        at_length("cogvideox1.5-5b", 4, {"checkpointing": True}),
    ],
)
def test_a_step_with_all_weights_takes_what_the_transformer_takes(name, layers, settings):
    plan = plan_of(name, layers=layers, full=True, **settings)
    assert passes(plan) == pytest.approx(step_memory(plan), rel=0.03)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cogvideox-2b", {}),
        at_length("cogvideox-5b", {}),
        at_length("cogvideox-5b", {"full": True}),
        at_length("cogvideox-5b", {"precision": "fp32"}),
        at_length("cogvideox-2b", {"full": True}),
    ],
)
def test_sampling_takes_what_the_transformer_takes(name, settings):
    plan = plan_of(name, layers=1, **settings)
    copies = 2 * plan.parameters if plan.mixed else 0
    count = sampling_memory(plan.variant, tokens=plan.tokens, mixed=plan.mixed, copies=copies)
    # Without a LoRA it is somewhat less.
    assert count == pytest.approx(sampling_peak(plan), rel=0.1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cogvideox-2b", {}),
        ("cogvideox-5b-i2v", {"rank": 16, "targets": ("attn1.to_k", "ff.net.2", "norm1.linear")}),
        ("cogvideox1.5-5b-i2v", {"full": True}),
        at_length("cogvideox-2b", {"full": True}),
        at_length("cogvideox-5b-i2v", {"full": True}),
        at_length("cogvideox1.5-5b", {}),
    ],
)
def test_what_is_trained_and_what_is_frozen_are_the_models(name, settings):
    plan = plan_of(name, layers=1, **settings)
    model = meta_model(plan)
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    needed = training_memory(plan)
    assert plan.parameters == sum(p.numel() for p in trained)
    assert needed.trained == sum(p.nbytes for p in trained) == needed.gradients
    # The table of positions that diffusers computes is in float64, which meta_transformer casts.
    tables = sum(b.nbytes if plan.variant.rotary else 8 * b.numel() for b in model.buffers())
    vae = variant_sizes(plan.variant, plan.variant.dtype).vae.total
    beside = vae if plan.variant.task == "i2v" else 0
    assert needed.weights - beside == sum(p.nbytes for p in frozen) + tables


class Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are made anew."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(tensor) for tensor in tree_leaves((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.bytes += sum(tensor.nbytes for tensor in made if id(tensor) not in given)
        return result


def test_the_optimizer_takes_what_torchs_takes():
    layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(8))
    count = sum(p.numel() for p in layers.parameters())
    for parameter in layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    # torch has the kernel that a GPU runs for CPUs as well.
    optimizer = new_optimizer(layers.parameters(), FinetuneSettings(), torch.device("cuda"))
    # It makes its averages, and then nothing more; each tensor has a step count besides.
    with Allocated() as first:
        optimizer.step()
    with Allocated() as second:
        optimizer.step()
    assert first.bytes == pytest.approx(8 * count, rel=0.01)
    assert second.bytes < 0.01 * count
    many = plan_of("cogvideox-5b", full=True, checkpointing=True, eight_bit_optimizer=False)
    needed = training_memory(many)
    assert needed.optimizer == 8 * many.parameters
    # 16 bytes for each parameter: itself, its gradient and two averages.
    least = 16 * many.parameters
    assert least < needed.step < 1.1 * least


@pytest.mark.parametrize(
    ("name", "frames", "width", "height", "tiles"),
    [
        ("cogvideox-5b", 9, 720, 480, False),
        at_length("cogvideox-5b", 17, 720, 480, False),
        at_length("cogvideox1.5-5b", 17, 1360, 768, False),
        at_length("cogvideox1.5-5b-i2v", 17, 768, 768, False),
        at_length("cogvideox-2b", 17, 720, 480, True),
        ("cogvideox-2b", 1, 720, 480, False),
    ],
)
def test_encoding_a_clip_takes_what_the_vae_takes(name, frames, width, height, tiles):
    variant = VARIANTS[name]
    dtype = getattr(torch, variant.dtype)
    model = meta_vae(variant, dtype)
    model.use_tiling = tiles
    with torch.no_grad(), PeakMemory(model) as memory:
        # As training.finetuning.encoders and image_condition do it.
        pixels = torch.empty(3, frames, height, width, device="meta")
        model.encode(pixels.unsqueeze(0).to(dtype)).latent_dist.parameters[0].float()
    settings = FinetuneSettings(vae_tiling=tiles)
    needed = estimate(variant, settings, frames=frames, width=width, height=height)
    vae = variant_sizes(variant, variant.dtype).vae.total
    assert needed.encode_clips - vae - WORKSPACE == pytest.approx(memory.peak, rel=0.03)


def peak_of(name, **changes):
    return training_memory(plan_of(name, **changes)).peak / 1e9


def test_the_estimates_stand_beside_the_published_ones_as_the_docstring_says():
    settings = {"checkpointing": True, "eight_bit_optimizer": False}
    assert peak_of("cogvideox-2b", **settings) == pytest.approx(11.6, abs=0.05)
    assert training_memory(plan_of("cogvideox-2b", **settings)).step / 1e9 == pytest.approx(
        8.6, abs=0.05
    )
    assert peak_of("cogvideox-5b", **settings) == pytest.approx(20.7, abs=0.05)
    assert peak_of("cogvideox1.5-5b", **settings) == pytest.approx(32.9, abs=0.05)


def test_what_a_training_has_besides_is_counted():
    def step(**settings):
        return training_memory(plan_of("cogvideox-5b", checkpointing=True, **settings))

    plain = step()
    assert plain.validation == 0
    assert step(ema_decay=0.99).average == plain.trained
    assert step(accumulate=2).step == plain.step + plain.gradients
    assert step(processes=4).step == plain.step + 2 * plain.gradients
    assert step(validate_every=5).validation > plain.weights
    vae = variant_sizes(VARIANTS["cogvideox-5b"], "bfloat16").vae.total
    assert step(validate_every=5).weights == plain.weights + vae


def test_gpus_share_full_weights_and_nothing_of_a_lora():
    def of(processes, **settings):
        return training_memory(plan_of("cogvideox-5b", processes=processes, **settings))

    alone, eight = of(1, full=True, ema_decay=0.9), of(8, full=True, ema_decay=0.9)
    for part in ("trained", "optimizer", "average", "gradients"):
        assert getattr(eight, part) == pytest.approx(getattr(alone, part) / 8)
    assert of(8).trained == of(1).trained
    assert of(8).peak > of(1).peak


plans = st.builds(
    plan_of,
    st.sampled_from(sorted(VARIANTS)),
    full=st.booleans(),
    checkpointing=st.booleans(),
    batch=st.integers(1, 4),
    accumulate=st.integers(1, 2),
    rank=st.sampled_from([4, 64, 256]),
    ema_decay=st.sampled_from([0.0, 0.99]),
    validate_every=st.sampled_from([0, 10]),
    eight_bit_optimizer=st.booleans(),
    vae_tiling=st.booleans(),
    precision=st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    processes=st.sampled_from([1, 2, 8]),
)


@settings(deadline=None, max_examples=50)
@given(plans)
def test_what_saves_memory_never_needs_more(plan):
    def peak(**changes):
        settings = replace(plan.settings, **changes)
        return training_memory(replace(plan, settings=settings)).peak

    now = peak()
    for less in (
        {"batch": 1},
        {"accumulate": 1},
        {"rank": 1},
        {"ema_decay": 0.0},
        {"validate_every": 0},
        {"eight_bit_optimizer": True},
        {"vae_tiling": True},
    ):
        assert peak(**less) <= now
    fewer = replace(plan, frames=plan.variant.min_frames)
    assert training_memory(fewer).peak <= now
    if plan.settings.full:
        assert training_memory(replace(plan, processes=16)).peak <= now or plan.processes == 1


@settings(deadline=None, max_examples=50)
@given(plans, st.floats(0.05, 1.2))
def test_every_way_that_is_offered_fits_and_none_has_more_than_it_takes(plan, share):
    free = int(training_memory(plan).peak * share)
    ways = ways_to_fit(plan, free)
    assert all(peak <= free for _, peak in ways)
    names = [frozenset(how.split(" and ")) for how, _ in ways]
    assert len(set(names)) == len(names)
    assert not any(one < other for one in names for other in names)


def message(name, free_gb, **settings):
    plan = plan_of(name, **{"eight_bit_optimizer": False, **settings})
    with pytest.raises(UserError) as error:
        require_fits(training_memory(plan), int(free_gb * 1e9))
    return str(error.value)


def test_what_fits_is_not_refused():
    needed = training_memory(plan_of("cogvideox-5b", checkpointing=True))
    require_fits(needed, needed.peak)
    with pytest.raises(UserError):
        require_fits(needed, needed.peak - 1)


def test_what_does_not_fit_is_refused_with_what_would():
    said = message("cogvideox-5b", 24)
    assert "about 107.1 GB" in said
    assert "24.0 GB are free" in said
    assert "--checkpointing (20.7 GB)" in said
    # None of which would do.
    for vain in ("--eight-bit", "--rank", "--batch", "FSDP", "--full"):
        assert vain not in said


def test_each_option_is_offered_where_it_is_enough():
    assert "--batch 1 --accumulate 8 (" in message(
        "cogvideox-5b", 24, checkpointing=True, batch=4, accumulate=2
    )
    assert "--rank 64 (" in message("cogvideox-5b", 20, checkpointing=True, rank=256)
    assert "--frames 41 (" in message("cogvideox-5b", 20.5, checkpointing=True)
    assert "--eight-bit-optimizer (" in message("cogvideox-2b", 24, full=True, checkpointing=True)
    said = message("cogvideox-5b", 80, full=True, checkpointing=True)
    assert "accelerate launch with FSDP on 2 GPUs (" in said
    assert "a LoRA instead of --full (20.7 GB)" in said
    assert "--ema-decay 0 (" in message("cogvideox-5b", 21, checkpointing=True, ema_decay=0.9)
    assert "--precision auto (" in message("cogvideox-5b", 24, checkpointing=True, precision="fp32")


def test_where_the_vae_takes_the_most_tiles_are_offered():
    said = message("cogvideox1.5-5b", 20, checkpointing=True, frames=17)
    assert "24.7 GB of GPU memory (while the VAE encodes clips)" in said
    assert "Any of these makes it fit: --vae-tiling (18.3 GB). To begin" in said


def test_where_nothing_helps_the_stage_that_is_too_large_is_named():
    said = message("cogvideox-2b", 8)
    assert "11.6 GB still (while T5 encodes prompts)" in said
    assert "smaller variant" in said


def test_the_table_has_every_released_variant_and_says_that_it_is_computed():
    table = memory_table()
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| cogvideox")]
    assert [row[0].removeprefix("| ") for row in rows] == [
        name for name in VARIANTS if not name.startswith("nano")
    ]
    five = next(row for row in rows if row[0] == "| cogvideox-5b")
    assert five[1:4] == ["49 × 720×480", "107.1", "20.7"]
    assert "Computed, not measured" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_an_estimate_takes_no_torch():
    code = (
        "import sys; from training.finetuning.memory_estimate import memory_table\n"
        "memory_table(); sys.exit(bool({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
