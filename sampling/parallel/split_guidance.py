"""The two passes of guidance on two devices.

diffusers' pipelines put both into one batch, first the pass without the prompt. A batch's items do
not know of each other: each device computes half of it, then both get all of the result. xDiT does
so in pipelines of its own; neither diffusers nor cache-dit does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_BATCHED = ("hidden_states", "encoder_hidden_states", "timestep")


def split_guidance(transformer: Any, group: "ProcessGroup") -> None:
    """Let `transformer` compute half of each batch on either process of `group`.

    It takes and gives whole batches as before, by keywords, and must run on both processes at once.
    A batch of odd size, one video without guidance, is computed on both.
    """
    import torch
    import torch.distributed as dist

    half = dist.get_rank(group)
    was_split = False

    def split(_transformer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        nonlocal was_split
        was_split = len(kwargs["hidden_states"]) % 2 == 0
        if not was_split:
            return args, kwargs
        return args, kwargs | {name: kwargs[name].chunk(2)[half] for name in _BATCHED}

    def gather(_transformer: Any, _args: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        if not was_split:
            return output
        computed = output[0].contiguous()
        halves = [torch.empty_like(computed) for _ in range(2)]
        dist.all_gather(halves, computed, group=group)
        return (torch.cat(halves), *output[1:])

    transformer.register_forward_pre_hook(split, with_kwargs=True)
    transformer.register_forward_hook(gather)
