"""Denoised latents become the frames of a video."""

from typing import TYPE_CHECKING, Any

import numpy as np

from weights.errors import OperationError

if TYPE_CHECKING:
    import torch


def decode(pipe: Any, latents: "torch.Tensor", num_frames: int) -> np.ndarray:
    """What a CogVideoX pipeline does after its last step, on what `output_type="latent"` returns.

    The VAE works through Python, one batch of frames of one tile at a time, and keeps nothing from
    one to the next decode: an exception that cancels it leaves a pipeline that decodes as before.

    Args:
        latents: (1, latent frames, 16, height / 8, width / 8); CogVideoX 1.5 puts frames that only
            fill up a patch before those of the video.
        num_frames: the frames that were asked for.

    Returns:
        (num_frames, height, width, 3) uint8 RGB.

    Raises:
        OperationError: latents or frames are not finite, or the frames show nothing.
    """
    import torch

    # Before the decoder runs: it takes seconds on a GPU, and from these it can only make more.
    if not torch.isfinite(latents).all():
        raise _broken("The denoised latents are not finite", latents.dtype)
    padding = latents.shape[1] - ((num_frames - 1) // pipe.vae_scale_factor_temporal + 1)
    try:
        with torch.no_grad():
            return _to_uint8(pipe, pipe.decode_latents(latents[:, padding:]))
    finally:
        # Offloading moved the VAE to the GPU; this moves it back, after a cancelled decode, too.
        pipe.maybe_free_model_hooks()


def _to_uint8(pipe: Any, video: "torch.Tensor") -> np.ndarray:
    """(1, 3, frames, height, width) as the VAE gives it, to bytes."""
    import torch

    _, channels, count, height, width = video.shape
    frames = np.empty((count, height, width, channels), np.uint8)
    for index in range(count):
        frame = video[:, :, index : index + 1]
        # Here, because scaling clips: it would make an infinite value a white pixel.
        if not torch.isfinite(frame).all():
            raise _broken(f"Frame {index} is not finite", video.dtype)
        # One frame at a time: the whole video in float32 would be gigabytes.
        scaled = pipe.video_processor.postprocess_video(frame, output_type="np")[0, 0]
        frames[index] = np.rint(scaled * 255)
    if _is_one_colour(video):
        raise _broken("Every pixel of every frame has the same colour", video.dtype)
    return frames


def _is_one_colour(video: "torch.Tensor") -> bool:
    """Whether the decoder's output is constant: that is a dead decoder, and no dark scene.

    Judged before values are clipped to black and rounded to bytes. A scene that is all black there
    still differs in the decoder's last digits from pixel to pixel.
    """
    colour = video[:, :, :1, :1, :1]
    return all(bool((frame == colour).all()) for frame in video.split(1, dim=2))


def _broken(what: str, dtype: "torch.dtype") -> OperationError:
    return OperationError(
        f"{what}, computed as {str(dtype).removeprefix('torch.')}.",
        "A model that works gives finite numbers and a picture.",
        "The usual cause is weights that run in another dtype than they were trained in: "
        "see `cogvideox variants`.",
    )
