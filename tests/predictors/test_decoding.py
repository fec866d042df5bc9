"""Decoding latents gives the pipeline's own frames; cancelling and broken output leave no trace."""

from concurrent.futures import ThreadPoolExecutor

import diffusers
import numpy as np
import pytest
import requests
import torch
from PIL import Image

from cli.runners import RunnerFile
from cli.server import running_server
from predictors.decoding import decode
from weights.errors import OperationError

SIZE = 64


class Stop(BaseException):
    """What Cog's cancelling looks like from inside."""


def tiny_pipeline(task, *, version_1_5=False):
    """A random pipeline without a text encoder, with the parts in which 1.5 differs from 1.0."""
    torch.manual_seed(0)
    image_to_video = task == "i2v"
    own = {"patch_size_t": 2, "patch_bias": False} if version_1_5 else {"patch_size_t": None}
    pipeline = (
        diffusers.CogVideoXImageToVideoPipeline if image_to_video else diffusers.CogVideoXPipeline
    )
    pipe = pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=16,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=0.7,
            invert_scale_latents=version_1_5,
        ),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=64,
            in_channels=32 if image_to_video else 16,
            out_channels=16,
            time_embed_dim=32,
            text_embed_dim=16,
            max_text_seq_length=4,
            sample_frames=17,
            sample_height=SIZE // 8,
            sample_width=SIZE // 8,
            use_rotary_positional_embeddings=True,
            **own,
        ),
        scheduler=diffusers.CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, num_frames, output_type):
    image = {}
    if isinstance(pipe, diffusers.CogVideoXImageToVideoPipeline):
        image["image"] = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB")
    generator = torch.Generator().manual_seed(0)
    return pipe(
        **image,
        prompt_embeds=torch.randn(1, 4, 16, generator=generator),
        height=SIZE,
        width=SIZE,
        num_frames=num_frames,
        num_inference_steps=2,
        guidance_scale=1,
        max_sequence_length=4,
        generator=generator,
        output_type=output_type,
    ).frames


@pytest.fixture
def pipe():
    return tiny_pipeline("t2v")


