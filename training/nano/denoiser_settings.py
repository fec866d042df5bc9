"""The settings of the text-to-video and the image-to-video recipe."""

from dataclasses import dataclass

from conversion.number_ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE
from training.noise_schedule import TIMESTEPS
from training.setting_ranges import SEED, check_ranges

_RANGES = {
    "seed": SEED,
    "clips": COUNT,
    "batch": COUNT,
    "steps": COUNT,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "ema_decay": SHARE,
    "prompt_dropout": SHARE,
    "shape_weight": NOT_NEGATIVE,
    "opening_steps": NOT_NEGATIVE,
    "focus.share": SHARE,
    "focus.mean": (0, TIMESTEPS),
    "focus.spread": NOT_NEGATIVE,
    "guided.below": (0, TIMESTEPS),
    "guided.highest": COUNT,
    "own_predictions.from_step": NOT_NEGATIVE,
    "own_predictions.longest": (1, TIMESTEPS - 1),
    "save_every": COUNT,
}


@dataclass(frozen=True, slots=True)
class Focus:
    """Which timesteps are drawn more often: a `share` of them normally around `mean`."""

    share: float
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Guided:
    """For how many samples and up to which guidance the guided prediction is trained."""

    samples: int
    below: int
    highest: float


@dataclass(frozen=True, slots=True)
class OwnPredictions:
    """From when on and for how many samples the model learns from what it made itself.

    The step of sampling that made it starts between the timesteps `above` and `below` and goes down
    by `shortest` to `longest`.
    """

    from_step: int
    samples: int
    above: int
    below: int
    shortest: int
    longest: int


@dataclass(frozen=True, slots=True)
class DenoiserSettings:
    """text_to_video.yaml and image_to_video.yaml; the comments there say what each is.

    Raises:
        UserError: a number makes no sense.
    """

    seed: int
    clips: int
    batch: int
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    ema_decay: float
    prompt_dropout: float
    shape_weight: float
    opening_steps: int
    focus: Focus
    guided: Guided
    own_predictions: OwnPredictions
    save_every: int

    def __post_init__(self) -> None:
        own = self.own_predictions
        between = {
            "guided.samples": (0, self.batch),
            "own_predictions.samples": (0, self.batch - self.guided.samples),
            "own_predictions.below": (own.longest + 1, TIMESTEPS),
            "own_predictions.above": (own.longest, own.below - 1),
            "own_predictions.shortest": (1, own.longest),
        }
        check_ranges(self, _RANGES | between)
