"""The one table of how the tensors of a CogVideoX LoRA are named, in every style there is.

A LoRA adds scale · B·A to a module's weight. Files agree on the matrices and differ in the names:

- SAT (SwissArmyTransformer, `model/finetune/lora2.py`): SAT's own modules, one pair of matrices for
  each part of a fused module.
- PEFT (`get_peft_model_state_dict`), with the prefix of diffusers' `save_lora_weights`, with that
  of a saved PEFT model, or bare.
- The attention processors of diffusers before PEFT: `.lora.down`, `.lora.up`.
- kohya, as VideoX-Fun writes it (`cogvideox/utils/lora_utils.py` there): `lora_unet_` and the
  module's name with underscores for its dots, and an `.alpha` beside each pair.

Pure functions on strings: nothing here reads a file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from weights.transformer_modules import block_modules, outer_modules
from weights.variants import VARIANTS

Style = Literal["SAT", "PEFT", "attention processor", "kohya"]
Factor = Literal["A", "B"]
Part = Literal["A", "B", "alpha"]
FACTORS: tuple[Factor, ...] = ("A", "B")

# SAT's module within a layer, diffusers' modules within a block: one per pair of matrices.
SAT_MODULES = {
    "attention.query_key_value": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.dense": ("attn1.to_out.0",),
}

# What an ending of a tensor's name tells: its style and its part. An alpha tells no style.
_ENDINGS: dict[str, tuple[Style | None, Part]] = {
    ".lora_A.weight": ("PEFT", "A"),
    ".lora_B.weight": ("PEFT", "B"),
    # The adapter's name stays in where a PEFT model's state is saved without PEFT.
    ".lora_A.default.weight": ("PEFT", "A"),
    ".lora_B.default.weight": ("PEFT", "B"),
    ".lora.down.weight": ("attention processor", "A"),
    ".lora.up.weight": ("attention processor", "B"),
    ".lora_down.weight": ("kohya", "A"),
    ".lora_up.weight": ("kohya", "B"),
    ".alpha": (None, "alpha"),
}

# The variant that has every module that the others have.
_FULLEST = VARIANTS["cogvideox1.5-5b-i2v"]
_BLOCK_MODULES = tuple(block_modules(_FULLEST))
_OUTER_MODULES = tuple(outer_modules(_FULLEST))
_FLAT_BLOCK_MODULES = {module.replace(".", "_"): module for module in _BLOCK_MODULES}
_FLAT_OUTER_MODULES = {module.replace(".", "_"): module for module in _OUTER_MODULES}

# Names come from anyone's file: a number of a thousand digits must not reach int().
_NUMBER = "([0-9]{1,4})"
_SAT = re.compile(
    rf"(?:model\.diffusion_model\.)?transformer\.layers\.{_NUMBER}\."
    rf"({'|'.join(map(re.escape, SAT_MODULES))})\.matrix_([AB])\.([0-9])"
)
_BLOCK = re.compile(rf"transformer_blocks\.{_NUMBER}\.(.+)")
_FLAT_BLOCK = re.compile(rf"transformer_blocks_{_NUMBER}_(.+)")
_FLAT_PREFIX = re.compile(r"lora_unet__?")
_TEXT_ENCODER = re.compile(r"(base_model\.model\.)?text_encoder(_2)?\.|lora_te[0-9]?_")


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """What one tensor of a LoRA is: `module` by diffusers' name, `style` None for an alpha."""

    module: str
    part: Part
    style: Style | None


def parse_key(name: str) -> AdapterKey | None:
    """What the tensor `name` is, or None where no style has it for a CogVideoX transformer.

    `module` is one that some variant has, or would have with more layers.
    """
    if sat := _SAT.fullmatch(name):
        return _sat_key(*sat.groups())
    for ending, (style, part) in _ENDINGS.items():
        if name.endswith(ending):
            module = _module(name.removesuffix(ending))
            return None if module is None else AdapterKey(module, part, style)
    return None


def _sat_key(layer: str, sat_module: str, factor: str, index: str) -> AdapterKey | None:
    targets = SAT_MODULES[sat_module]
    if int(index) >= len(targets):
        return None
    module = f"transformer_blocks.{int(layer)}.{targets[int(index)]}"
    return AdapterKey(module, "A" if factor == "A" else "B", "SAT")


def _module(name: str) -> str | None:
    if flat := _FLAT_PREFIX.match(name):
        return _flat_module(name[flat.end() :])
    # Without diffusers' prefix a file loads nothing there, silently; what it is for is plain.
    dotted = name.removeprefix("base_model.model.").removeprefix("transformer.")
    if dotted in _OUTER_MODULES:
        return dotted
    block = _BLOCK.fullmatch(dotted)
    if block and block[2] in _BLOCK_MODULES:
        return f"transformer_blocks.{int(block[1])}.{block[2]}"
    return None


def _flat_module(name: str) -> str | None:
    block = _FLAT_BLOCK.fullmatch(name)
    if block and block[2] in _FLAT_BLOCK_MODULES:
        return f"transformer_blocks.{int(block[1])}.{_FLAT_BLOCK_MODULES[block[2]]}"
    return _FLAT_OUTER_MODULES.get(name)


def is_text_encoder_key(name: str) -> bool:
    """Whether the tensor belongs to a LoRA of a text encoder, in any style."""
    return _TEXT_ENCODER.match(name) is not None


def sat_name(layer: int, sat_module: str, factor: Factor, index: int) -> str:
    """SAT's name, prefix removed, of one matrix of the pair `index` of its module."""
    return f"transformer.layers.{layer}.{sat_module}.matrix_{factor}.{index}"


def diffusers_name(module: str, factor: Factor) -> str:
    """The name by which diffusers' `load_lora_weights` takes a matrix of `module`."""
    return f"transformer.{module}.lora_{factor}.weight"


# What people give in place of a CogVideoX LoRA. The first pattern that fits any name counts.
_FOREIGN = (
    (r"\.(hada_|lokr_|oft_)", "an adapter of another kind than LoRA (LoHa, LoKr or OFT)"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA, which has more than a LoRA's two matrices"),
    (r"(down|up|input|output)_blocks|mid(dle)?_block", "a LoRA for Stable Diffusion"),
    (r"single_transformer_blocks|(single|double)_blocks", "a LoRA for Flux or HunyuanVideo"),
    (r"(^|\.|unet_{1,2})blocks[._][0-9]+[._](self_attn|cross_attn|attn[12]|ffn)", "a LoRA for Wan"),
    (r"transformer_blocks[._][0-9]+[._]attn2", "a LoRA for LTX-Video or a relative of it"),
    (r"transformer_blocks[._][0-9]+[._]attn[._]", "a LoRA for Stable Diffusion 3 or Qwen-Image"),
    (r"\.original\.", "a SAT checkpoint that holds the base weights beside the LoRA"),
    (r"transformer_blocks\.[0-9]+\.attn1\.to_q\.weight$", "a whole CogVideoX transformer"),
    (
        r"transformer\.layers\.[0-9]+\.attention\.query_key_value\.weight$",
        "a whole CogVideoX transformer",
    ),
)


def looks_like(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is, if it is known: "a LoRA for Wan"."""
    names = list(names)
    for pattern, description in _FOREIGN:
        if any(re.search(pattern, name) for name in names):
            return description
    return None
