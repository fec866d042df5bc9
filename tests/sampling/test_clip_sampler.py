"""Units become videos: as the server's, several at once, whatever fails, however it ends."""

import dataclasses
import errno
import os
from contextlib import closing, contextmanager

import pytest
import torch
from PIL import Image

from predictors.generate import generate
from predictors.lora.source import LoraPlaces
from predictors.operator_settings import OperatorSettings
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.video import read_metadata, read_video
from predictors.video_model import load_model
from predictors.weights_source import resolve_weights
from sampling import clip_sampler
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.job_plan import JobRules, plan_jobs
from sampling.open_store import open_store
from sampling.output_store import OutputError
from sampling.prompt_encoding import UnitEmbeddings
from tests.predictors.guarding import Target, allowing
from tests.predictors.lora.lora_files import peft_tensors, random_pairs, write
from tests.sampling.prompt_lines_of import line
from weights.errors import OperationError
from weights.variants import VARIANTS

STEPS = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def model(tiny_folder):
    """As the server has it."""
    return load_model(resolve_weights(str(tiny_folder), "t2v"), OperatorSettings())


@pytest.fixture(scope="module")
def loaded(tiny_folder, tmp_path_factory):
    with load(tiny_folder, "t2v", tmp_path_factory.mktemp("out")) as sampler:
        yield sampler


@pytest.fixture(scope="module")
def loaded_i2v(tiny_i2v_folder, tmp_path_factory):
    with load(tiny_i2v_folder, "i2v", tmp_path_factory.mktemp("out")) as sampler:
        yield sampler


def load(folder, task, out, *, text_encoder=False, **settings):
    settings = SamplerSettings(weights=str(folder), task=task, out=str(out), **settings)
    return closing(ClipSampler.load(settings, text_encoder=text_encoder))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@contextmanager
def sampling_to(sampler, out):
    """The sampler with another OUT: loading it anew would take longer than the tests."""
    before = sampler._store
    sampler._store = open_store(str(out))
    try:
        yield sampler
    finally:
        sampler._store = before


@pytest.fixture
def sampler(loaded, out):
    with sampling_to(loaded, out) as each:
        yield each


def unit_of(*lines, task="t2v", missing=None):
    rules = JobRules(variant=VARIANTS["nano-i2v" if task == "i2v" else "nano"])
    plan = plan_jobs(lines, rules, len(lines))
    assert not plan.bad_lines
    (unit,) = plan.units
    numbers = [job.line for job in unit.jobs] if missing is None else missing
    return dataclasses.replace(unit, missing=frozenset(numbers))


def embeddings_of(model, unit):
    """What the server gives its pipeline for these prompts."""
    found = [
        model.prompts.encode(
            job.request.prompt, job.request.negative_prompt, job.request.guidance_scale > 1
        )
        for job in unit.jobs
    ]
    negative = [each.negative_prompt_embeds for each in found]
    return UnitEmbeddings(
        torch.cat([each.prompt_embeds for each in found]),
        None if negative[0] is None else torch.cat(negative),
    )


def sampled(sampler, model, *lines, missing=None):
    unit = unit_of(*lines, missing=missing)
    return sampler.sample(unit, embeddings_of(model, unit))


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"guidance_scale": 1.0, "scheduler": "ddim"},
        {"negative_prompt": "a blue square", "dynamic_guidance": False},
        {"speed": "fast", "num_inference_steps": 14, "output_format": "webm", "fps": 12},
    ],
)
def test_a_clip_is_the_servers_to_the_byte(sampler, model, out, inputs):
    asked = {"prompt": "a circle", "seed": 5, **STEPS, **inputs}
    expected = generate(model, asked, record_metric=lambda *_: None)
    (record,) = sampled(sampler, model, line(7, **asked))
    assert (out / record.file).read_bytes() == expected.read_bytes()


