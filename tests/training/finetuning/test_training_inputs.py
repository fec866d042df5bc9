"""The inputs of the training API become settings, or are refused by name."""

from pathlib import Path

import cog
import pytest

from cli.openapi_schema import input_properties, openapi_document
from cli.runners import TRAINER
from training.finetuning import training_inputs
from training.finetuning.lora import block_targets
from training.finetuning.settings import FinetuneSettings
from training.finetuning.training_inputs import validate
from training.lr_schedules import schedule_named
from weights.errors import UserError

SETTINGS = {
    "steps": "steps",
    "learning_rate": "learning_rate",
    "rank": "rank",
    "alpha": "alpha",
    "batch_size": "batch",
    "gradient_checkpointing": "checkpointing",
    "seed": "seed",
}


@pytest.fixture(scope="module")
def document():
    return openapi_document(TRAINER)


@pytest.fixture(scope="module")
def properties(document):
    return input_properties(document, "train")


@pytest.fixture
def given(properties, tmp_path):
    """What Cog hands over for a request that has only a file."""
    (tmp_path / "videos.zip").write_bytes(b"a zip")
    defaults = {name: schema.get("default") for name, schema in properties.items()}
    return defaults | {"videos": cog.Path(tmp_path / "videos.zip")}


def test_the_defaults_are_those_of_the_settings_but_one(given):
    asked = validate(**given)
    default = FinetuneSettings()
    for name in set(SETTINGS.values()) - {"checkpointing"}:
        assert getattr(asked.settings, name) == getattr(default, name)
    # The models that images serve need it on most cards.
    assert asked.settings.checkpointing
    assert asked.settings.validation_prompts == ()
    assert asked.settings.validate_every == 0
    assert asked.settings.targets == default.targets
    assert asked.settings.lr_schedule == "constant"
    assert (asked.trigger_word, asked.images, asked.skip_bad) == ("", False, False)


def test_the_limits_are_those_of_the_signature(properties):
    limits = {
        "steps": (1, training_inputs.MAX_STEPS),
        "learning_rate": (training_inputs.MIN_LEARNING_RATE, training_inputs.MAX_LEARNING_RATE),
        "rank": (1, training_inputs.MAX_RANK),
        "alpha": (training_inputs.MIN_ALPHA, training_inputs.MAX_ALPHA),
        "batch_size": (1, training_inputs.MAX_BATCH),
        "seed": (0, training_inputs.MAX_SEED),
    }
    numbers = {name for name, schema in properties.items() if "minimum" in schema}
    assert limits.keys() == numbers
    for name, (least, most) in limits.items():
        assert (properties[name]["minimum"], properties[name]["maximum"]) == (least, most)
    texts = {name: s["maxLength"] for name, s in properties.items() if "maxLength" in s}
    assert texts == {
        "trigger_word": training_inputs.MAX_TRIGGER_CHARACTERS,
        "validation_prompt": training_inputs.MAX_PROMPT_CHARACTERS,
    }


@pytest.mark.parametrize(("name", "field"), SETTINGS.items())
def test_every_input_reaches_its_setting(given, name, field):
    value = False if name == "gradient_checkpointing" else 3 if name != "learning_rate" else 0.3
    assert getattr(validate(**given | {name: value}).settings, field) == value


def test_the_choices_are_those_of_the_signature(document, properties):
    schemas = document["components"]["schemas"]
    choices = {name: schemas[name]["enum"] for name in properties if name in schemas}
    assert choices == {
        "lr_schedule": list(training_inputs.LR_SCHEDULES),
        "targets": list(training_inputs.TARGETS),
    }


@pytest.mark.parametrize("name", training_inputs.LR_SCHEDULES)
def test_every_schedule_is_one_that_needs_nothing_besides(given, name):
    chosen = validate(**given | {"lr_schedule": name}).settings
    rate = schedule_named(chosen.lr_schedule, steps=chosen.steps, warmup=chosen.warmup_steps)
    assert rate(0) == 1.0
    assert rate(chosen.steps - 1) == (1.0 if name == "constant" else pytest.approx(0, abs=1e-2))


def test_the_constant_rate_is_the_default_of_the_settings():
    default = FinetuneSettings()
    rates = [
        schedule_named(name, steps=9, warmup=default.warmup_steps)
        for name in ("constant", default.lr_schedule)
    ]
    assert [rates[0](step) for step in range(9)] == [rates[1](step) for step in range(9)]


def test_targets_are_layers_of_a_block(given):
    attention = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    more = ("ff.net.0.proj", "ff.net.2")
    for asked, layers in {
        "attention": attention,
        "attention+feed-forward": attention + more,
    }.items():
        assert block_targets(validate(**given | {"targets": asked}).settings.targets) == layers


def test_a_whole_number_may_be_written_as_a_float(given):
    settings = validate(**given | {"steps": 7.0}).settings
    assert (settings.steps, type(settings.steps)) == (7, int)


def test_a_validation_prompt_is_used_once_at_the_end(given):
    settings = validate(**given | {"validation_prompt": " a cat ", "steps": 30}).settings
    assert settings.validation_prompts == ("a cat",)
    assert settings.validate_every == 30


def test_the_state_is_saved_only_at_the_end(given):
    assert validate(**given | {"steps": 3000}).settings.save_every == 3000


@pytest.mark.parametrize("given_as", ["/etc/hostname", "file:///etc/hostname", "", None, 5])
def test_what_is_no_file_that_was_sent_is_refused(given, given_as):
    with pytest.raises(UserError, match=r"^videos is not a file that was sent along\. It must be"):
        validate(**given | {"videos": given_as})


def test_a_folder_of_the_server_is_refused(given, tmp_path):
    with pytest.raises(UserError, match="videos is not a file that was sent along"):
        validate(**given | {"videos": Path(tmp_path)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", 100_001),
        ("steps", "many"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("rank", 0),
        ("alpha", -1),
        ("batch_size", 65),
        ("lr_schedule", "piecewise_constant"),
        ("lr_schedule", None),
        ("targets", "to_q"),
        ("targets", ["attention"]),
        ("seed", -1),
        ("seed", 2**31),
        ("trigger_word", "x" * 101),
        ("trigger_word", 5),
        ("validation_prompt", "x" * 10_001),
    ],
)
def test_what_the_server_may_let_through_is_refused_by_name(given, name, value):
    with pytest.raises(UserError, match=rf"^{name} is "):
        validate(**given | {name: value})
