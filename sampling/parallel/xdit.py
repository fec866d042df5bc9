"""A weights folder of ours in xDiT (the package xfuser), for who runs that already.

Written against the source of xfuser 0.7.0, which can't be imported without CUDA: the arguments are
checked against it, and nothing here has run on a GPU yet. `cogvideox sample --parallel` needs none
of this. In a script for `torchrun --nproc-per-node N`:

    pipe = xdit_pipeline(folder, variant, layout, VideoSize(49, 720, 480))
    video = pipe(prompt=..., height=480, width=720, num_frames=49, guidance_scale=6).frames
"""

from pathlib import Path
from typing import Any

from predictors.memory_estimate import VideoSize
from sampling.parallel.layouts import Layout
from weights.errors import UserError
from weights.variants import SPATIAL_COMPRESSION, Variant


def xdit_arguments(
    folder: Path, variant: Variant, layout: Layout, video: VideoSize
) -> dict[str, Any]:
    """What `xfuser.xFuserArgs` is made of for `layout`.

    Raises:
        UserError: xDiT has no such pipeline, or can't split the video so.
    """
    if variant.task != "t2v":
        raise UserError(
            f"{variant.name} makes videos from images.",
            "xDiT has CogVideoX for text-to-video only.",
            "Use cogvideox sample --parallel.",
        )
    # xDiT gives each device whole rows of patches.
    rows = video.height // (SPATIAL_COMPRESSION * variant.patch_size)
    if rows % layout.ulysses:
        raise UserError(
            f"A video {video.height} pixels high has {rows} rows of patches, "
            f"and {layout.ulysses} devices are to share them.",
            "For xDiT they must divide evenly.",
            "Choose another layout, or use cogvideox sample --parallel.",
        )
    return {
        "model": str(folder),
        "ulysses_degree": layout.ulysses,
        "use_cfg_parallel": layout.cfg > 1,
        "num_frames": video.frames,
        "height": video.height,
        "width": video.width,
        "max_sequence_length": variant.text_tokens,
    }


def xdit_pipeline(folder: Path, variant: Variant, layout: Layout, video: VideoSize) -> Any:
    """xDiT's pipeline of `folder` on this process's GPU, called like diffusers'.

    All processes get the same video. In the end call `get_runtime_state().destroy_distributed_env`
    of xfuser.core.distributed.

    Raises:
        UserError: as `xdit_arguments`.
        ImportError: xfuser is not installed, or there is no CUDA.
    """
    arguments = xdit_arguments(folder, variant, layout, video)
    import torch
    from xfuser import xFuserArgs, xFuserCogVideoXPipeline
    from xfuser.core.distributed import get_world_group

    engine, _ = xFuserArgs(**arguments).create_config()
    pipe = xFuserCogVideoXPipeline.from_pretrained(
        str(folder), engine_config=engine, torch_dtype=getattr(torch, variant.dtype)
    )
    return pipe.to(f"cuda:{get_world_group().local_rank}")
