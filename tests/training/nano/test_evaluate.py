"""The same tasks each time, a report with all that was measured, and plain words on bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conversion.nano_text_encoder import new_text_encoder, write_tokenizer
from tests.training.nano.bad_clips import BAD_CLIPS
from training.nano.denoiser_steps import Denoiser
from training.nano.evaluate import evaluate, load_pipeline, main, report_table, sheet
from training.nano.models import NANO, NANO_I2V, new_transformer, new_vae
from training.nano.prompts import HELD_OUT, combination_of, prompt_of
from training.nano.sampling import first_images, mean_psnr, sample, tasks, through_vae
from training.nano.scenes import render
from training.nano.score import contact_sheet
from training.nano.text_to_video_recipe import save_pipeline
from weights.errors import UserError

ROOT = Path(__file__).parents[3]
SCORES = {"clips", "colour", "shape", "direction", "right", "clean", "mean_iou", "words"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Beside other work, threads that share tensors this small mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("training.nano.evaluate._HELD_OUT_EACH", 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of an untrained nano and nano-i2v, by name."""
    root = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    (root / "tokenizer").mkdir()
    encoder, vae = new_text_encoder(NANO, write_tokenizer(root / "tokenizer")), new_vae()
    return {
        variant.name: save_pipeline(
            root / variant.name,
            Denoiser(new_transformer(variant), encoder),
            vae,
            root / "tokenizer",
        )
        for variant in (NANO, NANO_I2V)
    }


class Painter:
    """A pipeline that paints what each of the tasks asks for, found by the seed of its noise."""

    def __init__(self, painted, paint=render):
        self._scenes = {task.seed: task.scene for task in painted}
        self._paint = paint
        self.calls = []

    def __call__(self, generator, **request):
        self.calls.append(request)
        clips = [self._paint(self._scenes[each.initial_seed()]) for each in generator]
        return SimpleNamespace(frames=np.stack(clips) / 255)


class ImageToVideoPainter(Painter):
    """Called with an image; its VAE gives every image back as it is."""

    vae = SimpleNamespace(
        encode=lambda clips: SimpleNamespace(latent_dist=SimpleNamespace(mean=clips)),
        decode=lambda latents: SimpleNamespace(sample=latents),
    )


def painter(kind=Painter, *, paint=render, seed=99):
    i2v = kind is ImageToVideoPainter
    lists = (
        tasks(48, held_out=held_out, independent_start=i2v, seed=seed) for held_out in (False, True)
    )
    return kind([task for each in lists for task in each], paint)


def test_the_tasks_are_the_same_every_time_and_others_for_another_seed():
    def listed(**seed):
        return tasks(20, held_out=False, independent_start=False, **seed)

    assert listed() == listed() == listed(seed=99)
    assert tasks(24, held_out=False, independent_start=False)[:20] == listed()
    others = listed(seed=7)
    assert all(a.scene != b.scene for a, b in zip(listed(), others, strict=True))
    assert not {task.seed for task in listed()} & {task.seed for task in others}


def test_the_default_tasks_are_those_of_earlier_reports():
    first, second = tasks(2, held_out=False, independent_start=False)
    assert (first.seed, second.seed) == (10_000, 10_001)
    assert second.prompt == "a yellow triangle moving right"
    assert tasks(1, held_out=True, independent_start=False)[0].seed == 20_000


@pytest.mark.parametrize("held_out", [False, True])
def test_half_of_the_prompts_are_canonical_and_held_out_words_are_apart(held_out):
    asked = tasks(64, held_out=held_out, independent_start=False)
    assert sum(task.prompt == prompt_of(task.scene) for task in asked) == 32
    combinations = {combination_of(task.scene) for task in asked}
    assert len(combinations) == (8 if held_out else 64)
    assert (combinations == HELD_OUT) if held_out else not combinations & HELD_OUT


def test_the_report_of_an_untrained_pipeline_has_every_figure(folders):
    report = evaluate(load_pipeline(folders["nano"]), [1.0], 3, 2)
    assert list(report) == ["guidance 1", "guidance 1, held out"]
    for name, found in report.items():
        assert set(found) == SCORES | {"guidance", "held_out"}
        assert found["held_out"] == name.endswith("held out")
        assert found["guidance"] == 1
        assert found["right"] <= 0.1
    assert report["guidance 1"]["clips"] == 3
    assert report["guidance 1, held out"]["clips"] == len(HELD_OUT)
    json.dumps(report, allow_nan=False)


def test_image_to_video_makes_something_of_its_image(folders):
    pipe = load_pipeline(folders["nano-i2v"])
    asked = tasks(2, held_out=False, independent_start=True)
    clips = sample(pipe, asked, 6.0, 2, "test")
    swapped = [asked[1], type(asked[1])(asked[1].prompt, asked[0].scene, asked[1].seed)]
    others = sample(pipe, swapped, 6.0, 2, "test")
    assert [(clip.shape, clip.dtype) for clip in clips] == [((9, 64, 64, 3), np.uint8)] * 2
    assert (clips[1] != others[1]).any(), "the image changes nothing"
    images = first_images(asked)
    assert through_vae(pipe.vae, images).shape == images.shape
    assert mean_psnr(through_vae(pipe.vae, images), images) < 30


