"""What a server that trains settles once, before its first training."""

import os
from functools import cache
from pathlib import Path

from predictors.operator_settings import operator_settings
from predictors.outbound import guard_outbound
from predictors.received_files import limit_received_files
from predictors.video_model import DEFAULT_WEIGHTS
from predictors.weights_source import ReadyWeights, resolve_weights
from weights.variants import Task

# An hour of phone videos has about that much; the disk holds it a second time when it is unpacked.
MAX_ZIP_BYTES = 10_000_000_000
MAX_ZIP_SECONDS = 1800.0
# How Cog names the runner of an image in the image's environment, whichever mode it runs in.
_RUNNER_VARIABLE = "COG_PREDICT_TYPE_STUB"
RUNNER_TASKS: dict[str, Task] = {"predict_t2v.py": "t2v", "predict_i2v.py": "i2v"}


def prepare_server() -> None:
    """Install the weights that are trained on; from then on keep requests to their limits.

    Files of requests come from the public internet and what the operator lists, and are no larger
    than MAX_ZIP_BYTES.

    Raises:
        UserError: a variable of the operator's is malformed, or COGVIDEOX_WEIGHTS names nothing
            usable, or weights for another task than the image's.
        OperationError: the weights could not be installed.
    """
    base_model()


@cache
def base_model() -> ReadyWeights:
    """The weights that the image's runner serves, with the server prepared; see `prepare_server`.

    They are those that COGVIDEOX_WEIGHTS names, else the default of the runner, else that of
    text-to-video.
    """
    settings = operator_settings(os.environ)
    task = _task_of_image()
    source = os.environ.get("COGVIDEOX_WEIGHTS") or DEFAULT_WEIGHTS[task or "t2v"]
    base = resolve_weights(source, task)
    guard_outbound(settings.networks)
    limit_received_files(MAX_ZIP_BYTES, MAX_ZIP_SECONDS)
    print(f"Trainings are for {base.variant.name} ({base.variant.task}).", flush=True)
    return base


def _task_of_image() -> Task | None:
    file, _, _ = os.environ.get(_RUNNER_VARIABLE, "").rpartition(":")
    return RUNNER_TASKS.get(Path(file).name)
