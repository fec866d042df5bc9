"""Applies a memory policy to a loaded pipeline."""

from typing import Any

from predictors.memory import MemoryPolicy


def place(pipe: Any, policy: MemoryPolicy) -> None:
    """Put the parts of `pipe`, loaded on the CPU, where `policy` wants them.

    It must not have been moved to the GPU before: that would take the whole model's size there,
    and would leave offloading nothing to save.
    """
    if policy.vae_tiling:
        pipe.vae.enable_tiling()
    if policy.placement == "resident":
        pipe.to(policy.device)
    elif policy.placement == "model-offload":
        pipe.enable_model_cpu_offload(device=policy.device)
    elif policy.placement == "group-offload":
        _offload_groups(pipe, policy.device)
    else:
        pipe.enable_sequential_cpu_offload(device=policy.device)


def _offload_groups(pipe: Any, device: str) -> None:
    """Not `pipe.enable_group_offload`, which treats all parts alike.

    T5's blocks lie one level too deep for diffusers to see: offloaded by blocks, all of it would be
    on the GPU at once. The VAE works through its decoder again for every few frames of every tile,
    and would be copied each time; it is small.
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    # Streams copy the next group while this one works. They exist on GPUs only.
    options = {"onload_device": torch.device(device), "use_stream": device == "cuda"}
    pipe.transformer.enable_group_offload(
        offload_type="block_level", num_blocks_per_group=1, **options
    )
    apply_group_offloading(pipe.text_encoder, offload_type="leaf_level", **options)
    pipe.vae.to(device)
