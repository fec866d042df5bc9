"""What Cog serves of this repository: a runner per task, and the training of every model."""

import inspect
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Literal

from weights.variants import Task

Mode = Literal["predict", "train"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class RunnerFile:
    """A Python file and what Cog calls in it.

    In the mode `predict` that is the method `run` of the class `name`, in the mode `train` the
    function `name`.
    """

    path: Path
    name: str = "Runner"
    mode: Mode = "predict"

    @property
    def reference(self) -> str:
        """As Cog writes it: `path.py:Class` or `path.py:function`."""
        return f"{self.path}:{self.name}"

    def signature(self) -> inspect.Signature:
        """The signature of what is called, from the file loaded as Cog loads it: by its path."""
        spec = spec_from_file_location(self.path.stem, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        target = getattr(module, self.name)
        return inspect.signature(target if self.mode == "train" else target.run)


RUNNERS: dict[Task, RunnerFile] = {
    "t2v": RunnerFile(ROOT / "predict_t2v.py"),
    "i2v": RunnerFile(ROOT / "predict_i2v.py"),
}
# One for all images: what it trains is the model that the image's runner serves.
TRAINER = RunnerFile(ROOT / "train.py", "train", "train")
ENDPOINTS: dict[str, RunnerFile] = {
    "t2v": RUNNERS["t2v"],
    "i2v": RUNNERS["i2v"],
    "train": TRAINER,
}
