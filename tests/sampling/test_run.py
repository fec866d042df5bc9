"""Whole runs: done again, gone on with, interrupted at any moment, failing in part."""

import json
import os
import random
import shutil
import signal
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from predictors.video import read_video
from sampling.clip_sampler import ClipSampler, SamplerSettings
from sampling.manifest import Manifest
from sampling.open_store import open_store
from sampling.prepared_run import SampleCommand, prepare_run
from sampling.run import SequentialExecutor, sample_prompts
from tests.sampling.sampling_runs import (
    STEPS,
    loaded_executor,
    prepared,
    prompt_file,
    records,
    stubbed,
    videos,
    without_seconds,
)
from weights.errors import UserError


@pytest.fixture(scope="module")
def make(tiny_folder, tmp_path_factory):
    """The executor of real runs: one pipeline for all of them."""
    out = tmp_path_factory.mktemp("out")
    settings = SamplerSettings(weights=str(tiny_folder), task="t2v", out=str(out))
    with closing(ClipSampler.load(settings)) as sampler:
        yield loaded_executor(sampler)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_two_runs_give_the_same_bytes(tiny_folder, tmp_path, make):
    prompts = prompt_file(tmp_path, 3)
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        summary = sample_prompts(prepared(tiny_folder, prompts, out), make)
        assert (summary.exit_code, summary.made, summary.kept) == (0, 3, 0)
    assert videos(outs[0]) == videos(outs[1])
    assert len(set(videos(outs[0]).values())) == 3
    assert without_seconds(records(outs[0])) == without_seconds(records(outs[1]))
    assert [record["seed"] for record in records(outs[0])] == [43, 44, 45]
    frames, fps = read_video(outs[0] / "000002.mp4")
    assert (frames.shape, fps) == ((9, 64, 64, 3), 8)


def test_a_batch_that_was_interrupted_is_finished_to_the_same_bytes(tiny_folder, tmp_path, make):
    prompts = prompt_file(tmp_path, 3)
    whole, out = tmp_path / "whole", tmp_path / "out"
    sample_prompts(prepared(tiny_folder, prompts, whole, batch=2), make)
    sample_prompts(prepared(tiny_folder, prompts, out, batch=2), make)
    (out / "000001.mp4").unlink()
    (out / "000003.mp4").unlink()
    summary = sample_prompts(prepared(tiny_folder, prompts, out, batch=2), make)
    assert (summary.made, summary.kept) == (2, 1)
    assert videos(out) == videos(whole)


def test_a_run_of_its_own_loads_and_closes(tiny_folder, tmp_path, out, capsys):
    run = prepared(tiny_folder, prompt_file(tmp_path, 1), out)
    summary = sample_prompts(run)
    assert summary.made == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Loading the text encoder of nano" in said.err
    assert "step 1/2" not in said.err


def test_seeds_follow_the_line_whatever_else_is_in_the_file(tiny_folder, tmp_path, out):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a circle\n\na square\n")
    stubbed(prepared(tiny_folder, prompts, out, seed=100))
    assert {record["line"]: record["seed"] for record in records(out)} == {1: 101, 3: 103}


def test_a_bucket_gets_the_bytes_of_a_folder(tiny_folder, tmp_path, out, make, bucket):
    prompts = prompt_file(tmp_path, 2)
    url = f"s3://{bucket.name}/clips"
    command = SampleCommand(
        prompts=prompts, out=url, weights=str(tiny_folder), defaults=STEPS, retry_failed=True
    )
    summary = sample_prompts(prepare_run(command), make)
    assert summary.manifest == f"{url}/manifest.jsonl"
    sample_prompts(prepared(tiny_folder, prompts, out), make)
    there, here = (Manifest(open_store(place)).records() for place in (url, str(out)))
    assert open_store(url).names() == set(videos(out))
    assert [there[n].digest for n in (1, 2)] == [here[n].digest for n in (1, 2)]
    assert prepare_run(command).work.done == {1, 2}


def test_what_is_done_is_not_done_again(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 4)
    stubbed(prepared(tiny_folder, prompts, out))
    before = videos(out)
    summary, stub = stubbed(prepared(tiny_folder, prompts, out))
    assert stub.sampled == []
    assert (summary.made, summary.kept, summary.exit_code) == (0, 4, 0)
    (out / "000003.mp4").unlink()
    summary, stub = stubbed(prepared(tiny_folder, prompts, out))
    assert stub.sampled == [3]
    assert videos(out) == before


