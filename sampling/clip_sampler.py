"""A loaded pipeline that turns units of work into videos in OUT."""

import gc
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.memory_estimate import VideoSize
from predictors.pipeline import DEFAULT_SETTINGS, PipelineSettings
from sampling.clip_failure import end_if_hopeless, failure_message
from sampling.clip_job import ClipJob, WorkUnit
from sampling.clip_record import done_record, failed_record
from sampling.job_plan import settings_of
from weights.errors import UserError
from weights.variants import Task

if TYPE_CHECKING:
    import torch

    from predictors.operator_settings import OperatorSettings
    from predictors.pipeline import LoadedPipeline
    from predictors.request import Request
    from sampling.manifest import Record
    from sampling.output_store import OutputStore
    from sampling.prompt_encoding import UnitEmbeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """All that a process needs to become a sampler: small, and made to be pickled.

    What concerns a machine and no clip's bytes (the cache, networks, folders of LoRAs) is read from
    the environment of the process that loads.

    `weights`: a folder, a lock or a variant's name, as COGVIDEOX_WEIGHTS; `out`: a folder or a
    bucket's URL. `largest` and `batch`: what to plan memory for. `metadata`: whether videos say how
    they were made. `lora_paths`: folders that LoRAs may be in beside those of
    COGVIDEOX_LORA_PATHS. `threads`: of torch on the CPU, where sums depend on it; None: as it is.
    `scratch`: where a video is encoded before it is put in OUT; None: the temporary directory.
    `debug`: print the traceback of what fails.
    """

    weights: str
    task: Task
    out: str
    pipeline: PipelineSettings = DEFAULT_SETTINGS
    largest: VideoSize | None = None
    batch: int = 1
    metadata: bool = True
    lora_paths: tuple[Path, ...] = ()
    threads: int | None = None
    scratch: Path | None = None
    debug: bool = False


