"""SAT's files become settings of ours; what has no counterpart is listed, and nothing is lost."""

import math
from contextlib import suppress
from dataclasses import fields

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.finetuning.sat_settings import read_sat_settings, require_agreement
from training.finetuning.settings import FinetuneSettings
from training.lr_schedules import schedule_named
from weights.errors import UserError
from weights.variants import VARIANTS

# A file as someone might have it, with other numbers than SAT's own.
TRAINING = """
args:
  checkpoint_activations: True
  model_parallel_size: 1
  experiment_name: kites
  mode: finetune
  load: "sat/5b/transformer"
  no_load_rng: True
  train_iters: 700
  eval_iters: 1
  eval_interval: 70
  eval_batch_size: 1
  save: runs
  save_interval: 350
  log_interval: 10
  train_data: [ "data/kites" ]
  valid_data: [ "data/kites" ]
  split: 1,0,0
  num_workers: 4
  force_train: True
  only_log_video_latents: True
data:
  target: data_video.SFTDataset
  params:
    video_size: [ 480, 720 ]
    fps: 8
    max_num_frames: 33
    skip_frms_num: 3.
deepspeed:
  train_micro_batch_size_per_gpu: 2
  gradient_accumulation_steps: 4
  steps_per_print: 50
  gradient_clipping: 0.2
  zero_optimization:
    stage: 2
    cpu_offload: false
    overlap_comm: true
  bf16:
    enabled: True
  fp16:
    enabled: False
  loss_scale: 0
  optimizer:
    type: sat.ops.FusedEmaAdam
    params:
      lr: 5e-4
      betas: [ 0.8, 0.9 ]
      eps: 1e-8
      weight_decay: 1e-3
  wall_clock_breakdown: false
"""
MODEL = """
model:
  scale_factor: 0.7
  noised_image_dropout: 0.04
  not_trainable_prefixes: ['all']
  network_config:
    target: dit_video_concat.DiffusionTransformer
    params:
      num_layers: 42
      transformer_args:
        checkpoint_activations: True
        vocab_size: 1
      modules:
        lora_config:
          target: sat.model.finetune.lora2.LoraMixin
          params:
            r: 64
  conditioner_config:
    params:
      emb_models:
        - input_key: txt
          ucg_rate: 0.2
          params:
            max_length: 226
  sampler_config:
    params:
      num_steps: 50
"""


@pytest.fixture
def read(tmp_path):
    """Reads texts as SAT's files, in their order."""

    def read_texts(*texts, steps=None):
        files = []
        for number, text in enumerate(texts):
            file = tmp_path / f"{number}.yaml"
            file.write_text(text)
            files.append(file)
        return read_sat_settings(files, steps)

    return read_texts


def changed(text, **values):
    """`text` with other values at dotted keys (written with __); None takes a key out."""
    document = yaml.safe_load(text)
    for name, value in values.items():
        *place, last = name.split("__")
        section = document
        for part in place:
            section = section.setdefault(part, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    return yaml.safe_dump(document)


def test_every_field_that_has_a_counterpart_is_mapped(read):
    sat = read(TRAINING, MODEL)
    assert sat.settings == {
        "full": False,
        "rank": 64,
        "steps": 700,
        "batch": 2,
        "accumulate": 4,
        "learning_rate": 5e-4,
        "lr_schedule": "linear",
        "warmup_steps": 7,
        "betas": (0.8, 0.9),
        "weight_decay": 1e-3,
        "clip_norm": 0.2,
        "caption_dropout": 0.2,
        "image_dropout": 0.04,
        "precision": "bf16",
        "checkpointing": True,
        "save_every": 350,
        "validate_every": 70,
    }
    assert (str(sat.data), sat.size, sat.frames, sat.fps) == ("data/kites", (720, 480), 33, 8)


def test_the_settings_are_those_of_a_training(read):
    named = {field.name for field in fields(FinetuneSettings)}
    sat = read(TRAINING, MODEL)
    assert sat.settings.keys() <= named
    assert FinetuneSettings(**sat.settings).learning_rate == 5e-4


def leaves(document, place=()):
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, name))
        else:
            yield ".".join((*place, name)), value


MAPPED = {
    "args.checkpoint_activations",
    "args.train_iters",
    "args.eval_interval",
    "args.save_interval",
    "args.train_data",
    "data.target",
    "data.params.video_size",
    "data.params.fps",
    "data.params.max_num_frames",
    "deepspeed.train_micro_batch_size_per_gpu",
    "deepspeed.gradient_accumulation_steps",
    "deepspeed.gradient_clipping",
    "deepspeed.bf16.enabled",
    "deepspeed.fp16.enabled",
    "deepspeed.optimizer.params.lr",
    "deepspeed.optimizer.params.betas",
    "deepspeed.optimizer.params.weight_decay",
    "model.noised_image_dropout",
    "model.not_trainable_prefixes",
    "model.network_config.params.transformer_args.checkpoint_activations",
    "model.network_config.params.modules.lora_config.target",
    "model.network_config.params.modules.lora_config.params.r",
}


