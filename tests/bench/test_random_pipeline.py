from dataclasses import replace

import pytest

from bench.random_pipeline import empty_pipeline, random_pipeline
from conversion import vae_rules
from conversion.component_configs import scheduler_config, transformer_config, vae_config
from weights.variants import PIPELINES, VARIANTS

# What the papers and model cards say of each transformer, in billions.
TRANSFORMERS = {
    "cogvideox-2b": 1.69,
    "cogvideox-5b": 5.57,
    "cogvideox-5b-i2v": 5.57,
    "cogvideox1.5-5b": 5.57,
    "cogvideox1.5-5b-i2v": 5.57,
}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module", params=VARIANTS)
def empty(request):
    return VARIANTS[request.param], empty_pipeline(VARIANTS[request.param])


def test_the_parts_have_the_numbers_that_conversion_writes(empty):
    variant, pipe = empty
    assert type(pipe).__name__ == PIPELINES[variant.task]
    assert type(pipe.scheduler).__name__ == variant.scheduler
    for part, expected in (
        (pipe.transformer, transformer_config(variant)),
        (pipe.vae, vae_config(variant, vae_rules.architecture_of(variant))),
        (pipe.scheduler, scheduler_config(variant)),
    ):
        config = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in part.config.items()
            if not name.startswith("_")
        }
        assert config == {n: v for n, v in expected.items() if not n.startswith("_")}


def test_nothing_of_a_full_size_pipeline_is_allocated(empty):
    _, pipe = empty
    for model in (pipe.transformer, pipe.vae, pipe.text_encoder):
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_sizes_are_the_published_ones(empty):
    variant, pipe = empty
    if variant.name not in TRANSFORMERS:
        assert count(pipe.transformer) < 2e6
        return
    assert count(pipe.transformer) / 1e9 == pytest.approx(TRANSFORMERS[variant.name], rel=0.01)
    assert count(pipe.text_encoder) / 1e9 == pytest.approx(4.76, rel=0.01)
    assert count(pipe.vae) / 1e9 == pytest.approx(0.2156, rel=0.01)


def test_the_same_seed_gives_the_same_weights():
    import torch

    one, same, other = (
        random_pipeline(VARIANTS["nano"], device="cpu", dtype="float32", seed=seed)
        for seed in (1, 1, 2)
    )
    for part in ("transformer", "vae", "text_encoder"):
        states = [getattr(pipe, part).state_dict() for pipe in (one, same, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_it_runs_as_what_was_saved_and_loaded_does(tmp_path):
    import diffusers
    import torch

    pipe = random_pipeline(VARIANTS["nano"], device="cpu", dtype="float32")
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.CogVideoXPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    first, second = (
        each(
            "a red circle",
            num_inference_steps=2,
            num_frames=9,
            max_sequence_length=16,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
        for each in (pipe, loaded)
    )
    assert first.isfinite().all()
    assert first.std() > 0.05
    assert torch.equal(first, second)


def test_float16_keeps_what_transformers_keeps_in_float32():
    import torch

    pipe = random_pipeline(VARIANTS["nano"], device="cpu", dtype="float16")
    dtypes = {name: p.dtype for name, p in pipe.text_encoder.named_parameters()}
    kept = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert kept == {name for name in dtypes if name.endswith("wo.weight")}
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float16}


def test_computed_positions_keep_their_dtype_and_learned_ones_take_the_weights():
    import torch

    computed = random_pipeline(VARIANTS["nano"], device="cpu", dtype="bfloat16")
    assert computed.transformer.patch_embed.pos_embedding.dtype == torch.float64
    variant = replace(VARIANTS["nano"], learned_positions=True, rotary=True)
    learned = random_pipeline(variant, device="cpu", dtype="bfloat16")
    assert learned.transformer.patch_embed.pos_embedding.dtype == torch.bfloat16
