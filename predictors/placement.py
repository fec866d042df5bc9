"""Applies a memory policy to a loaded pipeline."""

from typing import Any

from predictors.memory import MemoryPolicy
from predictors.uninterrupted import uninterrupted


def place(pipe: Any, policy: MemoryPolicy) -> None:
    """Put the parts of `pipe`, loaded on the CPU, where `policy` wants them.

    A pipeline may lack its text encoder, or all but that. It must not have been moved to the GPU
    before: that would take the whole model's size there, and would leave offloading nothing to
    save.
    """
    if policy.vae_tiling and pipe.vae:
        pipe.vae.enable_tiling()
    if policy.placement == "resident":
        pipe.to(policy.device)
    elif policy.placement == "model-offload":
        pipe.enable_model_cpu_offload(device=policy.device)
        _move_back_uninterrupted(pipe)
    elif policy.placement == "group-offload":
        _offload_groups(pipe, policy.device)
    else:
        pipe.enable_sequential_cpu_offload(device=policy.device)


def _move_back_uninterrupted(pipe: Any) -> None:
    """Let a request that is cancelled while parts are moved back to the CPU finish that.

    diffusers takes the hooks off, moves gigabytes and puts the hooks on again. Ended in between, it
    would find no hooks ever after, leave everything on the CPU and compute there. The pipeline does
    it at the end of its own call, too: hence in place of its method.
    """
    move_back = pipe.maybe_free_model_hooks
    pipe.maybe_free_model_hooks = lambda: uninterrupted(move_back)


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
    if pipe.transformer:
        pipe.transformer.enable_group_offload(
            offload_type="block_level", num_blocks_per_group=1, **options
        )
    if pipe.text_encoder:
        apply_group_offloading(pipe.text_encoder, offload_type="leaf_level", **options)
    if pipe.vae:
        pipe.vae.to(device)
