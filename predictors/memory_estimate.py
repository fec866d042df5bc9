"""How much GPU memory a pipeline needs under each way of holding it. Arithmetic only, no torch.

Weights are exact: the bytes of every tensor. For what the computation needs beside them there are
constants, counted on diffusers 0.42.1 at full size: its modules ran on torch's meta device, where
tensors have a size and no content, and the most bytes alive at once were noted
(tests/predictors/test_memory_estimate.py does it again). Not counted are LoRAs, what the caches of
faster presets keep, cuDNN's workspaces and what the allocator loses to fragmentation: the policy's
margin is for them. Attention is taken to keep no scores, as every fused kernel does.

No GPU has confirmed these numbers yet; `cogvideox bench` compares. Published figures are of
cogvideox-2b in float16 on an older diffusers (its guide to CogVideoX, peaks in GiB), ours beside
them: everything on the GPU 33 (29.5), model offload 19 (15.3), with tiling 11 (11.2), sequential
offload with tiling under 4 (3.9). What weights decide agrees, 33 − 19 and 11; the decoder without
tiling took about 4 GiB more than we count. cogvideox1.5-5b at 81 frames: "from 10 GB" (6.9).
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from predictors.weight_shapes import Shape, Shapes, folder_shapes, variant_shapes
from weights.variants import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Dtype, Variant

Placement = Literal["resident", "model-offload", "group-offload", "sequential"]
"""What of the weights is on the GPU while the pipeline runs, the fastest way first.

resident: everything. model-offload: the component that works. group-offload: the VAE, and the
transformer's block that works with the next one on its way. sequential: the layer that works.
"""
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

ITEM_BYTES: dict[Dtype, int] = {"float16": 2, "bfloat16": 2, "float32": 4}

# Tensors of the size of the hidden states that are alive at the peak of a transformer block: in
# the feed-forward layer, or where rotary embeddings turn queries in float32.
_HIDDEN_STATES = 12.1
_HIDDEN_STATES_ROTARY = 13.1
# Values per pixel and channel of the VAE's outermost block. Most of the decoder's are the frames
# that each convolution keeps for the next batch of frames.
_DECODER_VALUES = 179.0
_ENCODER_VALUES = 20.9
# Values per token and unit of width.
_TEXT_ENCODER_VALUES = 17.6
# cuBLAS's on the newest cards, and small change.
_WORKSPACE = 64 << 20
# diffusers keeps the table of sine and cosine positions in float64.
_POSITION_BYTES = 8
# What torchao keeps for a row of int8 weights: a float32 scale and an int8 zero point.
_INT8_ROW_BYTES = 5
# diffusers' tiles, in pixels.
_TILE_HEIGHT, _TILE_WIDTH = 240, 360

_BLOCK = re.compile(r"transformer_blocks\.\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class VideoSize:
    """What a request asks for: frames, and their size in pixels."""

    frames: int
    width: int
    height: int


class Stages(NamedTuple):
    """Bytes of GPU memory in each stage of a request. `encode_image` is 0 for text-to-video."""

    encode_prompt: int
    encode_image: int
    denoise: int
    decode: int


@dataclass(frozen=True, slots=True)
class ComponentSize:
    """Bytes of a component in memory.

    `outside` is what is in none of its repeated blocks; `block` and `tensor` are the largest ones.
    """

    total: int
    outside: int
    block: int
    tensor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSizes:
    """Sizes of a pipeline's components as they are loaded, and the dtype they compute in."""

    transformer: ComponentSize
    text_encoder: ComponentSize
    vae: ComponentSize
    dtype: Dtype

    @property
    def total(self) -> int:
        return self.transformer.total + self.text_encoder.total + self.vae.total


_ABSENT = ComponentSize(total=0, outside=0, block=0, tensor=0)


def without_text_encoder(sizes: ComponentSizes) -> ComponentSizes:
    """The sizes of a pipeline that is loaded without its text encoder."""
    return replace(sizes, text_encoder=_ABSENT)


def text_encoder_only(sizes: ComponentSizes) -> ComponentSizes:
    """The sizes of a pipeline that is loaded for its text encoder alone."""
    return replace(sizes, transformer=_ABSENT, vae=_ABSENT)


def component_sizes(
    folder: Path, variant: Variant, dtype: Dtype, *, int8: bool = False
) -> ComponentSizes:
    """The sizes of a weights folder of `variant`, loaded as `dtype`; from its files' headers.

    Raises:
        UserError: a file is damaged.
    """
    return _sizes(folder_shapes(folder), variant, dtype, int8)


def variant_sizes(variant: Variant, dtype: Dtype, *, int8: bool = False) -> ComponentSizes:
    """The sizes that the released weights of `variant` have, loaded as `dtype`."""
    return _sizes(variant_shapes(variant), variant, dtype, int8)


def largest_video(variant: Variant) -> VideoSize:
    """The request of `variant` that needs the most memory."""
    return VideoSize(variant.max_frames, variant.width, variant.height)


def estimated_peak(
    variant: Variant,
    sizes: ComponentSizes,
    placement: Placement,
    video: VideoSize,
    *,
    vae_tiling: bool,
    passes: int = 2,
) -> int:
    """The most bytes of GPU memory that one request takes at once, weights included.

    What torch.cuda.max_memory_allocated() is expected to show.

    Args:
        passes: how many videos the transformer computes at once: 2 with guidance, whose passes
            diffusers batches, 1 without.
    """
    weights = _weights_on_gpu(variant, sizes, placement)
    working = working_memory(variant, sizes.dtype, video, vae_tiling=vae_tiling, passes=passes)
    return max(held + used for held, used in zip(weights, working, strict=True)) + _WORKSPACE