def test_a_record_says_what_the_file_is(sampler, model, out):
    import hashlib

    (record,) = sampled(sampler, model, line(7, prompt="a circle", **STEPS))
    content = (out / "000007.mp4").read_bytes()
    assert record.file == "000007.mp4"
    assert record.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (record.line, record.seed, record.prompt) == (7, 49, "a circle")
    assert (record.bytes, record.error, record.image) == (len(content), None, None)
    assert record.seconds > 0
    assert record.settings["num_inference_steps"] == 2
    assert read_metadata(out / "000007.mp4")["seed"] == "49"
    assert [path.name for path in sampler._folder.iterdir()] == [".in-use"]


def test_metadata_stays_out_where_the_operator_wants_it(tiny_folder, model, out):
    with load(tiny_folder, "t2v", out, metadata=False) as sampler:
        sampled(sampler, model, line(1, **STEPS))
    assert read_metadata(out / "000001.mp4") == {}
    assert not sampler._folder.exists()


def test_the_text_encoder_is_not_loaded(loaded):
    assert loaded.pipe.text_encoder is None
    assert loaded.pipe.tokenizer is None


def test_a_batch_gives_each_line_the_video_that_it_has_alone(sampler, model):
    lines = [line(n, prompt=f"circle {n}", **STEPS) for n in (1, 2, 3)]
    unit = unit_of(*lines)
    together, errors = sampler.denoised(unit, embeddings_of(model, unit))
    assert (list(together), errors) == ([1, 2, 3], {})
    for each in lines:
        unit = unit_of(each)
        alone, _ = sampler.denoised(unit, embeddings_of(model, unit))
        # The last digits of sums depend on the batch.
        torch.testing.assert_close(together[each.number], alone[each.number], rtol=0, atol=1e-3)
    assert not torch.allclose(together[1], together[2], atol=0.1)


def test_a_unit_is_sampled_whole_and_only_what_is_missing_is_written(sampler, model, out, tmp_path):
    lines = [line(n, prompt=f"circle {n}", **STEPS) for n in (1, 2)]
    _, second = sampled(sampler, model, *lines)
    with sampling_to(sampler, tmp_path / "later") as later:
        (record,) = sampled(later, model, *lines, missing=[2])
    assert record.digest == second.digest
    assert [path.name for path in (tmp_path / "later").iterdir()] == ["000002.mp4"]


def test_images_are_each_lines_own(loaded_i2v, tiny_i2v_folder, out, tmp_path):
    i2v_model = load_model(resolve_weights(str(tiny_i2v_folder), "i2v"), OperatorSettings())
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    Image.linear_gradient("L").resize((64, 64)).save(paths[0])
    Image.radial_gradient("L").resize((128, 64)).save(paths[1])
    lines = [
        line(n, prompt="a circle", seed=4, image=path, **STEPS) for n, path in enumerate(paths, 1)
    ]
    with sampling_to(loaded_i2v, out) as sampler:
        for each in lines:
            unit = unit_of(each, task="i2v")
            sampler.sample(unit, embeddings_of(i2v_model, unit))
        expected = [(out / f"00000{n}.mp4").read_bytes() for n in (1, 2)]
        unit = unit_of(*lines, task="i2v")
        records = sampler.sample(unit, embeddings_of(i2v_model, unit))
    asked = {"prompt": "a circle", "seed": 4, "image": paths[1], **STEPS}
    assert generate(i2v_model, asked, record_metric=lambda *_: None).read_bytes() == expected[1]
    assert [record.image for record in records] == [str(path) for path in paths]
    assert records[0].digest != records[1].digest


def test_an_image_that_can_not_be_decoded_spoils_its_own_line_only(loaded_i2v, out, tmp_path):
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.effect_noise((64, 64), 50).save(good)
    broken.write_bytes(good.read_bytes()[:-1000])
    lines = [line(1, image=good, **STEPS), line(2, image=broken, **STEPS)]
    unit = unit_of(*lines, task="i2v")
    embeddings = UnitEmbeddings(torch.zeros(2, 16, 64), torch.zeros(2, 16, 64))
    with sampling_to(loaded_i2v, out) as sampler:
        fine, failed = sampler.sample(unit, embeddings)
    assert fine.error is None
    assert "PNG file that is damaged" in failed.error
    assert (failed.file, failed.digest, failed.bytes) == (None, None, None)
    assert failed.key == unit.jobs[1].key
    assert [path.name for path in out.iterdir()] == ["000001.mp4"]


