"""The served request against the bare pipeline: overhead, time to READY, the prompt cache.

    python benchmarks/serve.py
    python benchmarks/serve.py --rounds 20 --json

On nano, at the API's default settings, on the CPU. The bare pipeline runs in a process of its own,
and in each round every case runs once, in turn; the process that waits does nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# This file's own name would stand before the package's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from cli.nano import convert_nano, prepare_nano  # noqa: E402
from cli.prediction_client import Prediction, health, predict  # noqa: E402
from cli.runners import RUNNERS  # noqa: E402
from cli.server import running_server  # noqa: E402

PROMPT = "a red circle moving left"
# Asks for a clip per line of stdin and answers each with its seconds.
_BARE = """
import sys, time, torch
from diffusers import CogVideoXPipeline
pipe = CogVideoXPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
pipe.vae.enable_tiling()
for line in sys.stdin:
    started = time.perf_counter()
    pipe(
        line.strip(), width=64, height=64, num_frames=9, num_inference_steps=50, guidance_scale=6,
        use_dynamic_cfg=True, max_sequence_length=16,
        generator=torch.Generator().manual_seed(4), output_type="np",
    )
    print(time.perf_counter() - started, flush=True)
"""
# OpenMP keeps its threads spinning for a moment, on the cores that the next case needs.
_REST_SECONDS = 0.5
# What a bare start of a server would do, and no more.
_LOAD = """
import sys, torch
from diffusers import CogVideoXPipeline
CogVideoXPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
"""
_EMPTY_RUNNER = """
from cog import BaseRunner
class Runner(BaseRunner):
    def run(self, prompt: str) -> str:
        return prompt
"""


@contextmanager
def _bare_pipeline(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _BARE, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _bare_seconds(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(_REST_SECONDS)
    process.stdin.write(f"{PROMPT}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _served(url: str, prompt: str) -> tuple[float, Prediction]:
    # It is busy for a moment after it has answered, and the client waits before it asks again.
    while health(url).status != "READY":
        time.sleep(0.01)
    time.sleep(_REST_SECONDS)
    started = time.perf_counter()
    prediction = predict(url, {"prompt": prompt, "seed": 4})
    return time.perf_counter() - started, prediction


def _requests(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of a clip: bare, served with a kept prompt, and served with a new one."""
    seconds: dict[str, list[float]] = {
        "bare pipeline call": [],
        "request": [],
        "request, new prompt": [],
        "request, all but its stages": [],
        "encode_prompt, kept": [],
        "encode_prompt, new": [],
    }
    quiet = {"weights": str(folder), "on_line": lambda _: None}
    with _bare_pipeline(folder) as bare, running_server(RUNNERS["t2v"], **quiet) as server:
        _bare_seconds(bare)
        _served(server.url, PROMPT)
        for number in range(rounds):
            seconds["bare pipeline call"].append(_bare_seconds(bare))
            for name, prompt in (("", PROMPT), (", new prompt", f"{PROMPT} {number}")):
                whole, prediction = _served(server.url, prompt)
                stages = prediction.metrics["timing"]
                seconds[f"request{name}"].append(whole)
                seconds["request, all but its stages"].append(whole - sum(stages.values()))
                kind = "new" if name else "kept"
                seconds[f"encode_prompt, {kind}"].append(stages["encode_prompt"])
    return {name: statistics.median(values) for name, values in seconds.items()}


def _starts(folder: Path, lock: Path, rounds: int) -> dict[str, float]:
    """Median seconds until a process has loaded the weights: bare, and a server's until READY."""
    seconds: dict[str, list[float]] = {
        "from_pretrained in a fresh Python": [],
        "an empty runner READY": [],
        "the runner READY, from a warm install": [],
    }
    with tempfile.TemporaryDirectory() as directory:
        empty = Path(directory) / "runner.py"
        empty.write_text(_EMPTY_RUNNER)
        runners = {
            "an empty runner READY": type(RUNNERS["t2v"])(empty),
            "the runner READY, from a warm install": RUNNERS["t2v"],
        }
        for _ in range(rounds + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", _LOAD, str(folder)], check=True)
            seconds["from_pretrained in a fresh Python"].append(time.perf_counter() - started)
            for name, runner in runners.items():
                started = time.perf_counter()
                with running_server(runner, weights=str(lock), on_line=lambda _: None):
                    seconds[name].append(time.perf_counter() - started)
    # The first round installs the weights and fills the page cache.
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _table(results: dict[str, float], basis: str) -> str:
    lines = [f"| | s | times {basis} |", "|---|---|---|"]
    for name, seconds in results.items():
        lines.append(f"| {name} | {seconds:.3f} | {seconds / results[basis]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder, lock = convert_nano("nano", Path(directory)), prepare_nano("nano", Path(directory))
        requests = _requests(folder, options.rounds)
        starts = _starts(folder, lock, max(3, options.rounds // 3))
    if options.json:
        print(json.dumps({"requests": requests, "starts": starts}, indent=2))
        return
    overhead = requests["request"] - requests["bare pipeline call"]
    print(_table(requests, "bare pipeline call"))
    print(f"\nOverhead of a request: {overhead * 1e3:.0f} ms")
    print(f"\n{_table(starts, 'from_pretrained in a fresh Python')}")


if __name__ == "__main__":
    main()
