"""A moving average of a model's parameters, which samples better than the last ones."""

import torch


class Ema:
    """Averages `module`'s trainable parameters in float32 with the given decay.

    The average starts short and grows to `decay`, so that the beginning is soon forgotten:
    min(decay, (1 + n) / (10 + n)) after n updates, as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.restart(module, 0)

    def restart(self, module: torch.nn.Module, updates: int) -> None:
        """Take the module's parameters of now for the average after `updates` updates."""
        self.updates = updates
        self.average = {
            name: parameter.detach().float().clone()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def update(self, module: torch.nn.Module) -> None:
        """Take the module's parameters of now into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in module.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter.detach().float(), 1 - decay)

    def copy_to(self, module: torch.nn.Module) -> None:
        """Give the module the averaged parameters."""
        for name, parameter in module.named_parameters():
            if name in self.average:
                parameter.data.copy_(self.average[name])

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint needs to go on with the average."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on with the average of a checkpoint."""
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int)
        assert isinstance(average, dict)
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
