"""`cogvideox plan`: what a card would hold how, without one."""

import json
import subprocess
import sys

import pytest

from cli.main import main
from cli.runners import ROOT
from weights.variants import VARIANTS


def document(capsys, *options):
    assert main(["plan", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_variant_has_a_row_and_without_a_card_no_choice(capsys):
    assert main(["plan"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("|")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(VARIANTS)
    assert "25.2 (37.1)" in rows[1]
    assert "free" not in out


def test_a_card_gets_a_choice_with_its_reason(capsys):
    assert main(["plan", "cogvideox-5b", "--gpu-memory", "24"]) == 0
    out = capsys.readouterr().out
    assert "cogvideox-5b: each part on the GPU only while it works (model offload): 49 fr" in out


def test_what_may_fail_is_said(capsys):
    assert main(["plan", "cogvideox-5b", "--gpu-memory", "4"]) == 0
    assert "Warning: Requests may fail for want of GPU memory." in capsys.readouterr().out


def test_json_has_every_number_in_bytes(capsys):
    printed = document(capsys, "cogvideox-5b", "--gpu-memory", "16", "--quantize", "int8")
    (plan,) = printed["plans"]
    assert printed["usable_gpu_memory"] == 15_977_278_341
    assert plan["video"] == {"frames": 49, "width": 720, "height": 480}
    assert plan["weights"]["transformer"] < 5.6e9
    assert plan["policy"]["placement"] == "model-offload"
    assert plan["policy"]["peak"] == plan["peaks"]["model-offload"]["vae_tiling"]
    assert plan["peaks"]["resident"]["vae_tiling"] < plan["peaks"]["resident"]["untiled"]


def test_without_a_card_json_has_no_policy(capsys):
    assert document(capsys, "nano")["plans"][0]["policy"] is None


def test_a_folder_is_measured_by_its_headers(capsys, tiny_folder):
    (plan,) = document(capsys, "--weights", str(tiny_folder))["plans"]
    vae = tiny_folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert (plan["variant"], plan["dtype"]) == ("nano", "float32")
    # The file has a header too.
    assert 0 < vae.stat().st_size - plan["weights"]["vae"] < 30_000


def test_fewer_frames_of_another_size_need_less(capsys):
    options = ("cogvideox1.5-5b", "--frames", "17", "--width", "768", "--height", "768")
    (plan,) = document(capsys, *options)["plans"]
    assert plan["video"] == {"frames": 17, "width": 768, "height": 768}
    (largest,) = document(capsys, "cogvideox1.5-5b")["plans"]
    assert plan["peaks"]["sequential"]["untiled"] < largest["peaks"]["sequential"]["untiled"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cogvideox-9b"], "There is no variant named"),
        (["cogvideox-5b", "--frames", "50"], "makes 9, 17, 25, 33, 41, 49 frames"),
        (["nano", "--width", "100"], "--width is 100"),
        (["nano", "--height", "0"], "--height is 0"),
        (["--gpu-memory", "0"], "--gpu-memory is 0"),
        (["--gpu-memory", "nan"], "--gpu-memory is nan"),
        (["nano", "--weights", "."], "Both --weights and nano"),
        (["--weights", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_wrong_usage_is_refused(capsys, options, message):
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err


def test_no_library_that_takes_seconds_is_imported():
    script = (
        "import sys; from cli.main import main; main(['plan', '--gpu-memory', '24']); "
        "print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "set()"
