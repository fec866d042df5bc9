"""A run goes on from its last save, and neither its state nor its log is ever half."""

import json
import math
import os
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from training.run_folder import RunFolder
from weights.errors import UserError

SETTINGS = {"seed": 1, "stages": [{"pixels": 32}], "rate": 0.1}
# Every save waits for its disk, so folders are in memory where Linux has a place there.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# A disk may be slow, and hypothesis runs a test many times with one folder.
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path():
    with TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "run"


def state_of(step):
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}}


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def logged(path):
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_a_new_run_writes_its_settings_and_has_no_state(tmp_path):
    path = tmp_path / "runs" / "first"
    assert RunFolder(path, SETTINGS).load() is None
    assert json.loads((path / "settings.json").read_text()) == SETTINGS
    assert set(contents(path)) == {"settings.json"}


def test_an_empty_folder_is_taken(path):
    path.mkdir()
    RunFolder(path, SETTINGS)
    assert (path / "settings.json").is_file()


def test_the_same_settings_go_on(path):
    RunFolder(path, SETTINGS).save(state_of(7))
    again = RunFolder(path, json.loads(json.dumps(SETTINGS))).load()
    assert again["step"] == 7
    assert again["model"]["weight"].tolist() == [7, 7, 7]


def test_tuples_in_settings_are_the_same_the_next_time(path):
    stages = {"stages": ({"pixels": 32}, {"pixels": 64})}
    RunFolder(path, stages).save(state_of(1))
    assert RunFolder(path, stages).load()["step"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {**SETTINGS, "seed": 2},
        {**SETTINGS, "seed": True},
        {**SETTINGS, "more": 1},
        {name: SETTINGS[name] for name in ("seed", "rate")},
        {},
    ],
)
def test_another_run_is_refused_and_left_alone(path, other):
    run = RunFolder(path, SETTINGS)
    run.save(state_of(7))
    run.log(step=8)
    before = contents(path)
    with pytest.raises(UserError) as caught:
        RunFolder(path, other)
    assert caught.value.given == f"{path} holds a run with other settings."
    assert contents(path) == before