def test_a_prompt_file_may_grow(tiny_folder, tmp_path, out):
    stubbed(prepared(tiny_folder, prompt_file(tmp_path, 2), out))
    _, stub = stubbed(prepared(tiny_folder, prompt_file(tmp_path, 5), out))
    assert stub.sampled == [3, 4, 5]


def test_failing_lines_are_recorded_and_the_rest_is_made(tiny_folder, tmp_path, out, capsys):
    prompts = prompt_file(tmp_path, 4)
    with prompts.open("a") as file:
        file.write('{"prompt": "a circle", "num_frames": 10}\n{"prompt": ""}\nno json\n')
    run = prepared(tiny_folder, prompts, out)
    summary, _ = stubbed(run, failing=[2])
    assert (summary.lines, summary.made, summary.exit_code) == (7, 3, 1)
    assert sorted(summary.failed) == [2, 5, 6, 7]
    assert f"{prompts}, line 5: num_frames is 10." in summary.failed[5]
    assert sorted(record["line"] for record in records(out)) == [1, 2, 3, 4, 5, 6, 7]
    said = capsys.readouterr().err
    assert "Line 2 failed: It broke." in said
    assert "Line 5 failed" in said
    report = summary.to_json()
    assert report["failed"] == 4
    assert [each["line"] for each in report["failures"]] == [2, 5, 6, 7]
    json.dumps(report)


def test_failures_are_kept_until_they_are_to_be_tried(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 3)
    stubbed(prepared(tiny_folder, prompts, out), failing=[2])
    summary, stub = stubbed(prepared(tiny_folder, prompts, out))
    assert stub.sampled == []
    assert summary.failed == {2: "It broke."}
    assert summary.exit_code == 1
    summary, stub = stubbed(prepared(tiny_folder, prompts, out, retry_failed=True))
    assert stub.sampled == [2]
    assert (summary.failed, summary.exit_code) == ({}, 0)
    assert len(records(out)) == 4


def test_bad_lines_are_recorded_once(tiny_folder, tmp_path, out):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a circle", "num_frames": 10}\n')
    for options in ({}, {}, {"retry_failed": True}):
        summary, _ = stubbed(prepared(tiny_folder, prompts, out, **options))
        assert (summary.exit_code, list(summary.failed)) == (1, [1])
    assert len(records(out)) == 1


def test_other_settings_are_refused_and_with_overwrite_made_anew(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 3)
    stubbed(prepared(tiny_folder, prompts, out))
    before = videos(out)
    changed = {"defaults": {**STEPS, "guidance_scale": 3}}
    with pytest.raises(UserError, match=r"Line 1: .*made otherwise"):
        prepared(tiny_folder, prompts, out, **changed)
    assert videos(out) == before
    summary, _ = stubbed(prepared(tiny_folder, prompts, out, overwrite=True, **changed))
    assert summary.made == 3
    assert all(videos(out)[name] != content for name, content in before.items())
    summary, _ = stubbed(prepared(tiny_folder, prompts, out, overwrite=True, **changed))
    assert (summary.made, summary.kept) == (0, 3)


