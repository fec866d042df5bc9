"""One variant on this machine: the model that a case wants, requests to it, and what they took."""

import gc
import itertools
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.budget import Budget
from bench.instruments import Stopwatch, call_times
from bench.random_model import Setup, random_model
from predictors.generate import sample
from predictors.memory import Device, compute_dtype
from predictors.memory_estimate import VideoSize, estimated_peak, variant_sizes
from predictors.request import Request, validate
from predictors.stage_log import StageLog
from predictors.video_model import VideoModel
from weights.variants import Dtype, Variant

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

AS_SERVED = Setup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one request took: the seconds of its steps and stages, its peak of GPU memory in bytes.

    `peak` is None without a GPU.
    """

    steps: tuple[float, ...]
    stages: dict[str, float]
    peak: int | None

    @property
    def step(self) -> float:
        """The usual step. The first is left out: it pays for what is set up once."""
        return median(self.steps[1:] or self.steps)

    @property
    def denoise(self) -> float:
        return sum(self.steps)

    @property
    def seconds(self) -> float:
        """From the request to its frames."""
        return sum(self.stages.values())

    @property
    def around(self) -> float:
        """All but the steps."""
        return self.seconds - self.denoise


class Session:
    """A variant, the budget of its cases, and what they have found out so far.

    `steps` is how many a case samples to time one. `known` holds seconds that later cases reckon
    with: a "step", what is "around" the steps of a request, to "build" a model.
    """

    def __init__(self, variant: Variant, steps: int, budget: Budget) -> None:
        import torch

        self.variant = variant
        self.steps = steps
        self.budget = budget
        self.device: Device = "cuda" if torch.cuda.is_available() else "cpu"
        self.known: dict[str, float] = {}
        self._held: tuple[Setup, VideoModel] | None = None
        self._numbers = itertools.count()

    @property
    def dtype(self) -> Dtype:
        return compute_dtype(self.variant.dtype, self.device)

    @property
    def video(self) -> VideoSize:
        """The request that all figures are about: the variant's default one."""
        variant = self.variant
        return VideoSize(variant.default_frames, variant.width, variant.height)

    def model(self, setup: Setup = AS_SERVED) -> VideoModel:
        """The model that `setup` describes: the one of the case before if it is that, or a new one.

        At most one exists at a time.
        """
        if self._held and self._held[0] == setup:
            return self._held[1]
        self.discard_model()
        watch = Stopwatch()
        model = random_model(self.variant, setup)
        self.known["build"] = watch.seconds()
        self._held = (setup, model)
        return model

    def discard_model(self) -> None:
        """Free all that the model takes."""
        import torch

        self._held = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def request(self, steps: int, **inputs: Any) -> Request:
        """A request for `steps` steps with guidance, of a prompt that none before had."""
        return validate(
            self.variant,
            prompt=f"clip {next(self._numbers)}",
            num_inference_steps=steps,
            seed=0,
            image_size=self._image_size,
            **inputs,
        )

    def sample(self, model: VideoModel, request: Request) -> Run:
        """Run `request` as a server does, up to the frames.

        Raises:
            OutOfTimeError: the time was up before it ended.
            OperationError: the frames are not finite, or show nothing.
        """
        metrics: dict[str, float] = {}
        log = StageLog(lambda name, value: metrics.update({name: value}))
        with call_times(model.pipe.transformer, self.budget.check) as times:
            sample(model, request, self.image(), log)
        peak = metrics.get("peak_vram_gb")
        return Run(
            steps=times.durations(),
            stages={
                name.removeprefix("timing."): seconds
                for name, seconds in metrics.items()
                if name.startswith("timing.")
            },
            peak=None if peak is None else int(peak * 1e9),
        )

    def image(self) -> "Image | None":
        """A first frame for image-to-video; None for text-to-video."""
        from PIL import Image

        if self._image_size is None:
            return None
        return Image.linear_gradient("L").resize(self._image_size).convert("RGB")

    @property
    def _image_size(self) -> tuple[int, int] | None:
        return (self.video.width, self.video.height) if self.variant.task == "i2v" else None

    def latents(self, model: VideoModel) -> "torch.Tensor":
        """Random ones of the shape that denoising leaves to the decoder."""
        import torch

        pipe, video = model.pipe, self.video
        shape = (
            1,
            (video.frames - 1) // pipe.vae_scale_factor_temporal + 1,
            pipe.vae.config.latent_channels,
            video.height // pipe.vae_scale_factor_spatial,
            video.width // pipe.vae_scale_factor_spatial,
        )
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return values.to(self.device, pipe.vae.dtype)

    def predicted_peak(self, model: VideoModel, *, passes: int = 2) -> int:
        """The planner's figure for `model` and this session's request, in bytes."""
        pipeline = model.settings.pipeline
        dtype = compute_dtype(self.variant.dtype, self.device, int8=pipeline.int8)
        return estimated_peak(
            self.variant,
            variant_sizes(self.variant, dtype, int8=pipeline.int8),
            model.policy.placement,
            self.video,
            vae_tiling=model.policy.vae_tiling,
            passes=passes,
        )

    def cost(self, setup: Setup = AS_SERVED, *, steps: int, requests: int = 1) -> float:
        """Seconds that a case with these requests is going to take; 0 while nothing is known."""
        builds = 0 if self._held and self._held[0] == setup else 1
        request = self.known.get("around", 0) + steps * self.known.get("step", 0)
        return builds * self.known.get("build", 0) + requests * request
