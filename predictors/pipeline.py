"""From a weights folder to a pipeline that is ready to run."""

import os
from dataclasses import dataclass
from typing import Any

from predictors.memory import MemoryPolicy, memory_policy
from predictors.weights_source import ReadyWeights, resolve_weights
from weights.variants import Task, Variant

DEFAULT_WEIGHTS = "cogvideox-5b"
_PIPELINES: dict[Task, str] = {"t2v": "CogVideoXPipeline"}

# A predictor never fetches anything but what its lock names. The libraries read these variables
# when they are imported, so that they must be set before.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A diffusers pipeline in memory and the variant whose rules it follows."""

    pipe: Any
    variant: Variant


def load_from_environment(task: Task) -> LoadedPipeline:
    """Load the weights that COGVIDEOX_WEIGHTS names for `task`, installing them if needed.

    Raises:
        UserError: COGVIDEOX_WEIGHTS names nothing usable, or weights for another task.
        OperationError: the weights could not be installed.
    """
    source = os.environ.get("COGVIDEOX_WEIGHTS") or DEFAULT_WEIGHTS
    weights = resolve_weights(source, task)
    os.environ.update(_OFFLINE)
    return load_pipeline(weights)


def load_pipeline(weights: ReadyWeights) -> LoadedPipeline:
    """Load a weights folder in the way that suits this machine."""
    import torch

    policy = memory_policy(torch.cuda.is_available())
    dtype = policy.dtype or weights.dtype
    print(
        f"Loading {weights.variant.name} from {weights.folder} as {dtype}, {_where(policy)}.",
        flush=True,
    )
    pipe = _pipeline_class(weights.variant.task).from_pretrained(
        weights.folder, dtype=getattr(torch, dtype), local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    if policy.vae_tiling:
        pipe.vae.enable_tiling()
    if policy.model_offload:
        # Never .to("cuda") before: it would need the whole model's size on the GPU for nothing.
        pipe.enable_model_cpu_offload()
    return LoadedPipeline(pipe, weights.variant)


def _pipeline_class(task: Task) -> Any:
    import diffusers
    import transformers

    # Our own line says what is loaded; bars make a mess of a container's log.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return getattr(diffusers, _PIPELINES[task])


def _where(policy: MemoryPolicy) -> str:
    if policy.device == "cuda":
        return "with each part on the GPU only while it works"
    return "on the CPU: this machine has no CUDA device"
