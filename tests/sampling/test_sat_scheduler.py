"""`CogVideoXSATScheduler` samples as SAT does."""

import json
import math
import weakref

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sampling.sat_scheduler import CogVideoXSATScheduler, sat_scheduler_for
from tests.sampling.sat_reference import dynamic_cfg, sat_noises, sat_sample, sat_tables
from weights.variants import VARIANTS

SAMPLERS = ["dpmpp2m", "ddim"]
SHIFTS = [1.0, 3.0]
SHAPE = (1, 3, 4, 6, 8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise(seed, shape=SHAPE):
    return torch.randn(shape, generator=seeded(seed))


def toy_velocity(sample, timestep, _number=0):
    """A denoiser of a few operations that depends on the sample, its neighbours and the time."""
    phase = 0.002 * float(timestep)
    return torch.tanh(1.3 * sample + phase) - 0.2 * sample.roll(1, -1) + 0.1 * math.cos(phase)


def sampled(scheduler, steps, sample, generator=None, velocity=toy_velocity):
    scheduler.set_timesteps(steps)
    for number, timestep in enumerate(scheduler.timesteps):
        output = velocity(sample, timestep, number)
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
    return sample


def expected(sampler, steps, shift, sample, generator, velocity=toy_velocity):
    noises = sat_noises(lambda: torch.randn(sample.shape, generator=generator), sampler, steps)
    return sat_sample(sampler, steps, shift, velocity, sample, noises)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [1, 2, 3, 25, 30, 37, 50, 51, 100])
def test_samples_are_those_of_the_published_formulas(sampler, shift, steps):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=shift, sampler=sampler)
    result = sampled(scheduler, steps, noise(0), seeded(1))
    assert result.std() > 0.1
    difference = result - expected(sampler, steps, shift, noise(0), seeded(1))
    assert difference.abs().max() < 1e-5


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(SAMPLERS), st.floats(0.5, 5), st.integers(1, 999), st.integers(0, 2**31 - 1))
def test_any_number_of_steps_and_any_shift(sampler, shift, steps, seed):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=shift, sampler=sampler)
    result = sampled(scheduler, steps, noise(seed), seeded(seed))
    difference = result - expected(sampler, steps, shift, noise(seed), seeded(seed))
    # SAT's float32 numbers of a step are the less exact the closer the steps lie.
    assert difference.abs().max() < 1e-5 + 2e-7 * steps


def test_the_noise_and_the_order_of_the_solver_matter():
    """What the tests above compare would show these: they are no tolerances' leftovers."""
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0)
    result = sampled(scheduler, 50, noise(0), seeded(1))
    one_draw = [noise(n) for n in range(49)]
    once = sat_sample("dpmpp2m", 50, 1.0, toy_velocity, noise(0), [*one_draw, None])
    assert (result - once).abs().max() > 0.01
    assert (result - expected("dpmpp2m", 50, 3.0, noise(0), seeded(1))).abs().max() > 0.01
    assert (result - expected("ddim", 50, 1.0, noise(0), seeded(1))).abs().max() > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_with_a_generator_each_is_its_samples_one_by_one(sampler):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0, sampler=sampler)
    alone = [sampled(scheduler, 20, noise(seed), seeded(seed + 10)) for seed in range(3)]
    start = torch.cat([noise(seed) for seed in range(3)])
    together = sampled(scheduler, 20, start, [seeded(seed + 10) for seed in range(3)])
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_scheduler_is_used_again_after_a_run_that_broke_off(sampler):
    scheduler = CogVideoXSATScheduler(sampler=sampler)
    fresh = sampled(scheduler, 12, noise(0), seeded(1))

    def breaks_off(sample, timestep, number):
        if number == 7:
            raise InterruptedError
        return toy_velocity(sample, timestep)

    with pytest.raises(InterruptedError):
        sampled(scheduler, 20, noise(5), seeded(5), breaks_off)
    assert torch.equal(sampled(scheduler, 12, noise(0), seeded(1)), fresh)


