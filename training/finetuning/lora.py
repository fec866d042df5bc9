"""A LoRA in a transformer: put in for training, and its matrices taken out.

The layers are PEFT's, so that what is trained is what diffusers loads. A linear layer W of a block
becomes W·x + alpha / rank · B·A·x with A (rank, columns) and B (rows, rank), as in SAT
(SwissArmyTransformer, `model/finetune/lora2.py`) and the paper (Hu et al. 2021, "LoRA").
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from weights.adapter_names import FACTORS
from weights.errors import UserError
from weights.transformer_modules import block_modules
from weights.variants import VARIANTS

# PEFT's name of the one adapter; it stands in the names of its parameters.
ADAPTER = "default"
# A block has modules of the same names in every variant.
BLOCK_MODULES = tuple(block_modules(VARIANTS["nano"]))
# As a target, an attention's projection goes by its short name, as in SAT's and PEFT's settings.
_ATTENTION = "attn1."


def block_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """The modules of a block that `targets` name, each once, in the order of `BLOCK_MODULES`.

    Args:
        targets: names within a block, such as `ff.net.0.proj`; `attn1.` may be left out.

    Raises:
        UserError: there is no module of that name, or no name at all.
    """
    known = {name.removeprefix(_ATTENTION): name for name in BLOCK_MODULES}
    legal = f"The modules of a block are {', '.join(known)}."
    if not targets:
        raise UserError("The LoRA has no targets.", legal, "Name one or more of them.")
    named = {target.removeprefix(_ATTENTION): target for target in targets}
    unknown = [target for name, target in named.items() if name not in known]
    if unknown:
        raise UserError(
            f"No module of a block is called {', '.join(map(repr, unknown))}.",
            legal,
            "Name one or more of these as the LoRA's targets.",
        )
    return tuple(module for name, module in known.items() if name in named)


def short_names(modules: Sequence[str]) -> list[str]:
    """What PEFT calls the modules of a block as targets, sorted: `to_q` for `attn1.to_q`."""
    return sorted(module.removeprefix(_ATTENTION) for module in modules)


def add_lora(
    transformer: Any, *, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> list[torch.nn.Parameter]:
    """Freeze a transformer and put a LoRA into its blocks, which does nothing as yet.

    A is drawn from U(-1/√columns, 1/√columns), which is `kaiming_uniform_` with a = √5 as in SAT,
    on the CPU by a generator of its own: the numbers depend on `seed` and the shapes alone. B is 0.

    Args:
        transformer: diffusers' CogVideoXTransformer3DModel, in any dtype and on any device.
        targets: see `block_targets`; no module outside of the blocks is changed.

    Returns:
        A and B of each module, block by block: float32, on the device of their module.

    Raises:
        UserError: a target is no module of a block.
    """
    from peft import LoraConfig

    names = "|".join(map(re.escape, block_targets(targets)))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        target_modules=rf"transformer_blocks\.\d+\.({names})",
        init_lora_weights=False,
    )
    # PEFT freezes all others. Each new nn.Linear draws numbers, which are replaced below.
    with torch.random.fork_rng(devices=[]):
        transformer.add_adapter(config, ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    matrices = list(_matrices(transformer))
    for factor, matrix in matrices:
        # PEFT gives them the base's dtype, in which small steps would be lost.
        matrix.data = _first_values(factor, matrix.shape, generator).to(matrix.device)
    return [matrix for _, matrix in matrices]


def _first_values(factor: str, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    values = torch.zeros(shape, dtype=torch.float32, device="cpu")
    if factor == "A":
        torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
    return values


def _matrices(transformer: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A and B, named by their factor, of every module of the LoRA, always in the same order."""
    for block in transformer.transformer_blocks:
        for module in BLOCK_MODULES:
            layer = block.get_submodule(module)
            if hasattr(layer, "lora_A"):
                for factor in FACTORS:
                    yield factor, getattr(layer, f"lora_{factor}")[ADAPTER].weight


def adapter_state(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The LoRA's state dict, from the trained parameters by the names they have in the model.

    Its matrices go by PEFT's names for them, like `transformer_blocks.0.attn1.to_q.lora_A.weight`,
    and share memory with the parameters.
    """
    ending = f".{ADAPTER}.weight"
    return {
        name.removesuffix(ending) + ".weight": tensor.detach()
        for name, tensor in parameters.items()
        if name.endswith((f".lora_A{ending}", f".lora_B{ending}"))
    }