class ClipSampler:
    """A loaded pipeline, and OUT; made by `load`."""

    def __init__(
        self,
        settings: SamplerSettings,
        operator: "OperatorSettings",
        loaded: "LoadedPipeline",
        store: "OutputStore",
    ) -> None:
        from sampling.scratch_folder import scratch_folder
        from sampling.unit_loras import UnitLoras

        self._settings = settings
        self._loaded = loaded
        self._store = store
        self._loras = UnitLoras(
            loaded.pipe.transformer, loaded.variant, operator, settings.lora_paths
        )
        self._scratch = ExitStack()
        self._folder = self._scratch.enter_context(scratch_folder(settings.scratch))

    @classmethod
    def load(cls, settings: SamplerSettings, *, text_encoder: bool = False) -> "ClipSampler":
        """Load the weights in the way that suits this machine, and open OUT; says so on stderr.

        Args:
            text_encoder: load the T5, too, for prompts that are not known before.

        Raises:
            UserError: the weights or OUT are not usable.
            OperationError: they can't be installed or reached.
        """
        import torch

        from predictors.operator_settings import operator_settings
        from predictors.pipeline import load_pipeline
        from predictors.weights_source import resolve_weights
        from sampling.open_store import open_store

        with redirect_stdout(sys.stderr):
            operator = operator_settings(os.environ)
            store = open_store(settings.out)
            loaded = load_pipeline(
                resolve_weights(settings.weights, settings.task),
                settings.pipeline,
                text_encoder=text_encoder,
                video=settings.largest,
                batch=settings.batch,
            )
        if settings.threads is not None and loaded.policy.device == "cpu":
            torch.set_num_threads(settings.threads)
        return cls(settings, operator, loaded, store)

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""
        return self._loaded.pipe

    @property
    def text_tokens(self) -> int:
        """Tokens of a prompt that the model sees."""
        return self._loaded.variant.text_tokens

    def sample(self, unit: WorkUnit, embeddings: "UnitEmbeddings") -> "list[Record]":
        """Sample all of `unit`, put the videos that are missing in OUT, and say what became of
        each missing line: a record with a digest, or with an error. Records are in lines' order.

        Where a batch fails, its jobs are tried one by one.

        Raises:
            OperationError: there is no space left, OUT is gone or the GPU is; the line is named.
        """
        started = time.monotonic()
        latents, errors = self.denoised(unit, embeddings)
        share = (time.monotonic() - started) / len(unit.jobs)
        return [
            failed_record(job, errors[job.line], share)
            if job.line in errors
            else self._finished(job, latents[job.line], share)
            for job in unit.jobs
            if job.line in unit.missing
        ]

    def denoised(
        self, unit: WorkUnit, embeddings: "UnitEmbeddings"
    ) -> "tuple[dict[int, torch.Tensor], dict[int, str]]":
        """The first half of `sample`: by line, latents `[1, latent frames, 16, h / 8, w / 8]`, and
        what went wrong with the lines that have none. For ranks that compute along and write
        nothing; every rank of one video goes through the same calls of the transformer.

        Raises:
            OperationError: the GPU does not answer any more.
        """
        try:
            return self._denoise(unit.jobs, embeddings), {}
        except Exception as error:
            message = self._failure(unit.jobs[0], error)
        if len(unit.jobs) == 1:
            return {}, {unit.jobs[0].line: message}
        # Out here, where the exception has let go of the batch's tensors.
        latents: dict[int, torch.Tensor] = {}
        errors: dict[int, str] = {}
        for index, job in enumerate(unit.jobs):
            if job.line not in unit.missing:
                continue
            try:
                latents |= self._denoise([job], embeddings.only(index))
            except Exception as error:
                errors[job.line] = self._failure(job, error)
        return latents, errors

    def close(self) -> None:
        """Remove the scratch files. The pipeline goes with the object."""
        self._scratch.close()

    def _denoise(
        self, jobs: Sequence[ClipJob], embeddings: "UnitEmbeddings"
    ) -> "dict[int, torch.Tensor]":
        """Latents by line of jobs of one shape, sampled as one batch."""
        from predictors.denoising import denoise_batch
        from predictors.speed import speed_preset

        request = jobs[0].request
        images = [_first_frame(job.request, job.image) for job in jobs if job.image]
        # An interrupted run may have left hooks that are not put back yet.
        self.pipe.maybe_free_model_hooks()
        with (
            self._loras.applied(request.lora, request.lora_scale),
            self._scheduler_of(jobs[0]),
            speed_preset(self.pipe, request.speed, request.num_inference_steps),
        ):
            latents = denoise_batch(
                self.pipe,
                request,
                embeddings.on(self.pipe._execution_device),
                images,
                [job.request.seed for job in jobs],
            )
        return {job.line: latents[index : index + 1] for index, job in enumerate(jobs)}

    def _scheduler_of(self, job: ClipJob) -> Any:
        from predictors.denoising import sampling_with, scheduler_of

        if job.sat_sampler is None:
            return scheduler_of(self.pipe, job.request.scheduler)
        from sampling.sat_scheduler import sat_scheduler_for

        return sampling_with(self.pipe, sat_scheduler_for(self._loaded.variant, job.sat_sampler))

    def _finished(self, job: ClipJob, latents: "torch.Tensor", seconds: float) -> "Record":
        """The record of a video that is in OUT, or of a failure."""
        started = time.monotonic()
        try:
            video = self._encoded(job, latents)
            record = done_record(job, video, seconds + time.monotonic() - started)
            self._store.put(job.name, video)
            video.unlink()
        except Exception as error:
            return failed_record(job, self._failure(job, error), seconds)
        return record

    def _encoded(self, job: ClipJob, latents: "torch.Tensor") -> Path:
        """The video as a file in the scratch folder."""
        from predictors.decoding import decode
        from predictors.video import write_video

        request = job.request
        path = self._folder / job.name
        write_video(
            decode(self.pipe, latents, request.num_frames),
            path,
            fps=request.fps,
            output_format=request.output_format,
            quality=request.output_quality,
            metadata=self._metadata(job) if self._settings.metadata else None,
            # Whoever samples it, and wherever a run goes on, a clip has the same bytes.
            one_thread=True,
        )
        return path

    def _metadata(self, job: ClipJob) -> dict[str, str]:
        return {
            "prompt": job.request.prompt,
            "seed": str(job.request.seed),
            "variant": self._loaded.variant.name,
            "settings": json.dumps(settings_of(job), sort_keys=True),
        }

    def _failure(self, job: ClipJob, error: Exception) -> str:
        """What to record of `error`; the pipeline is ready for the next job afterwards.

        Raises:
            OperationError: there will be no next job.
        """
        if self._settings.debug:
            traceback.print_exception(error)
        end_if_hopeless(job.line, error, self._loaded.policy.device)
        # They hold the tensors that there was no room for.
        traceback.clear_frames(error.__traceback__)
        _free_memory()
        return failure_message(error)


def _first_frame(request: "Request", path: Path) -> Any:
    from predictors.input_image import fit_image, read_image

    if not path.is_file():
        raise UserError(
            f"image {path} is no file of this machine ({socket.gethostname()}).",
            "It was there at the start, and is read when its line is sampled.",
            "Put it where all machines see it, and add --retry-failed.",
        )
    return fit_image(read_image(path), request.width, request.height, request.image_fit)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
