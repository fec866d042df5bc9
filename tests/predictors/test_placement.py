"""Every way of holding a pipeline gives the same video, here with a CPU in the GPU's place."""

import itertools
import threading
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from cog import CancelationException

from predictors.memory import MemoryPolicy, cpu_policy
from predictors.placement import place
from predictors.prompt_embeddings import encode_texts
from tests.predictors.interrupting import cancel, interrupted_at_line
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]


def held(folder, placement, *, vae_tiling=True):
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    place(pipe, policy(placement, vae_tiling=vae_tiling))
    return pipe


def policy(placement, *, vae_tiling=True) -> MemoryPolicy:
    return replace(cpu_policy(), placement=placement, vae_tiling=vae_tiling)


def video(pipe, prompt="a red circle", **options) -> np.ndarray:
    try:
        return pipe(
            prompt=prompt,
            height=NANO.height,
            width=NANO.width,
            num_frames=9,
            num_inference_steps=2,
            max_sequence_length=NANO.text_tokens,
            generator=torch.Generator("cpu").manual_seed(5),
            output_type="np",
            **options,
        ).frames[0]
    finally:
        pipe.maybe_free_model_hooks()


@pytest.fixture(scope="module")
def expected(tiny_folder):
    return video(held(tiny_folder, "resident"))


@pytest.mark.parametrize("placement", ["model-offload", "group-offload"])
def test_offloading_changes_no_bit(tiny_folder, expected, placement):
    pipe = held(tiny_folder, placement)
    assert np.array_equal(video(pipe), expected)
    assert np.array_equal(video(pipe), expected)


@pytest.mark.parametrize("placement", ["model-offload", "group-offload"])
def test_a_request_that_breaks_off_leaves_nothing_behind(tiny_folder, expected, placement):
    pipe = held(tiny_folder, placement)

    def break_off(*_):
        raise KeyboardInterrupt

    handle = pipe.transformer.transformer_blocks[2].register_forward_pre_hook(break_off)
    with pytest.raises(KeyboardInterrupt):
        video(pipe)
    handle.remove()
    assert np.array_equal(video(pipe), expected)


def is_offloaded(pipe):
    """Whether each part would be moved to the GPU, and the one before it back."""
    parts = (pipe.text_encoder, pipe.transformer, pipe.vae)
    return len(pipe._all_hooks) == len(parts) and all(
        hasattr(part, "_hf_hook") and hasattr(part, "_old_forward") for part in parts
    )


def test_a_request_cancelled_while_parts_are_moved_back_leaves_the_offloading_on(tiny_folder):
    """Taking hooks off and on again takes seconds at full size: cancelled there, none were left."""
    pipe = held(tiny_folder, "model-offload")
    assert is_offloaded(pipe)
    for number in itertools.count():
        if not interrupted_at_line(
            number,
            pipe.maybe_free_model_hooks,
            "predictors/placement.py",
            "predictors/uninterrupted.py",
            "accelerate/hooks.py",
        ):
            break
        pipe.maybe_free_model_hooks()
        assert is_offloaded(pipe)
    assert number > 2


def test_the_pipelines_own_clean_up_is_finished_by_a_request_that_is_cancelled_in_it(
    tiny_folder, expected, monkeypatch
):
    pipe = held(tiny_folder, "model-offload")
    request, move = threading.current_thread(), pipe.to

    def cancelled_move(*args, **kwargs):
        cancel(request)
        return move(*args, **kwargs)

    monkeypatch.setattr(pipe, "to", cancelled_move)
    with pytest.raises(CancelationException):
        video(pipe)
    monkeypatch.undo()
    assert is_offloaded(pipe)
    assert np.array_equal(video(pipe), expected)


def test_group_offload_moves_blocks_and_layers_and_keeps_the_vae(tiny_folder):
    pipe = held(tiny_folder, "group-offload")

    def offloaded(module):
        hooks = getattr(module, "_diffusers_hook", None)
        return bool(hooks and hooks.get_hook("group_offloading"))

    assert all(offloaded(block) for block in pipe.transformer.transformer_blocks)
    assert offloaded(pipe.text_encoder.shared)
    assert not any(offloaded(module) for module in pipe.vae.modules())


@pytest.mark.parametrize("vae_tiling", [True, False])
def test_tiling_is_as_the_policy_says(tiny_folder, vae_tiling):
    assert held(tiny_folder, "resident", vae_tiling=vae_tiling).vae.use_tiling == vae_tiling


@pytest.mark.parametrize("placement", ["resident", "model-offload", "group-offload"])
def test_a_pipeline_without_its_text_encoder_is_held_in_every_way(tiny_folder, expected, placement):
    encoder = held(tiny_folder, "resident")
    # One by one, as the pipeline itself does.
    prompt, negative = (encode_texts(encoder, [text], 16) for text in ("a red circle", ""))
    pipe = diffusers.CogVideoXPipeline.from_pretrained(
        tiny_folder, dtype=torch.float32, text_encoder=None, tokenizer=None
    )
    pipe.set_progress_bar_config(disable=True)
    place(pipe, policy(placement))
    found = video(pipe, prompt=None, prompt_embeds=prompt, negative_prompt_embeds=negative)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("placement", ["resident", "group-offload"])
def test_a_text_encoder_alone_is_held_in_every_way(tiny_folder, placement):
    pipe = diffusers.CogVideoXPipeline.from_pretrained(
        tiny_folder, dtype=torch.float32, transformer=None, vae=None
    )
    place(pipe, policy(placement))
    whole = held(tiny_folder, "resident")
    for prompts in (["a red circle", "a blue square"], ["a"]):
        found = encode_texts(pipe, prompts, NANO.text_tokens)
        assert torch.equal(found, encode_texts(whole, prompts, NANO.text_tokens))
