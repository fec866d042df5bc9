"""The README.md beside a fine-tuning's result: what it is, how to use it, how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import yaml

from training.finetuning.markdown_text import as_markdown, code_block, one_line
from training.finetuning.usage import Usage, diffusers_code, server_commands
from weights.variants import Variant

_TASKS = {"t2v": "text-to-video", "i2v": "image-to-video"}
_NO_PROMPT = "what the video shows"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationClip:
    """A clip made in training: its prompt, and its path relative to the card."""

    prompt: str
    path: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card says. All texts may be anyone's."""

    title: str
    result: str
    """The name of the LoRA's file beside the card, or that of the weights folder."""
    full: bool
    variant: Variant
    base: str
    """The weights that were trained on, as --base named them."""
    settings: Mapping[str, Any]
    clips: int
    frames: int
    width: int
    height: int
    fps: int
    trigger_prompts: tuple[str, ...]
    final_loss: float
    minutes: float
    machine: str
    validation: tuple[ValidationClip, ...]


def model_card(facts: CardFacts) -> str:
    """The card's Markdown, with the front matter that Hugging Face reads."""
    sections = [
        f"---\n{_front_matter(facts)}---",
        f"# {as_markdown(facts.title)}",
        _summary(facts),
        *_triggers(facts),
        *_usage(facts),
        *_validation(facts),
        *_training(facts),
        f"## Licence\n\n{_licence(facts.variant)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts) -> str:
    """YAML; the fields are those of Hugging Face's model cards."""
    variant = facts.variant
    fields: dict[str, Any] = _licence_fields(variant)
    if variant.repository:
        fields["base_model"] = variant.repository
        fields["base_model_relation"] = "finetune" if facts.full else "adapter"
    fields["library_name"] = "diffusers"
    fields["pipeline_tag"] = _TASKS[variant.task]
    fields["tags"] = ["cogvideox", "diffusers", _TASKS[variant.task]]
    if not facts.full:
        fields["tags"].append("lora")
    if facts.trigger_prompts:
        fields["instance_prompt"] = one_line(facts.trigger_prompts[0])
    if facts.validation:
        fields["widget"] = [
            {"text": one_line(clip.prompt), "output": {"url": _address(clip.path)}}
            for clip in facts.validation
        ]
    # Without a width: a line that was broken could begin with the end of the front matter.
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=float("inf"))


def _licence_fields(variant: Variant) -> dict[str, Any]:
    if variant.licence.startswith("Apache-2.0"):
        return {"license": "apache-2.0"}
    return {
        "license": "other",
        "license_name": "cogvideox-license",
        "license_link": "https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE",
    }


def _licence(variant: Variant) -> str:
    link = _licence_fields(variant).get("license_link")
    licence = f"[{variant.licence}]({link})" if link else variant.licence
    return f"That of the base model, `{variant.name}`: {licence}."


def _summary(facts: CardFacts) -> str:
    what = "A fine-tune" if facts.full else "A LoRA"
    return (
        f"{what} of `{facts.variant.name}` ({_TASKS[facts.variant.task]}), made by "
        f"`cogvideox train` of cog-cogvideox {version('cog-cogvideox')} from the weights "
        f"{as_markdown(facts.base)}. "
        + (
            f"The weights folder is {as_markdown(facts.result)}."
            if facts.full
            else f"The file is {as_markdown(facts.result)}; at scale 1.0 it acts as it was trained."
        )
    )


def _triggers(facts: CardFacts) -> list[str]:
    if not facts.trigger_prompts:
        return []
    prompts = "\n".join(f"- {as_markdown(prompt)}" for prompt in facts.trigger_prompts)
    return ["Prompts that it was trained for:", prompts]


def _usage(facts: CardFacts) -> list[str]:
    usage = Usage(
        variant=facts.variant,
        result=facts.result,
        full=facts.full,
        base=facts.base,
        prompt=facts.trigger_prompts[0] if facts.trigger_prompts else _NO_PROMPT,
        frames=facts.frames,
        width=facts.width,
        height=facts.height,
    )
    return [
        "## Use",
        "On a Cog server, from the folder of this card:",
        code_block("sh", server_commands(usage)),
        "With diffusers:",
        code_block("python", diffusers_code(usage)),
    ]


def _validation(facts: CardFacts) -> list[str]:
    if not facts.validation:
        return []
    clips = [
        f'<video src="{_address(clip.path)}" controls loop muted></video>\n\n'
        f"[{as_markdown(clip.path.name)}]({_address(clip.path)}): {as_markdown(clip.prompt)}"
        for clip in facts.validation
    ]
    return ["## Validation clips", "Made in training, one for each prompt, not picked.", *clips]


def _address(path: PurePosixPath) -> str:
    """The path as a relative URL, which no character of it can leave."""
    assert not path.is_absolute(), f"{path} is not relative to the card"
    assert ".." not in path.parts, f"{path} leaves the card's folder"
    return quote(path.as_posix(), errors="surrogateescape")


def _training(facts: CardFacts) -> list[str]:
    rows = "\n".join(
        f"| {as_markdown(name)} | {as_markdown(_shown(value))} |"
        for name, value in facts.settings.items()
    )
    return [
        "## Training",
        f"{facts.clips} clips of {facts.frames} frames, {facts.width}×{facts.height} at "
        f"{facts.fps} fps. Final loss {facts.final_loss:.4g}. {facts.minutes:.1f} minutes on "
        f"{as_markdown(facts.machine)}.",
        f"| setting | value |\n|---|---|\n{rows}",
    ]


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
