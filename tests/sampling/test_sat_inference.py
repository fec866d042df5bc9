"""SAT's files become options of ours; what has no counterpart is listed, and nothing is lost."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictors.request import validate
from sampling.sat_inference import read_sat_inference
from tests.sampling.sat_files import GUIDER, changed, inference_document, model_document, write_yaml
from weights.errors import UserError
from weights.variants import VARIANTS

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RELEASED = [name for name in VARIANTS if not name.startswith("nano")]
SAMPLER = "model.sampler_config"
NETWORK = "model.network_config.params"
LORA = f"{NETWORK}.modules.lora_config"


@pytest.fixture
def sat(tmp_path, monkeypatch):
    """A folder as SAT's, with a checkpoint and prompts, and a function that reads files there."""
    root = tmp_path / "sat"
    for name in ("transformer", "vae", "t5-v1_1-xxl"):
        (root / "CogVideoX-sat" / name).mkdir(parents=True)
    (root / "CogVideoX-sat" / "transformer" / "latest").write_text("1")
    (root / "CogVideoX-sat" / "vae" / "3d-vae.pt").touch()
    (root / "t5-v1_1-xxl").mkdir()
    (root / "configs").mkdir()
    (root / "configs" / "test.txt").write_text("A kite over the sea\n")
    monkeypatch.chdir(root)

    def read(name="cogvideox-5b", values=(), *, alone=False, **options):
        variant = VARIANTS[name]
        model, inference = model_document(variant), inference_document(variant)
        for key, value in dict(values).items():
            changed(inference if key.startswith("args.") else model, {key: value})
        files = [
            write_yaml(root / "configs" / "model.yaml", model),
            write_yaml(root / "configs" / "inference.yaml", inference),
        ]
        return read_sat_inference(*files[: 1 if alone else 2], **options)

    read.root = root
    return read


def shown(sat):
    return {each.key: each.instead for each in sat.ignored}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_files_are_taken_over(sat, name):
    found, variant = sat(name), VARIANTS[name]
    size = {} if variant.any_aspect else {"width": variant.width, "height": variant.height}
    assert found.variant == variant
    assert found.options == size | {
        "num_frames": variant.default_frames,
        "fps": variant.fps,
        "num_inference_steps": 50,
        "guidance_scale": 6,
        "dynamic_guidance": True,
        "scheduler": "sat",
    }
    assert found.seed is None
    assert (str(found.prompts), found.out) == ("configs/test.txt", "outputs/")
    assert str(found.source.checkpoint) == "CogVideoX-sat/transformer"
    assert str(found.source.vae) == "CogVideoX-sat/vae/3d-vae.pt"
    assert str(found.source.text_encoder) == "t5-v1_1-xxl"
    assert found.source.config == sat.root / "configs" / "model.yaml"
    assert (found.source.dtype, found.source.lora_rank) == ("bf16", None)
    assert found.notes == ()
    found.check_weights(variant)
    validate(variant, prompt="A kite", **found.options | {"scheduler": "auto"})


@pytest.mark.parametrize("name", ["nano", "nano-i2v"])
def test_small_models_are_told_by_their_numbers(sat, name):
    found = sat(name)
    assert found.variant.name == name
    assert found.options["num_frames"] == 9


def test_a_model_of_other_sizes_is_one_of_the_released_kind(sat):
    found = sat("cogvideox1.5-5b", {f"{NETWORK}.num_layers": 3, f"{NETWORK}.hidden_size": 128})
    assert found.variant.name == "cogvideox1.5-5b"


MAPPED = {
    *(f"args.{name}" for name in ("image2video", "latent_channels", "mode", "load", "input_type")),
    *(f"args.{name}" for name in ("input_file", "sampling_num_frames", "sampling_fps", "bf16")),
    *("args.output_dir", "args.sampling_image_size", "args.batch_size"),
    *(f"{NETWORK}.{name}" for name in ("num_layers", "hidden_size", "in_channels", "patch_size")),
    *(f"{NETWORK}.{name}" for name in ("num_frames", "latent_width", "latent_height")),
    *(f"{NETWORK}.{name}" for name in ("out_channels", "time_compressed_rate")),
    f"{NETWORK}.modules.pos_embed_config.target",
    f"{NETWORK}.modules.pos_embed_config.params.text_length",
    "model.scale_factor",
    "model.first_stage_config.params.ckpt_path",
    "model.denoiser_config.target",
    *(f"model.denoiser_config.params.{name}" for name in ("num_idx", "quantize_c_noise")),
    "model.denoiser_config.params.scaling_config.target",
    "model.denoiser_config.params.discretization_config.target",
    "model.denoiser_config.params.discretization_config.params.shift_scale",
    f"{SAMPLER}.target",
    f"{SAMPLER}.params.num_steps",
    f"{SAMPLER}.params.discretization_config.target",
    f"{SAMPLER}.params.discretization_config.params.shift_scale",
    *(f"{GUIDER}.{name}" for name in ("target", "params.scale", "params.exp", "params.num_steps")),
}