def test_nothing_of_a_finished_run_is_kept():
    scheduler = CogVideoXSATScheduler()
    result = weakref.ref(sampled(scheduler, 3, noise(0), seeded(1)))
    assert result() is None


def test_steps_begun_anew_are_those_of_a_fresh_run():
    scheduler = CogVideoXSATScheduler()
    fresh = sampled(scheduler, 12, noise(0), seeded(1))
    scheduler.set_timesteps(12)
    for timestep in scheduler.timesteps[:5]:
        scheduler.step(noise(2), timestep, noise(3))
    sample, generator = noise(0), seeded(1)
    for timestep in scheduler.timesteps:
        output = toy_velocity(sample, timestep)
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
    assert torch.equal(sample, fresh)


def test_without_a_step_before_a_step_is_of_first_order_and_draws_once():
    """As where a pipeline starts in the middle. Steps of a run before are none."""
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0)
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps[:4]:
        scheduler.step(noise(2), timestep, noise(3))
    scheduler.set_timesteps(10)
    timestep = scheduler.timesteps[4]
    _, roots, denoiser_roots = sat_tables(10, 1.0)
    a, b, c = roots[4], roots[5], denoiser_roots[4]
    x, drawn = noise(0).double(), noise(1).double()
    output = scheduler.step(toy_velocity(noise(0), timestep), timestep, noise(0), seeded(1))
    denoised = c * x - math.sqrt(1 - c * c) * toy_velocity(x, timestep)
    # exp(-h), the ratio of the two signal-to-noise ratios' roots
    fall = (a / math.sqrt(1 - a * a)) / (b / math.sqrt(1 - b * b))
    new = math.sqrt((1 - b * b) / (1 - a * a)) * fall * x + b * (1 - fall**2) * denoised
    new = new + math.sqrt(1 - b * b) * math.sqrt(1 - fall**2) * drawn
    assert (output.prev_sample - new).abs().max() < 1e-5
    assert (output.pred_original_sample - denoised).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_in_16_bit_is_carried_on_in_float32(sampler, dtype):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0, sampler=sampler)
    start = noise(0).to(dtype)

    def rounded(sample, timestep, number):
        return toy_velocity(sample.to(dtype).float(), timestep)

    result = sampled(scheduler, 50, start, seeded(1), rounded)
    assert result.dtype == dtype
    correct = expected(sampler, 50, 1.0, start.float(), seeded(1), rounded)
    # An element may be rounded to its other neighbour where float32 and float64 differ.
    assert (result != correct.to(dtype)).float().mean() < 0.05
    assert (result.float() - correct).abs().max() < 2 * torch.finfo(dtype).eps


def test_latents_that_a_callback_has_changed_are_taken_as_they_are():
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0, sampler="ddim")
    scheduler.set_timesteps(4)
    first, second = scheduler.timesteps[:2]
    output = torch.zeros(SHAPE, dtype=torch.bfloat16)
    carried = scheduler.step(output, first, noise(0).bfloat16()).prev_sample
    changed = carried + 1
    after = scheduler.step(output, second, changed).prev_sample
    alone = CogVideoXSATScheduler(snr_shift_scale=1.0, sampler="ddim")
    alone.set_timesteps(4)
    assert torch.equal(after, alone.step(output, second, changed).prev_sample)


