"""Reads every picture of a folder and says what came of it, as JSON lines.

Usage: python measure_images.py FOLDER

The pictures are read through `read_image`, two at a time, the expensive ones last. The peak of a
line is the largest resident memory in bytes that any decoder had needed until then (getrusage,
RUSAGE_CHILDREN). This process must stay smaller than they are: a child starts with its parent's.
"""

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from predictors.input_image import read_image
from weights.errors import UserError


def _measured(path: Path) -> dict[str, object]:
    started = time.perf_counter()
    report: dict[str, object] = {"name": path.name}
    try:
        image = read_image(path)
        report |= {"outcome": "read", "mode": image.mode, "size": image.size}
    except UserError as error:
        sentences = (error.given, error.expected, error.remedy)
        report |= {"outcome": type(error).__name__, "sentences": sentences}
    except BaseException as error:
        report |= {"outcome": type(error).__name__, "sentences": [str(error)[:300]]}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return report | {"seconds": time.perf_counter() - started, "peak": peak}


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).iterdir())
    expensive = [path for path in paths if path.name.startswith("expensive-")]
    cheap = [path for path in paths if path not in expensive]
    with ThreadPoolExecutor(2) as readers:
        for group in (cheap, expensive):
            for report in readers.map(_measured, group):
                print(json.dumps(report), flush=True)
