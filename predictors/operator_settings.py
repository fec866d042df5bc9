"""What the operator of a server settles by environment variables, read once, before any work."""

from collections.abc import Mapping
from dataclasses import dataclass

from predictors.lora.source import LoraPlaces, lora_places_from_environment
from predictors.outbound import Network, networks_from_environment
from predictors.pipeline import DEFAULT_SETTINGS, PipelineSettings, pipeline_settings
from predictors.weights_source import INSTALLED
from weights.caching.cache import Cache, cache_from_environment
from weights.errors import UserError

METADATA_VARIABLE = "COGVIDEOX_METADATA"
LOG_PROMPTS_VARIABLE = "COGVIDEOX_LOG_PROMPTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """The defaults are those of an environment without any of our variables.

    `cache`: where weights and LoRAs are kept. `metadata`: whether videos say how they were made.
    `log_prompts`: whether logs may have text of prompts.
    """

    pipeline: PipelineSettings = DEFAULT_SETTINGS
    networks: tuple[Network, ...] = ()
    lora_places: LoraPlaces = LoraPlaces()  # noqa: RUF009  # frozen
    cache: Cache = cache_from_environment(INSTALLED, {})  # noqa: RUF009  # frozen
    metadata: bool = True
    log_prompts: bool = True


def operator_settings(environment: Mapping[str, str]) -> OperatorSettings:
    """Read every variable; nothing is installed or loaded for it.

    Raises:
        UserError: one is malformed, or two contradict each other.
    """
    return OperatorSettings(
        pipeline=pipeline_settings(environment),
        networks=networks_from_environment(environment),
        lora_places=lora_places_from_environment(environment),
        cache=cache_from_environment(INSTALLED, environment),
        metadata=_switch(environment, METADATA_VARIABLE),
        log_prompts=_switch(environment, LOG_PROMPTS_VARIABLE),
    )


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "1"
    if value not in ("0", "1"):
        raise UserError(
            f"{name} is {value!r}.", "It must be 0 or 1.", "Leave it unset for the default, 1."
        )
    return value == "1"
