"""What a runner holds from setup on: a pipeline, the rules it follows and what it keeps."""

import os
from dataclasses import dataclass
from typing import Any

from predictors.health import healthy
from predictors.lora.adapters import Adapters
from predictors.memory import MemoryPolicy
from predictors.operator_settings import OperatorSettings, operator_settings
from predictors.outbound import guard_outbound
from predictors.pipeline import load_pipeline
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.received_files import limit_received_files
from predictors.weights_source import ReadyWeights, resolve_weights
from weights.caching.cache import Cache
from weights.variants import Task, Variant

DEFAULT_WEIGHTS: dict[Task, str] = {"t2v": "cogvideox-5b", "i2v": "cogvideox-5b-i2v"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoModel:
    """A pipeline in memory with all that its requests share.

    `prompts` keeps text embeddings, `adapters` puts LoRAs in and out, `cache` has their files.
    """

    pipe: Any
    variant: Variant
    policy: MemoryPolicy
    settings: OperatorSettings
    prompts: PromptEmbeddings
    adapters: Adapters
    cache: Cache

    def is_healthy(self) -> bool:
        return healthy(self.policy.device)


def load_from_environment(task: Task) -> VideoModel:
    """Load the weights that COGVIDEOX_WEIGHTS names for `task`, installing them if needed.

    From then on this process connects only to the public internet and to what the operator lists.

    Raises:
        UserError: a variable of the operator's is malformed, or COGVIDEOX_WEIGHTS names nothing
            usable, or weights for another task.
        OperationError: the weights could not be installed.
    """
    settings = operator_settings(os.environ)
    weights = resolve_weights(os.environ.get("COGVIDEOX_WEIGHTS") or DEFAULT_WEIGHTS[task], task)
    model = load_model(weights, settings)
    guard_outbound(settings.networks)
    limit_received_files()
    return model


def load_model(weights: ReadyWeights, settings: OperatorSettings) -> VideoModel:
    """Load a weights folder as `settings` say.

    Raises:
        UserError: the folder is damaged.
    """
    loaded = load_pipeline(weights, settings.pipeline)
    return VideoModel(
        pipe=loaded.pipe,
        variant=loaded.variant,
        policy=loaded.policy,
        settings=settings,
        prompts=PromptEmbeddings(loaded.pipe, loaded.variant.text_tokens),
        adapters=Adapters(loaded.pipe.transformer, loaded.variant),
        cache=settings.cache,
    )
