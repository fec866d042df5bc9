"""SAT's LoRA: found in a checkpoint, checked, and turned into a diffusers adapter.

SAT (SwissArmyTransformer, `model/finetune/lora2.py`) moves a weight under a LoRA to `.original.`
and puts `matrix_A.i` (rank, width) and `matrix_B.i` (width, rank) beside it, three pairs for the
fused query, key and value. It adds alpha / rank · B·A with alpha = 1 unless told otherwise, and
does not record alpha.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from conversion.rules import Plan, Rule, plan_forward, rename
from conversion.tensor_source import LoraFactors, MergedLora
from weights.adapter_names import FACTORS, SAT_MODULES, diffusers_name, sat_name
from weights.errors import UserError

Tensors = Mapping[str, torch.Tensor]

DEFAULT_ALPHA = 1.0

_TARGET_MODULES = sorted(
    module.removeprefix("attn1.") for targets in SAT_MODULES.values() for module in targets
)


@dataclass(frozen=True, slots=True)
class Lora:
    """The LoRA of a transformer: its matrices by SAT's names, prefix removed."""

    tensors: Tensors
    rank: int
    num_layers: int
    width: int


def split_lora(tensors: Tensors) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The base weights, by the names they have without a LoRA, and the LoRA's matrices."""
    lora = {name: t for name, t in tensors.items() if ".matrix_A." in name or ".matrix_B." in name}
    base = {name.replace(".original.", "."): t for name, t in tensors.items() if name not in lora}
    return base, lora


def read_lora(tensors: Tensors, num_layers: int, width: int) -> Lora:
    """Take the matrices for the LoRA of a transformer of `num_layers` layers.

    Raises:
        UserError: the modules have different ranks.
    """
    ranks = {int(t.shape[0]) for name, t in tensors.items() if ".matrix_A." in name}
    if len(ranks) != 1:
        raise UserError(
            f"The LoRA has the ranks {', '.join(map(str, sorted(ranks))) or 'of no module'}.",
            "One rank for all modules is expected, as SAT trains it.",
            "Check that the file is complete and comes from one training run.",
        )
    return Lora(tensors, ranks.pop(), num_layers, width)


def _rules(lora: Lora) -> list[Rule]:
    shapes = {"A": (lora.rank, lora.width), "B": (lora.width, lora.rank)}
    return [
        rename(
            sat_name(n, sat_module, factor, i),
            diffusers_name(f"transformer_blocks.{n}.{module}", factor),
            *shapes[factor],
        )
        for n in range(lora.num_layers)
        for sat_module, modules in SAT_MODULES.items()
        for i, module in enumerate(modules)
        for factor in FACTORS
    ]


def plan_adapter(lora: Lora, what: str) -> Plan:
    """Plan the adapter that diffusers loads.

    Raises:
        UserError: matrices of a layer are missing, unknown or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in lora.tensors.items()}
    return plan_forward(_rules(lora), shapes, what)


def merged_tensors(base: Tensors, lora: Lora, alpha: float, what: str) -> MergedLora:
    """The base weights with the LoRA added; errors as in `plan_adapter`."""
    plan_adapter(lora, what)
    factors = {}
    for n in range(lora.num_layers):
        for sat_module, modules in SAT_MODULES.items():
            factors[f"transformer.layers.{n}.{sat_module}.weight"] = LoraFactors(
                tuple(
                    (
                        lora.tensors[sat_name(n, sat_module, "A", i)],
                        lora.tensors[sat_name(n, sat_module, "B", i)],
                    )
                    for i in range(len(modules))
                )
            )
    return MergedLora(base, factors, alpha / lora.rank)


def adapter_metadata(lora: Lora, alpha: float, variant: str) -> dict[str, str]:
    """Metadata that makes diffusers apply alpha / rank, so that scale 1.0 means "as trained".

    The key and the prefix are those of diffusers' `save_lora_weights`; `variant` is ours.
    """
    config = {
        "transformer.r": lora.rank,
        "transformer.lora_alpha": alpha,
        "transformer.target_modules": _TARGET_MODULES,
    }
    return {"lora_adapter_metadata": json.dumps(config, sort_keys=True), "variant": variant}
