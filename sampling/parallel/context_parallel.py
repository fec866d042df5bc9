"""Ulysses: the tokens of a video split between devices, with diffusers' own attention for it.

diffusers 0.42 has Ulysses attention, but no plan of where to split what for CogVideoX, and its
processor would ignore one and be silently wrong (6e-2 off). The hooks and the processor here are
that plan. cache-dit 1.5.3 ships one. Both were run on 2 and 4 processes with models of all kinds
(text- and image-to-video, 1.0 and 1.5; an odd number of text tokens) and agreed with one process to
7e-7 per call of the transformer. diffusers was chosen, for:

- its mesh can be given, which splitting guidance as well needs; cache-dit's starts at rank 0;
- cache-dit replaces the processor's method for the whole process, for good;
- the presets of `speed` remember what goes into the first block. They must see the same part of the
  tokens there as behind the last block, and with hooks inside theirs, which both libraries'
  plans are, they see all tokens. torch's hooks are outside of everybody's.

diffusers' own hooks and `enable_parallelism` are therefore not used. The latter also needs an
accelerator, which tests have not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class UlyssesProcessor:
    """CogVideoX's attention where a device has part of the tokens: text and video of each part.

    Between devices it changes to all tokens of some of the heads and back. What order tokens are in
    is of no matter to attention; their rotary embeddings come split alike.
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    def __call__(
        self,
        attn: Any,
        hidden_states: "torch.Tensor",
        encoder_hidden_states: "torch.Tensor",
        attention_mask: None = None,
        image_rotary_emb: "tuple[torch.Tensor, torch.Tensor] | None" = None,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Video and text tokens in, `[batch, tokens of this device, width]` each, and out."""
        import torch
        from diffusers.models.attention_dispatch import dispatch_attention_fn
        from diffusers.models.embeddings import apply_rotary_emb

        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            projection(tokens).unflatten(-1, (attn.heads, -1))
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            for states in (query, key):
                states[:, text:] = apply_rotary_emb(
                    states[:, text:], image_rotary_emb, sequence_dim=1
                )
        attended = dispatch_attention_fn(
            query, key, value, backend="native", parallel_config=self._config
        )
        attended = attn.to_out[0](attended.flatten(2))
        return attended[:, text:], attended[:, :text]


def split_tokens(transformer: Any, mesh: "DeviceMesh") -> None:
    """Let `transformer` compute its blocks on this process's part of the tokens.

    It takes and gives whole videos as before, by keywords, and must run on all processes at once.

    Args:
        mesh: has the dimensions "ring", of size 1, and "ulysses".
    """
    import torch
    from diffusers import ContextParallelConfig
    from diffusers.models._modeling_parallel import ParallelConfig

    parts = mesh["ulysses"].size()
    rank = mesh["ulysses"].get_local_rank()
    # The text's 226 tokens divide by two and by little else.
    context = ContextParallelConfig(ulysses_degree=parts, ulysses_anything=True, mesh=mesh)
    config = ParallelConfig(context_parallel_config=context)
    config.setup(mesh.get_rank(), mesh.size(), torch.device(mesh.device_type), mesh=mesh)
    tokens = 0

    def part(tensor: "torch.Tensor", dim: int) -> "torch.Tensor":
        return tensor.tensor_split(parts, dim)[rank]

    def split_positions(
        _transformer: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        rotary = kwargs.get("image_rotary_emb")
        return args, kwargs | {"image_rotary_emb": rotary and tuple(part(t, 0) for t in rotary)}

    def split(_block: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        nonlocal tokens
        tokens = kwargs["hidden_states"].shape[1]
        names = ("hidden_states", "encoder_hidden_states")
        return args, kwargs | {name: part(kwargs[name], 1) for name in names}

    def gather(_proj_out: Any, _args: Any, output: "torch.Tensor") -> "torch.Tensor":
        return gathered_tokens(output, tokens, mesh["ulysses"].get_group())

    transformer.set_attn_processor(UlyssesProcessor(config))
    transformer.register_forward_pre_hook(split_positions, with_kwargs=True)
    transformer.transformer_blocks[0].register_forward_pre_hook(split, with_kwargs=True)
    transformer.proj_out.register_forward_hook(gather)


def gathered_tokens(part: "torch.Tensor", tokens: int, group: "ProcessGroup") -> "torch.Tensor":
    """`[batch, tokens, width]` of the parts, `[batch, tokens of a device, width]`, of all devices.

    diffusers gathers parts as they are, which gloo refuses where one is larger than another.
    """
    import torch
    import torch.distributed as dist
    from torch.nn.functional import pad

    sizes = [len(share) for share in torch.arange(tokens).tensor_split(dist.get_world_size(group))]
    padded = pad(part, (0, 0, 0, sizes[0] - part.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)
