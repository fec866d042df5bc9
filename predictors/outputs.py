"""Where finished files wait until Cog has sent them."""

import tempfile
import time
import uuid
from pathlib import Path

# Cog never deletes what a prediction returns; an hour is far more than any upload takes.
KEEP_SECONDS = 3600


def output_directory() -> Path:
    """The one directory our outputs lie in, below the temporary directory."""
    return Path(tempfile.gettempdir()) / "cogvideox-outputs"


def new_output(suffix: str) -> Path:
    """A path for one output that no other has, its directory made and rid of old outputs.

    The name is unique everywhere, because Cog uploads a file under its own name.
    """
    directory = output_directory()
    directory.mkdir(parents=True, exist_ok=True)
    _remove_older_than(directory, time.time() - KEEP_SECONDS)
    return directory / f"video-{uuid.uuid4().hex}{suffix}"


def _remove_older_than(directory: Path, moment: float) -> None:
    for path in directory.iterdir():
        # Another server of this machine may sweep the same directory at the same time.
        try:
            if path.stat().st_mtime < moment:
                path.unlink()
        except FileNotFoundError:
            continue