def leaves(document, place=()):
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*place, name))
        else:
            yield ".".join((*place, name))


def test_every_other_key_is_listed_with_what_there_is_instead(sat):
    found = shown(sat())
    variant = VARIANTS["cogvideox-5b"]
    keys = {*leaves(model_document(variant)), *leaves(inference_document(variant))}
    for key in keys:
        listed = any(key == each or key.startswith(f"{each}.") for each in found)
        assert listed or key in MAPPED, key
    assert not MAPPED & found.keys()
    assert keys >= MAPPED
    assert all("no key like this" not in instead for instead in found.values())


@pytest.mark.parametrize(
    "folder", ["2b", "5b", "5b_i2v", "1.5_5b", "1.5_5b_i2v", "lora_2b", "lora_5b"]
)
def test_the_files_of_the_golden_models_are_known_whole(folder):
    root = GOLDEN / folder
    found = read_sat_inference(root / "model.yaml", weights=str(root / "sat"))
    assert all("no key like this" not in each.instead for each in found.ignored)
    assert found.source.lora_rank == {"lora_2b": 4, "lora_5b": 3}.get(folder)
    expected = folder.removeprefix("lora_").replace("_", "-")
    prefix = "cogvideox" if expected.startswith("1.5") else "cogvideox-"
    assert found.variant.name == prefix + expected
    assert found.options["scheduler"] == "sat"
    # Paths of the machine that it was trained on.
    assert [note.split(": ")[0].split(".")[-1] for note in found.notes] == [
        "ckpt_path",
        "model_dir",
    ]


def test_unknown_keys_are_listed(sat):
    found = shown(sat(values={"args.wandb": True, "model.zorn": 1, f"{SAMPLER}.params.s_noise": 1}))
    assert "no key like this" in found["args.wandb"]
    assert "model.zorn" in found
    assert f"{SAMPLER}.params" in found or SAMPLER in found


def test_an_older_file_has_both_sections(sat):
    inference = inference_document(VARIANTS["cogvideox-5b"])
    found = sat(values={"args": inference["args"]}, alone=True)
    assert found.options["num_frames"] == 49
    assert len(found.files) == 1


def test_what_the_files_do_not_say_is_not_set(sat):
    found = sat(values={SAMPLER: None}, alone=True)
    assert found.options == {}
    assert (found.prompts, found.out, found.source, found.seed) == (None, None, None, None)


LATENTS = [
    *(("cogvideox-2b", latents, frames) for latents, frames in [(9, 33), (11, 41), (13, 49)]),
    *(("cogvideox1.5-5b", latents, frames) for latents, frames in [(22, 81), (42, 161), (6, 17)]),
    ("cogvideox-5b-i2v", 13, 49),
    ("nano", 3, 9),
]


@pytest.mark.parametrize(("name", "latents", "frames"), LATENTS)
def test_latent_frames_become_frames(sat, name, latents, frames):
    found = sat(name, {"args.sampling_num_frames": latents})
    assert found.options["num_frames"] == frames


@pytest.mark.parametrize(
    ("name", "latents", "legal"),
    [
        ("cogvideox-2b", 12, "13 (49 frames)"),
        ("cogvideox-5b", 22, "13 (49 frames)"),
        ("cogvideox-5b-i2v", 9, "13 (49 frames)"),
        # The patches span two frames: SAT counts the one that fills the last of them up.
        ("cogvideox1.5-5b", 21, "22 (81 frames)"),
        ("cogvideox1.5-5b", 13, "14 (49 frames)"),
    ],
)
def test_other_latent_frames_are_refused(sat, name, latents, legal):
    with pytest.raises(UserError) as error:
        sat(name, {"args.sampling_num_frames": latents})
    for part in ("inference.yaml", f"args.sampling_num_frames: {latents}", legal):
        assert part in str(error.value)


def test_the_size_is_height_first(sat):
    assert sat("cogvideox1.5-5b").options["height"] == 768
    with pytest.raises(UserError, match=r"\[768, 1360\], height first"):
        sat("cogvideox1.5-5b", {"args.sampling_image_size": [1360, 768]})


