"""The folder of a training run: its settings, its log, and the state it goes on from."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from weights.atomic import replacing
from weights.errors import UserError


class RunFolder:
    """A new run in `path`, or the one there if that has the same settings.

    What `beside` names may be in the folder before there is a run.

    Raises:
        UserError: `path` holds another run, or something else.
        OSError: the folder can't be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], beside: Collection[str] = ()) -> None:
        self.path = path
        self._settings_file = path / "settings.json"
        text = json.dumps(settings, indent=2).encode()
        if path.exists() and not path.is_dir():
            raise UserError(
                f"{path} is a file.",
                "A new or empty folder is expected, or the run that is to go on.",
                "Choose another path.",
            )
        if path.exists() and any(entry.name not in beside for entry in path.iterdir()):
            known = self._settings_file.read_bytes() if self._settings_file.is_file() else None
            if known != text:
                what = "no training run" if known is None else "a run with other settings"
                raise UserError(
                    f"{path} holds {what}.",
                    "A new or empty folder is expected, or the run that is to go on.",
                    "Choose another folder, or remove this one.",
                )
        path.mkdir(parents=True, exist_ok=True)
        with replacing(self._settings_file) as file:
            file.write(text)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None for a run that begins.

        What was logged after it is done again, and logged again, so it leaves the log.
        """
        path = self.path / "state.pt"
        if not path.is_file():
            (self.path / "log.jsonl").unlink(missing_ok=True)
            return None
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        self._drop_lines_after(int(state["step"]))
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Save the state to go on from; `state` has `step`, the steps done."""
        with replacing(self.path / "state.pt") as file:
            torch.save(state, file)

    def log(self, **values: Any) -> None:
        """Add a line to log.jsonl; `step` is one of the values."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(f"{json.dumps(values)}\n")

    def _drop_lines_after(self, step: int) -> None:
        path = self.path / "log.jsonl"
        if not path.is_file():
            return
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)
