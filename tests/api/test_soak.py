"""Hundreds of mixed predictions on one server: memory is flat, nothing is left, nothing drifts."""

import random
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import torch
from safetensors.torch import save_file

from cli.prediction_client import health, predict
from cli.runners import RUNNERS
from cli.server import running_server
from weights.errors import OperationError
from weights.variants import VARIANTS

NANO = VARIANTS["nano"]
REFERENCE = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 11}
LARGEST_GROWTH = 40e6
"""Bytes that the worker may grow over the whole run: about two decodes' worth of scratch space."""


def write_lora(path, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(NANO.num_layers):
        for module in ("to_q", "to_k", "to_v", "to_out.0"):
            name = f"transformer.transformer_blocks.{block}.attn1.{module}"
            for side, shape in (("A", (4, NANO.hidden_size)), ("B", (NANO.hidden_size, 4))):
                tensors[f"{name}.lora_{side}.weight"] = torch.randn(shape, generator=generator) / 9
    save_file(tensors, path)


def random_inputs(rng, loras):
    return {
        "prompt": rng.choice(["a red circle", "a blue square moving up", "a" * rng.randint(1, 99)]),
        "negative_prompt": rng.choice(["", "a green triangle"]),
        "num_inference_steps": rng.randint(1, 4),
        "guidance_scale": rng.choice([1, 3, 6]),
        "scheduler": rng.choice(["auto", "dpm", "ddim"]),
        "seed": rng.randrange(2**31),
        "speed": rng.choice(["quality", "balanced", "fast"]),
        "output_format": rng.choice(["mp4", "webm", "gif"]),
        "lora": rng.choice(["", "", *loras]),
        "lora_scale": rng.choice([0.5, 1]),
    }


def cancel_one(server, lines, number):
    position = lines.position()
    url = f"{server.url}/predictions/soak-{number}"
    body = {"input": {"prompt": "x", "num_inference_steps": 500}}
    headers = {"Prefer": "respond-async"}
    while requests.put(url, json=body, headers=headers, timeout=30).status_code == 409:
        pass
    lines.wait_for("step 10/500", since=position)
    requests.post(f"{url}/cancel", timeout=10).raise_for_status()


def worker_bytes(server):
    """Resident memory of all the server's processes."""
    family = [psutil.Process(server.process.pid)]
    family += family[0].children(recursive=True)
    return sum(process.memory_info().rss for process in family)


@pytest.mark.parametrize(
    "predictions", [30, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_long_run_changes_nothing(
    predictions, tiny_folder, tmp_path, monkeypatch, recorded_lines
):
    loras = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(loras):
        write_lora(path, seed)
    monkeypatch.setenv("COGVIDEOX_LORA_PATHS", str(tmp_path))
    rng, memory = random.Random(0), []
    with running_server(
        RUNNERS["t2v"], weights=str(tiny_folder), on_line=recorded_lines.add
    ) as server:
        first = predict(server.url, REFERENCE).output
        for number in range(predictions):
            kind = rng.random()
            if kind < 0.10:
                cancel_one(server, recorded_lines, number)
            elif kind < 0.15:
                with pytest.raises(OperationError):
                    predict(server.url, REFERENCE | {"num_frames": 12})
            else:
                predict(server.url, random_inputs(rng, [str(path) for path in loras]))
            memory.append(worker_bytes(server))
        assert predict(server.url, REFERENCE).output == first
        assert health(server.url).status in ("READY", "BUSY")
        (temporary,) = Path("/proc", str(server.process.pid), "cwd").resolve().glob("tmp")
        left = [
            path for path in temporary.iterdir() if not path.name.startswith("cogvideox-outputs-")
        ]
    assert left == []
    # The first third warms caches and the allocator up.
    settled = np.array(memory[predictions // 3 :])
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    print(
        f"{predictions} predictions: {slope / 1e3:+.1f} kB each, {memory[-1] / 1e6:.0f} MB at last"
    )
    if predictions >= 300:
        assert slope * predictions < LARGEST_GROWTH
