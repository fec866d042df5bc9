"""Several processes train what one does, and a killed one goes on to the same bits."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.nano.zigzag import write_zigzags

KILLS = 10


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def command_for(data, out, base, *options):
    arguments = ["train", str(data), str(out), "--base", str(base), "--tracker", "none"]
    return [sys.executable, "-m", "cli.main", *arguments, "--rank", "4", *options]


def start(command, rank=0, world=1, port="0"):
    """A process as `accelerate launch` starts it, on the CPU."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if world > 1:
        environment |= {
            "ACCELERATE_USE_CPU": "true",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-2000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_zigzags(folder, 3)
    for number, label in enumerate(sorted((folder / "labels").iterdir())):
        label.write_text(f"clip {number}\n")
    return folder


def lora_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_two_processes_train_what_one_does(data, tiny_folder, tmp_path):
    cache = ["--steps", "3", "--cache", str(tmp_path / "cache")]
    port = free_port()
    pair = command_for(data, tmp_path / "pair", tiny_folder, *cache, "--batch", "1")
    finish(start(pair, 0, 2, port), start(pair, 1, 2, port))
    alone = command_for(data, tmp_path / "alone", tiny_folder, *cache, "--batch", "2")
    finish(start(alone))
    one, two = lora_of(tmp_path / "alone"), lora_of(tmp_path / "pair")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / run / "log.jsonl").read_text().splitlines()
        ]
        for run in ("alone", "pair")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_two_processes_stop_together_and_go_on_to_the_same_bits(data, tiny_folder, tmp_path):
    options = ["--steps", "100", "--ema-decay", "0.9", "--cache", str(tmp_path / "cache")]

    def both(out):
        port, command = free_port(), command_for(data, out, tiny_folder, *options)
        return start(command, 0, 2, port), start(command, 1, 2, port)

    finish(*both(tmp_path / "whole"))
    processes = both(tmp_path / "stopped")
    log = tmp_path / "stopped" / "log.jsonl"
    while not (log.is_file() and log.stat().st_size) and processes[0].poll() is None:
        os.sched_yield()
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=100)
        assert process.returncode == 130
    assert len(log.read_text().splitlines()) < 100
    finish(*both(tmp_path / "stopped"))
    whole, stopped = (lora_of(tmp_path / run) for run in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_weights_spread_over_processes_are_saved_whole_and_restored(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("sharded_weights.py")), str(tmp_path)]
    finish(*(start([*command, str(rank)]) for rank in range(2)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_killed_at_any_step_ends_with_the_bits_of_one_that_was_not(
    data, tiny_folder, tmp_path
):
    options = ["--steps", "40", "--save-every", "3", "--cache", str(tmp_path / "cache")]
    finish(start(command_for(data, tmp_path / "whole", tiny_folder, *options)))
    wanted = (tmp_path / "whole" / "pytorch_lora_weights.safetensors").read_bytes()
    rng = random.Random(0)
    for number in range(KILLS):
        out = tmp_path / f"killed-{number}"
        log = out / "log.jsonl"
        at = rng.randrange(1, 40)
        process = start(command_for(data, out, tiny_folder, *options))
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            if log.is_file() and log.read_bytes().count(b"\n") >= at:
                break
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finish(start(command_for(data, out, tiny_folder, *options)))
        assert (out / "pytorch_lora_weights.safetensors").read_bytes() == wanted
        assert (out / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
