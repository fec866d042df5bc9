"""What a caller of the training API asked for, checked before anything is unpacked."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from predictors.number_inputs import number, whole_number
from training.finetuning.settings import SAT_TARGETS, FinetuneSettings
from weights.errors import UserError

# Those of the signature in train.py. They are checked here again: in the mode that trains, Cog
# checks what comes in to /trainings, and lets through what comes in to /predictions.
MAX_STEPS = 100_000
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1e-8, 1.0
MAX_RANK = 1024
MIN_ALPHA, MAX_ALPHA = 0.001, 4096.0
MAX_BATCH = 64
MAX_SEED = 2**31 - 1
MAX_TRIGGER_CHARACTERS = 100
MAX_PROMPT_CHARACTERS = 10_000
# Those that need no options of their own.
LR_SCHEDULES = ("constant", "cosine", "linear")
TARGETS = {
    "attention": SAT_TARGETS,
    "attention+feed-forward": (*SAT_TARGETS, "ff.net.0.proj", "ff.net.2"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInputs:
    """The zip, how to read it, and how to train."""

    videos: Path
    trigger_word: str
    images: bool
    skip_bad: bool
    settings: FinetuneSettings


def validate(
    *,
    videos: object,
    trigger_word: str,
    steps: float,
    learning_rate: float,
    lr_schedule: str,
    targets: str,
    rank: float,
    alpha: float,
    batch_size: float,
    gradient_checkpointing: bool,
    validation_prompt: str,
    images: bool,
    skip_bad: bool,
    seed: float,
) -> TrainingInputs:
    """Check the inputs of one training; they are those of `train` in train.py.

    `videos` is what Cog hands over: the path of a temporary file, where the request had a URL or a
    data URI. Anything else that the request had arrives as it was sent, and is refused: reading a
    file whose name a stranger chose would show them this machine's files.

    Raises:
        UserError: an input can't be used.
    """
    whole_steps = whole_number("steps", steps, 1, MAX_STEPS)
    prompt = _text("validation_prompt", validation_prompt, MAX_PROMPT_CHARACTERS)
    return TrainingInputs(
        videos=_file(videos),
        trigger_word=_text("trigger_word", trigger_word, MAX_TRIGGER_CHARACTERS),
        images=bool(images),
        skip_bad=bool(skip_bad),
        settings=FinetuneSettings(
            steps=whole_steps,
            learning_rate=number(
                "learning_rate", learning_rate, MIN_LEARNING_RATE, MAX_LEARNING_RATE
            ),
            lr_schedule=_choice("lr_schedule", lr_schedule, LR_SCHEDULES),
            targets=TARGETS[_choice("targets", targets, TARGETS)],
            rank=whole_number("rank", rank, 1, MAX_RANK),
            alpha=number("alpha", alpha, MIN_ALPHA, MAX_ALPHA),
            batch=whole_number("batch_size", batch_size, 1, MAX_BATCH),
            checkpointing=bool(gradient_checkpointing),
            # Nobody can go on from a checkpoint: it goes with the training.
            save_every=whole_steps,
            validate_every=whole_steps if prompt else 0,
            validation_prompts=(prompt,) if prompt else (),
            seed=whole_number("seed", seed, 0, MAX_SEED),
        ),
    )


def _file(given: object) -> Path:
    if not isinstance(given, Path) or not given.is_file():
        raise UserError(
            "videos is not a file that was sent along.",
            "It must be the http or https URL of a zip, a data URI or an upload.",
            "Put the zip where it can be downloaded, or send one of up to 70 MB as "
            "data:application/zip;base64,….",
        )
    return given


def _choice(name: str, given: object, choices: Collection[str]) -> str:
    if not isinstance(given, str) or given not in choices:
        raise UserError(
            f"{name} is {str(given)[:40]}.",
            f"It is one of {', '.join(choices)}.",
            "Use one of these, or leave it out for the default.",
        )
    return given


def _text(name: str, given: object, most: int) -> str:
    if not isinstance(given, str) or len(given) > most:
        raise UserError(
            f"{name} is no text, or one of more than {most} characters.",
            f"A text of up to {most} characters is expected.",
            "Shorten it, or leave it out.",
        )
    return given.strip()
