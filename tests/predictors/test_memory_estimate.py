"""Sizes against loaded models; working memory against real modules that run at full size."""

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from predictors.memory_estimate import (
    PLACEMENTS,
    VideoSize,
    component_sizes,
    estimated_peak,
    largest_video,
    variant_sizes,
    working_memory,
)
from tests.predictors.meta_models import (
    PeakMemory,
    meta_text_encoder,
    meta_transformer,
    meta_vae,
)
from weights.variants import VARIANTS

META: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
FIVE = VARIANTS["cogvideox-5b"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_sizes_are_those_of_the_loaded_parts(tiny_folder, dtype):
    sizes = component_sizes(tiny_folder, VARIANTS["nano"], dtype)
    pipe = diffusers.CogVideoXPipeline.from_pretrained(tiny_folder, dtype=getattr(torch, dtype))
    for name in ("transformer", "text_encoder", "vae"):
        part = getattr(pipe, name)
        tensors = [*part.parameters(), *part.buffers()]
        assert getattr(sizes, name).total == sum(tensor.nbytes for tensor in tensors), name


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox-5b-i2v"])
def test_the_largest_block_and_tensor_are_the_models(name):
    model = meta_transformer(VARIANTS[name])
    size = variant_sizes(VARIANTS[name], "bfloat16").transformer
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.transformer_blocks]
    assert size.block == max(blocks)
    assert size.outside == size.total - sum(blocks)
    assert size.tensor == max(tensor.nbytes for tensor in model.state_dict().values())


def test_sizes_are_the_published_ones():
    sizes = variant_sizes(FIVE, "bfloat16")
    parts = (sizes.transformer, sizes.text_encoder, sizes.vae)
    assert [round(part.total / 1e9, 2) for part in parts] == [11.14, 9.52, 0.43]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    "name", ["cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v"]
)
def test_denoising_takes_what_the_transformer_takes(name, passes):
    # Its blocks run one after another: more of them take no more.
    variant = replace(VARIANTS[name], num_layers=2)
    video = VideoSize(variant.default_frames, variant.width, variant.height)
    padded = variant.patch_size_t or 1
    frames = -(-((video.frames - 1) // 4 + 1) // padded) * padded
    height, width = video.height // 8, video.width // 8
    tokens = frames // padded * (height // 2) * (width // 2)
    model = meta_transformer(variant)
    rotary = (torch.empty(tokens, 64, device="meta"),) * 2 if variant.rotary else None
    with torch.no_grad(), PeakMemory(model) as memory:
        model(
            torch.empty(passes, frames, variant.in_channels, height, width, **META),
            torch.empty(passes, variant.text_tokens, variant.text_embed_dim, **META),
            torch.empty(passes, dtype=torch.int64, device="meta"),
            ofs=torch.empty(passes, **META) if variant.ofs_embed_dim else None,
            image_rotary_emb=rotary,
        )
    estimate = working_memory(variant, "bfloat16", video, vae_tiling=True, passes=passes)
    assert estimate.denoise == pytest.approx(memory.peak, rel=0.02)


@pytest.mark.parametrize(
    ("video", "tiling"),
    [
        (VideoSize(17, 720, 480), False),
        (VideoSize(17, 1360, 768), False),
        (VideoSize(17, 480, 240), True),
    ],
)
def test_decoding_takes_what_the_vae_takes(video, tiling):
    model = meta_vae(FIVE)
    model.use_tiling = tiling
    latents = torch.empty(
        1, 16, (video.frames - 1) // 4 + 1, video.height // 8, video.width // 8, **META
    )
    with torch.no_grad(), PeakMemory(model) as memory:
        model.decode(latents)
    estimate = working_memory(FIVE, "bfloat16", video, vae_tiling=tiling)
    assert estimate.decode == pytest.approx(memory.peak, rel=0.02)


@pytest.mark.parametrize("tiling", [False, True])
def test_encoding_an_image_takes_what_the_vae_takes(tiling):
    variant = VARIANTS["cogvideox-5b-i2v"]
    model = meta_vae(variant)
    model.use_tiling = tiling
    with torch.no_grad(), PeakMemory(model) as memory:
        model.encode(torch.empty(1, 3, 1, 240, 480, **META))
    video = VideoSize(49, 480, 240)
    estimate = working_memory(variant, "bfloat16", video, vae_tiling=tiling)
    assert estimate.encode_image == pytest.approx(memory.peak, rel=0.02)


def test_encoding_a_prompt_takes_what_the_text_encoder_takes():
    model = meta_text_encoder(FIVE)
    with torch.no_grad(), PeakMemory(model) as memory:
        model(torch.zeros(1, FIVE.text_tokens, dtype=torch.int64, device="meta"))
    estimate = working_memory(FIVE, "bfloat16", largest_video(FIVE), vae_tiling=True)
    assert estimate.encode_prompt == pytest.approx(memory.peak, rel=0.1)


def test_the_estimates_stand_beside_the_published_figures_as_the_docstring_says():
    variant = VARIANTS["cogvideox-2b"]
    sizes = variant_sizes(variant, "float16")

    def gib(placement, tiling):
        video = largest_video(variant)
        return estimated_peak(variant, sizes, placement, video, vae_tiling=tiling) / (1 << 30)

    assert gib("resident", False) - gib("model-offload", False) == pytest.approx(33 - 19, abs=0.5)
    assert gib("model-offload", True) == pytest.approx(11, abs=0.5)
    assert gib("sequential", True) < 4


videos = st.builds(
    VideoSize,
    st.integers(0, 20).map(lambda count: 8 * count + 1),
    st.integers(1, 85).map(lambda count: 16 * count),
    st.integers(1, 85).map(lambda count: 16 * count),
)


@given(st.sampled_from(sorted(VARIANTS)), videos, st.booleans())
def test_slower_ways_need_no_more_and_tiles_neither(name, video, tiling):
    variant = VARIANTS[name]
    sizes = variant_sizes(variant, variant.dtype)

    def peak(placement, vae_tiling=tiling, passes=2):
        return estimated_peak(
            variant, sizes, placement, video, vae_tiling=vae_tiling, passes=passes
        )

    peaks = [peak(placement) for placement in PLACEMENTS]
    assert peaks[0] == max(peaks)
    assert peaks[3] == min(peaks)
    for placement in PLACEMENTS:
        assert peak(placement, vae_tiling=True) <= peak(placement, vae_tiling=False)
        assert peak(placement, passes=1) <= peak(placement, passes=2)