def test_image_to_video_is_given_first_frames_and_judged_against_them():
    pipe = painter(ImageToVideoPainter)
    report = evaluate(pipe, [6.0], 3, 50)
    assert report["guidance 6"]["right"] == 1
    for found in report.values():
        assert found["first_frame_psnr"] == found["vae_psnr"] == 99
    image = pipe.calls[0]["image"]
    wanted = first_images(tasks(3, held_out=False, independent_start=True))
    assert image.shape == (3, 3, 64, 64)
    assert torch.equal((image * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(wanted))


def test_psnr_is_the_mean_over_images():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    wanted = images.copy()
    wanted[1] = 255
    assert mean_psnr(images, wanted) == pytest.approx(99 / 2)
    assert mean_psnr(images, images + np.uint8(1)) == pytest.approx(48.13, abs=0.01)


def test_a_pipeline_is_asked_as_the_api_asks_in_batches_and_says_where_it_is(capsys):
    pipe = painter()
    report = evaluate(pipe, [6.0, 3.0, 6.0], 41, 50)
    assert list(report) == [
        *("guidance 6", "guidance 6, held out", "guidance 3", "guidance 3, held out")
    ]
    assert [len(call["prompt"]) for call in pipe.calls] == [40, 1, 8] * 2
    assert [call["guidance_scale"] for call in pipe.calls] == [6.0] * 3 + [3.0] * 3
    assert {call["num_inference_steps"] for call in pipe.calls} == {50}
    assert all(call["use_dynamic_cfg"] and "image" not in call for call in pipe.calls)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(pipe.calls)
    assert lines[0].startswith("guidance 6: 40 of 41 clips")
    assert lines[2].startswith("guidance 6, held out: 8 of 8 clips")


def test_the_table_has_a_row_for_each_guidance_and_names_the_worst_words():
    def greens_are_ghosts_and_reds_stand(scene):
        fault = {"green": "ghost", "red": "still"}.get(scene.colour)
        return BAD_CLIPS[fault](scene) if fault else render(scene)

    report = evaluate(painter(paint=greens_are_ghosts_and_reds_stand), [6.0, 1.0], 28, 50)
    seen, held_out = report_table(report).split("Held out")
    header, rule, six, one = (line for line in seen.splitlines() if line.startswith("|"))
    names = ["guidance", "clips", "colour", "shape", "direction", "right", "clean", "mean IoU"]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == names
    assert set(rule) == set("|-: ")
    assert len({len(line) for line in (header, rule, six, one)}) == 1
    cells = dict(zip(names, (cell.strip() for cell in six.split("|")[1:-1]), strict=True))
    assert (cells["guidance"], cells["clips"], cells["colour"]) == ("6", "28", "100.0%")
    found = report["guidance 6"]
    assert 0 < found["clean"] < found["right"] == found["direction"] < 1
    assert (cells["right"], cells["clean"]) == (f"{found['right']:.1%}", f"{found['clean']:.1%}")
    assert "- Worst words at guidance 6: " in seen
    assert one.split("|")[1].strip() == "1"
    assert held_out.count("\n|") == 4


def test_the_table_of_image_to_video_has_both_psnrs_and_nothing_to_blame():
    table = report_table(evaluate(painter(ImageToVideoPainter), [6.0], 3, 50))
    assert table.count("| first frame PSNR | VAE PSNR |") == 2
    assert table.count("99.0 dB") == 4
    assert table.count("- Every word came out right at guidance 6.") == 2


def test_the_sheet_shows_the_first_of_the_clips_that_are_judged():
    asked = tasks(24, held_out=False, independent_start=False)
    shown = sheet(painter())
    wanted = contact_sheet([render(task.scene) for task in asked], [task.prompt for task in asked])
    assert shown.tobytes() == wanted.tobytes()
    assert sheet(painter(seed=3), 2, seed=3).size < shown.size


def test_the_command_prints_a_table_or_json_and_draws_a_sheet(
    folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("training.nano.evaluate.load_pipeline", lambda folder: painter())
    options = [str(folders["nano"]), "--guidance", "6", "--prompts", "2"]
    assert main([*options, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "| guidance |" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guidance 6"]["clips"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--guidance", "6", "0.5"], "guidance 0.5"),
        (["--guidance", "nan"], "guidance nan"),
        (["--guidance", "inf"], "guidance inf"),
        (["--prompts", "0"], "prompts 0"),
        (["--steps", "-1"], "steps -1"),
        (["--seed", "-1"], "seed -1"),
        (["--sheet", "no/such/folder/sheet.png"], "no/such/folder"),
        (["--sheet", "sheet.xyz"], "sheet.xyz"),
        ([], "nowhere is not a folder"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_loaded(options, said, capsys):
    assert main(["nowhere", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("evaluate: ")
    assert err.count("\n") == 1


def test_a_folder_that_is_none_of_nano_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="not a weights folder"):
        load_pipeline(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for part in folders["nano"].iterdir():
        (foreign / part.name).symlink_to(part)
    for changes in ({"variant": "cogvideox-2b", "dtype": "float16"}, {"variant": "nano-i2v"}):
        record = json.dumps({"dtype": "float32"} | changes)
        (foreign / "conversion.json").write_text(record)
        with pytest.raises(UserError, match=f"holds a CogVideoXPipeline of {changes['variant']}"):
            load_pipeline(foreign)


def test_a_request_is_checked_without_the_command_too():
    for wrong in (([0.5], 1, 1), ([6.0], 0, 1), ([6.0], 1, 0)):
        with pytest.raises(UserError, match="Cannot evaluate"):
            evaluate(painter(), *wrong)
    with pytest.raises(UserError, match="prompts 0"):
        sheet(painter(), 0)


def test_ctrl_c_ends_it_without_a_traceback(folders):
    command = [sys.executable, "-m", "training.nano.evaluate", str(folders["nano"])]
    # After the line on the first clip come the 40 that are held out.
    process = subprocess.Popen(
        [*command, "--steps", "4", "--guidance", "1", "--prompts", "1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "examples:\n  python -m training.nano.evaluate" in capsys.readouterr().out
