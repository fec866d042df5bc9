"""SAT checkpoints are converted once, whole or not at all, as `cogvideox convert` does it."""

import dataclasses
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from conversion.convert import convert
from conversion.convert_lora import convert_lora, plan_lora
from conversion.plan import ConversionOptions, plan_conversion
from predictors.lora.adapter_file import read_adapter
from predictors.lora.source import LoraPlaces, parse_source
from predictors.weights_source import resolve_weights
from sampling.sat_inference import read_sat_inference
from sampling.sat_source import SatSource, is_sat_checkpoint
from sampling.sat_weights import sat_weights_folder
from tests.sampling.sat_files import inference_document, model_document, write_yaml
from weights.caching.cache import Cache
from weights.errors import OperationError, UserError
from weights.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "weights" / "nano"
GOLDEN = ROOT / "tests" / "golden"


class Conversions:
    """Counts the conversions that were begun, and the bytes that they wrote."""

    def __init__(self):
        self.begun, self.done = 0, 0
        self._mutex = threading.Lock()

    @contextmanager
    def __call__(self, label, total):
        with self._mutex:
            self.begun += 1

        def advance(count):
            self.done += count

        yield advance


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def sat(tmp_path):
    """A copy of nano's checkpoint, to be changed."""
    shutil.copytree(NANO, tmp_path / "my nano")
    return tmp_path / "my nano"


@pytest.fixture(scope="session")
def converted_nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "nano"
    convert(plan_conversion(NANO), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory):
    """A folder as of a T5 of the golden models' width; conversion reads no more of it."""
    folder = tmp_path_factory.mktemp("t5")
    (folder / "config.json").write_text(json.dumps({"d_model": 40}))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("checkpoint", ["", "transformer"])
def test_it_is_what_convert_writes(cache, converted_nano, checkpoint):
    weights = sat_weights_folder(SatSource(checkpoint=NANO / checkpoint), cache)
    assert (weights.lora, weights.notes) == (None, ())
    assert contents(weights.folder) == contents(converted_nano)
    assert weights.folder.is_relative_to(cache.root)
    assert resolve_weights(str(weights.folder), "t2v").variant.name == "nano"


def test_a_checkpoint_file_comes_with_the_parts_that_are_named(cache, converted_nano):
    weights = sat_weights_folder(
        SatSource(
            checkpoint=NANO / "transformer" / "1" / "mp_rank_00_model_states.pt",
            config=NANO / "model.yaml",
            vae=NANO / "vae" / "3d-vae.pt",
            text_encoder=NANO / "t5-v1_1-xxl",
        ),
        cache,
    )
    assert contents(weights.folder) == contents(converted_nano)


def test_it_is_converted_once(cache, sat):
    conversions = Conversions()
    first = sat_weights_folder(SatSource(checkpoint=sat), cache, progress=conversions)
    assert conversions.begun == 1
    assert conversions.done > 10**6
    again = sat_weights_folder(SatSource(checkpoint=sat / "."), cache, progress=conversions)
    assert (again, conversions.begun) == (first, 1)
    assert first.folder.parent.name.startswith("my-nano-")
    record = json.loads((first.folder.parent / "source.json").read_bytes())
    assert record["checkpoint"] == str(sat)


@pytest.mark.parametrize("name", ["transformer/1/mp_rank_00_model_states.pt", "vae/3d-vae.pt"])
def test_a_changed_file_is_converted_anew(cache, sat, name):
    conversions = Conversions()
    first = sat_weights_folder(SatSource(checkpoint=sat), cache, progress=conversions)
    os.utime(sat / name, ns=(1, 1))
    second = sat_weights_folder(SatSource(checkpoint=sat), cache, progress=conversions)
    assert first.folder != second.folder
    assert conversions.begun == 2


def test_other_configs_encoders_and_dtypes_are_other_conversions(cache, sat):
    source = SatSource(checkpoint=sat)
    names = [sat_weights_folder(source, cache).folder]
    names.append(sat_weights_folder(dataclasses.replace(source, dtype="bf16"), cache).folder)
    assert json.loads((names[1] / "conversion.json").read_bytes())["dtype"] == "bfloat16"
    (sat / "model.yaml").write_text((sat / "model.yaml").read_text() + "# changed\n")
    names.append(sat_weights_folder(source, cache).folder)
    os.utime(sat / "t5-v1_1-xxl" / "model.safetensors", ns=(1, 1))
    names.append(sat_weights_folder(source, cache).folder)
    assert len(set(names)) == 4


