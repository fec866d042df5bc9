"""SAT's own samplers as a scheduler of diffusers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim_cogvideox import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from sampling.clip_job import SatSampler
from sampling.sat_schedule import (
    SatStep,
    cumulative_alphas,
    sampler_steps,
    spaced_timesteps,
    step_roots,
    zero_snr_roots,
)
from weights.variants import Variant


def sat_scheduler_for(variant: Variant, sampler: SatSampler) -> "CogVideoXSATScheduler":
    """SAT's `sampler` with the noise schedule that `variant` was trained with."""
    shift = variant.snr_shift_scale
    scheduler: CogVideoXSATScheduler = CogVideoXSATScheduler(snr_shift_scale=shift, sampler=sampler)
    return scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What the step before has left: its number, what the model denoised to, the next sample.

    Both tensors are float32.
    """

    number: int
    denoised: torch.Tensor
    sample: torch.Tensor


class CogVideoXSATScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # torch is not followed by mypy
    """The samplers that CogVideoX was published with: VPSDEDPMPP2MSampler and VideoDDIMSampler.

    It stands in for diffusers' CogVideoX schedulers in every CogVideoX pipeline:

        pipe.scheduler = CogVideoXSATScheduler.from_config(pipe.scheduler.config)

    Unlike these it spaces and rescales the timesteps as SAT does, and carries the sample on in
    float32 while the model works in 16 bit. It keeps what the step before has left, so that one
    scheduler serves one sampling at a time; `set_timesteps` starts the next.

    Args:
        num_train_timesteps: how many timesteps the model was trained with.
        beta_start: the first beta.
        beta_end: the last beta.
        beta_schedule: how betas lie between: "scaled_linear" only.
        prediction_type: what the model predicts: "v_prediction" only.
        snr_shift_scale: what the signal-to-noise ratio is divided by: 3 for 2B, 1 for the others.
            The default is that of diffusers, whose files may leave it out.
        sampler: "dpmpp2m" (VPSDEDPMPP2MSampler) or "ddim" (VideoDDIMSampler).

    Raises:
        ValueError: SAT's samplers can't work with these.
    """

    order = 1
    _compatibles: ClassVar[list[str]] = ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.0120,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "v_prediction",
        snr_shift_scale: float = 3.0,
        sampler: SatSampler = "dpmpp2m",
    ) -> None:
        _check_one_of("sampler", sampler, *get_args(SatSampler))
        _check_one_of("beta_schedule", beta_schedule, "scaled_linear")
        _check_one_of("prediction_type", prediction_type, "v_prediction")
        _check_whole("num_train_timesteps", num_train_timesteps, at_least=2)
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"beta_start is {beta_start} and beta_end is {beta_end}. Betas grow and lie between"
                " 0 and 1: CogVideoX has 0.00085 and 0.012."
            )
        if not 0 < snr_shift_scale < math.inf:
            raise ValueError(
                f"snr_shift_scale is {snr_shift_scale}. The signal-to-noise ratio is divided by it:"
                " CogVideoX-2B has 3.0, the others have 1.0."
            )
        self._alphas = cumulative_alphas(num_train_timesteps, beta_start, beta_end, snr_shift_scale)
        self._table = zero_snr_roots(self._alphas)
        self.alphas_cumprod = self._table**2
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._numbers: dict[int, int] = {}
        self._steps: list[SatStep] = []
        self._done: _Done | None = None

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """A scheduler from the config of this or another one, as in diffusers.

        What the other only has by its own default counts too: diffusers would take ours for it.
        """
        if isinstance(config, Mapping):
            config = {name: config[name] for name in config if name != "_use_default_values"}
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Start a sampling of `num_inference_steps`; `timesteps` are int64 `[steps]` on `device`.

        Raises:
            ValueError: not a whole number from 1 to `num_train_timesteps`.
        """
        trained = self.config.num_train_timesteps
        _check_whole("num_inference_steps", num_inference_steps, at_least=1)
        if num_inference_steps > trained:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}. The model was trained with"
                f" {trained} timesteps: ask for no more steps."
            )
        timesteps = spaced_timesteps(num_inference_steps, trained)
        roots = step_roots(self._alphas, timesteps)
        self._steps = sampler_steps(self.config.sampler, roots, self._table)
        self._numbers = {timestep: number for number, timestep in enumerate(timesteps.tolist())}
        self._done = None
        self.num_inference_steps = num_inference_steps
        self.timesteps = timesteps.to(device)

    def scale_model_input(
        self, sample: torch.Tensor, timestep: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """`sample` as it is: the model takes it unscaled."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """The sample after the step at `timestep`, and what the model denoises to at it.

        Args:
            model_output: the velocity, after guidance; of the shape of `sample`.
            timestep: one of `timesteps`.
            sample: noisy latents `[batch, frames, channels, height, width]`.
            generator: draws DPM++'s noise; a list has one for each sample of the batch. None: the
                global one. Drawn in float32 and as often as SAT draws, the noise is SAT's where
                the generator's state is.

        Returns:
            Both in the dtype of `sample`.

        Raises:
            ValueError: `set_timesteps` was not called, or for other timesteps.
        """
        number = self._number(timestep)
        step = self._steps[number]
        before = self._done if self._done and self._done.number == number - 1 else None
        own = _in_float32(sample, before)
        denoised = step.signal * own - step.noise * model_output.float()
        target = denoised
        if before is not None and step.ahead:
            target = (1 + step.ahead) * denoised - step.ahead * before.denoised
        following = step.keep * own + step.pull * target
        if step.stir:
            following = following + step.stir * _drawn(own, generator, 1 if before is None else 2)
        last = number == len(self._steps) - 1
        self._done = None if last else _Done(number=number, denoised=denoised, sample=following)
        results = (following.to(sample.dtype), denoised.to(sample.dtype))
        if not return_dict:
            return results
        return DDIMSchedulerOutput(prev_sample=results[0], pred_original_sample=results[1])

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """`original_samples` as noisy as the model was trained to see them at `timesteps`.

        Args:
            timesteps: int64 `[batch]` or `[1]`.
        """
        roots = self._table[timesteps.cpu()].view(-1, *[1] * (original_samples.ndim - 1))
        signal = roots.to(original_samples) * original_samples
        return signal + (1 - roots**2).sqrt().to(noise) * noise

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _number(self, timestep: int | torch.Tensor) -> int:
        """Which step `timestep` is, from 0."""
        if not self._steps:
            raise ValueError("There are no steps yet. Call set_timesteps before step.")
        if int(timestep) not in self._numbers:
            raise ValueError(
                f"timestep is {int(timestep)}. That is none of the {len(self._steps)} that"
                " set_timesteps has made: take them from `timesteps`."
            )
        return self._numbers[int(timestep)]


def _in_float32(sample: torch.Tensor, before: _Done | None) -> torch.Tensor:
    """`sample` before it was rounded to its dtype, if it is still what the step before returned.

    A pipeline keeps latents in the model's dtype; SAT rounds only what it gives the model.
    """
    if before is not None and torch.equal(before.sample.to(sample.dtype), sample):
        return before.sample
    return sample.float()


def _drawn(
    like: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None, times: int
) -> torch.Tensor:
    """The last of `times` draws of noise. From its second step on SAT draws twice and drops one."""
    noises = [
        randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        for _ in range(times)
    ]
    return noises[-1]


def _check_one_of(name: str, given: object, *legal: str) -> None:
    if given not in legal:
        raise ValueError(f"{name} is {given!r}. SAT's samplers have {' and '.join(legal)} only.")


def _check_whole(name: str, given: object, *, at_least: int) -> None:
    if isinstance(given, bool) or not isinstance(given, Integral) or given < at_least:
        raise ValueError(f"{name} is {given!r}. It is a whole number of at least {at_least}.")
