"""The state that a fine-tuning goes on from, for one process, copies (DDP) and shards (FSDP) alike.

Whole tensors are gathered on the CPU of the first process and given to all from there, with
PyTorch's `torch.distributed.checkpoint.state_dict`: a run may go on where it is spread otherwise.
"""

from typing import Any

import torch

from training.ema import Ema

# The parts of a state that are large, and that only the first process needs to have.
TENSORS = ("parameters", "averages", "optimizer")


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, whole and on the CPU; empty but on the first process.

    Every process must call this: each may hold a part.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    trained = {n.removeprefix("module.") for n, p in model.named_parameters() if p.requires_grad}
    state = get_model_state_dict(model, options=_options(cpu_offload=True))
    return {name: tensor for name, tensor in state.items() if name in trained}


def averaged_state(model: torch.nn.Module, ema: Ema) -> dict[str, torch.Tensor]:
    """The averages of the trainable parameters, as `trainable_state` gives these."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    ema.copy_to(model)
    try:
        return {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    finally:
        for parameter, values in kept:
            parameter.data.copy_(values)


def training_state(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, scaler: Any
) -> dict[str, Any]:
    """All that the next step depends on but its number, for `restore` of any process."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    options = _options(cpu_offload=True)
    return {
        "parameters": trainable_state(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        "averages": averaged_state(model, ema) if ema else None,
        "updates": ema.updates if ema else 0,
        "scaler": scaler.state_dict() if scaler else None,
    }


def restore(
    state: dict[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    scaler: Any,
) -> None:
    """Go on from `training_state`; of TENSORS those of the first process count."""
    from torch.distributed.checkpoint.state_dict import (
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    options = _options(broadcast_from_rank0=torch.distributed.is_initialized())
    if ema:
        set_model_state_dict(model, state.get("averages", {}), options=options)
        ema.restart(model, state["updates"])
    set_model_state_dict(model, state.get("parameters", {}), options=options)
    set_optimizer_state_dict(model, optimizer, state.get("optimizer", {}), options=options)
    if scaler:
        scaler.load_state_dict(state["scaler"])


def _options(**changed: bool) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    # Not strict: what is frozen has no part in a state.
    return StateDictOptions(
        full_state_dict=True, ignore_frozen_params=True, strict=False, **changed
    )
