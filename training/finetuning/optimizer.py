"""AdamW for a fine-tuning, in 32 bits or in 8."""

from collections.abc import Iterable

import torch

from training.finetuning.settings import FinetuneSettings
from weights.errors import UserError

_EPS = 1e-8


def new_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: FinetuneSettings, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over matrices with weight decay and vectors without.

    In 8 bits it is torchao's, which keeps both moments of large tensors in blocks of 8-bit numbers
    (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"). In 32 bits a GPU does a
    step in one kernel, which takes no memory beside; that has not been run on one yet.

    Raises:
        UserError: see `check_optimizer`.
    """
    check_optimizer(settings, device)
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options = {"lr": settings.learning_rate, "betas": settings.betas, "eps": _EPS}
    if settings.eight_bit_optimizer:
        from torchao.optim import AdamW8bit

        return AdamW8bit(groups, **options)
    # The parameters may come to the device later. A CPU's own fused kernel rounds otherwise.
    return torch.optim.AdamW(groups, **options, fused=device.type == "cuda")


def check_optimizer(settings: FinetuneSettings, device: torch.device) -> None:
    """Check that a device can do what is asked for.

    Raises:
        UserError: 8 bits are asked for on a device that has no kernels for it.
    """
    if settings.eight_bit_optimizer and device.type != "cuda":
        raise UserError(
            f"--eight-bit-optimizer is asked for on the device {device.type}.",
            "It runs on CUDA devices only.",
            "Leave it out: on a CPU memory is rarely what lacks.",
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step use `rate` for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
