"""How strongly a LoRA was trained to act, so that a request's scale of 1.0 means "as trained".

Every trainer multiplies B·A by alpha / rank (rank-stabilised LoRA by alpha / √rank) and most lose
the alpha on the way: what is written down wins, and a note says what was assumed otherwise.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weights.adapter_names import Style
from weights.errors import UserError
from weights.json_file import parse_object

# diffusers' `save_lora_weights` writes PEFT's LoraConfig as JSON under this key of the metadata,
# each field after the name of the model it is for; `save_lora_adapter` writes it bare.
CONFIG_KEY = "lora_adapter_metadata"
_PREFIX = "transformer."


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What a LoraConfig says about the scale, and about the model that was trained.

    `alpha_pattern` gives single modules another alpha, by the end of their name.
    """

    alpha: float
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    base_model: str | None


def read_config(metadata: Mapping[str, str]) -> PeftConfig | None:
    """The LoraConfig in a file's metadata; None where there is none.

    Raises:
        UserError: it is not valid, or speaks of what is not supported here.
    """
    text = metadata.get(CONFIG_KEY)
    if text is None:
        return None
    try:
        fields = {name.removeprefix(_PREFIX): v for name, v in parse_object(text.encode()).items()}
        config = PeftConfig(
            alpha=_positive(fields.get("lora_alpha")),
            alpha_pattern=_patterns(fields.get("alpha_pattern") or {}),
            rank_stabilised=bool(fields.get("use_rslora")),
            base_model=_text(fields.get("base_model_name_or_path")),
        )
    except ValueError as error:
        raise UserError(
            f"The LoRA's {CONFIG_KEY} cannot be used ({error}).",
            "The LoraConfig of PEFT is expected there, with a positive lora_alpha.",
            "Save the LoRA again with diffusers, or remove this metadata from the file.",
        ) from None
    return config


def _positive(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"lora_alpha is {str(value)[:40]}")
    return float(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _patterns(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError("alpha_pattern is not an object")
    # PEFT takes regular expressions. Run on anyone's file, one could keep the server busy for
    # hours; what PEFT and diffusers write themselves is names.
    for pattern in value:
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise ValueError(f"alpha_pattern has the expression {pattern[:40]!r}")
    return {pattern: _positive(alpha) for pattern, alpha in value.items()}


def _alpha(config: PeftConfig, module: str) -> float:
    for pattern, alpha in config.alpha_pattern.items():
        if module == pattern.removeprefix("^") or module.endswith(f".{pattern}"):
            return alpha
    return config.alpha


def trained_scales(
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    config: PeftConfig | None,
    style: Style,
) -> tuple[dict[str, float], str | None]:
    """What each module's B·A was multiplied with in training, and a note if that had to be assumed.

    Args:
        ranks: by module.
        alphas: by module, from `.alpha` tensors; a module without has alpha = rank, as in kohya's.

    Raises:
        UserError: an alpha is not a positive number.
    """
    for module, alpha in alphas.items():
        if not math.isfinite(alpha) or alpha <= 0:
            raise UserError(
                f"The LoRA's alpha for {module} is {alpha}.",
                "A positive number is expected.",
                "Check that the file is whole, and save it again if it was edited.",
            )
    if alphas:
        return {module: alphas.get(module, rank) / rank for module, rank in ranks.items()}, None
    if config:
        return {
            module: _alpha(config, module) / (math.sqrt(rank) if config.rank_stabilised else rank)
            for module, rank in ranks.items()
        }, None
    if style == "SAT":
        note = "It does not record its alpha: SAT's default of 1 is assumed."
        return {module: 1 / rank for module, rank in ranks.items()}, note
    note = "It does not record its alpha: alpha = rank is assumed, as diffusers does."
    return dict.fromkeys(ranks, 1.0), note