@pytest.mark.parametrize("steps", [50, 51, 37, 30])
@pytest.mark.parametrize("scale", [6.0, 3.5])
def test_dynamic_guidance_of_diffusers_is_sats_at_every_step(tiny_folder, steps, scale):
    pipe = pipeline_of(tiny_folder, "dpmpp2m")
    pipe.transformer.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states),)
    seen = []

    def look(pipe, _number, _timestep, _tensors):
        seen.append(pipe.guidance_scale)
        return {}

    pipe(**embeddings(), **settings_of(steps, scale), callback_on_step_end=look)
    timesteps, _, _ = sat_tables(steps, 1.0)
    assert seen == [dynamic_cfg(scale, steps, timestep) for timestep in timesteps]
    assert max(seen) > scale
    assert min(seen) < 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_the_text_to_video_pipeline_samples_as_sat_does(tiny_folder, sampler, steps):
    check_pipeline(pipeline_of(tiny_folder, sampler), sampler, steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_image_to_video_pipeline_samples_as_sat_does(tiny_i2v_folder, sampler):
    check_pipeline(pipeline_of(tiny_i2v_folder, sampler), sampler, 12, image=gradient_image())


def test_a_batch_in_a_pipeline_is_its_videos_one_by_one(tiny_folder):
    pipe = pipeline_of(tiny_folder, "dpmpp2m")
    alone = [
        pipe(**embeddings(seed), **settings_of(6, 6.0), generator=seeded(seed)).frames
        for seed in (3, 4)
    ]
    both = {
        name: torch.cat([embeddings(seed)[name] for seed in (3, 4)])
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    together = pipe(**both, **settings_of(6, 6.0), generator=[seeded(3), seeded(4)]).frames
    assert (together - torch.cat(alone)).abs().max() < 1e-5


def test_a_pipeline_with_it_is_saved_and_loaded(tiny_folder, tmp_path):
    pipe = pipeline_of(tiny_folder, "ddim")
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.CogVideoXPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert isinstance(loaded.scheduler, CogVideoXSATScheduler)
    assert dict(loaded.scheduler.config) == dict(pipe.scheduler.config)


def test_save_pretrained_and_from_pretrained(tmp_path):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.5, sampler="ddim")
    scheduler.set_timesteps(7)
    scheduler.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert written["_class_name"] == "CogVideoXSATScheduler"
    assert (written["snr_shift_scale"], written["sampler"]) == (1.5, "ddim")
    again = CogVideoXSATScheduler.from_pretrained(tmp_path)
    assert torch.equal(sampled(again, 7, noise(0)), sampled(scheduler, 7, noise(0)))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("kind", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_a_scheduler_of_diffusers_hands_its_noise_schedule_over_and_back(kind, shift):
    theirs = getattr(diffusers, kind)(
        snr_shift_scale=shift,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    ours = CogVideoXSATScheduler.from_config(theirs.config, sampler="ddim")
    assert ours.config.snr_shift_scale == shift
    assert ours.config.sampler == "ddim"
    assert (ours.alphas_cumprod - theirs.alphas_cumprod).abs().max() < 1e-6
    back = getattr(diffusers, kind).from_config(ours.config)
    assert torch.equal(back.alphas_cumprod, theirs.alphas_cumprod)
    assert back.config.timestep_spacing == "trailing"


def test_what_another_scheduler_has_by_default_is_not_overlooked():
    # Of diffusers' schedulers the default is a model that predicts the noise.
    with pytest.raises(ValueError, match="prediction_type is 'epsilon'"):
        CogVideoXSATScheduler.from_config(diffusers.CogVideoXDDIMScheduler().config)


@pytest.mark.parametrize(("name", "shift"), [("cogvideox-2b", 3.0), ("cogvideox1.5-5b", 1.0)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_variant_brings_its_shift(name, shift, sampler):
    scheduler = sat_scheduler_for(VARIANTS[name], sampler)
    assert (scheduler.config.snr_shift_scale, scheduler.config.sampler) == (shift, sampler)


@pytest.mark.parametrize("timestep", [0, 499, 999])
def test_noise_is_added_as_in_training(timestep):
    scheduler = CogVideoXSATScheduler(snr_shift_scale=1.0)
    timesteps = torch.tensor([timestep, 100])
    clean, added = noise(0, (2, *SHAPE[1:])), noise(1, (2, *SHAPE[1:]))
    noisy = scheduler.add_noise(clean, added, timesteps)
    for index, alpha in enumerate(scheduler.alphas_cumprod[timesteps]):
        correct = alpha.sqrt() * clean[index] + (1 - alpha).sqrt() * added[index]
        assert (noisy[index] - correct).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sampler": "dpm"}, "sampler is 'dpm'. SAT's samplers have dpmpp2m and ddim only"),
        ({"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        ({"prediction_type": "epsilon"}, "prediction_type is 'epsilon'"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"num_train_timesteps": 1000.5}, "num_train_timesteps is 1000.5"),
        ({"beta_start": 0.0}, "beta_start is 0.0 and beta_end is 0.012"),
        ({"beta_start": 0.02}, "beta_start is 0.02"),
        ({"beta_end": 1.0}, "beta_end is 1.0"),
        ({"snr_shift_scale": 0.0}, "snr_shift_scale is 0.0"),
        ({"snr_shift_scale": math.inf}, "snr_shift_scale is inf"),
        ({"snr_shift_scale": math.nan}, "snr_shift_scale is nan"),
    ],
)
def test_configs_that_sats_samplers_can_not_have(config, message):
    with pytest.raises(ValueError, match=message):
        CogVideoXSATScheduler(**config)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, None, "50"])
def test_step_counts_that_are_none(steps):
    with pytest.raises(ValueError, match="num_inference_steps is"):
        CogVideoXSATScheduler().set_timesteps(steps)


def test_a_step_needs_its_timesteps():
    scheduler = CogVideoXSATScheduler()
    with pytest.raises(ValueError, match="Call set_timesteps before"):
        scheduler.step(noise(0), 999, noise(1))
    scheduler.set_timesteps(50)
    with pytest.raises(ValueError, match="timestep is 998"):
        scheduler.step(noise(0), 998, noise(1))


def pipeline_of(folder, sampler):
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipe = getattr(diffusers, kind).from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = CogVideoXSATScheduler.from_config(pipe.scheduler.config, sampler=sampler)
    return pipe


def embeddings(seed=0):
    """Text as H1 gives it for SAT: the unconditional one is zeros."""
    nano = VARIANTS["nano"]
    text = noise(seed, (1, nano.text_tokens, nano.text_embed_dim))
    return {"prompt_embeds": text, "negative_prompt_embeds": torch.zeros_like(text)}


def settings_of(steps, scale):
    return {
        "width": 64,
        "height": 64,
        "num_frames": 9,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "use_dynamic_cfg": True,
        "output_type": "latent",
    }


def gradient_image():
    rows = torch.linspace(0, 255, 64).to(torch.uint8)
    return Image.fromarray(rows[:, None, None].expand(64, 64, 3).numpy().copy())


def check_pipeline(pipe, sampler, steps, **inputs):
    """A pipeline's latents are those of the reference loop around its own transformer."""
    generator, calls, states = seeded(7), [], []

    def note(_module, _args, kwargs):
        calls.append(kwargs)
        states.append(generator.get_state())

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    result = pipe(**inputs, **embeddings(), **settings_of(steps, 6.0), generator=generator).frames
    hook.remove()
    assert len(calls) == steps
    first = calls[0]
    # Where it samples in channels 0 to 15; an image's latents lie behind.
    start, image = first["hidden_states"][:1, :, :16], first["hidden_states"][:, :, 16:]
    assert not first["encoder_hidden_states"][0].any()

    @torch.no_grad()
    def velocity(sample, timestep, _number):
        both = torch.cat([sample.float()] * 2)
        given = {
            **first,
            "hidden_states": torch.cat([both, image], dim=2),
            "timestep": torch.full((2,), timestep),
        }
        unconditional, conditional = pipe.transformer(**given)[0].chunk(2)
        scale = dynamic_cfg(6.0, steps, timestep)
        return unconditional + scale * (conditional - unconditional)

    replay = torch.Generator()
    replay.set_state(states[0])
    shift = pipe.scheduler.config.snr_shift_scale
    correct = expected(sampler, steps, shift, start, replay, velocity)
    assert correct.std() > 0.1
    assert (result - correct).abs().max() < 1e-4