def test_every_other_key_is_listed_with_what_to_do_instead(read):
    sat = read(TRAINING, MODEL)
    keys = [name for text in (TRAINING, MODEL) for name, _ in leaves(yaml.safe_load(text))]
    for key in keys:
        shown = any(key == each.key or key.startswith(f"{each.key}.") for each in sat.unmapped)
        assert shown or key in MAPPED, key
    assert not MAPPED & {each.key for each in sat.unmapped}
    assert set(keys) >= MAPPED
    assert all("no key of SAT" not in each.instead for each in sat.unmapped)
    assert all(str(each).count("\n") == 1 for each in sat.unmapped)
    lines = "\n".join(map(str, sat.unmapped))
    assert (
        "deepspeed.zero_optimization: {stage: 2, cpu_offload: false, overlap_comm: true}" in lines
    )
    assert "accelerate launch" in lines
    assert "args.split: 1,0,0" in lines
    assert "ucg_rate" not in lines


def test_unknown_keys_are_listed_too(read):
    sat = read(changed(TRAINING, args__wandb=True, deepspeed__zorn=1, extra__deep__thing=2))
    found = {each.key: each for each in sat.unmapped}
    assert found["args.wandb"].value == "true"
    assert "has no effect" in found["args.wandb"].instead
    assert found["extra.deep"].value == "{thing: 2}"
    assert "DeepSpeed" in found["deepspeed.zorn"].instead


def test_what_the_files_do_not_say_is_not_set(read):
    assert read("data: {params: {fps: 8}}").settings == {}
    sat = read("args: {train_iters: 50}")
    assert sat.settings == {"steps": 50, "lr_schedule": "linear", "warmup_steps": 0}
    assert (sat.data, sat.size, sat.frames, sat.fps) == (None, None, None, None)
    assert sat.unmapped == ()


def test_a_key_without_a_value_says_nothing_and_is_listed(read):
    sat = read("args: {seed: null, train_iters: 50}")
    assert "seed" not in sat.settings
    assert [str(each) for each in sat.unmapped] == ["args.seed: null\n    Nothing is set there."]


def test_the_last_file_counts(read):
    sat = read(TRAINING, MODEL, "args: {train_iters: 9}\ndata: {params: {video_size: [64, 32]}}")
    assert sat.settings["steps"] == 9
    assert sat.settings["save_every"] == 350
    assert sat.size == (32, 64)


def test_a_mapping_and_a_value_replace_each_other(read):
    assert read(TRAINING, "deepspeed: {optimizer: none}").settings.get("betas") is None
    sat = read("deepspeed: {bf16: off}", "deepspeed: {bf16: {enabled: true}}")
    assert sat.settings == {"precision": "bf16"}


@pytest.mark.parametrize(
    ("text", "field", "value", "overruled"),
    [
        (
            "{args: {lr: 0.1}, deepspeed: {optimizer: {params: {lr: 0.2}}}}",
            "learning_rate",
            0.2,
            "args.lr",
        ),
        (
            "{args: {batch_size: 3}, deepspeed: {train_micro_batch_size_per_gpu: 5}}",
            "batch",
            5,
            "args.batch_size",
        ),
        (
            "{args: {fp16: true}, deepspeed: {bf16: {enabled: true}}}",
            "precision",
            "bf16",
            "args.fp16",
        ),
        ("{args: {fp16: true}}", "precision", "fp16", None),
        ("{args: {batch_size: 3}}", "batch", 3, None),
    ],
)
def test_deepspeeds_part_decides_as_in_sat(read, text, field, value, overruled):
    sat = read(text)
    assert sat.settings[field] == value
    found = {each.key: each.instead for each in sat.unmapped}
    assert set(found) == ({overruled} if overruled else set())
    assert all("as in SAT" in each for each in found.values())


@pytest.mark.parametrize(
    ("bf16", "fp16", "precision"), [(1, 0, "bf16"), (0, 1, "fp16"), (0, 0, "fp32")]
)
def test_the_precision_is_what_is_switched_on(read, bf16, fp16, precision):
    values = {"deepspeed__bf16__enabled": bool(bf16), "deepspeed__fp16__enabled": bool(fp16)}
    assert read(changed(TRAINING, **values)).settings["precision"] == precision


