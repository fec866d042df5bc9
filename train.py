"""What the training API accepts; everything else is in `training.finetuning`.

Cog reads this file without running it. In the signature of `train` it understands literals only and
one string literal per description: see cli/signature_rules.py.
"""

from cog import BaseModel, Input, Path, current_scope

from training.finetuning.training_request import train_lora
from training.finetuning.training_server import prepare_server


class TrainingOutput(BaseModel):  # type: ignore[misc]  # cog has no types of its own
    weights: Path


def train(
    videos: Path = Input(
        description="A zip of videos with their descriptions: a metadata.jsonl with file_name and prompt on each line, or folders videos/ and labels/ with 1.mp4 and 1.txt.",  # noqa: E501
    ),
    trigger_word: str = Input(
        description="A word that calls up what was learnt. It goes before each description that does not have it. Blank: none.",  # noqa: E501
        default="",
        max_length=100,
    ),
    steps: int = Input(
        description="Training steps.",
        default=1000,
        ge=1,
        le=100000,
    ),
    learning_rate: float = Input(
        description="How far a step goes. Lower it if videos come out broken, raise it if nothing is learnt.",  # noqa: E501
        default=0.001,
        ge=1e-8,
        le=1,
    ),
    lr_schedule: str = Input(
        description="How the learning rate goes on: it stays as it is, or falls to zero along half a cosine or a straight line.",  # noqa: E501
        default="constant",
        choices=["constant", "cosine", "linear"],
    ),
    targets: str = Input(
        description="Which layers the LoRA changes. With the feed-forward layers too it can learn more, and its file is more than twice as large.",  # noqa: E501
        default="attention",
        choices=["attention", "attention+feed-forward"],
    ),
    rank: int = Input(
        description="Size of the LoRA: what it can hold, and how large its file is.",
        default=128,
        ge=1,
        le=1024,
    ),
    alpha: float = Input(
        description="The LoRA acts with alpha / rank while it is trained; with lora_scale 1 it acts so ever after.",  # noqa: E501
        default=1,
        ge=0.001,
        le=4096,
    ),
    batch_size: int = Input(
        description="Videos per step. More take more memory and make a step steadier.",
        default=1,
        ge=1,
        le=64,
    ),
    gradient_checkpointing: bool = Input(
        description="Compute parts of a step twice instead of keeping them: far less memory, and slower by about a third.",  # noqa: E501
        default=True,
    ),
    validation_prompt: str = Input(
        description="A prompt for a video that is made at the end, with the LoRA, and packed beside it. Blank: none.",  # noqa: E501
        default="",
        max_length=10000,
    ),
    images: bool = Input(
        description="Train on the images in the zip too, each as a video of one frame.",
        default=False,
    ),
    skip_bad: bool = Input(
        description="Leave out videos that can't be used instead of refusing all.",
        default=False,
    ),
    seed: int = Input(
        description="The same seed and inputs give the same LoRA on the same machine.",
        default=42,
        ge=0,
        le=2147483647,
    ),
) -> TrainingOutput:
    tar = train_lora(locals(), record_metric=current_scope().record_metric)
    return TrainingOutput(weights=Path(tar))


# Cog calls it once, as it does with the setup of a runner.
train.setup = prepare_server  # type: ignore[attr-defined]
