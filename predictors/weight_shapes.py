"""Names and shapes of a pipeline's tensors, of a weights folder or as the variants table has it.

The names are those of diffusers and transformers, which weights folders have. Sources:
`CogVideoXTransformer3DModel` and `AutoencoderKLCogVideoX` of diffusers 0.42, `T5EncoderModel` of
transformers 5.23. No torch is imported: `cogvideox plan` answers at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from weights.safetensors_header import read_header
from weights.variants import HEAD_DIM, LATENT_CHANNELS, Variant

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

COMPONENTS = ("transformer", "text_encoder", "vae")


@dataclass(frozen=True, slots=True)
class _TextEncoder:
    """Numbers of a T5 encoder with gated feed-forward layers."""

    num_layers: int
    num_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int


# By its width: T5 v1.1 XXL for every released model, and nano's.
_TEXT_ENCODERS = {
    4096: _TextEncoder(24, 64, 64, 10240, 32128),
    64: _TextEncoder(1, 2, 32, 128, 266),
}
_RELATIVE_POSITIONS = 32


def folder_shapes(folder: Path) -> dict[str, Shapes]:
    """The shapes in a weights folder by component, from the headers of its safetensors files.

    Raises:
        UserError: a file is damaged.
    """
    return {name: _component_shapes(folder / name) for name in COMPONENTS}


def _component_shapes(component: Path) -> Shapes:
    shapes: Shapes = {}
    for file in sorted(component.glob("*.safetensors")):
        shapes |= {name: entry.shape for name, entry in read_header(file).items()}
    if "shared.weight" in shapes:
        # A second name of the same embedding, which some conversions write out: it is loaded once.
        shapes.pop("encoder.embed_tokens.weight", None)
    return shapes


def variant_shapes(variant: Variant) -> dict[str, Shapes]:
    """The shapes that the released weights of `variant` have, by component."""
    return {
        "transformer": dict(_transformer(variant)),
        "text_encoder": dict(_text_encoder(variant.text_embed_dim)),
        "vae": dict(_vae(variant)),
    }


def _affine(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    """A norm's weight and bias."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _layer(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    """The weight and bias of a linear layer or a convolution; outputs come first."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _transformer(v: Variant) -> Iterator[tuple[str, Shape]]:
    hidden, time = v.hidden_size, v.time_embed_dim
    if v.patch_size_t is None:
        yield from _layer("patch_embed.proj", hidden, v.in_channels, v.patch_size, v.patch_size)
    else:
        patch = v.in_channels * v.patch_size**2 * v.patch_size_t
        yield from _layer("patch_embed.proj", hidden, patch)
    yield from _layer("patch_embed.text_proj", hidden, v.text_embed_dim)
    if v.learned_positions:
        yield "patch_embed.pos_embedding", (1, v.position_rows, hidden)
    yield from _layer("time_embedding.linear_1", time, hidden)
    yield from _layer("time_embedding.linear_2", time, time)
    if v.ofs_embed_dim:
        for linear in ("linear_1", "linear_2"):
            yield from _layer(f"ofs_embedding.{linear}", v.ofs_embed_dim, v.ofs_embed_dim)
    for index in range(v.num_layers):
        yield from _block(f"transformer_blocks.{index}", hidden, time)
    yield from _affine("norm_final", hidden)
    yield from _layer("norm_out.linear", 2 * hidden, time)
    yield from _affine("norm_out.norm", hidden)
    outputs = LATENT_CHANNELS * v.patch_size**2 * (v.patch_size_t or 1)
    yield from _layer("proj_out", outputs, hidden)


def _block(name: str, hidden: int, time: int) -> Iterator[tuple[str, Shape]]:
    for norm in ("norm1", "norm2"):
        yield from _layer(f"{name}.{norm}.linear", 6 * hidden, time)
        yield from _affine(f"{name}.{norm}.norm", hidden)
    for part in ("norm_q", "norm_k"):
        yield from _affine(f"{name}.attn1.{part}", HEAD_DIM)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _layer(f"{name}.attn1.{part}", hidden, hidden)
    yield from _layer(f"{name}.ff.net.0.proj", 4 * hidden, hidden)
    yield from _layer(f"{name}.ff.net.2", hidden, 4 * hidden)