def test_without_frozen_weights_all_are_trained(read):
    lora = "model__network_config__params__modules__lora_config"
    text = changed(MODEL, **{lora: None, "model__not_trainable_prefixes": None})
    assert read(text).settings["full"] is True
    assert "rank" not in read(text).settings
    # Upstream's own names for T5 and VAE.
    text = changed(text, model__not_trainable_prefixes=["first_stage_model", "conditioner"])
    assert read(text).settings["full"] is True


def test_the_files_without_a_model_do_not_say_what_is_trained(read):
    assert "full" not in read(TRAINING).settings
    assert read("model: {not_trainable_prefixes: [all]}").settings == {"full": False}


def sats_rate(n, steps, warmup, style, ratio):
    """SAT's AnnealingLR at step n, as `sat/training/learning_rates.py` computes it."""
    if warmup > 0 and n <= warmup:
        return n / warmup
    if style == "linear":
        return (steps - (n - warmup)) / steps
    if style == "cosine":
        share = min(1.0, (n - warmup) / steps)
        return ratio * ((math.cos(math.pi * share) + 1) * (1 / ratio - 1) / 2 + 1)
    return 1.0


@pytest.mark.parametrize(
    ("decay_steps", "warmup", "end"), [(None, 30, 330), (200, 20, 220)], ids=["none", "own"]
)
def test_a_course_that_is_a_share_of_the_steps_follows_those_that_are_taken(
    read, decay_steps, warmup, end
):
    text = changed(TRAINING, args__train_iters=500, args__warmup=0.1, args__lr_decay_style="cosine")
    if decay_steps:
        text = changed(text, args__lr_decay_iters=decay_steps)
    settings = read(text, steps=300).settings
    assert settings["warmup_steps"] == warmup
    assert settings["lr_options"]["max_decay_steps"] == end
    # The option itself counts where settings are put together.
    assert settings["steps"] == 500


@pytest.mark.parametrize(
    ("style", "ratio", "allowed"),
    [(None, 0.1, 0.02), ("linear", 0.1, 0.02), ("cosine", 0.2, 1e-12), ("constant", 0.1, 0)],
)
def test_the_learning_rate_runs_as_sats(read, style, ratio, allowed):
    text = changed(TRAINING, args__train_iters=500, args__warmup=0.02, args__lr_decay_ratio=ratio)
    sat = read(changed(text, args__lr_decay_style=style) if style else text)
    rate = schedule_named(
        sat.settings["lr_schedule"],
        steps=500,
        warmup=sat.settings["warmup_steps"],
        options=sat.settings.get("lr_options"),
    )
    for n in range(501):
        expected = sats_rate(n, 500, 10, style or "linear", ratio)
        assert rate(n) == pytest.approx(expected, rel=0, abs=allowed)


def test_sats_exponential_decay_is_the_constant_rate_that_it_really_is(read):
    sat = read(changed(TRAINING, args__lr_decay_style="exponential"))
    assert sat.settings["lr_schedule"] == "constant_with_warmup"
    assert "args.lr_decay_style" in [each.key for each in sat.unmapped]


def test_several_folders_are_listed_and_none_is_taken(read):
    sat = read(changed(TRAINING, args__train_data=["one", "two"]))
    assert sat.data is None
    (found,) = [each for each in sat.unmapped if each.key == "args.train_data"]
    assert found.value == "[one, two]"
    assert "one folder" in found.instead
    assert str(read(changed(TRAINING, args__train_data="one")).data) == "one"


def test_another_dataset_is_listed(read):
    sat = read(changed(TRAINING, data__target="data_video.VideoDataset"))
    assert "--check" in {each.key: each.instead for each in sat.unmapped}["data.target"]