def test_an_image_that_went_away_before_it_was_needed_is_named(loaded_i2v, out, tmp_path):
    image = tmp_path / "cat.png"
    Image.effect_noise((64, 64), 50).save(image)
    unit = unit_of(line(1, image=image, **STEPS), task="i2v")
    image.unlink()
    with sampling_to(loaded_i2v, out) as sampler:
        embeddings = UnitEmbeddings(torch.zeros(1, 16, 64), torch.zeros(1, 16, 64))
        (failed,) = sampler.sample(unit, embeddings)
    assert f"{image} is no file" in failed.error
    assert "sent" not in failed.error


def failing(monkeypatch, name, error, *, times=None):
    """Let a function of the sampler's raise, the first `times` times."""
    real = getattr(clip_sampler.ClipSampler, name)
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if times is None or len(calls) <= times:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(clip_sampler.ClipSampler, name, call)
    return calls


def test_a_batch_that_is_too_large_is_tried_one_by_one(sampler, model, out, monkeypatch):
    lines = [line(n, **STEPS) for n in (1, 2, 3)]
    calls = failing(monkeypatch, "_denoise", torch.OutOfMemoryError("CUDA out of memory"), times=1)
    records = sampled(sampler, model, *lines, missing=[1, 3])
    assert [record.error for record in records] == [None, None]
    assert [record.line for record in records] == [1, 3]
    assert [len(jobs) for _, jobs, _ in calls] == [3, 1, 1]


def test_a_line_without_enough_memory_says_what_helps(sampler, model, monkeypatch):
    failing(monkeypatch, "_denoise", torch.OutOfMemoryError("CUDA out of memory. Tried …"))
    (record,) = sampled(sampler, model, line(1, **STEPS))
    assert "not enough memory" in record.error
    assert "COGVIDEOX_MEMORY" in record.error


def test_an_error_that_nobody_foresaw_is_one_line_of_the_manifest(sampler, model, monkeypatch):
    failing(monkeypatch, "_denoise", RuntimeError("shapes\n" + "x" * 9000))
    (record,) = sampled(sampler, model, line(1, **STEPS))
    assert record.error.startswith("RuntimeError: shapes xxx")
    assert len(record.error) == 500


def test_its_traceback_is_shown_to_who_debugs(tiny_folder, model, out, monkeypatch, capsys):
    failing(monkeypatch, "_denoise", RuntimeError("here"))
    with load(tiny_folder, "t2v", out, debug=True) as sampler:
        sampled(sampler, model, line(1, **STEPS))
    assert "Traceback" in capsys.readouterr().err


def test_latents_that_are_not_finite_fail_and_the_rest_of_the_batch_does_not(
    sampler, model, monkeypatch
):
    real = clip_sampler.ClipSampler._denoise

    def denoise(self, jobs, embeddings):
        latents = real(self, jobs, embeddings)
        latents[1] = torch.full_like(latents[1], float("nan"))
        return latents

    monkeypatch.setattr(clip_sampler.ClipSampler, "_denoise", denoise)
    first, second = sampled(sampler, model, line(1, **STEPS), line(2, **STEPS))
    assert "not finite" in first.error
    assert second.error is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_ends_the_run_and_names_the_line(sampler, model, out, monkeypatch, number):
    failing(monkeypatch, "_encoded", OSError(number, os.strerror(number)))
    with pytest.raises(OperationError, match="Line 12: there is no space left"):
        sampled(sampler, model, line(12, **STEPS))
    assert list(out.iterdir()) == []


def test_a_place_that_is_gone_ends_the_run_and_names_the_line(sampler, model, monkeypatch):
    class Gone:
        def put(self, name, file):
            raise OutputError("out/000012.mp4: Stale file handle.", "It must be there.", "Mend it.")

    monkeypatch.setattr(sampler, "_store", Gone())
    with pytest.raises(OutputError, match=r"Line 12: out/000012\.mp4: Stale file handle"):
        sampled(sampler, model, line(12, **STEPS))