def test_an_image_says_the_size_where_any_is_legal(sat):
    found = sat("cogvideox1.5-5b-i2v", {"args.sampling_image_size": [1, 2]})
    assert not {"width", "height"} & found.options.keys()
    assert "image" in shown(found)["args.sampling_image_size"]


@pytest.mark.parametrize(
    ("target", "scheduler"), [("VPSDEDPMPP2MSampler", "sat"), ("VideoDDIMSampler", "sat-ddim")]
)
def test_the_sampler_is_the_scheduler(sat, target, scheduler):
    values = {f"{SAMPLER}.target": f"sgm.modules.diffusionmodules.sampling.{target}"}
    assert sat(values=values).options["scheduler"] == scheduler


@pytest.mark.parametrize(
    ("guider", "params", "expected"),
    [
        ("DynamicCFG", {"scale": 4.5, "exp": 5, "num_steps": 50}, (4.5, True)),
        ("VanillaCFG", {"scale": 3}, (3, False)),
        ("IdentityGuider", None, (1, False)),
    ],
)
def test_the_guider_is_the_guidance(sat, guider, params, expected):
    config = {"target": f"sgm.modules.diffusionmodules.guiders.{guider}"}
    config |= {"params": params} if params else {}
    options = sat(values={GUIDER: config}).options
    assert (options["guidance_scale"], options["dynamic_guidance"]) == expected


def test_without_a_guider_nothing_is_guided_as_in_sat(sat):
    found = sat(values={GUIDER: None})
    assert found.options["guidance_scale"] == 1
    assert "as in SAT" in found.notes[0]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"bf16": None, "fp16": True}, "fp16"),
        ({"fp16": False}, "bf16"),
        ({"bf16": False}, "fp32"),
        ({"bf16": None}, None),
    ],
)
def test_the_dtype_is_what_is_switched_on(sat, flags, dtype):
    found = sat(values={f"args.{name}": value for name, value in flags.items()})
    assert found.source.dtype == dtype


def test_a_lora_has_a_rank_and_an_alpha(sat):
    config = {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 256}}
    source = sat(values={LORA: config}).source
    assert (source.lora_rank, source.lora_alpha) == (256, None)
    config["params"]["lora_alpha"] = 2
    assert sat(values={LORA: config}).source.lora_alpha == 2
    del config["params"]["r"]
    with pytest.raises(UserError, match=r"There is no .*lora_config\.params\.r in "):
        sat(values={LORA: config})


def test_typed_prompts(sat):
    found = sat(values={"args.input_type": "cli"})
    assert found.prompts == "-"
    assert "txt" in shown(found)["args.input_file"]


def test_a_prompt_file_that_is_not_there_is_named(sat):
    with pytest.raises(UserError) as error:
        sat(values={"args.input_file": "other.txt"})
    for part in ("inference.yaml", "args.input_file", "other.txt", "as PROMPTS"):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"expected as args\.input_file"):
        sat(values={"args.input_file": None})