def encoding_peak(
    variant: Variant, sizes: ComponentSizes, placement: Placement, prompts: int
) -> int:
    """The most bytes of GPU memory that encoding `prompts` at once takes, weights included."""
    working = working_memory(variant, sizes.dtype, largest_video(variant), vae_tiling=True)
    held = _weights_on_gpu(variant, sizes, placement).encode_prompt
    return held + prompts * working.encode_prompt + _WORKSPACE


def working_memory(
    variant: Variant, dtype: Dtype, video: VideoSize, *, vae_tiling: bool, passes: int = 2
) -> Stages:
    """What each stage of a request takes at its peak beside the weights; see `estimated_peak`."""
    item = ITEM_BYTES[dtype]
    pixels = video.width * video.height
    tile = min(video.width, _TILE_WIDTH) * min(video.height, _TILE_HEIGHT)
    outermost = (tile if vae_tiling else pixels) * variant.vae_channels[0]
    prompt = variant.text_tokens * variant.text_embed_dim * _TEXT_ENCODER_VALUES
    image = outermost * _ENCODER_VALUES if variant.task == "i2v" else 0
    hidden_states = passes * _tokens(variant, video) * variant.hidden_size
    alive = _HIDDEN_STATES_ROTARY if variant.rotary else _HIDDEN_STATES
    # Finished frames pile up beside the decoder.
    decoded = outermost * _DECODER_VALUES + 3 * video.frames * pixels
    values = (prompt, image, hidden_states * alive, decoded)
    return Stages(*(int(count * item) for count in values))


def _weights_on_gpu(variant: Variant, sizes: ComponentSizes, placement: Placement) -> Stages:
    transformer, text_encoder, vae = sizes.transformer, sizes.text_encoder, sizes.vae
    if placement == "resident":
        return Stages(sizes.total, sizes.total, sizes.total, sizes.total)
    if placement == "model-offload":
        # Only the transformer sends the text encoder away, and nothing before the end of a request
        # the VAE that encoded an image.
        image = vae.total if variant.task == "i2v" else 0
        return Stages(
            encode_prompt=text_encoder.total,
            encode_image=text_encoder.total + vae.total,
            denoise=transformer.total + image,
            decode=vae.total,
        )
    if placement == "group-offload":
        # Two of what moves: one works while the next is copied.
        return Stages(
            encode_prompt=vae.total + 2 * text_encoder.tensor,
            encode_image=vae.total,
            denoise=vae.total + transformer.outside + 2 * transformer.block,
            decode=vae.total,
        )
    return Stages(text_encoder.tensor, vae.tensor, transformer.tensor, vae.tensor)


def _tokens(variant: Variant, video: VideoSize) -> int:
    """Tokens of the text and of the patches of all latent frames, the padding ones included."""
    latent_frames = (video.frames - 1) // TEMPORAL_COMPRESSION + 1
    patch_frames = -(-latent_frames // (variant.patch_size_t or 1))
    side = SPATIAL_COMPRESSION * variant.patch_size
    return variant.text_tokens + patch_frames * (video.height // side) * (video.width // side)


def _sizes(shapes: dict[str, Shapes], variant: Variant, dtype: Dtype, int8: bool) -> ComponentSizes:
    table = 0 if variant.rotary else variant.position_rows * variant.hidden_size * _POSITION_BYTES
    return ComponentSizes(
        transformer=_component_size(shapes["transformer"], dtype, int8, table),
        text_encoder=_component_size(shapes["text_encoder"], dtype, int8),
        vae=_component_size(shapes["vae"], dtype, int8=False),
        dtype=dtype,
    )


def _component_size(shapes: Shapes, dtype: Dtype, int8: bool, table: int = 0) -> ComponentSize:
    """`table`: the bytes of a tensor that is computed on loading and is in no file."""
    tensors = {name: _tensor_bytes(name, shape, dtype, int8) for name, shape in shapes.items()}
    blocks: Counter[str] = Counter()
    for name, size in tensors.items():
        if match := _BLOCK.match(name):
            blocks[match[0]] += size
    total = sum(tensors.values()) + table
    return ComponentSize(
        total=total,
        outside=total - sum(blocks.values()),
        block=max(blocks.values(), default=0),
        tensor=max((table, *tensors.values())),
    )


def _tensor_bytes(name: str, shape: Shape, dtype: Dtype, int8: bool) -> int:
    count = math.prod(shape)
    if int8 and _is_matrix(name, shape):
        return count + shape[0] * _INT8_ROW_BYTES
    # T5 overflows in float16 there; transformers keeps these layers in float32.
    kept = dtype == "float16" and name.endswith("DenseReluDense.wo.weight")
    return count * (4 if kept else ITEM_BYTES[dtype])


def _is_matrix(name: str, shape: Shape) -> bool:
    """Whether this is the weight of a linear layer; embeddings are no layers of that kind."""
    embedding = name == "shared.weight" or name.endswith("relative_attention_bias.weight")
    return len(shape) == 2 and not embedding
