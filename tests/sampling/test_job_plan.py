"""Lines become jobs by the variant's rules, and units that are the same in every run."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from predictors.lora.source import LoraPlaces
from predictors.memory_estimate import VideoSize
from predictors.request import MAX_SEED, validate
from sampling.job_plan import JobRules, largest_video, line_seed, plan_jobs, settings_of
from tests.sampling.prompt_lines_of import bad, line
from weights.variants import VARIANTS

RULES = JobRules(variant=VARIANTS["nano"])
SHAPES = st.lists(st.sampled_from([4, 5, 6]), min_size=1, max_size=30)


def job_of(prompt_line, rules=RULES):
    (job,) = plan_jobs([prompt_line], rules).jobs
    return job


def groups(plan):
    return [[job.line for job in unit.jobs] for unit in plan.units]


def test_a_line_goes_before_the_options_and_these_before_the_variant():
    rules = dataclasses.replace(RULES, defaults={"num_inference_steps": 7, "fps": 12})
    job = job_of(line(3, num_inference_steps=9), rules)
    expected = validate(
        RULES.variant, prompt=job.request.prompt, num_inference_steps=9, fps=12, seed=45
    )
    assert job.request == expected
    assert (job.line, job.name, job.sat_sampler) == (3, "000003.mp4", None)


def test_a_seed_is_the_lines_own_or_the_base_and_its_number():
    assert job_of(line(5)).request.seed == 47
    assert job_of(line(5, seed=3)).request.seed == 3
    assert job_of(line(5), dataclasses.replace(RULES, seed=100)).request.seed == 105


def test_a_base_seed_at_the_end_of_the_range_starts_over():
    assert line_seed(MAX_SEED, 1) == 0
    assert line_seed(MAX_SEED, 2) == 1


@pytest.mark.parametrize(
    ("prompt_line", "problem"),
    [
        (line(17, num_frames=10), "p.csv, row 17: num_frames is 10"),
        (line(17, scheduler="euler"), "p.csv, row 17: scheduler is 'euler'"),
        (line(17, lora="/etc/passwd"), "p.csv, row 17: lora is '/etc/passwd'"),
        (bad(17), "p.csv, row 17: It is bad."),
    ],
)
def test_a_bad_line_says_why_and_does_not_stop_the_others(prompt_line, problem):
    plan = plan_jobs([line(1), prompt_line, line(18)], RULES)
    assert [job.line for job in plan.jobs] == [1, 18]
    (found,) = plan.bad_lines
    assert found.line == 17
    assert found.problem.startswith(problem)
    assert found.problem.count("p.csv") == 1


def test_an_output_format_is_in_the_name():
    assert job_of(line(2, output_format="gif")).name == "000002.gif"
    assert job_of(line(1234567)).name == "1234567.mp4"


@pytest.mark.parametrize(("name", "sampler"), [("sat", "dpmpp2m"), ("sat-ddim", "ddim")])
def test_sats_samplers_have_dynamic_guidance_unless_it_is_turned_off(name, sampler):
    for prompt_line, rules in [
        (line(scheduler=name), RULES),
        (line(), dataclasses.replace(RULES, defaults={"scheduler": name})),
    ]:
        job = job_of(prompt_line, rules)
        assert job.sat_sampler == sampler
        assert job.request.dynamic_guidance
        assert settings_of(job)["scheduler"] == name
    assert not job_of(line(scheduler=name, dynamic_guidance=False)).request.dynamic_guidance
    plain = dataclasses.replace(RULES, defaults={"scheduler": name})
    assert job_of(line(scheduler="ddim"), plain).sat_sampler is None


def test_settings_show_no_secret_of_a_lora_and_no_field_twice():
    job = job_of(line(lora="https://example.com/a.safetensors?token=secret"))
    settings = settings_of(job)
    assert settings["lora"] == "https://example.com/a.safetensors"
    assert not {"prompt", "seed"} & settings.keys()
    assert settings["width"] == 64


@given(SHAPES, st.integers(1, 5))
def test_every_line_is_in_one_unit_with_lines_of_its_shape(steps, batch):
    lines = [line(n, num_inference_steps=count) for n, count in enumerate(steps, 1)]
    plan = plan_jobs(lines, RULES, batch)
    assert sorted(itertools.chain(*groups(plan))) == list(range(1, len(steps) + 1))
    assert [unit.number for unit in plan.units] == list(range(len(plan.units)))
    by_shape = {count: [] for count in steps}
    for unit in plan.units:
        (shape,) = {job.request.num_inference_steps for job in unit.jobs}
        by_shape[shape].append(len(unit.jobs))
    for sizes in by_shape.values():
        assert all(size == batch for size in sizes[:-1])
        assert 1 <= sizes[-1] <= batch


def test_prompts_seeds_and_what_concerns_the_file_do_not_part_jobs():
    lines = [
        line(1, seed=9, negative_prompt="blurry"),
        line(2, fps=12, output_quality=30),
        line(3, output_format="webm"),
        line(4, guidance_scale=3),
    ]
    assert groups(plan_jobs(lines, RULES, 4)) == [[1, 2, 3], [4]]


def test_a_key_tells_what_a_clip_is_made_of(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    rules = JobRules(variant=VARIANTS["nano-i2v"])
    other = tmp_path / "b.png"
    Image.new("RGB", (64, 64), "red").save(other)
    first = job_of(line(image=image), rules).key
    assert job_of(line(image=image), rules).key == first
    keys = {
        first,
        job_of(line(image=other), rules).key,
        job_of(line(image=image, seed=1), rules).key,
        job_of(line(image=image, fps=9), rules).key,
        job_of(line(image=image, scheduler="sat"), rules).key,
        job_of(line(image=image, scheduler="sat-ddim"), rules).key,
        job_of(line(image=image), dataclasses.replace(rules, origin="other weights")).key,
        job_of(line(image=image), dataclasses.replace(rules, seed=7)).key,
    }
    assert len(keys) == 8
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.read_bytes())
    assert job_of(line(image=copy), rules).key == first


def test_a_key_has_the_bytes_of_a_lora_on_this_disk(tmp_path):
    rules = dataclasses.replace(RULES, lora_places=LoraPlaces(folders=(tmp_path.resolve(),)))
    keys = set()
    for number, content in enumerate([b"one", b"two"]):
        lora = tmp_path / f"{number}.safetensors"
        lora.write_bytes(content)
        request = job_of(line(lora=str(lora)), rules)
        keys.add(request.key)
    assert len(keys) == 2


def test_a_key_has_the_company_of_a_batch_only():
    alone = plan_jobs([line(1), line(2), line(3)], RULES, 1).jobs
    pairs = plan_jobs([line(1), line(2), line(3)], RULES, 2).jobs
    assert pairs[0].key != alone[0].key
    assert pairs[2].key == alone[2].key
    changed = plan_jobs([line(1), line(2, seed=5), line(3)], RULES, 2).jobs
    assert changed[0].key != pairs[0].key


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_an_image_that_is_none_is_a_bad_line(tmp_path, content):
    image = tmp_path / "a.png"
    image.write_bytes(content)
    (found,) = plan_jobs([line(4, image=image)], JobRules(variant=VARIANTS["nano-i2v"])).bad_lines
    assert found.problem.startswith("p.csv, row 4: image 'a.png' can't be read.")


def test_an_image_that_went_away_is_a_bad_line(tmp_path):
    image = tmp_path / "gone.png"
    (found,) = plan_jobs([line(4, image=image)], JobRules(variant=VARIANTS["nano-i2v"])).bad_lines
    assert "gone.png can't be read (No such file or directory)" in found.problem


def test_the_size_of_a_video_follows_its_image_as_it_is_shown(tmp_path):
    image = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (640, 360)).save(image, exif=exif)
    request = job_of(line(image=image), JobRules(variant=VARIANTS["cogvideox1.5-5b-i2v"])).request
    assert request.height > request.width
    assert request.width == 768


def test_memory_is_planned_for_the_largest_video():
    rules = JobRules(variant=VARIANTS["cogvideox-5b"])
    lines = [line(1, num_frames=9), line(2, num_frames=25), line(3, num_frames=17)]
    assert largest_video(plan_jobs(lines, rules).units) == VideoSize(25, 720, 480)
    assert largest_video(()) is None