def test_other_weights_are_refused(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 1)
    stubbed(prepared(tiny_folder, prompts, out))
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert prepared(copy, prompts, out).work.done == {1}
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="made otherwise"):
        prepared(copy, prompts, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order_and_the_next_goes_on(tiny_folder, tmp_path, out, number):
    prompts = prompt_file(tmp_path, 4)
    run = prepared(tiny_folder, prompts, out)
    handler = signal.getsignal(number)

    def before(unit):
        if unit.number == 2:
            os.kill(os.getpid(), number)

    stubs = []
    with pytest.raises(KeyboardInterrupt):
        stubs.append(stubbed(run, before=before))
    assert signal.getsignal(number) is handler
    assert sorted(videos(out)) == ["000001.mp4", "000002.mp4"]
    assert len(records(out)) == 2
    _, stub = stubbed(prepared(tiny_folder, prompts, out))
    assert stub.sampled == [3, 4]


def test_a_signal_that_was_swallowed_ends_the_run_after_the_unit(tiny_folder, tmp_path, out):
    def before(unit):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            return

    with pytest.raises(KeyboardInterrupt):
        stubbed(prepared(tiny_folder, prompt_file(tmp_path, 4), out), before=before)
    assert len(records(out)) == 1


def test_the_executor_is_made_before_and_closed_after_everything(
    tiny_folder, tmp_path, out, monkeypatch
):
    run = prepared(tiny_folder, prompt_file(tmp_path, 2), out)

    def refuse(_):
        raise UserError("There is no cluster.", "One is expected.", "Start it.")

    monkeypatch.setattr("sampling.run.encode_prompts", None)
    with pytest.raises(UserError, match="no cluster"):
        sample_prompts(run, refuse)
    assert not (out / "manifest.jsonl").exists()


def test_nothing_is_loaded_where_nothing_is_missing(tiny_folder, tmp_path, out, monkeypatch):
    prompts = prompt_file(tmp_path, 2)
    stubbed(prepared(tiny_folder, prompts, out))
    monkeypatch.setattr("sampling.run.encode_prompts", None)
    assert sample_prompts(prepared(tiny_folder, prompts, out), None).kept == 2


def test_scratch_files_are_gone_in_the_end(tiny_folder, tmp_path, out, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    seen = []
    run = prepared(tiny_folder, prompt_file(tmp_path, 2), out)
    stubbed(run, before=lambda _: seen.append(len(list(scratch.iterdir()))))
    assert seen == [1, 1]
    assert list(scratch.iterdir()) == []


def test_a_run_in_parts_is_the_whole_run(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 7)
    with prompts.open("a") as file:
        file.write("no json\n")
    lines, failed = [], []
    for rank in range(3):
        run = prepared(tiny_folder, prompts, out, batch=2).shard(rank, 3)
        summary, stub = stubbed(run)
        assert summary.lines == len(stub.sampled) + len(summary.failed)
        lines += stub.sampled
        failed += summary.failed
    assert (sorted(lines), failed) == ([1, 2, 3, 4, 5, 6, 7], [8])
    # However much is done, a part stays the same.
    (out / "000005.mp4").unlink()
    parts = [prepared(tiny_folder, prompts, out, batch=2).shard(rank, 3) for rank in range(3)]
    assert [[unit.number for unit in part.work.units] for part in parts] == [[], [], [2]]
    assert [len(part.work.done) for part in parts] == [3, 2, 1]


def test_a_bad_option_is_refused_before_anything_is_done(tiny_folder, tmp_path, out):
    prompts = prompt_file(tmp_path, 2)
    with pytest.raises(UserError, match="num_frames is 10"):
        prepared(tiny_folder, prompts, out, defaults={"num_frames": 10})
    assert prepared(tiny_folder, prompts, out, defaults={"scheduler": "sat"}).lines == 2


def test_a_lora_that_nobody_may_name_is_no_lines_fault(tiny_folder, tmp_path, out):
    defaults = STEPS | {"lora": "ftp://host/a.safetensors"}
    with pytest.raises(UserError, match="lora is"):
        prepared(tiny_folder, prompt_file(tmp_path, 2), out, defaults=defaults)


@pytest.mark.parametrize("name", ["clips?take=1", "clips#2", "me@home"])
def test_the_manifests_place_is_where_it_is(tiny_folder, tmp_path, name):
    out = tmp_path / name
    summary, _ = stubbed(prepared(tiny_folder, prompt_file(tmp_path, 1), out))
    assert Path(summary.manifest).samefile(out / "manifest.jsonl")


def test_prompts_are_read_before_weights_are_installed(tmp_path, out):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("promt\na circle\n")
    command = SampleCommand(prompts=prompts, out=str(out), weights="cogvideox-5b")
    with pytest.raises(UserError, match="Should it be prompt"):
        prepare_run(command)


def test_prompts_that_are_too_long_are_told_of(tiny_folder, tmp_path, out, capsys, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a circle " * 20 + "with a SECRET\n")
    stubbed(prepared(tiny_folder, prompts, out))
    said = capsys.readouterr().err
    assert "the model does not see" in said
    assert "SECRET" in said
    monkeypatch.setenv("COGVIDEOX_LOG_PROMPTS", "0")
    stubbed(prepared(tiny_folder, prompts, tmp_path / "other"))
    said = capsys.readouterr().err
    assert "characters" in said
    assert "SECRET" not in said


def test_a_disk_that_may_get_full_is_warned_of(tiny_folder, tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr(
        "sampling.prepared_run.shutil.disk_usage", lambda _: SimpleNamespace(free=100)
    )
    prepared(tiny_folder, prompt_file(tmp_path, 2), out)
    assert "Warning: 2 clips may take" in capsys.readouterr().err


def test_units_are_pulled_one_by_one(tiny_folder, tmp_path, out):
    run = prepared(tiny_folder, prompt_file(tmp_path, 4), out)
    open_embeddings = []

    class Watching(SequentialExecutor):
        def results(self, units):
            for unit, _ in units:
                open_embeddings.append(unit.number)
                yield []

    sample_prompts(run, lambda _: Watching(run.settings))
    assert open_embeddings == [0, 1, 2, 3]


def interrupted_runs(folder, tmp_path, make, count, times, seed):
    """Interrupt a run of `count` clips at random moments, `times` times, then let it end.

    A timer of the kernel does it, wherever the process is then: in a model's forward pass, in a
    codec, between a rename and a record.
    """
    prompts = prompt_file(tmp_path, count)
    expected_out, out = tmp_path / "expected", tmp_path / "out"
    expected = sample_prompts(prepared(folder, prompts, expected_out), make)
    whole = videos(expected_out)
    draw = random.Random(seed)
    interruptions = 0
    handler = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        while interruptions < times:
            if len(videos(out) if out.exists() else {}) == count:
                for path in out.iterdir():
                    path.unlink()
            run = prepared(folder, prompts, out)
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.01, expected.seconds))
            try:
                sample_prompts(run, make)
            except KeyboardInterrupt:
                interruptions += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            store = open_store(str(out))
            # What is there under its name is whole, also where its record is missing.
            assert videos(out).items() <= whole.items()
            assert store.names() == set(videos(out))
            for record in Manifest(store).records().values():
                assert record.file in whole
    finally:
        signal.signal(signal.SIGALRM, handler)
    summary = sample_prompts(prepared(folder, prompts, out), make)
    assert summary.exit_code == 0
    assert videos(out) == whole
    return interruptions


# Python drops what is raised in a finaliser, an interruption too, which then comes a moment later.
dropped_at_first = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dropped_at_first
def test_an_interruption_at_any_moment_leaves_only_whole_videos(tiny_folder, tmp_path, make):
    assert interrupted_runs(tiny_folder, tmp_path, make, count=3, times=3, seed=9) == 3


@pytest.mark.slow
@dropped_at_first
def test_twenty_interruptions_leave_only_whole_videos(tiny_folder, tmp_path, make):
    assert interrupted_runs(tiny_folder, tmp_path, make, count=12, times=20, seed=5) == 20


def rss():
    """Bytes of this process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def many_lines(folder, tmp_path, count):
    """A run over `count` lines with a stub of the denoiser: seconds, and growth of memory."""
    prompts, out = prompt_file(tmp_path, count), tmp_path / "out"
    run = prepared(folder, prompts, out)
    manifest = out / "manifest.jsonl"
    memory, prefixes = [], [b""]

    def watch(unit):
        if unit.number % (count // 10) == count // 10 - 1:
            memory.append(rss())
            content = manifest.read_bytes()
            assert content.startswith(prefixes[-1])
            prefixes.append(content)

    summary, stub = stubbed(run, before=watch)
    assert (summary.made, summary.exit_code) == (count, 0)
    assert stub.sampled == list(range(1, count + 1))
    assert len(records(out)) == count
    assert len(videos(out)) == count
    assert len(memory) == 10
    per_clip = summary.seconds / count
    growth = memory[-1] - memory[0]
    print(f"{count} lines: {per_clip * 1000:.2f} ms a clip, memory grew by {growth / 1e6:.1f} MB")
    return growth, per_clip


def test_many_lines_take_no_more_memory_than_few(tiny_folder, tmp_path):
    growth, _ = many_lines(tiny_folder, tmp_path, 300)
    assert growth < 20e6


@pytest.mark.slow
def test_ten_thousand_lines_take_no_more_memory_than_few(tiny_folder, tmp_path):
    growth, per_clip = many_lines(tiny_folder, tmp_path, 10_000)
    # Of which 4.5 MB are the manifest, as this test itself holds it.
    assert growth < 30e6
    assert per_clip < 0.1