@pytest.fixture
def latents():
    """Of 17 frames, in two batches, of 96×64, in six tiles of 48×40 where the VAE has such."""
    return torch.randn(1, 5, 16, 12, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize(
    ("version_1_5", "num_frames", "latent_frames"),
    [(False, 9, 3), (True, 17, 6)],
)
def test_the_frames_are_the_pipelines_own(task, version_1_5, num_frames, latent_frames):
    pipe = tiny_pipeline(task, version_1_5=version_1_5)
    latents = run(pipe, num_frames, "latent")
    assert latents.shape[1] == latent_frames
    frames = decode(pipe, latents, num_frames)
    expected = np.rint(run(pipe, num_frames, "np")[0] * 255).astype(np.uint8)
    assert frames.dtype == np.uint8
    assert frames.shape == (num_frames, SIZE, SIZE, 3)
    assert np.array_equal(frames, expected)
    assert len(np.unique(frames)) > 50


def with_offload(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def with_group_offload(pipe):
    pipe.vae.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=False
    )


def with_tiles(pipe):
    pipe.vae.enable_tiling(tile_sample_min_height=48, tile_sample_min_width=40)


def cancel_at(vae, number):
    """Raise in the decoder's convolution of that number; gives the hooks and the calls so far."""
    calls = [0]

    def count(*_):
        calls[0] += 1
        if calls[0] == number:
            raise Stop

    convolutions = [part for part in vae.decoder.modules() if isinstance(part, torch.nn.Conv3d)]
    return [part.register_forward_hook(count) for part in convolutions], calls


@pytest.mark.parametrize("prepare", [with_offload, with_group_offload, with_tiles])
def test_a_cancelled_decode_leaves_no_trace(pipe, latents, prepare):
    prepare(pipe)
    hooks, calls = cancel_at(pipe.vae, None)
    expected = decode(pipe, latents, 17)
    for hook in hooks:
        hook.remove()
    for number in (1, calls[0] // 2, calls[0]):
        hooks, _ = cancel_at(pipe.vae, number)
        with pytest.raises(Stop):
            decode(pipe, latents, 17)
        for hook in hooks:
            hook.remove()
        assert np.array_equal(decode(pipe, latents, 17), expected)


def test_offloaded_parts_are_put_back_even_when_cancelled(pipe, latents):
    pipe.enable_model_cpu_offload(device="cpu")
    # Putting parts back makes new hooks for the next run.
    before = pipe.vae._hf_hook
    pipe.vae.decoder.register_forward_hook(raise_stop)
    with pytest.raises(Stop):
        decode(pipe, latents, 17)
    assert pipe.vae._hf_hook is not before


# Decodes the same latents each time, slowly where asked to: each convolution of the decoder blocks
# for a fifth of a second, as one does on a GPU at full size.
RUNNER = """
import hashlib
import os
import time

import diffusers
import torch
from cog import BaseRunner, Input

from predictors.decoding import decode


def wait(*_):
    print("convolution", flush=True)
    time.sleep(0.2)


class Runner(BaseRunner):
    def setup(self) -> None:
        self.pipe = diffusers.CogVideoXPipeline.from_pretrained(os.environ["COGVIDEOX_WEIGHTS"])
        self.latents = torch.randn(1, 3, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(self, slow: bool = Input(default=False)) -> str:
        parts = self.pipe.vae.decoder.modules() if slow else ()
        hooks = [
            part.register_forward_hook(wait) for part in parts if isinstance(part, torch.nn.Conv3d)
        ]
        try:
            return hashlib.sha256(decode(self.pipe, self.latents, 9)).hexdigest()
        finally:
            for hook in hooks:
                hook.remove()
"""


def test_cog_cancels_within_a_layer(tmp_path, tiny_folder, recorded_lines):
    (tmp_path / "runner.py").write_text(RUNNER)
    runner = RunnerFile(tmp_path / "runner.py")
    with (
        running_server(runner, weights=str(tiny_folder), on_line=recorded_lines.add) as server,
        ThreadPoolExecutor(1) as pool,
    ):

        def predict(name, **inputs):
            url = f"{server.url}/predictions/{name}"
            # A slot that is just being freed is still taken: 409.
            while (
                answer := requests.put(url, json={"input": inputs}, timeout=120)
            ).status_code == 409:
                pass
            return answer.json()

        before = predict("before")["output"]
        slow = pool.submit(predict, "slow", slow=True)
        recorded_lines.wait_for("convolution", since=0)
        requests.post(f"{server.url}/predictions/slow/cancel", timeout=10).raise_for_status()
        decoded = recorded_lines.since(0).count("convolution")
        assert decoded >= 1
        assert slow.result()["status"] == "canceled"
        assert recorded_lines.since(0).count("convolution") <= decoded + 1
        assert predict("after")["output"] == before


def raise_stop(*_):
    raise Stop


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_never_reach_the_vae(pipe, latents, value):
    pipe.vae.decoder.register_forward_pre_hook(raise_stop)
    latents[0, 1, 2, 3, 4] = value
    with pytest.raises(
        OperationError, match=r"latents are not finite, computed as float32.*another dtype"
    ):
        decode(pipe, latents, 17)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_frames_that_are_not_finite_are_refused(pipe, latents, value):
    def spoil(_module, _inputs, output):
        output[0][0, 1, -1, 5, 6] = value

    pipe.vae.decoder.register_forward_hook(spoil)
    with pytest.raises(OperationError, match=r"Frame \d is not finite.*another dtype"):
        decode(pipe, latents, 17)


@pytest.mark.parametrize("level", [-1.0, 0.3])
def test_a_decoder_that_is_dead_is_noticed(pipe, latents, level):
    torch.nn.init.zeros_(pipe.vae.decoder.conv_out.conv.weight)
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.conv.bias, level)
    with pytest.raises(OperationError, match=r"same colour.*another dtype"):
        decode(pipe, latents, 17)


def test_a_scene_that_is_all_black_is_legal(pipe, latents):
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.conv.bias, -30.0)
    assert decode(pipe, latents, 17).max() == 0
