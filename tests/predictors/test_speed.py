"""Presets save the blocks they promise, and leave nothing behind, however a request ends."""

import gc
import itertools
from contextlib import contextmanager
from typing import get_args

import pytest
import torch
from cog import CancelationException
from hypothesis import given
from hypothesis import strategies as st

from predictors.compilation import compile_blocks
from predictors.speed import PRESETS, Speed, computed_steps, speed_preset
from tests.predictors.interrupting import interrupted_at_line
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
# The fewest steps that each preset makes shorter: tests take no more.
STEPS = {
    speed: next(steps for steps in itertools.count(1) if not all(computed_steps(speed, steps)))
    for speed in PRESETS
} | {"quality": 4}
FASTER = pytest.mark.parametrize("speed", PRESETS)


def new_pipe(folder):
    from diffusers import CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    """One pipeline for all tests: what one of them left behind would show in the others."""
    return new_pipe(tiny_folder)


@pytest.fixture(scope="module")
def fresh(tiny_folder):
    """The latents that a pipeline makes that was never used for anything else."""
    return {speed: made_at(new_pipe(tiny_folder), speed) for speed in get_args(Speed)}


def made(pipe, steps, **options):
    """The latents of one run, [1, 3, 16, 8, 8] by default."""
    options = {"height": 64, "width": 64, "guidance_scale": 6.0} | options
    return pipe(
        "a red circle",
        num_frames=9,
        num_inference_steps=steps,
        max_sequence_length=NANO.text_tokens,
        generator=torch.manual_seed(1),
        output_type="latent",
        **options,
    ).frames


def made_at(pipe, speed, steps=None, **options):
    steps = steps or STEPS[speed]
    with speed_preset(pipe, speed, steps):
        return made(pipe, steps, **options)


def is_untouched(pipe):
    blocks = pipe.transformer.transformer_blocks
    plain = all(getattr(b.forward, "__func__", None) is type(b).forward for b in blocks)
    return plain and not pipe.transformer.is_cache_enabled


@contextmanager
def counted_blocks(pipe):
    """Counts the blocks that are computed: a block that is skipped runs no feed-forward."""
    runs = []
    hooks = [
        block.ff.register_forward_hook(lambda *_: runs.append(None))
        for block in pipe.transformer.transformer_blocks
    ]
    yield runs
    for hook in hooks:
        hook.remove()


@given(st.sampled_from(list(PRESETS)), st.integers(1, 500))
def test_the_first_and_the_last_steps_are_computed_and_nothing_old_is_reused(speed, steps):
    computed, preset = computed_steps(speed, steps), PRESETS[speed]
    assert len(computed) == steps
    assert all(computed[: max(1, int(preset.first * steps))])
    assert all(computed[steps - max(1, int(preset.last * steps)) :])
    ages = [len(list(run)) for done, run in itertools.groupby(computed) if not done]
    assert max(ages, default=0) <= preset.age * steps + 0.5


@given(st.integers(1, 500))
def test_each_speed_computes_no_more_than_the_one_before(steps):
    quality, balanced, fast = (sum(computed_steps(speed, steps)) for speed in get_args(Speed))
    assert quality == steps
    assert fast <= balanced <= quality


def test_quality_is_plain_diffusers_to_the_bit(pipe):
    plain = made(pipe, 4)
    with speed_preset(pipe, "quality", 4):
        assert is_untouched(pipe)
        assert torch.equal(made(pipe, 4), plain)


@FASTER
@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_as_many_blocks_are_computed_as_the_preset_says(pipe, speed, guidance):
    with counted_blocks(pipe) as runs:
        made_at(pipe, speed, guidance_scale=guidance)
    wanted = sum(computed_steps(speed, STEPS[speed]))
    assert len(runs) == NANO.num_layers * wanted
    assert wanted < STEPS[speed]


@FASTER
def test_what_is_reused_comes_close_to_what_is_computed(pipe, fresh, speed):
    """Random weights, so that only gross errors show: a residual of another step, or none."""
    plain = made(pipe, STEPS[speed])
    error = (fresh[speed] - plain).abs().mean() / plain.abs().mean()
    assert 0 < error < 0.1


@FASTER
def test_a_request_changes_nothing_for_the_next(pipe, fresh, speed):
    for _ in range(2):
        assert torch.equal(made_at(pipe, speed), fresh[speed])
        assert is_untouched(pipe)
        assert torch.equal(made_at(pipe, "quality"), fresh["quality"])


