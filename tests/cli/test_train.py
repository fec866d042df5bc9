"""`cogvideox train`: its options, its checks before anything starts, and a real run."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from cli.main import main
from cli.train import add_arguments, chosen_settings
from predictors.video import read_video, write_video
from training.finetuning.settings import FinetuneSettings
from training.nano.zigzag import write_zigzags
from weights.errors import UserError

QUICK = ["--steps", "2", "--rank", "4", "--tracker", "none"]


def write_clips(folder):
    """Two clips; the tiny tokenizer makes a token of every letter, of which there may be 16."""
    write_zigzags(folder, 2)
    for label in (folder / "labels").iterdir():
        label.write_text("zigzag\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_clips(folder)
    return folder


@pytest.fixture
def train(tiny_folder):
    return lambda *arguments: main(["train", *map(str, arguments), "--base", str(tiny_folder)])


def settings_of(*arguments, sat=()):
    parser = ArgumentParser()
    add_arguments(parser)
    return chosen_settings(parser.parse_args(arguments), dict(sat))


def test_without_options_the_settings_are_the_defaults():
    assert settings_of() == FinetuneSettings()


def test_a_full_fine_tune_has_sats_lower_learning_rate_unless_one_is_given():
    assert settings_of("--full").learning_rate == 1e-5
    assert settings_of("--full", "--learning-rate", "1e-4").learning_rate == 1e-4


def test_options_come_before_what_sats_files_say():
    sat = {"steps": 7, "rank": 16, "full": True}
    chosen = settings_of("--steps", "9", sat=sat.items())
    assert (chosen.steps, chosen.rank, chosen.full) == (9, 16, True)


def test_clips_are_encoded_in_tiles_where_that_is_asked_for():
    assert settings_of("--vae-tiling").vae_tiling


def test_the_options_of_a_schedule_are_numbers_lists_or_texts():
    options = ["--lr-option", "f_min=0.5", "--lr-option", "cycle_lengths=3,4"]
    chosen = settings_of("--lr-schedule", "sgm-linear", *options, "--lr-option", "step_rules=1:2")
    assert chosen.lr_options == {"f_min": 0.5, "cycle_lengths": [3.0, 4.0], "step_rules": "1:2"}
    with pytest.raises(UserError, match="NAME=VALUE"):
        settings_of("--lr-option", "f_min")


def test_a_folder_becomes_a_lora(train, data, tmp_path, capsys):
    assert train(data, tmp_path / "out", *QUICK) == 0
    result = capsys.readouterr().out.strip()
    assert result == str(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert Path(result).is_file()
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_zip_becomes_a_lora_and_a_sat_folder(train, data, tmp_path, capsys):
    archive = tmp_path / "clips.zip"
    with ZipFile(archive, "w") as file:
        for path in sorted(data.rglob("*.*")):
            file.write(path, path.relative_to(data))
    assert train(archive, tmp_path / "out", *QUICK, "--to", "sat", "--json") == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 2
    assert (tmp_path / "out" / "sat" / "latest").is_file()


def test_check_says_what_is_used_and_draws_it(train, data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "--check", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [clip["frames"] for clip in report["used"]] == [9, 9]
    assert Path(report["contact_sheet"]).is_file()
    assert train(data, tmp_path / "out", *QUICK) == 0


def test_a_bad_clip_is_named_before_anything_starts_or_left_out(train, data, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    write_clips(mixed)
    (mixed / "videos" / "000.mp4").write_bytes(b"no video")
    assert train(mixed, tmp_path / "out", *QUICK) == 2
    error = capsys.readouterr().err
    assert "000.mp4" in error
    assert "--skip-bad" in error
    assert not (tmp_path / "out" / "settings.json").exists()
    assert train(mixed, tmp_path / "out", "--check") == 2
    assert train(mixed, tmp_path / "out", *QUICK, "--skip-bad") == 0
    assert "000.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DATA is missing"),
        (["DATA"], "OUT is missing"),
        (["DATA", "OUT", "--frames", "10"], "--frames is 10"),
        (["DATA", "OUT", "--size", "64"], "--size is '64'"),
        (["DATA", "OUT", "--size", "32x32"], "nano makes 64x64"),
        (["DATA", "OUT", "--steps", "0"], "steps"),
        (["DATA", "OUT", "--targets", "nonsense"], "nonsense"),
        (["DATA", "OUT", "--precision", "fp16"], "fp16"),
        (["DATA", "OUT", "--eight-bit-optimizer"], "CUDA"),
        (["DATA", "OUT", "--to", "sat", "--targets", "to_q"], "SAT"),
        (["DATA", "OUT", "--to", "sat", "--full"], "--full"),
        (["DATA", "OUT", "--warmup-steps", "9", "--steps", "3"], "warm-up"),
        (["DATA", "OUT", "--tracker", "nonsense"], "nonsense"),
        (["/nowhere", "OUT"], "/nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_encoded(
    train, data, tmp_path, capsys, arguments, message
):
    places = {"DATA": data, "OUT": tmp_path / "out"}
    assert train(*(places.get(each, each) for each in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "cache").exists()


def test_a_base_is_needed(data, tmp_path, capsys):
    assert main(["train", str(data), str(tmp_path / "out")]) == 2
    assert "--base" in capsys.readouterr().err


def test_sats_files_are_followed_and_the_rest_is_listed(train, data, tmp_path, capsys):
    file = tmp_path / "sft.yaml"
    file.write_text(
        "args: {train_iters: 2, model_parallel_size: 1}\n"
        "deepspeed: {optimizer: {params: {lr: 0.0005}}, zero_optimization: {stage: 2}}\n"
    )
    assert train(data, tmp_path / "out", "--sat-config", file, "--rank", 4) == 0
    said = capsys.readouterr().err
    assert "learning_rate: 0.0005" in said
    assert "zero_optimization" in said
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]
    assert (settings["steps"], settings["learning_rate"]) == (2, 0.0005)


def test_the_warm_up_of_sats_files_follows_the_steps_that_are_taken(train, data, tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text("args: {train_iters: 1000, warmup: 0.5}\n")
    options = ["--steps", 4, "--rank", 4, "--tracker", "none"]
    assert train(data, tmp_path / "out", "--sat-config", file, *options) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]
    assert (settings["steps"], settings["warmup_steps"]) == (4, 2)


def test_ctrl_c_saves_and_the_same_command_goes_on(tiny_folder, data, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cli.main", "train", str(data), str(out)]
    command += ["--base", str(tiny_folder), "--steps", "100000", "--rank", "4"]
    log = out / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "same command goes on" in errors
    assert "Traceback" not in errors
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    import torch

    assert torch.load(out / "state.pt", weights_only=True)["step"] == last


def test_frames_of_another_rate_are_resampled(train, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    write_video(
        rng.integers(0, 255, (40, 64, 64, 3), np.uint8), tmp_path / "data" / "a.mp4", fps=30
    )
    line = {"file_name": "a.mp4", "prompt": "something"}
    (tmp_path / "data" / "metadata.jsonl").write_text(json.dumps(line))
    assert train(tmp_path / "data", tmp_path / "out", *QUICK, "--validate-every", "2") == 0
    frames, fps = read_video(tmp_path / "out" / "validation" / "step-000002" / "1.mp4")
    assert (len(frames), fps) == (9, 8)
