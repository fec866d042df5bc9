"""The keys of the CogVideoX 3D VAE, SAT on the left and diffusers on the right.

Facts from the SAT autoencoder (zai-org/CogVideo, `sat/vae_modules/cp_enc_dec.py`) and from
diffusers' `AutoencoderKLCogVideoX`. The decoder's levels are numbered from the other end.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from conversion.rules import Drop, Rule, Shape, rename
from weights.errors import UserError
from weights.variants import LATENT_CHANNELS, Variant

PREFIX = ""
# A tensor that every such VAE has.
ANCHOR = "encoder.conv_in.conv.weight"


@dataclass(frozen=True, slots=True)
class VaeArchitecture:
    """The numbers that the shapes of a VAE's tensors tell."""

    channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int


def architecture_of(variant: Variant) -> VaeArchitecture:
    """The architecture that the variants table states."""
    return VaeArchitecture(variant.vae_channels, variant.vae_layers_per_block, LATENT_CHANNELS)


def read_architecture(shapes: Mapping[str, Shape]) -> VaeArchitecture:
    """Read the architecture from names and shapes.

    Raises:
        UserError: the file holds no encoder or no decoder of this kind.
    """
    first = re.compile(r"encoder\.down\.(\d+)\.block\.0\.conv1\.conv\.weight")
    levels = {int(m[1]): shape[0] for name, shape in shapes.items() if (m := first.fullmatch(name))}
    decoder = shapes.get("decoder.conv_in.conv.weight")
    if decoder is None or sorted(levels) != list(range(len(levels))) or not levels:
        raise UserError(
            "The file holds no encoder and decoder of a CogVideoX VAE.",
            "Tensors such as encoder.down.0.block.0.conv1.conv.weight are expected.",
            "Give the 3d-vae.pt that came with the model.",
        )
    blocks = re.compile(r"encoder\.down\.0\.block\.(\d+)\.conv1\.conv\.weight")
    return VaeArchitecture(
        channels=tuple(levels[i] for i in range(len(levels))),
        layers_per_block=sum(blocks.fullmatch(name) is not None for name in shapes),
        latent_channels=decoder[1],
    )


def _conv(source: str, target: str, out: int, into: int, *kernel: int) -> list[Rule]:
    return [
        rename(f"{source}.weight", f"{target}.weight", out, into, *kernel),
        rename(f"{source}.bias", f"{target}.bias", out),
    ]


def _norm(source: str, target: str, channels: int, zq: int | None) -> list[Rule]:
    """A group norm; in the decoder one that the latent (`zq` channels) scales and shifts."""
    if zq is None:
        return [rename(f"{source}.{p}", f"{target}.{p}", channels) for p in ("weight", "bias")]
    return [
        *_norm(f"{source}.norm_layer", f"{target}.norm_layer", channels, None),
        *_conv(f"{source}.conv_y.conv", f"{target}.conv_y.conv", channels, zq, 1, 1, 1),
        *_conv(f"{source}.conv_b.conv", f"{target}.conv_b.conv", channels, zq, 1, 1, 1),
    ]


def _resnet(source: str, target: str, into: int, out: int, zq: int | None) -> list[Rule]:
    rules = [
        *_norm(f"{source}.norm1", f"{target}.norm1", into, zq),
        *_conv(f"{source}.conv1.conv", f"{target}.conv1.conv", out, into, 3, 3, 3),
        *_norm(f"{source}.norm2", f"{target}.norm2", out, zq),
        *_conv(f"{source}.conv2.conv", f"{target}.conv2.conv", out, out, 3, 3, 3),
    ]
    if into != out:
        rules += _conv(f"{source}.nin_shortcut", f"{target}.conv_shortcut", out, into, 1, 1, 1)
    return rules


def _ends(side: str, first: tuple[int, int], last: tuple[int, int], zq: int | None) -> list[Rule]:
    """What encoder and decoder have alike: the outer convolutions, the last norm, the middle.

    `first` and `last` are (input, output) channels of the outer convolutions.
    """
    conv_in, conv_out, norm = f"{side}.conv_in.conv", f"{side}.conv_out.conv", f"{side}.norm_out"
    middle = first[1] if side == "decoder" else last[0]
    return [
        *_conv(conv_in, conv_in, first[1], first[0], 3, 3, 3),
        *_norm(norm, norm, last[0], zq),
        *_conv(conv_out, conv_out, last[1], last[0], 3, 3, 3),
        *_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0", middle, middle, zq),
        *_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1", middle, middle, zq),
    ]


def _encoder_rules(a: VaeArchitecture) -> list[Rule]:
    # Mean and log-variance come out side by side: twice the latent channels.
    ends = ((3, a.channels[0]), (a.channels[-1], 2 * a.latent_channels))
    rules = _ends("encoder", *ends, None)
    into = a.channels[0]
    for level, out in enumerate(a.channels):
        sat, block = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for n in range(a.layers_per_block):
            rules += _resnet(f"{sat}.block.{n}", f"{block}.resnets.{n}", into, out, None)
            into = out
        if level < len(a.channels) - 1:
            rules += _conv(f"{sat}.downsample.conv", f"{block}.downsamplers.0.conv", out, out, 3, 3)
    return rules


def _decoder_rules(a: VaeArchitecture) -> list[Rule]:
    zq = a.latent_channels
    rules = _ends("decoder", (zq, a.channels[-1]), (a.channels[0], 3), zq)
    into = a.channels[-1]
    for position, out in enumerate(reversed(a.channels)):
        level = len(a.channels) - 1 - position
        sat, block = f"decoder.up.{level}", f"decoder.up_blocks.{position}"
        for n in range(a.layers_per_block + 1):
            rules += _resnet(f"{sat}.block.{n}", f"{block}.resnets.{n}", into, out, zq)
            into = out
        if level > 0:
            rules += _conv(f"{sat}.upsample.conv", f"{block}.upsamplers.0.conv", out, out, 3, 3)
    return rules


def vae_rules(a: VaeArchitecture) -> list[Rule | Drop]:
    """The table for one architecture."""
    return [*_encoder_rules(a), *_decoder_rules(a), Drop("loss.*")]
