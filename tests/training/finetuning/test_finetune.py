"""The whole path on tiny weights: clips in, a LoRA or a weights folder out, also after a stop."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from predictors.lora.adapter_file import read_adapter
from predictors.video import read_video, write_video
from predictors.weights_source import resolve_weights
from training.dataset.clip import Clip
from training.finetuning import trainer
from training.finetuning.dataset_rules import clip_rules
from training.finetuning.finetune import Training, finetune
from training.finetuning.settings import FinetuneSettings
from weights.errors import OperationError, UserError
from weights.folder import check_weights_folder

SETTINGS = {"steps": 4, "batch": 2, "rank": 4, "save_every": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        path = folder / f"{number}.mp4"
        write_video(rng.integers(0, 255, (9, 64, 64, 3), np.uint8), path, fps=8)
        found.append(Clip(path=path, prompt=f"clip {number}", image=None, frames=9))
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def training(tmp_path, tiny_folder, clips, cache):
    def made(out="out", folder=tiny_folder, **changed):
        extras = {name: changed.pop(name) for name in ("tracker", "to_sat") if name in changed}
        base = resolve_weights(str(folder), None)
        return Training(
            base=base,
            base_name="mine",
            clips=clips,
            rules=clip_rules(base.variant, images=False),
            settings=FinetuneSettings(**SETTINGS | changed),
            out=tmp_path / out,
            cache=cache,
            **extras,
        )

    return made


def log_of(training):
    return [json.loads(line) for line in (training.out / "log.jsonl").read_text().splitlines()]


def stopped_after(monkeypatch, step):
    """Let the process die right after a step, before anything more is written."""

    def die(self, run, done, loss):
        if done == step:
            raise SystemExit("killed")
        own(self, run, done, loss)

    own = trainer.Trainer._log
    monkeypatch.setattr(trainer.Trainer, "_log", die)


def test_a_training_ends_with_a_lora_its_card_and_its_log(training):
    asked = training(validate_every=2, validation_prompts=("a thing",))
    result = finetune(asked)
    assert result == asked.out / "pytorch_lora_weights.safetensors"
    adapter = read_adapter(result, asked.base.variant)
    assert len(adapter.pairs) == 4 * asked.base.variant.num_layers
    assert {pair.scale for pair in adapter.pairs.values()} == {1 / 4}
    assert any(bool(pair.b.abs().sum() > 0) for pair in adapter.pairs.values())
    assert [line["step"] for line in log_of(asked)] == [1, 2, 3, 4]
    card = (asked.out / "README.md").read_text()
    for step in (2, 4):
        frames, fps = read_video(asked.out / "validation" / f"step-{step:06}" / "1.mp4")
        assert (frames.shape, fps) == ((9, 64, 64, 3), 8)
    assert "validation/step-000004/1.mp4" in card
    assert "--weights mine" in card


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(training):
    results = [finetune(training(out)) for out in ("a", "b")]
    other = finetune(training("c", seed=1))
    assert results[0].read_bytes() == results[1].read_bytes() != other.read_bytes()


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_training_goes_on_to_the_same_bits(training, monkeypatch, step, ema):
    whole = training("whole", ema_decay=ema)
    finetune(whole)
    killed = training("killed", ema_decay=ema)
    with monkeypatch.context() as patch:
        stopped_after(patch, step)
        with pytest.raises(SystemExit):
            finetune(killed)
    result = finetune(killed)
    assert result.read_bytes() == (whole.out / "pytorch_lora_weights.safetensors").read_bytes()
    assert log_of(killed) == log_of(whole)


def test_a_training_killed_before_its_result_writes_it_and_knows_its_loss(training, monkeypatch):
    killed = training()
    with monkeypatch.context() as patch:
        patch.setattr("training.finetuning.finetune.save_result", None)
        with pytest.raises(TypeError):
            finetune(killed)
    assert finetune(killed).is_file()
    assert not re.search(r"\bnan\b", (killed.out / "README.md").read_text())


def test_an_accumulated_batch_is_a_batch(training):
    at_once = finetune(training("at-once", batch=2, accumulate=1))
    in_turn = finetune(training("in-turn", batch=1, accumulate=2))
    variant = training().base.variant
    for name, pair in read_adapter(at_once, variant).pairs.items():
        other = read_adapter(in_turn, variant).pairs[name]
        torch.testing.assert_close(pair.b, other.b, atol=1e-5, rtol=0)


def test_a_full_fine_tune_is_a_weights_folder(training):
    asked = training(full=True, learning_rate=1e-3)
    result = finetune(asked)
    assert check_weights_folder(result).variant == "nano"
    import diffusers

    before, after = (
        diffusers.CogVideoXTransformer3DModel.from_pretrained(f / "transformer").state_dict()
        for f in (asked.base.folder, result)
    )
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[n], after[n]) for n in before if n.endswith("weight"))


def test_checkpointing_changes_no_gradient(training):
    plain = finetune(training("plain"))
    again = finetune(training("again", checkpointing=True))
    variant = training().base.variant
    for name, pair in read_adapter(plain, variant).pairs.items():
        torch.testing.assert_close(pair.b, read_adapter(again, variant).pairs[name].b)


def test_clips_in_tiles_are_kept_beside_whole_ones(training, cache):
    finetune(training("whole", steps=1))
    before = len(list((cache / "latents").iterdir()))
    finetune(training("tiles", steps=1, vae_tiling=True))
    assert len(list((cache / "latents").iterdir())) == before + 3


def test_losses_are_written_for_tensorboard(training):
    asked = training(tracker="tensorboard")
    finetune(asked)
    assert list((asked.out / "logs").rglob("events.out.tfevents.*"))


def test_image_to_video_is_trained_on_first_frames(training, tiny_i2v_folder):
    asked = training(folder=tiny_i2v_folder, validate_every=4)
    result = finetune(asked)
    read_adapter(result, asked.base.variant)
    assert (asked.out / "validation" / "step-000004" / "2.mp4").is_file()


def test_a_loss_that_is_no_number_ends_the_training(training, monkeypatch):
    asked = training()
    monkeypatch.setattr(trainer.Trainer, "_step", lambda self, step: float("nan"))
    with pytest.raises(OperationError, match="loss of step 1 is nan"):
        finetune(asked)
    assert not (asked.out / "state.pt").exists()


def test_a_finished_training_and_another_one_are_refused(training):
    asked = training()
    finetune(asked)
    with pytest.raises(UserError, match="finished"):
        finetune(asked)
    with pytest.raises(UserError, match="other settings"):
        finetune(training(steps=5))


def test_other_weights_or_clips_are_another_training(training, tiny_folder, tmp_path):
    asked = training()
    finetune(asked)
    changed = tmp_path / "changed"
    shutil.copytree(tiny_folder, changed)
    (changed / "LICENSE").write_text("other")
    with pytest.raises(UserError, match="other settings"):
        finetune(training(folder=changed))
