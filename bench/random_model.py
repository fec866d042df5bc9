"""A model as a server holds it, of a random pipeline instead of a weights folder."""

from dataclasses import dataclass

from bench.random_pipeline import random_pipeline
from predictors.compilation import compile_blocks
from predictors.lora.adapters import Adapters
from predictors.memory import Device, MemoryPolicy, compute_dtype, cpu_policy, memory_policy
from predictors.memory_estimate import variant_sizes
from predictors.operator_settings import OperatorSettings
from predictors.pipeline import DEFAULT_SETTINGS, PipelineSettings
from predictors.placement import place
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.quantization import quantize
from predictors.video_model import VideoModel
from predictors.weights_source import INSTALLED
from weights.caching.cache import Cache
from weights.variants import Dtype, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a model is to be held; `dtype` None: as a server computes on this machine."""

    settings: PipelineSettings = DEFAULT_SETTINGS
    dtype: Dtype | None = None


def random_model(variant: Variant, setup: Setup, seed: int = 0) -> VideoModel:
    """The model of `variant` that a server holds which is set up like this.

    From `load_pipeline` it differs in that no file is read; what follows the reading is the same.
    """
    import torch

    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = setup.settings
    dtype = setup.dtype or compute_dtype(variant.dtype, device, int8=settings.int8)
    policy = _policy(variant, settings, device, dtype)
    # Offloading starts from the CPU; what stays on the GPU can be made there.
    home = device if policy.placement == "resident" else "cpu"
    pipe = random_pipeline(variant, device=home, dtype=dtype, seed=seed)
    if settings.int8:
        quantize(pipe, device)
    if settings.compiled:
        compile_blocks(pipe.transformer)
    place(pipe, policy)
    return VideoModel(
        pipe=pipe,
        variant=variant,
        policy=policy,
        settings=OperatorSettings(pipeline=settings),
        prompts=PromptEmbeddings(pipe, variant.text_tokens),
        adapters=Adapters(pipe.transformer, variant),
        cache=Cache(INSTALLED, None),
    )


def _policy(
    variant: Variant, settings: PipelineSettings, device: Device, dtype: Dtype
) -> MemoryPolicy:
    import torch

    if device == "cpu":
        return cpu_policy()
    free, _ = torch.cuda.mem_get_info()
    sizes = variant_sizes(variant, dtype, int8=settings.int8)
    return memory_policy(variant, sizes, free, settings.memory)
