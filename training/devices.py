"""The device that a training runs on. What it saves is on the CPU, so any device can go on."""

from typing import Any

import torch

from weights.errors import UserError

DEVICES = ("cpu", "cuda")


def device_named(name: str) -> torch.device:
    """The device `cpu` or `cuda`.

    Raises:
        UserError: this machine's torch finds no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA device here.",
            "A GPU with its driver is expected, and a torch that is built for CUDA.",
            "Install these, or leave --device out.",
        )
    return torch.device(name)


def on_cpu(state: Any) -> Any:
    """The state of a module, an optimizer or an average, its tensors on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: on_cpu(value) for name, value in state.items()}
    if isinstance(state, list):
        return [on_cpu(value) for value in state]
    return state


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the device's global random generator, under the device's name."""
    of_cpu = device.type == "cpu"
    return {device.type: torch.get_rng_state() if of_cpu else torch.cuda.get_rng_state(device)}


def set_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Go on with random numbers where `random_state` was taken.

    Generators of different devices have nothing in common: the state of another is ignored.
    """
    if device.type not in state:
        return
    if device.type == "cpu":
        torch.set_rng_state(state["cpu"])
    else:
        torch.cuda.set_rng_state(state[device.type], device)
