"""The denoiser's settings: which numbers make sense, and what is said of the others."""

import dataclasses
import re

import pytest

from tests.training.nano.tiny_runs import DENOISER, write_settings
from training.nano.denoiser_settings import DenoiserSettings, OwnPredictions
from training.settings import read_settings
from weights.errors import UserError


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "The setting steps is 0. A finite number of at least 1"),
        ({"batch": 0, "guided": {"samples": 0, "below": 1, "highest": 1.0}}, "batch is 0."),
        ({"clips": 0}, "The setting clips is 0."),
        ({"save_every": 0}, "The setting save_every is 0."),
        ({"seed": -1}, "The setting seed is -1."),
        ({"warmup_steps": -1}, "The setting warmup_steps is -1."),
        ({"opening_steps": -1}, "The setting opening_steps is -1."),
        ({"learning_rate": -0.1}, "The setting learning_rate is -0.1. A number above 0"),
        ({"clip_norm": 0.0}, "The setting clip_norm is 0.0. A number above 0"),
        ({"weight_decay": float("nan")}, "The setting weight_decay is nan."),
        ({"shape_weight": float("inf")}, "The setting shape_weight is inf."),
        ({"ema_decay": 1.5}, "The setting ema_decay is 1.5. A number from 0 to 1"),
        ({"prompt_dropout": -0.1}, "The setting prompt_dropout is -0.1. A number from 0 to 1"),
        ({"focus": {"share": 1.1, "mean": 0.0, "spread": 1.0}}, "The setting focus.share is 1.1."),
        ({"focus": {"share": 1.0, "mean": 0.0, "spread": -1.0}}, "focus.spread is -1.0."),
        ({"focus": {"share": 1.0, "mean": 1001.0, "spread": 1.0}}, "focus.mean is 1001.0."),
        (
            {"guided": {"samples": 4, "below": 600, "highest": 7.0}},
            "The setting guided.samples is 4. A number from 0 to 3",
        ),
        ({"guided": {"samples": 1, "below": 1001, "highest": 7.0}}, "guided.below is 1001."),
        ({"guided": {"samples": 1, "below": 600, "highest": 0.5}}, "guided.highest is 0.5."),
        ({"guided": {"samples": 1, "below": 600}}, "does not have the setting guided.highest"),
        ({"focus": 3}, "has no settings at focus."),
        ({"steps": 2.5}, "has steps: 2.5"),
        ({"clips": None}, "does not have the setting clips"),
        ({"colour": "red"}, "has the unknown setting colour"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changed, said):
    path = write_settings(DENOISER, tmp_path / "settings.yaml", **changed)
    with pytest.raises(UserError, match=re.escape(said)):
        read_settings(path, DenoiserSettings)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"from_step": -1}, "from_step is -1. A finite number of at least 0"),
        ({"samples": -1}, "samples is -1. A number from 0 to 1"),
        # The guided ones have 2 of the batch of 3.
        ({"samples": 2}, "samples is 2. A number from 0 to 1"),
        ({"above": 800}, "above is 800. A number from 200 to 799"),
        ({"above": 199}, "above is 199. A number from 200 to 799"),
        ({"longest": 301}, "above is 300. A number from 301 to 799"),
        ({"longest": 0}, "longest is 0. A number from 1 to 999"),
        ({"longest": 1000}, "longest is 1000. A number from 1 to 999"),
        ({"longest": 800}, "below is 800. A number from 801 to 1000"),
        ({"shortest": 201}, "shortest is 201. A number from 1 to 200"),
        ({"shortest": 0}, "shortest is 0. A number from 1 to 200"),
        ({"below": 1001}, "below is 1001. A number from 201 to 1000"),
    ],
)
def test_own_predictions_that_make_no_sense_are_refused(tmp_path, changed, said):
    own = dataclasses.asdict(DENOISER.own_predictions) | changed
    path = write_settings(DENOISER, tmp_path / "settings.yaml", own_predictions=own)
    with pytest.raises(UserError) as caught:
        read_settings(path, DenoiserSettings)
    assert str(caught.value) == (
        f"The setting own_predictions.{said} is expected. Correct the settings file."
    )


@pytest.mark.parametrize(
    "own",
    [
        OwnPredictions(0, 0, 300, 800, 20, 200),
        OwnPredictions(100, 1, 1, 2, 1, 1),
        OwnPredictions(0, 1, 999, 1000, 999, 999),
    ],
)
def test_own_predictions_at_the_ends_of_their_ranges_are_fine(own):
    assert dataclasses.replace(DENOISER, own_predictions=own).own_predictions == own


def test_an_opening_longer_than_the_training_is_fine():
    assert dataclasses.replace(DENOISER, opening_steps=100).opening_steps > DENOISER.steps
