"""Random LoRAs, written in each style that trainers write."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from weights.adapter_names import FACTORS, SAT_MODULES, diffusers_name, sat_name
from weights.transformer_modules import module_shapes
from weights.variants import Variant

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
Tensors = dict[str, torch.Tensor]

ATTENTION = tuple(module for modules in SAT_MODULES.values() for module in modules)


def attention_modules(layers: int) -> list[str]:
    return [f"transformer_blocks.{n}.{module}" for n in range(layers) for module in ATTENTION]


def random_pairs(
    variant: Variant, modules: Iterable[str] | None = None, *, rank: int = 4, seed: int = 0
) -> Pairs:
    """Matrices for `modules` (default: SAT's, in every layer) large enough to change a lot."""
    generator = torch.Generator().manual_seed(seed)
    shapes = module_shapes(variant)
    pairs = {}
    for module in modules or attention_modules(variant.num_layers):
        rows, *columns = shapes[module]
        ones = [1] * (len(columns) - 1)
        pairs[module] = (
            0.2 * torch.randn(rank, *columns, generator=generator),
            0.2 * torch.randn(rows, rank, *ones, generator=generator),
        )
    return pairs


def sat_tensors(pairs: Pairs, prefix: str = "model.diffusion_model.") -> Tensors:
    tensors = {}
    for module, matrices in pairs.items():
        _, layer, name = module.split(".", 2)
        for sat_module, targets in SAT_MODULES.items():
            if name in targets:
                for factor, matrix in zip(FACTORS, matrices, strict=True):
                    index = targets.index(name)
                    tensors[prefix + sat_name(int(layer), sat_module, factor, index)] = matrix
    return tensors


def peft_tensors(pairs: Pairs, prefix: str = "transformer.") -> Tensors:
    return {
        diffusers_name(module, factor).replace("transformer.", prefix, 1): matrix
        for module, matrices in pairs.items()
        for factor, matrix in zip(FACTORS, matrices, strict=True)
    }


def processor_tensors(pairs: Pairs) -> Tensors:
    return {
        f"transformer.{module}.lora.{end}.weight": matrix
        for module, matrices in pairs.items()
        for end, matrix in zip(("down", "up"), matrices, strict=True)
    }


def kohya_tensors(pairs: Pairs, alpha: float) -> Tensors:
    tensors = {}
    for module, matrices in pairs.items():
        flat = f"lora_unet__{module.replace('.', '_')}"
        for end, matrix in zip(("down", "up"), matrices, strict=True):
            tensors[f"{flat}.lora_{end}.weight"] = matrix
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    return tensors


def peft_metadata(alpha: float, **fields: object) -> dict[str, str]:
    """What diffusers' `save_lora_weights` records."""
    config = {"transformer.lora_alpha": alpha} | {f"transformer.{k}": v for k, v in fields.items()}
    return {"lora_adapter_metadata": json.dumps(config)}


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    # PEFT's and SAT's own saving makes them contiguous, too.
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=dict(metadata or {}))
    return path