def test_an_interrupted_conversion_is_taken_up_again(cache, converted_nano):
    @contextmanager
    def interrupted(label, total):
        def advance(count):
            # The transformer's file is whole then.
            if list(cache.root.rglob("vae/*.safetensors")):
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        sat_weights_folder(SatSource(checkpoint=NANO), cache, progress=interrupted)
    assert not list(cache.root.rglob("source.json"))
    assert not list(cache.root.rglob("weights"))
    (kept,) = cache.root.rglob("transformer/*.safetensors")
    written = kept.stat().st_mtime_ns
    weights = sat_weights_folder(SatSource(checkpoint=NANO), cache)
    assert contents(weights.folder) == contents(converted_nano)
    (taken_up,) = weights.folder.glob("transformer/*.safetensors")
    assert taken_up.stat().st_mtime_ns == written
    assert not list(cache.root.rglob(".*partial"))


def test_what_no_record_vouches_for_is_made_again(cache, converted_nano):
    weights = sat_weights_folder(SatSource(checkpoint=NANO), cache)
    (weights.folder.parent / "source.json").unlink()
    # As a power cut leaves it.
    (weights.folder / "model_index.json").write_bytes(b"")
    again = sat_weights_folder(SatSource(checkpoint=NANO), cache)
    assert again == weights
    assert contents(again.folder) == contents(converted_nano)
    shutil.rmtree(weights.folder)
    assert contents(sat_weights_folder(SatSource(checkpoint=NANO), cache).folder)


def test_of_many_at_once_one_converts(cache):
    conversions, barrier = Conversions(), threading.Barrier(4)

    def convert_it(_):
        barrier.wait()
        return sat_weights_folder(SatSource(checkpoint=NANO), cache, progress=conversions)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(convert_it, range(4)))
    assert conversions.begun == 1
    assert all(result == results[0] for result in results)


def test_without_space_nothing_is_left(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(OperationError, match="are needed"):
            sat_weights_folder(SatSource(checkpoint=NANO), cache)
    assert not [path for path in cache.root.rglob("*") if path.name.endswith(".safetensors")]
    assert sat_weights_folder(SatSource(checkpoint=NANO), cache)


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OperationError, match=r"can't be converted into .*COGVIDEOX_CACHE"):
        sat_weights_folder(SatSource(checkpoint=NANO), Cache(tmp_path / "file"))


@pytest.mark.parametrize(
    ("part", "said"),
    [("vae", "first_stage_config"), ("t5-v1_1-xxl", "conditioner_config")],
)
def test_a_missing_part_is_named_before_anything_is_written(cache, sat, part, said):
    shutil.rmtree(sat / part)
    with pytest.raises(UserError) as error:
        sat_weights_folder(SatSource(checkpoint=sat), cache)
    for text in (str(sat), said, "cogvideox convert"):
        assert text in str(error.value)
    assert not cache.root.exists()