BAD = [
    ("args__train_iters", 0, "at least 1"),
    ("args__train_iters", 1.5, "whole number"),
    ("args__train_iters", "many", "number of at least 1"),
    ("args__seed", -1, "from 0 to"),
    ("args__train_data", [1], "list of folders"),
    ("args__warmup", 2, "from 0 to 1"),
    ("args__lr_decay_style", "steep", "linear, cosine, constant"),
    ("data__params__video_size", [480], "height and width"),
    ("data__params__video_size", 480, "A list"),
    ("data__params__video_size", [480, "wide"], "number"),
    ("data__params__fps", True, "number"),
    ("deepspeed__gradient_clipping", 0, "above 0"),
    ("deepspeed__bf16__enabled", "auto", "True or False"),
    ("model__network_config__params__transformer_args__checkpoint_activations", 1, "True or False"),
    ("deepspeed__fp16__enabled", True, "deepspeed.bf16.enabled is True"),
    ("deepspeed__optimizer__params__lr", "1e-4x", "above 0"),
    ("deepspeed__optimizer__params__lr", float("nan"), "above 0"),
    ("deepspeed__optimizer__params__lr", 10**400, "above 0"),
    ("deepspeed__optimizer__params__betas", [0.9, 1], "below 1"),
    ("deepspeed__optimizer__params__betas", [0.9], "Two numbers"),
    ("model__noised_image_dropout", 1.5, "from 0 to 1"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD, ids=[key for key, *_ in BAD])
def test_a_bad_value_is_refused_with_its_file_and_key(read, key, value, expected):
    with pytest.raises(UserError) as error:
        read(TRAINING, MODEL, changed(TRAINING, **{key: value}))
    assert "2.yaml has " in str(error.value)
    assert key.replace("__", ".") in str(error.value)
    assert expected in str(error.value)


def test_a_lora_and_all_weights_at_once_are_refused(read):
    with pytest.raises(UserError, match="at once"):
        read(changed(MODEL, model__not_trainable_prefixes=None))
    lora = "model__network_config__params__modules__lora_config"
    with pytest.raises(UserError, match="a LoRA is expected"):
        read(changed(MODEL, **{lora: None}))


@pytest.mark.parametrize(
    "text", ["", "[1]", "args: [", "other: 1", "args: {a: 1, a: 2}", "args: 2026-02-31"]
)
def test_what_is_no_such_file_is_refused(read, text):
    with pytest.raises(UserError, match=r"0\.yaml .*path that was given"):
        read(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml"):
        read_sat_settings([tmp_path / "none.yaml"])


def test_yaml_that_makes_objects_is_refused(read):
    with pytest.raises(UserError, match="can't be read"):
        read("args: !!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("kind", ["{{{}}}", "[{}]"])
@pytest.mark.parametrize("key", ["train_iters", "train_data", "other"])
def test_small_files_that_unfold_into_large_ones_end_soon(read, kind, key):
    rows = ["args: &a0 {x: 1}"]
    for n in range(1, 30):
        parts = ", ".join(f"{f'k{m}: ' if kind[0] == '{' else ''}*a{n - 1}" for m in range(9))
        rows.append(f"x{n}: &a{n} {kind.format(parts)}")
    rows.append(f"data: {{y: *a29}}\ndeepspeed: {{{key}: *a29}}")
    with suppress(UserError):
        sat = read("\n".join(rows), f"args: {{{key}: 3}}")
        assert len("".join(map(str, sat.unmapped))) < 10_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.sampled_from([key for key, *_ in BAD]), VALUES)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_is_read_for_a_training_or_refused(read, key, value):
    document = {}
    *place, last = key.split("__")
    section = document
    for part in place:
        section = section.setdefault(part, {})
    section[last] = value
    try:
        sat = read(yaml.safe_dump(document))
    except UserError:
        return
    FinetuneSettings(**sat.settings)
    set_by_it = sat.settings.keys() - {"lr_schedule", "warmup_steps"}
    assert set_by_it or sat.data or sat.size or sat.fps or sat.unmapped or "warmup" in key


@pytest.mark.parametrize(
    ("name", "size", "frames", "fps"),
    [
        ("cogvideox-2b", [480, 720], 49, 8),
        ("cogvideox-5b", [480, 720], 17, 8),
        ("cogvideox1.5-5b", [768, 1360], 81, 16),
        ("cogvideox1.5-5b-i2v", [1360, 768], 81, 16),
        ("nano", [64, 64], 9, 8),
    ],
)
def test_clips_that_the_variant_makes_agree_with_it(read, name, size, frames, fps):
    params = {"video_size": size, "max_num_frames": frames, "fps": fps}
    require_agreement(read(yaml.safe_dump({"data": {"params": params}})), VARIANTS[name])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"video_size": [720, 480]}, ["video_size is [720, 480]", "[480, 720]"]),
        ({"max_num_frames": 50}, ["max_num_frames is 50", "49"]),
        ({"fps": 16}, ["fps is 16", "8"]),
    ],
)
def test_clips_that_it_does_not_make_are_refused(read, params, said):
    sat = read(yaml.safe_dump({"data": {"params": params}}))
    with pytest.raises(UserError) as error:
        require_agreement(sat, VARIANTS["cogvideox-5b"])
    for part in ("cogvideox-5b", "0.yaml", *said):
        assert part in str(error.value)


def test_files_that_say_nothing_of_clips_agree_with_every_variant(read):
    for variant in VARIANTS.values():
        require_agreement(read("args: {train_iters: 5}"), variant)