def test_a_gpu_that_is_gone_ends_the_run(sampler, model, monkeypatch):
    failing(monkeypatch, "_denoise", RuntimeError("CUDA error: an illegal memory access"))
    monkeypatch.setattr("predictors.health.healthy", lambda device: False)
    with pytest.raises(OperationError, match="Line 12: the GPU does not answer any more"):
        sampled(sampler, model, line(12, **STEPS))


def test_an_interruption_passes_through_and_leaves_a_pipeline_that_works(sampler, model, out):
    (before,) = sampled(sampler, model, line(1, **STEPS))

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = sampler.pipe.transformer.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        sampled(sampler, model, line(2, **STEPS))
    handle.remove()
    assert {path.name for path in out.iterdir()} == {"000001.mp4"}
    (again,) = sampled(sampler, model, line(1, **STEPS))
    assert again.digest == before.digest


def test_a_lora_is_applied_to_its_unit_and_told_of_once(tiny_folder, model, out, tmp_path, capsys):
    lora = tmp_path / "lora.safetensors"
    pairs = random_pairs(VARIANTS["nano"], rank=2)
    write(lora, peft_tensors(pairs))
    places = LoraPlaces(folders=(tmp_path.resolve(),))
    rules = JobRules(variant=VARIANTS["nano"], lora_places=places)
    videos = []
    with load(tiny_folder, "t2v", out, lora_paths=places.folders) as sampler:
        capsys.readouterr()
        for number, inputs in enumerate([{}, {"lora": str(lora)}, {"lora": str(lora)}, {}], 1):
            asked = line(number, prompt="a circle", seed=1, **STEPS, **inputs)
            (unit,) = plan_jobs([asked], rules).units
            unit = dataclasses.replace(unit, missing=frozenset([number]))
            (record,) = sampler.sample(unit, embeddings_of(model, unit))
            assert record.error is None
            videos.append(read_video(out / record.file)[0].tobytes())
    assert videos[0] == videos[3] != videos[1] == videos[2]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("LoRA:") == 1


def test_a_lora_of_this_network_is_not_fetched(sampler, model):
    target = Target()
    with closing(target), allowing():
        url = f"https://127.0.0.1:{target.port}/a.safetensors"
        (record,) = sampled(sampler, model, line(1, lora=url, **STEPS))
        assert "not on the public internet" in record.error
        assert not target.was_reached()


def test_sats_sampler_takes_the_place_of_the_pipelines_and_gives_it_back(sampler, model, out):
    own = sampler.pipe.scheduler
    seen = []
    handle = sampler.pipe.transformer.register_forward_pre_hook(
        lambda *_: seen.append(type(sampler.pipe.scheduler).__name__)
    )
    unit = unit_of(line(1, scheduler="sat", **STEPS))
    embeddings = embeddings_of(model, unit)
    (record,) = sampler.sample(
        unit, UnitEmbeddings(embeddings.prompt_embeds, torch.zeros_like(embeddings.prompt_embeds))
    )
    handle.remove()
    assert record.error is None
    assert set(seen) == {"CogVideoXSATScheduler"}
    assert sampler.pipe.scheduler is own
    assert record.settings["scheduler"] == "sat"


def test_threads_are_those_of_the_driver(tiny_folder, out):
    before = torch.get_num_threads()
    try:
        with load(tiny_folder, "t2v", out, threads=before + 1):
            assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_prompts_can_be_encoded_where_the_text_encoder_is_asked_for(tiny_folder, out):
    with load(tiny_folder, "t2v", out, text_encoder=True) as sampler:
        encoded = PromptEmbeddings(sampler.pipe, 16).encode("a circle", "", True)
        embeddings = UnitEmbeddings(encoded.prompt_embeds, encoded.negative_prompt_embeds)
        (record,) = sampler.sample(unit_of(line(1, **STEPS)), embeddings)
    assert record.error is None
