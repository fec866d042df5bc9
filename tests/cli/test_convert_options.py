"""The rest of the conversion verbs as a user runs them: LoRA, back to SAT, resume, verify."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from conversion.convert import write_shard
from tests.conversion.random_checkpoint import write_random_checkpoint
from weights.variants import VARIANTS

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
ROOT = GOLDEN.parents[1]
VAE = str(GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt")


def golden_arguments(name):
    return [str(GOLDEN / name / "sat"), "--config", str(GOLDEN / name / "model.yaml")]


@pytest.fixture(scope="module")
def nano_sat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "sat"
    write_random_checkpoint(VARIANTS["nano"], folder)
    return str(folder)


def test_a_lora_checkpoint_is_refused_with_the_ways_on(tmp_path, capsys):
    source, *options = golden_arguments("lora_2b")
    assert main(["convert", source, str(tmp_path / "x"), *options, "--vae", VAE]) == 2
    message = capsys.readouterr().err
    assert all(way in message for way in ("convert-lora", "--merge", "--without-lora"))


@pytest.mark.parametrize("flags", [["convert", "--merge"], ["convert", "--without-lora"]])
def test_convert_merges_or_leaves_out(flags, tmp_path, capsys):
    verb, flag = flags
    source, *options = golden_arguments("lora_2b")
    assert main([verb, source, str(tmp_path / "x"), *options, "--vae", VAE, flag]) == 0
    verify = ["verify", str(tmp_path / "x"), "--against", source, *options, "--vae", VAE]
    assert main(verify) == 0
    assert capsys.readouterr().out.endswith("verified\n")


def test_convert_lora_writes_an_adapter(tmp_path, capsys):
    source, *options = golden_arguments("lora_5b")
    target = str(tmp_path / "new" / "lora.safetensors")
    assert main(["convert-lora", source, target, *options, "--alpha", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["variant"] == "cogvideox-5b"
    assert (report["rank"], report["alpha"], report["layers"]) == (3, 3.0, 2)
    assert Path(target).is_file()


def test_convert_lora_merges_too(tmp_path):
    source, *options = golden_arguments("lora_5b")
    target = str(tmp_path / "merged")
    assert main(["convert-lora", source, target, *options, "--vae", VAE, "--merge"]) == 0
    assert (tmp_path / "merged" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [("lora_5b", "folder", "ending in .safetensors"), ("5b", "x.safetensors", "carries no LoRA")],
)
def test_convert_lora_refuses(name, target, message, tmp_path, capsys):
    source, *options = golden_arguments(name)
    assert main(["convert-lora", source, str(tmp_path / target), *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_there_and_back(nano_sat, tmp_path, capsys):
    assert main(["convert", nano_sat, str(tmp_path / "folder")]) == 0
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "sat"), "--to", "sat"]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "folder"), "--against", str(tmp_path / "sat")]) == 0
    file = "transformer/1/mp_rank_00_model_states.pt"
    assert (tmp_path / "sat" / file).read_bytes() == (Path(nano_sat) / file).read_bytes()


def test_verify_fails_with_exit_code_1_and_one_json_document(nano_sat, tmp_path, capsys):
    main(["convert", nano_sat, str(tmp_path / "folder")])
    write_random_checkpoint(VARIANTS["nano"], tmp_path / "other", seed=5)
    capsys.readouterr()
    arguments = ["verify", str(tmp_path / "folder"), "--against", str(tmp_path / "other")]
    assert main([*arguments, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["models"][0]["different"]
    assert main(arguments) == 1
    assert capsys.readouterr().out.endswith("NOT verified\n")


def test_an_interruption_says_how_to_go_on(nano_sat, tmp_path, monkeypatch, capsys):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_shard(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("conversion.convert.write_shard", interrupted)
        assert main(["convert", nano_sat, str(tmp_path / "folder")]) == 1
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()
    assert main(["convert", nano_sat, str(tmp_path / "folder"), "--resume"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_killed_conversion_is_resumed(nano_sat, tmp_path):
    """A process that ends itself by SIGKILL after the first file, as an out-of-memory kill does."""
    code = (
        "import os, signal, sys\n"
        "import conversion.convert as c\n"
        "write, calls = c.write_shard, []\n"
        "def killed(*a, **k):\n"
        "    calls.append(a)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(*a, **k)\n"
        "c.write_shard = killed\n"
        "from cli.main import main\n"
        "main(['convert', *sys.argv[1:]])\n"
    )
    target = str(tmp_path / "folder")
    done = subprocess.run(
        [sys.executable, "-c", code, nano_sat, target],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    assert main(["convert", nano_sat, target, "--resume"]) == 0
    assert main(["verify", target, "--against", nano_sat]) == 0


def test_overflow_is_refused_and_can_be_allowed(nano_sat, tmp_path, capsys):
    import torch

    big = tmp_path / "big"
    write_random_checkpoint(VARIANTS["nano"], big)
    path = big / "transformer" / "1" / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=True)
    content["module"]["model.diffusion_model.mixins.final_layer.linear.bias"][0] = 1e6
    torch.save(content, path)
    arguments = ["convert", str(big), str(tmp_path / "out"), "--dtype", "fp16"]
    assert main(arguments) == 1
    assert "proj_out.bias holds values up to 1e+06" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--allow-overflow"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "SRC", "DST", "--to", "sat", "--dtype", "fp16"],
        ["convert", "SRC", "DST", "--to", "sat", "--push-to-hub", "me/model"],
        ["convert-lora", "SRC", "DST.safetensors", "--frames", "5"],
        ["convert-lora", "SRC", "DST.safetensors", "--resume"],
    ],
)
def test_an_option_that_would_be_ignored_is_refused(arguments, capsys):
    assert main(arguments) == 2
    assert "has no effect there" in capsys.readouterr().err
