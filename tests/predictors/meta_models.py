"""Full-size models without weights, and the memory that running them would take.

On torch's meta device a tensor has a shape and no content: the models of every variant are built
and run in seconds, in no memory.
"""

import weakref
from typing import Any

import diffusers
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import T5Config, T5EncoderModel

from weights.variants import Variant

# What the CUDA allocator rounds sizes up to.
_ALLOCATION = 512


def meta_transformer(variant: Variant, dtype: torch.dtype = torch.bfloat16) -> Any:
    with torch.device("meta"):
        model = diffusers.CogVideoXTransformer3DModel(
            num_layers=variant.num_layers,
            num_attention_heads=variant.num_heads,
            attention_head_dim=64,
            in_channels=variant.in_channels,
            out_channels=16,
            time_embed_dim=variant.time_embed_dim,
            text_embed_dim=variant.text_embed_dim,
            max_text_seq_length=variant.text_tokens,
            sample_frames=variant.sample_frames,
            sample_height=variant.sample_height,
            sample_width=variant.sample_width,
            patch_size=variant.patch_size,
            patch_size_t=variant.patch_size_t,
            patch_bias=variant.patch_size_t is None,
            use_rotary_positional_embeddings=variant.rotary,
            use_learned_positional_embeddings=variant.learned_positions,
            ofs_embed_dim=variant.ofs_embed_dim,
        )
    return model.to(dtype).eval().requires_grad_(False)


def meta_text_encoder(variant: Variant, dtype: torch.dtype = torch.bfloat16) -> Any:
    sizes = (
        {"d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
        if variant.text_embed_dim == 4096
        else {"d_ff": 128, "d_kv": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 266}
    )
    config = T5Config(d_model=variant.text_embed_dim, feed_forward_proj="gated-gelu", **sizes)
    with torch.device("meta"):
        model = T5EncoderModel(config)
    return model.to(dtype).eval().requires_grad_(False)


def meta_vae(variant: Variant, dtype: torch.dtype = torch.bfloat16) -> Any:
    with torch.device("meta"):
        model = diffusers.AutoencoderKLCogVideoX(
            block_out_channels=variant.vae_channels,
            layers_per_block=variant.vae_layers_per_block,
            norm_num_groups=variant.vae_norm_groups,
            latent_channels=16,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
        )
    return model.to(dtype).eval().requires_grad_(False)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of meta tensors that are alive at once, those of `model` left out.

    Attention is taken to be one kernel that keeps no scores, as it is on GPUs.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._attention = _OneKernelAttention()
        tensors = [*model.parameters(), *model.buffers()]
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors}

    def __enter__(self) -> "PeakMemory":
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // _ALLOCATION) * _ALLOCATION
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


class _OneKernelAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