def test_a_damaged_checkpoint_is_refused(cache, sat):
    (sat / "transformer" / "1" / "mp_rank_00_model_states.pt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        sat_weights_folder(SatSource(checkpoint=sat), cache)


def lora_source(name, tiny_t5, **fields):
    """A golden LoRA, which carries its base."""
    root = GOLDEN / name
    vae = GOLDEN / "vae" / "sat" / "vae" / "3d-vae.pt"
    fields = {"config": root / "model.yaml", "vae": vae, "text_encoder": tiny_t5} | fields
    return SatSource(checkpoint=root / "sat", **fields)


@pytest.mark.parametrize(("name", "rank"), [("lora_2b", 4), ("lora_5b", 3)])
def test_a_lora_is_an_adapter_on_its_base(cache, tmp_path, tiny_t5, name, rank):
    source = lora_source(name, tiny_t5, lora_rank=rank)
    weights = sat_weights_folder(source, cache)
    options = ConversionOptions(
        config=source.config, vae=source.vae, text_encoder=str(tiny_t5), lora="leave out"
    )
    convert(plan_conversion(source.checkpoint, options), tmp_path / "base")
    convert_lora(plan_lora(source.checkpoint, config=source.config), tmp_path / "lora")
    assert contents(weights.folder) == contents(tmp_path / "base")
    assert weights.lora.read_bytes() == (tmp_path / "lora").read_bytes()
    assert f"LoRA of rank {rank}; it acts with alpha 1 / {rank}" in weights.notes[-1]
    variant = dataclasses.replace(VARIANTS["cogvideox-5b"], num_layers=2, num_heads=2)
    if name == "lora_5b":
        assert len(read_adapter(weights.lora, variant).pairs) == 8


def test_a_request_may_name_the_lora(cache, tiny_t5, tmp_path):
    weights = sat_weights_folder(lora_source("lora_2b", tiny_t5), cache)
    with pytest.raises(UserError):
        parse_source(str(weights.lora), LoraPlaces())
    operators = tmp_path / "operators"
    places = weights.lora_places(LoraPlaces(folders=(operators,)))
    assert places.folders[0] == operators
    assert parse_source(str(weights.lora), places).path == weights.lora
    with pytest.raises(UserError):
        parse_source(str(weights.folder / "vae" / "diffusion_pytorch_model.safetensors"), places)


def test_another_alpha_costs_no_other_conversion(cache, tiny_t5):
    conversions = Conversions()
    one, two = (
        sat_weights_folder(
            lora_source("lora_2b", tiny_t5, lora_alpha=alpha), cache, progress=conversions
        )
        for alpha in (1, 16)
    )
    assert conversions.begun == 1
    assert one.folder == two.folder
    assert one.lora != two.lora
    assert all(weights.lora.is_file() for weights in (one, two))


@pytest.mark.parametrize("again", [False, True])
def test_a_lora_of_another_rank_is_refused(cache, tiny_t5, again):
    if again:
        sat_weights_folder(lora_source("lora_2b", tiny_t5), cache)
    with pytest.raises(UserError, match=r"a LoRA of rank 8; .* has one of rank 4"):
        sat_weights_folder(lora_source("lora_2b", tiny_t5, lora_rank=8), cache)


@pytest.mark.parametrize("again", [False, True])
def test_a_yaml_of_a_lora_and_a_checkpoint_without_are_refused(cache, again):
    if again:
        sat_weights_folder(SatSource(checkpoint=NANO), cache)
    with pytest.raises(UserError, match=r"a LoRA of rank 8; .* has none"):
        sat_weights_folder(SatSource(checkpoint=NANO, lora_rank=8), cache)


def test_checkpoints_are_told_from_other_weights(tmp_path, monkeypatch, converted_nano):
    file = NANO / "transformer" / "1" / "mp_rank_00_model_states.pt"
    for checkpoint in (NANO, NANO / "transformer", file, GOLDEN / "deepspeed" / "zero2"):
        assert is_sat_checkpoint(str(checkpoint))
    for other in (converted_nano, tmp_path, tmp_path / "none", ROOT / "pyproject.toml"):
        assert not is_sat_checkpoint(str(other))
    # Names of variants come first.
    monkeypatch.chdir(ROOT / "weights")
    assert not is_sat_checkpoint("nano")
    assert is_sat_checkpoint("./nano")


@pytest.mark.slow  # its fast twin: test_it_is_what_convert_writes
def test_from_sats_files_to_a_video_that_is_the_one_of_the_converted_folder(
    cache, tmp_path, monkeypatch, converted_nano
):
    import diffusers
    import numpy as np
    import torch

    variant = VARIANTS["nano"]
    inference = inference_document(variant)
    del inference["args"]["bf16"]
    inference["args"] |= {"load": str(NANO / "transformer"), "input_file": "prompts.txt"}
    (tmp_path / "prompts.txt").write_text("A red circle moves to the right\n")
    monkeypatch.chdir(tmp_path)
    sat = read_sat_inference(
        write_yaml(tmp_path / "model.yaml", model_document(variant)),
        write_yaml(tmp_path / "inference.yaml", inference),
    )
    weights = sat_weights_folder(sat.source, cache)
    sat.check_weights(resolve_weights(str(weights.folder), "t2v").variant)
    options = {name: sat.options[name] for name in ("num_frames", "width", "height")}

    def frames(folder):
        pipe = diffusers.CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            sat.prompts.read_text().strip(),
            num_inference_steps=2,
            max_sequence_length=variant.text_tokens,
            generator=torch.Generator().manual_seed(42),
            output_type="np",
            **options,
        ).frames

    video = frames(weights.folder)
    assert video.shape == (1, 9, 64, 64, 3)
    assert np.array_equal(video, frames(converted_nano))
