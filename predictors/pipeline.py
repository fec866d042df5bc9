"""From a weights folder to a pipeline that is ready to run."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from predictors.compilation import VARIABLE as COMPILE_VARIABLE
from predictors.compilation import compile_blocks, compile_wanted
from predictors.memory import (
    Device,
    MemoryChoice,
    MemoryPolicy,
    compute_dtype,
    cpu_policy,
    encoding_policy,
    memory_choice,
    memory_policy,
)
from predictors.memory_estimate import (
    ComponentSizes,
    VideoSize,
    component_sizes,
    text_encoder_only,
    without_text_encoder,
)
from predictors.placement import place
from predictors.quantization import int8_wanted, quantize
from predictors.weights_source import ReadyWeights
from weights.errors import UserError
from weights.variants import PIPELINES, Task, Variant

# The libraries read these variables when they are imported, so that they must be set before.
_LIBRARIES = {
    # A predictor never fetches anything but what its lock names.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Shards of a model are read side by side.
    "HF_ENABLE_PARALLEL_LOADING": "YES",
}

# What these say when they are imported is of no use to whoever reads the log: that an extension
# for another CUDA is left out, and that one calls another in an old way.
_CHATTY = ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How the operator wants a pipeline to be held and run. The default: as suits the machine."""

    memory: MemoryChoice = "auto"
    int8: bool = False
    compiled: bool = False


DEFAULT_SETTINGS = PipelineSettings()


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A diffusers pipeline in memory, the variant whose rules it follows and how it is held."""

    pipe: Any
    variant: Variant
    policy: MemoryPolicy


def pipeline_settings(environment: Mapping[str, str]) -> PipelineSettings:
    """Read COGVIDEOX_MEMORY, COGVIDEOX_QUANTIZE and COGVIDEOX_COMPILE.

    To be called before weights are installed: a mistake must not cost a download.

    Raises:
        UserError: one is malformed, two contradict each other, or what one needs is not installed.
    """
    settings = PipelineSettings(
        memory=memory_choice(environment),
        int8=int8_wanted(environment),
        compiled=compile_wanted(environment),
    )
    if settings.compiled and settings.memory == "sequential":
        raise UserError(
            f"COGVIDEOX_MEMORY is sequential and {COMPILE_VARIABLE} is 1.",
            "Sequential offload interrupts the compiled code at every layer, which gains nothing.",
            "Choose another way to hold the model in memory, or do not compile it.",
        )
    return settings


def load_pipeline(
    weights: ReadyWeights,
    settings: PipelineSettings = DEFAULT_SETTINGS,
    *,
    text_encoder: bool = True,
    video: VideoSize | None = None,
    batch: int = 1,
) -> LoadedPipeline:
    """Load a weights folder in the way that suits this machine and `settings`; says how it is held.

    Args:
        text_encoder: False leaves it and its tokenizer out: the pipeline then takes embeddings.
        video: the largest that will be asked for; None: the largest that the variant can do.
        batch: how many of them at once.

    Raises:
        UserError: the folder is damaged.
    """

    def policy(sizes: ComponentSizes, free: int) -> MemoryPolicy:
        held = sizes if text_encoder else without_text_encoder(sizes)
        return memory_policy(weights.variant, held, free, settings.memory, video, batch)

    left_out = () if text_encoder else ("text_encoder", "tokenizer")
    loaded = _load(weights, settings, weights.variant.name, left_out, policy)
    if settings.compiled:
        _compile(loaded.pipe, loaded.policy)
    place(loaded.pipe, loaded.policy)
    return loaded


def load_text_encoder(
    weights: ReadyWeights, settings: PipelineSettings = DEFAULT_SETTINGS, *, prompts: int
) -> LoadedPipeline:
    """A pipeline that can encode `prompts` at once, and nothing else: it has no other weights.

    Raises:
        UserError: the folder is damaged.
    """

    def policy(sizes: ComponentSizes, free: int) -> MemoryPolicy:
        held = text_encoder_only(sizes)
        return encoding_policy(weights.variant, held, free, settings.memory, prompts)

    label = f"the text encoder of {weights.variant.name}"
    loaded = _load(weights, settings, label, ("transformer", "vae"), policy)
    place(loaded.pipe, loaded.policy)
    return loaded


def _load(
    weights: ReadyWeights,
    settings: PipelineSettings,
    label: str,
    left_out: tuple[str, ...],
    policy_for: Callable[[ComponentSizes, int], MemoryPolicy],
) -> LoadedPipeline:
    """A pipeline on the CPU, and where it is to be put; `policy_for` plans for a GPU's free bytes.

    Raises:
        UserError: the folder is damaged.
    """
    pipeline_class = _pipeline_class(weights.variant.task)
    import torch

    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = compute_dtype(weights.dtype, device, int8=settings.int8)
    if device == "cpu":
        policy = cpu_policy(settings.memory)
    else:
        sizes = component_sizes(weights.folder, weights.variant, dtype, int8=settings.int8)
        free, _ = torch.cuda.mem_get_info()
        policy = policy_for(sizes, free)
    int8 = " with int8 weights" if settings.int8 else ""
    _say(f"Loading {label} from {weights.folder} as {dtype}{int8}, {policy.reason}.")
    if policy.warning:
        _say(f"Warning: {policy.warning}")
    pipe = pipeline_class.from_pretrained(
        weights.folder,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        **dict.fromkeys(left_out),
    )
    pipe.set_progress_bar_config(disable=True)
    if settings.int8:
        quantize(pipe, device)
    return LoadedPipeline(pipe, weights.variant, policy)


def _compile(pipe: Any, policy: MemoryPolicy) -> None:
    if policy.placement == "sequential":
        _say("Not compiled: sequential offload interrupts the code at every layer.")
        return
    compile_blocks(pipe.transformer)
    _say("The first request of each size compiles the transformer's blocks: it takes longer.")


def prepare_libraries() -> None:
    """Keep diffusers and transformers, which are imported here, offline and quiet.

    Our own lines say what is loaded; bars make a mess of a container's log.
    """
    os.environ.update(_LIBRARIES)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _pipeline_class(task: Task) -> Any:
    prepare_libraries()
    import diffusers

    return getattr(diffusers, PIPELINES[task])


def _say(line: str) -> None:
    print(line, flush=True)
