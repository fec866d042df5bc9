"""A new word, taught by `cogvideox train` and measured: what counts as learned, and that it is."""

import argparse
import json
from pathlib import Path

import pytest

from cli.train import add_arguments, chosen_settings
from training.nano.zigzag_proof import Learned, main, shortfalls, train_command

BASE = Learned(zigzags=0.0, known=1.0)
FOUND = {"base": BASE, "scale 1": Learned(zigzags=0.8, known=0.95), "scale 0": BASE}


def test_what_is_learned_at_no_price_falls_short_of_nothing():
    assert shortfalls(FOUND) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"base": Learned(zigzags=0.2, known=1.0)}, "20% zigzag without the LoRA"),
        ({"scale 1": Learned(zigzags=0.79, known=1.0)}, "only 79% zigzag with the LoRA"),
        ({"scale 1": Learned(zigzags=1.0, known=0.94)}, "94% of what is known is right, and was"),
        ({"scale 0": Learned(zigzags=0.1, known=1.0)}, "scale 0 is not the base"),
    ],
)
def test_each_goal_can_be_missed(changed, said):
    assert any(said in missed for missed in shortfalls(FOUND | changed))


def test_its_command_is_one_that_cogvideox_train_takes():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    name, verb, *arguments = train_command(Path("clips"), Path("lora"))
    options = parser.parse_args(arguments)
    settings = chosen_settings(options, {})
    assert (name, verb, options.base) == ("cogvideox", "train", "nano")
    assert (settings.rank, settings.alpha, settings.lr_schedule) == (32, 32, "cosine")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nano_learns_a_word_and_keeps_the_others(tmp_path, capsys):
    assert main([str(tmp_path), "--json"]) == 0, capsys.readouterr().out
    report = json.loads(capsys.readouterr().out)
    assert report["missed"] == []
    assert report["found"]["base"]["zigzags"] <= 0.1
    assert report["found"]["scale 1"]["zigzags"] >= 0.8