def test_paths_are_looked_for_here_then_beside_the_yaml(sat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = sat(values={"args.input_file": "test.txt"})
    assert found.prompts == sat.root / "configs" / "test.txt"
    assert found.source.checkpoint == sat.root / "CogVideoX-sat" / "transformer"
    (tmp_path / "test.txt").touch()
    assert str(sat(values={"args.input_file": "test.txt"}).prompts) == "test.txt"


@pytest.mark.parametrize("load", ["{your folder}/transformer", "configs", "a" * 5000, "\0"])
def test_a_checkpoint_that_is_none_is_refused(sat, load):
    with pytest.raises(UserError, match=r"inference\.yaml has args\.load: .* as --weights"):
        sat(values={"args.load": load})


def test_other_weights_are_taken_as_they_are(sat):
    found = sat(values={"args.load": "nothing"}, weights="cogvideox-5b")
    assert found.source is None
    ignored = shown(found)
    assert all("--weights" in ignored[key] for key in ("args.load", "args.bf16"))
    with pytest.raises(UserError, match=r"describe cogvideox-5b\."):
        found.check_weights(VARIANTS["cogvideox-2b"])


def test_a_sat_checkpoint_given_as_weights_is_converted_as_the_files_say(sat):
    found = sat(values={"args.load": "nothing"}, weights="CogVideoX-sat")
    assert str(found.source.checkpoint) == "CogVideoX-sat"
    assert found.source.dtype == "bf16"
    assert "--weights" in shown(found)["args.load"]


def test_what_is_not_there_is_looked_for_beside_the_checkpoint(sat):
    found = sat(values={"model.first_stage_config.params.ckpt_path": "{your}/3d-vae.pt"})
    assert found.source.vae is None
    assert "3d-vae.pt, which is not there" in found.notes[0]


OVERRULED = {
    "num_frames": ("args.sampling_num_frames", 4),
    "fps": ("args.sampling_fps", "fast"),
    "width": ("args.sampling_image_size", 3),
    "height": ("args.sampling_image_size", 3),
    "seed": ("args.seed", -1),
    "scheduler": (f"{SAMPLER}.target", "EulerEDMSampler"),
    "num_inference_steps": (f"{SAMPLER}.params.num_steps", 0),
    "guidance_scale": (f"{GUIDER}.params.scale", 99),
    "prompts": ("args.input_type", "jsonl"),
    "out": ("args.output_dir", 3),
}


@pytest.mark.parametrize("option", OVERRULED)
def test_options_of_the_command_line_go_before_the_files(sat, option):
    key, value = OVERRULED[option]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        sat(values={key: value})
    found = sat(values={key: value}, given={option})
    assert option not in found.options
    assert "was given, and decides" in shown(found)[key]


def test_all_of_the_guidance_can_be_given(sat):
    given = {"guidance_scale", "dynamic_guidance"}
    found = sat(values={f"{GUIDER}.target": "MyCFG"}, given=given)
    assert not given & found.options.keys()
    found = sat(values={f"{GUIDER}.params.exp": 3}, given={"dynamic_guidance"})
    assert found.options["guidance_scale"] == 6


SCHEDULE = "discretization_config.params"
BAD = [
    ("args.sampling_num_frames", "many", "number"),
    ("args.sampling_fps", 61, "from 1 to 60"),
    ("args.sampling_fps", True, "number"),
    ("args.sampling_image_size", [480], "height first"),
    ("args.sampling_image_size", 480, "A list"),
    ("args.seed", 2**31, "from 0 to"),
    ("args.seed", 1.5, "whole number"),
    ("args.mode", "finetune", "inference is expected"),
    ("args.latent_channels", 32, "16 is expected"),
    ("args.batch_size", 0, "at least 1"),
    ("args.image2video", True, "False is expected"),
    ("args.image2video", "no", "True or False"),
    ("args.input_type", "csv", "txt or cli"),
    ("args.input_file", 3, "text"),
    ("args.output_dir", " ", "text"),
    ("args.load", ["x"], "text"),
    ("args.fp16", True, "args.bf16 is True"),
    ("args.bf16", "yes", "True or False"),
    ("model.scale_factor", "big", "number"),
    (f"{NETWORK}.num_layers", 0, "at least 1"),
    (f"{NETWORK}.num_layers", float("nan"), "at least 1"),
    (f"{NETWORK}.in_channels", 48, "No CogVideoX model"),
    (f"{NETWORK}.patch_size", 4, "2 is expected"),
    (f"{NETWORK}.time_compressed_rate", 8, "4 is expected"),
    (f"{NETWORK}.modules.pos_embed_config.target", 7, "text"),
    (f"{SAMPLER}.target", "sgm.EulerEDMSampler", "VPSDEDPMPP2MSampler or VideoDDIMSampler"),
    (f"{SAMPLER}.params.num_steps", 501, "from 1 to 500"),
    (f"{SAMPLER}.params.fixed_frames", 3, "0 is expected"),
    (f"{SAMPLER}.params.{SCHEDULE}.shift_scale", 3, "1.0 is expected for cogvideox-5b"),
    (f"model.denoiser_config.params.{SCHEDULE}.shift_scale", 3, "1.0 is expected"),
    (f"model.denoiser_config.params.{SCHEDULE}.linear_end", 0.02, "0.012 is expected"),
    ("model.denoiser_config.params.scaling_config.target", "x.EpsScaling", "VideoScaling"),
    (f"{GUIDER}.target", "LinearPredictionGuider", "DynamicCFG, VanillaCFG or Identity"),
    (f"{GUIDER}.params.scale", 0.5, "from 1 to 20"),
    (f"{GUIDER}.params.exp", 2, "5 is expected"),
    (f"{GUIDER}.params.num_steps", 25, f"The number of {SAMPLER}.params.num_steps"),
    (f"{GUIDER}.params.dyn_thresh_config.target", "x.Threshold", "NoDynamicThresholding"),
    (f"{LORA}.params.r", 0, "at least 1"),
    (f"{LORA}.target", "my.Adapter", "LoraMixin is expected"),
    ("model.conditioner_config", 3, "mapping"),
    ("model.conditioner_config.params.emb_models", [], "One embedder"),
    ("model.conditioner_config.params.emb_models", [{"params": None}], "One embedder"),
    ("model.conditioner_config.params.emb_models", "t5", "A list"),
    ("model.first_stage_config.params.ckpt_path", 5, "text"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD, ids=[key for key, *_ in BAD])
def test_a_bad_value_is_refused_with_its_file_and_key(sat, key, value, expected):
    with pytest.raises(UserError) as error:
        sat(values={key: value})
    file = "inference.yaml" if key.startswith("args.") else "model.yaml"
    for part in (f"{file} has {key}: ", expected):
        assert part in str(error.value)


def test_prompts_of_another_length_than_positions_are_refused(sat):
    embedders = [{"params": {"model_dir": "t5-v1_1-xxl", "max_length": 224}}]
    with pytest.raises(UserError, match=r"emb_models\[0\]\.params\.max_length: 224.*text_length"):
        sat(values={"model.conditioner_config.params.emb_models": embedders})


def test_an_image_model_makes_no_text_videos(sat):
    with pytest.raises(UserError, match=r"image2video: False.*True is expected.*32 in_channels"):
        sat("cogvideox-5b-i2v", {"args.image2video": False})
    assert sat("cogvideox-5b-i2v", {"args.image2video": None}).variant.task == "i2v"


@pytest.mark.parametrize(
    "key",
    [
        *(f"{NETWORK}.{name}" for name in ("num_layers", "hidden_size", "in_channels")),
        f"{NETWORK}.modules.pos_embed_config.target",
    ],
)
def test_a_missing_number_is_named(sat, key):
    with pytest.raises(UserError) as error:
        sat(values={key: None})
    assert f"There is no {key} in " in str(error.value)
    assert "--sat-config" in str(error.value)


def test_a_shift_that_is_missing_is_named(sat):
    place = f"{SAMPLER}.params.discretization_config.params"
    with pytest.raises(UserError, match=r"There is no .*shift_scale"):
        sat("cogvideox-2b", {place: None})


def test_a_model_in_two_files_is_refused(sat):
    values = {"args.sampling_fps": 8}
    sat(values=values)
    document = inference_document(VARIANTS["cogvideox-5b"]) | {"model": {"scale_factor": 0.9}}
    path = write_yaml(sat.root / "configs" / "other.yaml", document)
    with pytest.raises(UserError, match=r"other\.yaml has model\.scale_factor.*one file"):
        read_sat_inference(sat.root / "configs" / "model.yaml", path)


def test_a_later_file_goes_before_an_earlier_one(sat):
    sat()
    document = changed(inference_document(VARIANTS["cogvideox-5b"]), {f"{GUIDER}.params.scale": 2})
    path = write_yaml(sat.root / "configs" / "other.yaml", document)
    found = read_sat_inference(sat.root / "configs" / "model.yaml", path)
    assert found.options["guidance_scale"] == 2


def test_a_swapped_or_missing_file_is_refused(sat, tmp_path):
    sat()
    with pytest.raises(UserError, match=r"There is no model\.network_config"):
        read_sat_inference(sat.root / "configs" / "inference.yaml")
    with pytest.raises(UserError, match=r"none\.yaml can't be read"):
        read_sat_inference(tmp_path / "none.yaml")


def test_a_small_file_that_unfolds_into_a_large_one_ends_soon(sat):
    rows = ["x0: &a0 {k: 1}"]
    for n in range(1, 30):
        rows.append(f"x{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    rows.append("args: {load: *a29, wandb: *a29}\nmodel: {conditioner_config: *a29}")
    bomb = sat.root / "bomb.yaml"
    bomb.write_text("\n".join(rows))
    sat()
    with pytest.raises(UserError):
        read_sat_inference(sat.root / "configs" / "model.yaml", bomb)
    with suppress(UserError):
        read_sat_inference(bomb)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.sampled_from(RELEASED), st.sampled_from([key for key, *_ in BAD]), VALUES)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_is_one_that_the_model_can_do_or_is_refused(sat, name, key, value):
    values = {key: value} if value is not None else {}
    try:
        found = sat(name, values)
    except UserError:
        return
    request = dict(found.options) | {"scheduler": "auto"}
    validate(found.variant, prompt="A kite", image_size=(720, 480), **request)
    assert found.source is not None or key == "args.load"
    assert len("".join(map(str, found.ignored))) < 20_000