def _text_encoder(width: int) -> Iterator[tuple[str, Shape]]:
    t5 = _TEXT_ENCODERS[width]
    inner = t5.num_heads * t5.head_dim
    yield "shared.weight", (t5.vocabulary, width)
    for index in range(t5.num_layers):
        attention = f"encoder.block.{index}.layer.0"
        for part in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{part}.weight", (inner, width)
        yield f"{attention}.SelfAttention.o.weight", (width, inner)
        if index == 0:
            bias = f"{attention}.SelfAttention.relative_attention_bias.weight"
            yield bias, (_RELATIVE_POSITIONS, t5.num_heads)
        yield f"{attention}.layer_norm.weight", (width,)
        feed_forward = f"encoder.block.{index}.layer.1"
        for part in ("wi_0", "wi_1"):
            yield f"{feed_forward}.DenseReluDense.{part}.weight", (t5.feed_forward, width)
        yield f"{feed_forward}.DenseReluDense.wo.weight", (width, t5.feed_forward)
        yield f"{feed_forward}.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def _vae(v: Variant) -> Iterator[tuple[str, Shape]]:
    channels, resnets = v.vae_channels, v.vae_layers_per_block
    widest = channels[-1]
    yield from _layer("encoder.conv_in.conv", channels[0], 3, 3, 3, 3)
    yield from _vae_blocks("encoder", "down", (channels[0], *channels), resnets, latents=None)
    yield from _affine("encoder.norm_out", widest)
    yield from _layer("encoder.conv_out.conv", 2 * LATENT_CHANNELS, widest, 3, 3, 3)
    yield from _layer("decoder.conv_in.conv", widest, LATENT_CHANNELS, 3, 3, 3)
    upwards = (widest, *reversed(channels))
    yield from _vae_blocks("decoder", "up", upwards, resnets + 1, latents=LATENT_CHANNELS)
    yield from _vae_norm("decoder.norm_out", channels[0], LATENT_CHANNELS)
    yield from _layer("decoder.conv_out.conv", 3, channels[0], 3, 3, 3)


def _vae_blocks(
    half: str, way: str, channels: tuple[int, ...], resnets: int, latents: int | None
) -> Iterator[tuple[str, Shape]]:
    """The blocks of the encoder or decoder and its middle; `channels` from the first input on."""
    steps = list(pairwise(channels))
    for index, (before, after) in enumerate(steps):
        block = f"{half}.{way}_blocks.{index}"
        for resnet in range(resnets):
            inputs = after if resnet else before
            yield from _resnet(f"{block}.resnets.{resnet}", inputs, after, latents)
        if index < len(steps) - 1:
            yield from _layer(f"{block}.{way}samplers.0.conv", after, after, 3, 3)
    middle = channels[-1] if way == "down" else channels[0]
    for resnet in range(2):
        yield from _resnet(f"{half}.mid_block.resnets.{resnet}", middle, middle, latents)


def _resnet(name: str, before: int, after: int, latents: int | None) -> Iterator[tuple[str, Shape]]:
    yield from _vae_norm(f"{name}.norm1", before, latents)
    yield from _layer(f"{name}.conv1.conv", after, before, 3, 3, 3)
    yield from _vae_norm(f"{name}.norm2", after, latents)
    yield from _layer(f"{name}.conv2.conv", after, after, 3, 3, 3)
    if before != after:
        yield from _layer(f"{name}.conv_shortcut", after, before, 1, 1, 1)


def _vae_norm(name: str, width: int, latents: int | None) -> Iterator[tuple[str, Shape]]:
    """A group norm; in the decoder one that the latents modulate."""
    if latents is None:
        yield from _affine(name, width)
        return
    yield from _affine(f"{name}.norm_layer", width)
    for part in ("conv_y", "conv_b"):
        yield from _layer(f"{name}.{part}.conv", width, latents, 1, 1, 1)
