"""`cogvideox sample`: options become a command, results an exit code; typed prompts, signals."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from cli import sample
from cli.main import main
from cli.openapi_schema import input_properties, openapi_document
from cli.runners import ROOT, RUNNERS
from predictors.input_image import ImageFit
from predictors.memory_estimate import VideoSize
from predictors.request import MAX_SEED, Scheduler
from predictors.speed import Speed
from predictors.video import OUTPUT_FORMATS, read_metadata
from sampling import chosen_command, job_plan, options
from sampling.parallel.layouts import Layout
from sampling.prepared_run import SampleCommand
from tests.sampling.sampling_runs import DenoiserStub, prepared, prompt_file, records, videos
from tests.test_guides import blocks, commands
from weights.errors import UserError

QUICK = ["--num-inference-steps", "2"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def run(tiny_folder):
    """The verb on a tiny model."""
    return lambda *arguments: main(
        ["sample", *map(str, arguments), "--weights", str(tiny_folder), *QUICK]
    )


@pytest.fixture
def stubs(monkeypatch):
    """The denoiser and all around it is a stub; gives the stubs of the runs."""
    made = []

    def stub(settings):
        made.append(DenoiserStub(Namespace(settings=settings)))
        return made[-1]

    monkeypatch.setattr("sampling.run.SequentialExecutor", stub)
    return made


def parsed(*arguments):
    parser = ArgumentParser()
    sample.add_arguments(parser)
    return parser.parse_args(arguments)


def command_of(*arguments):
    return chosen_command.chosen_command(parsed(*arguments))


def test_the_options_of_a_request_are_the_apis():
    properties = input_properties(openapi_document(RUNNERS["i2v"]))
    assert set(options.REQUEST_OPTIONS) == properties.keys() - {"prompt", "image", "seed"}
    assert ("auto", *get_args(Scheduler), *job_plan.SAT_SAMPLERS) == options.SCHEDULERS
    assert get_args(Speed) == options.SPEEDS
    assert options.OUTPUT_FORMATS == OUTPUT_FORMATS
    assert get_args(ImageFit) == options.IMAGE_FITS
    assert (options.DEFAULT_SEED, options.MAX_SEED) == (job_plan.DEFAULT_SEED, MAX_SEED)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from cli.main import main\n"
        "try: main(['sample', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'av', 'diffusers', 'numpy', 'ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: cogvideox sample" in done.stdout


def test_without_options_nothing_is_given(monkeypatch):
    monkeypatch.delenv("COGVIDEOX_WEIGHTS", raising=False)
    command = command_of("prompts.txt", "out")
    assert command == SampleCommand(
        prompts=Path("prompts.txt"),
        out="out",
        weights="nano",
        check_variant=command.check_variant,
    )
    assert command_of("prompts.txt", "out", "--task", "i2v").weights == "nano-i2v"
    monkeypatch.setenv("COGVIDEOX_WEIGHTS", "cogvideox-5b")
    assert command_of("prompts.txt", "out").weights == "cogvideox-5b"
    assert command_of("prompts.txt", "out", "--weights", "folder").weights == "folder"


def test_options_are_fields_of_every_line():
    command = command_of(
        *("prompts.txt", "out", "--num-frames", "9", "--no-dynamic-guidance"),
        *("--negative-prompt", "blurry", "--scheduler", "sat", "--seed", "7", "--batch", "4"),
    )
    assert command.defaults == {
        "num_frames": 9,
        "dynamic_guidance": False,
        "negative_prompt": "blurry",
        "scheduler": "sat",
    }
    assert (command.seed, command.batch) == (7, 4)


def test_a_lora_of_ones_own_may_be_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora = tmp_path.resolve() / "my.safetensors"
    lora.touch()
    command = command_of("prompts.txt", "out", "--lora", "my.safetensors")
    assert command.defaults == {"lora": str(lora)}
    assert command.lora_paths == (lora.parent,)
    assert command_of("prompts.txt", "out", "--lora", "me/repo").lora_paths == ()


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], "PROMPTS is missing"),
        (["prompts.txt"], "OUT is missing"),
        (["prompts.txt", "out", "--batch", "0"], "--batch is 0"),
        (["prompts.txt", "out", "--seed", "-1"], "--seed is -1"),
        (["prompts.txt", "out", "--workers", "2"], "--workers is given without --ray"),
        (["prompts.txt", "out", "--ray", "--workers", "0"], "--workers is 0"),
        (["prompts.txt", "out", "--parallel", "1"], "--parallel is 1"),
        (["prompts.txt", "out", "--ray", "--parallel", "2"], "--ray and --parallel are both given"),
        (["prompts.txt", "out", "--inference", "a.yaml"], "--inference is given without"),
        (["-", "out", "--parallel", "2"], "PROMPTS is - and --parallel is given"),
        (["-", "out", "--batch", "2"], "PROMPTS is - and --batch is given"),
        (["-", "out", "--overwrite"], "PROMPTS is - and --overwrite is given"),
        (["-", "out", "--retry-failed"], "PROMPTS is - and --retry-failed is given"),
        (["-", "out", "--lora", "none.safetensors"], "There is no file none.safetensors"),
        (["prompts.txt", "out", "--lora", f"/{'a' * 300}"], "There is no file /aaa"),
        (["none.txt", "out"], "none.txt can't be read"),
        (["none.txt", "ftp://host/out"], "ftp://host/out can't be written to"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(
    run, tmp_path, monkeypatch, capsys, arguments, given
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert given in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_stdout_has_the_manifest_and_stderr_what_happened(run, stubs, tmp_path, out, capsys):
    assert run(prompt_file(tmp_path, 2), out) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}/manifest.jsonl\n"
    assert "2 lines: 2 clips made, 0 there before, 0 failed." in said.err
    assert stubs[0].closed


def test_some_failures_are_exit_code_1_and_the_first_are_named(run, stubs, tmp_path, out, capsys):
    prompts = prompt_file(tmp_path, 1)
    with prompts.open("a") as file:
        file.write('{"prompt": "a circle", "num_frames": 10}\n')
    assert run(prompts, out, "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["lines"], report["made"], report["failed"]) == (2, 1, 1)
    assert report["failures"][0]["line"] == 2
    assert f"Line 2: {prompts}, line 2: num_frames is 10." in said.err


def test_the_same_command_goes_on_after_ctrl_c(run, stubs, tmp_path, out, capsys, monkeypatch):
    prompts = prompt_file(tmp_path, 3)
    real = DenoiserStub._record

    def interrupted(self, job):
        if job.line == 2 and len(stubs) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, job)

    monkeypatch.setattr(DenoiserStub, "_record", interrupted)
    assert run(prompts, out) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert "interrupted. The same command goes on from here." in said.err
    assert sorted(videos(out)) == ["000001.mp4"]
    assert stubs[0].closed
    assert run(prompts, out) == 0
    assert stubs[1].sampled == [2, 3]


def test_sigterm_before_anything_is_sampled_is_130_too(run, tmp_path, out, monkeypatch, capsys):
    def preparing(command):
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        monkeypatch.setattr("sampling.prepared_run.prepare_run", preparing)
        assert run(prompt_file(tmp_path, 1), out) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "The same command goes on" in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported_is_130_too(run, tmp_path, out, monkeypatch):
    class Interrupted(ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "sampling.run", Interrupted("sampling.run"))
    assert run(prompt_file(tmp_path, 1), out) == 130


def test_a_real_run_through_the_verb(run, tmp_path, out):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed,output_format\na circle,7,\na square,,webm\n")
    assert run(prompts, out, "--batch", "2") == 0
    assert read_metadata(out / "000001.mp4")["seed"] == "7"
    assert read_metadata(out / "000002.webm")["seed"] == "44"


def test_prompts_are_typed_one_by_one(run, out, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a circle\n\na square\n"))
    assert run("-", out, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["made"] == 2
    assert "Line 1: 000001.mp4 in" in said.err
    assert "> " not in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("a circle\n"))
    assert run("-", out) == 0
    assert {record["line"]: record["seed"] for record in records(out)} == {1: 43, 2: 44, 3: 45}
    assert sorted(videos(out)) == ["000001.mp4", "000002.mp4", "000003.mp4"]


def test_what_is_piped_in_may_begin_with_a_mark_and_need_not_be_utf_8(
    run, out, capsys, monkeypatch
):
    piped = io.BytesIO(b"\xef\xbb\xbfa circle\r\n\xff\na square\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(piped, "utf-8", "strict"))
    assert run("-", out) == 1
    assert "Line 2: Line 2: prompt" in capsys.readouterr().err
    assert [record["prompt"] for record in records(out)] == ["a circle", None, "a square"]


def test_there_is_nothing_to_type_on(run, out, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert run("-", out) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_a_terminal_is_asked_and_a_bad_line_is_told(tiny_i2v_folder, out, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("a circle\n"))
    assert main(["sample", "-", str(out), "--weights", str(tiny_i2v_folder)]) == 1
    said = capsys.readouterr()
    assert said.err.count("> ") == 2
    assert "Line 1: Line 1: It has @@ 0 times." in said.err
    assert records(out)[0]["error"]


def test_sigterm_ends_typing_with_130(tiny_folder, out):
    command = [sys.executable, "-m", "cli.main", "sample", "-", str(out), *QUICK]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        [*command, "--weights", str(tiny_folder)], cwd=ROOT, text=True, **pipes
    ) as process:
        process.stdin.write("a circle\n")
        process.stdin.flush()
        for line in process.stderr:
            if line.startswith("Line 1: 000001.mp4"):
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert "The same command goes on" in process.stderr.read()
    assert sorted(videos(out)) == ["000001.mp4"]


def test_a_layout_is_one_for_every_video_of_the_run(tiny_folder, tmp_path, out):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b", "guidance_scale": 1}\n')
    run = prepared(tiny_folder, prompts, out)
    # One of the lines has no second pass to share.
    assert sample._layout(2, run) == Layout(ulysses=2, cfg=1)
    prompts.write_text('{"prompt": "a"}\n')
    run = prepared(tiny_folder, prompts, tmp_path / "other")
    assert sample._layout(2, run) == Layout(ulysses=1, cfg=2)
    assert run.settings.largest == VideoSize(9, 64, 64)
    with pytest.raises(UserError, match="3 devices"):
        sample._layout(3, run)


def test_executors_get_what_the_options_say(tiny_folder, tmp_path, out, monkeypatch):
    run = prepared(tiny_folder, prompt_file(tmp_path, 1), out)
    calls = []
    monkeypatch.setattr(
        "sampling.ray_cluster.RayExecutor", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    sample._executor(parsed("p", "o", "--ray"), run)
    sample._executor(parsed("p", "o", "--ray", "host:1", "--workers", "3"), run)
    assert calls == [
        ((run.settings,), {"address": None, "workers": None}),
        ((run.settings,), {"address": "host:1", "workers": 3}),
    ]
    assert type(sample._executor(parsed("p", "o"), run)).__name__ == "SequentialExecutor"
    parallel = sample._executor(parsed("p", "o", "--parallel", "2"), run)
    assert type(parallel).__name__ == "ParallelExecutor"


def guide_commands():
    guide = ROOT / "docs" / "sampling.md"
    return [line for line in commands(guide) if "cogvideox sample" in line]


@pytest.mark.parametrize("command", guide_commands())
def test_the_commands_of_the_guide_parse(command):
    _, _, arguments = command.partition("cogvideox sample ")
    parsed(*shlex.split(arguments, comments=True))


def test_the_examples_of_the_help_parse():
    lines = [line for line in sample.EXAMPLES.splitlines() if "cogvideox sample" in line]
    assert len(lines) > 5
    for line in lines:
        parsed(*shlex.split(line)[2:])


def test_the_guide_begins_with_what_works(tmp_path, monkeypatch, tiny_folder):
    """The guide's first commands and its typed prompt, copied, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    guide = ROOT / "docs" / "sampling.md"
    begins, _ = guide.read_text(encoding="utf-8").split("\n## Many GPUs")
    first = [block for block in blocks(guide, "sh") if block.line <= begins.count("\n")]
    runs = [block.text for block in first if "outputs/" in block.text]
    assert len(runs) == 3
    script = "\n".join(runs).replace("outputs/clips", "outputs/clips --num-inference-steps 2")
    script = script.replace("cogvideox", f"{sys.executable} -m cli.main")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COGVIDEOX_WEIGHTS": str(tiny_folder)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "clips"
    assert sorted(videos(out)) == [f"00000{number}.mp4" for number in (1, 2, 3, 4)]
    report = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert (report["made"], report["kept"]) == (0, 3)