def test_something_else_is_refused_and_left_alone(path):
    path.mkdir()
    (path / "holiday.txt").write_text("photos")
    with pytest.raises(UserError) as caught:
        RunFolder(path, SETTINGS)
    assert caught.value.given == f"{path} holds no training run."
    assert contents(path) == {"holiday.txt": b"photos"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", json.dumps(SETTINGS)[:-1].encode()])
def test_settings_of_something_else_are_refused_and_left_alone(path, content):
    path.mkdir()
    (path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="holds a run with other settings"):
        RunFolder(path, SETTINGS)
    assert contents(path) == {"settings.json": content}


def test_a_folder_in_place_of_the_settings_is_refused(path):
    (path / "settings.json").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no training run"):
        RunFolder(path, SETTINGS)


def test_the_last_save_is_the_one_that_counts(path):
    run = RunFolder(path, SETTINGS)
    for step in (1, 2, 3):
        run.save(state_of(step))
    assert RunFolder(path, SETTINGS).load()["model"]["weight"].tolist() == [3, 3, 3]
    assert set(contents(path)) == {"settings.json", "state.pt"}


def test_a_state_that_runs_code_is_refused(path, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    run = RunFolder(path, SETTINGS)
    torch.save({"step": 1, "code": Code()}, path / "state.pt")
    with pytest.raises(UnpicklingError):
        run.load()
    assert not (tmp_path / "made").exists()


def test_a_save_that_fails_half_way_leaves_the_one_before(path, monkeypatch):
    run = RunFolder(path, SETTINGS)
    run.save(state_of(1))
    before = contents(path)

    def fails(state, file):
        file.write(before["state.pt"][: len(before["state.pt"]) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", fails)
    with pytest.raises(OSError, match="No space left"):
        run.save(state_of(2))
    assert contents(path) == before
    assert RunFolder(path, SETTINGS).load()["step"] == 1


def test_while_it_is_saved_the_one_before_is_there(path, monkeypatch):
    run = RunFolder(path, SETTINGS)
    run.save(state_of(1))
    seen, save = [], torch.save

    def watched(state, file):
        seen.append(RunFolder(path, SETTINGS).load()["step"])
        save(state, file)
        file.flush()
        seen.append(RunFolder(path, SETTINGS).load()["step"])

    monkeypatch.setattr("torch.save", watched)
    run.save(state_of(2))
    assert seen == [1, 1]
    assert run.load()["step"] == 2


@pytest.mark.parametrize("saved", [None, 5])
def test_what_a_killed_save_left_is_not_taken(path, saved):
    run = RunFolder(path, SETTINGS)
    run.save(state_of(9))
    half = (path / "state.pt").read_bytes()[:-100]
    (path / "state.pt").unlink()
    if saved:
        run.save(state_of(saved))
    (path / "state.pt.tmp.4242").write_bytes(half)
    state = RunFolder(path, SETTINGS).load()
    assert (state and state["step"]) == saved


@ON_DISK
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
@example(0.9999)
def test_a_state_that_is_cut_short_is_never_taken_for_whole(path, share):
    run = RunFolder(path, SETTINGS)
    run.save(state_of(3))
    run.log(step=4)
    whole = (path / "state.pt").read_bytes()
    (path / "state.pt").write_bytes(whole[: int(share * len(whole))])
    before = contents(path)
    with pytest.raises((RuntimeError, EOFError, UnpicklingError)):
        run.load()
    assert contents(path) == before


def test_the_log_has_a_line_a_call_in_their_order(path):
    run = RunFolder(path, SETTINGS)
    run.log(step=10, loss=0.5)
    run.log(step=20, loss=0.25, psnr=30)
    assert logged(path) == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25, "psnr": 30}]


def test_what_was_logged_after_the_save_goes(path):
    run = RunFolder(path, SETTINGS)
    for step in (10, 20, 30, 40):
        run.log(step=step)
        if step == 20:
            run.save(state_of(step))
    RunFolder(path, SETTINGS).load()
    assert logged(path) == [{"step": 10}, {"step": 20}]


def test_a_new_beginning_has_a_new_log(path):
    RunFolder(path, SETTINGS).log(step=10)
    run = RunFolder(path, SETTINGS)
    assert run.load() is None
    run.log(step=10)
    assert logged(path) == [{"step": 10}]


def test_a_run_without_log_goes_on(path):
    RunFolder(path, SETTINGS).save(state_of(3))
    assert RunFolder(path, SETTINGS).load()["step"] == 3
    assert not (path / "log.jsonl").exists()


def test_a_loss_that_is_no_number_stays_in_the_log(path):
    run = RunFolder(path, SETTINGS)
    run.log(step=1, loss=float("nan"))
    run.save(state_of(1))
    run.load()
    assert math.isnan(logged(path)[0]["loss"])


def live(path, steps, until, save_every, torn):
    """One life of a run: it is killed before step `until`, maybe while it writes a log line."""
    run = RunFolder(path, SETTINGS)
    state = run.load()
    first = state["step"] if state else 0
    for step in range(first, min(steps, until)):
        run.log(step=step + 1)
        if (step + 1) % save_every == 0:
            run.save(state_of(step + 1))
    if torn:
        with (path / "log.jsonl").open("a") as file:
            file.write('{"step": 9')


@ON_DISK
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=4),
    st.integers(1, 12),
)
def test_however_often_it_is_killed_each_step_is_logged_once(kills, save_every):
    with TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "run"
        for until, torn in kills:
            live(path, 12, until, save_every, torn)
        live(path, 12, 12, save_every, torn=False)
        assert [line["step"] for line in logged(path)] == list(range(1, 13))
