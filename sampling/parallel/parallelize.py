"""A pipeline that makes a video together with those of other processes."""

from typing import Any

from sampling.parallel.context_parallel import split_tokens
from sampling.parallel.layouts import Layout
from sampling.parallel.split_guidance import split_guidance


def parallelize(pipe: Any, layout: Layout) -> None:
    """Let `pipe` compute its share of `layout` from now on.

    Every process of the default group of torch.distributed calls this with the same layout of as
    many devices, and then runs its pipeline with the same arguments at once with all others: each
    gets the same latents. Only the transformer's work is shared.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    mesh = init_device_mesh(
        device, (layout.cfg, 1, layout.ulysses), mesh_dim_names=("cfg", "ring", "ulysses")
    )
    # Batches are halved before tokens are split.
    if layout.cfg > 1:
        split_guidance(pipe.transformer, mesh["cfg"].get_group())
    if layout.ulysses > 1:
        split_tokens(pipe.transformer, mesh)