@FASTER
@pytest.mark.parametrize(
    ("error", "share"), [(RuntimeError, 0.5), (CancelationException, 0), (CancelationException, 1)]
)
def test_a_failed_request_changes_nothing_for_the_next(pipe, fresh, speed, error, share):
    def fail(_pipe, index, _timestep, _tensors):
        if index == int(share * (STEPS[speed] - 1)):
            raise error
        return {}

    with pytest.raises(error):
        made_at(pipe, speed, callback_on_step_end=fail)
    assert is_untouched(pipe)
    assert torch.equal(made_at(pipe, "quality"), fresh["quality"])
    assert torch.equal(made_at(pipe, speed), fresh[speed])


# What switches presets, ours and theirs.
SWITCHING = (
    "predictors/speed.py",
    "predictors/uninterrupted.py",
    "cache_utils.py",
    "hooks/hooks.py",
    "hooks/mag_cache.py",
)


def test_a_request_cancelled_while_presets_are_switched_leaves_nothing(pipe):
    def switch():
        with speed_preset(pipe, "fast", STEPS["fast"]):
            pass

    for number in itertools.count():
        if not interrupted_at_line(number, switch, *SWITCHING):
            break
        with speed_preset(pipe, "quality", 4):
            assert is_untouched(pipe)
    assert number > 10


def test_nothing_of_a_request_stays_in_memory(pipe):
    """Also before Python's garbage collection, which may be long in coming."""
    shape = (2, 3 * (64 // 16) ** 2, NANO.hidden_size)

    def residuals():
        return sum(type(held) is torch.Tensor and held.shape == shape for held in gc.get_objects())

    made_at(pipe, "fast")
    gc.collect()
    gc.disable()
    try:
        before = residuals()
        with speed_preset(pipe, "fast", STEPS["fast"]), pytest.raises(CancelationException):
            made(pipe, STEPS["fast"], callback_on_step_end=cancel)
        assert residuals() == before
    finally:
        gc.enable()


def cancel(*_):
    raise CancelationException


@FASTER
def test_requests_of_other_shapes_follow_each_other(pipe, tiny_folder, fresh, speed):
    wide = made_at(pipe, speed, width=96)
    assert torch.equal(wide, made_at(new_pipe(tiny_folder), speed, width=96))
    assert torch.equal(made_at(pipe, speed), fresh[speed])


@FASTER
def test_few_steps_reuse_nothing(pipe, speed):
    for steps in range(1, 6):
        assert torch.equal(made_at(pipe, speed, steps), made(pipe, steps))


@FASTER
def test_presets_go_with_a_lora(pipe, fresh, speed):
    from peft import LoraConfig

    pipe.transformer.add_adapter(
        LoraConfig(r=4, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    )
    adapted = made_at(pipe, speed)
    assert not torch.equal(adapted, fresh[speed])
    assert torch.equal(made_at(pipe, speed), adapted)
    pipe.transformer.delete_adapters("default")
    assert torch.equal(made_at(pipe, "quality"), fresh["quality"])
    assert torch.equal(made_at(pipe, speed), fresh[speed])


def offload_models(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def offload_groups(pipe):
    for part in (pipe.transformer, pipe.vae):
        part.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")


@FASTER
@pytest.mark.parametrize("offload", [offload_models, offload_groups])
def test_presets_go_with_offloading(tiny_folder, fresh, speed, offload):
    pipe = new_pipe(tiny_folder)
    offload(pipe)
    for _ in range(2):
        assert torch.equal(made_at(pipe, speed), fresh[speed])
        with pytest.raises(CancelationException):
            made_at(pipe, speed, callback_on_step_end=cancel)
        pipe.maybe_free_model_hooks()
        assert torch.equal(made_at(pipe, "quality"), fresh["quality"])


def test_presets_go_with_compiled_blocks_and_never_compile_anew(tiny_folder, fresh):
    """It is a block's forward that is compiled: a preset's hooks stay around it."""
    compiled, runs = [], []

    def backend(graph, _inputs):
        compiled.append(None)
        return lambda *args: runs.append(None) or graph(*args)

    pipe = new_pipe(tiny_folder)
    compile_blocks(pipe.transformer, backend)
    made_at(pipe, "quality")
    before = len(compiled)
    for speed in ("fast", "quality", "fast"):
        runs.clear()
        assert torch.equal(made_at(pipe, speed), fresh[speed])
        assert len(runs) == NANO.num_layers * sum(computed_steps(speed, STEPS[speed]))
    assert len(compiled) == before
