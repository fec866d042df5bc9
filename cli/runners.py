"""The runners of this repository: the classes that Cog serves, one per task."""

import inspect
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from weights.variants import Task

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class RunnerFile:
    """A Python file and the name of the runner class in it."""

    path: Path
    class_name: str = "Runner"

    @property
    def reference(self) -> str:
        """As Cog writes it: `path.py:Class`."""
        return f"{self.path}:{self.class_name}"

    def run_signature(self) -> inspect.Signature:
        """The signature of `run`, from the file loaded as Cog loads it: by its path."""
        spec = spec_from_file_location(self.path.stem, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return inspect.signature(getattr(module, self.class_name).run)


RUNNERS: dict[Task, RunnerFile] = {
    "t2v": RunnerFile(ROOT / "predict_t2v.py"),
    "i2v": RunnerFile(ROOT / "predict_i2v.py"),
}
