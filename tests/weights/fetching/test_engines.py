"""Which engine fetches: one rule, the first line that fits, with its reason."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from weights.errors import UserError
from weights.fetching.engines import Choice, choose_engine, engine_named
from weights.lock import Lock, LockedFile

LOCK = Lock(
    name="x",
    variant=None,
    dtype=None,
    url="https://example.org/w.tar",
    size=2048,
    digest="sha256:0",
    files=(LockedFile("a", 1, "sha256:0", 512),),
)
SPLIT = dataclasses.replace(
    LOCK, url="https://example.org/w/", size=None, digest=None, files=(LockedFile("a", 1, ""),)
)
UNPINNED = dataclasses.replace(LOCK, size=None, digest=None, files=())
CACHE = {"PGET_CACHE_SERVICE_HOSTNAME": "cache.example.org"}


def at(url: str | None, lock: Lock = LOCK) -> Lock:
    return dataclasses.replace(lock, url=url)


@pytest.fixture(params=["pget on PATH", "no pget"])
def on_path(request, tmp_path, monkeypatch) -> bool:
    monkeypatch.setenv("PATH", str(tmp_path))
    if request.param == "pget on PATH":
        (tmp_path / "pget").write_text("#!/bin/sh\n")
        (tmp_path / "pget").chmod(0o755)
        return True
    return False


ASKED = [*itertools.product((None, "builtin", "pget"), ({}, CACHE))]


@pytest.mark.parametrize(("asked", "environment"), ASKED)
@pytest.mark.parametrize(
    "lock", [at("file:///w.tar"), at("file:///w/", SPLIT), at("file:///w.tar", UNPINNED)]
)
def test_what_is_on_this_machine_is_copied_whatever_is_asked(on_path, lock, asked, environment):
    choice = choose_engine(lock, asked, environment)
    assert choice == Choice("local", "the weights are on this machine")


def test_a_relative_url_is_on_this_machine():
    lock = dataclasses.replace(at("w.tar"), folder=Path("/locks"))
    assert choose_engine(lock, None, {}).engine == "local"


@pytest.mark.parametrize(("asked", "environment"), ASKED)
@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        (SPLIT, "the weights are single files"),
        (at("s3://bucket/w.tar"), "they are in a bucket"),
        (at("gs://bucket/w.tar"), "they are in a bucket"),
        (at("az://container/w.tar"), "they are in a bucket"),
        (at("https://example.org/w.tar?sig=x"), "the url holds what others must not see"),
        (at("https://user@example.org/w.tar"), "the url holds what others must not see"),
        (at("https://:x@example.org/w.tar"), "the url holds what others must not see"),
    ],
)
def test_what_pget_can_not_fetch_is_for_builtin_whatever_is_asked(
    on_path, lock, reason, asked, environment
):
    assert choose_engine(lock, asked, environment) == Choice("builtin", reason)


@pytest.mark.parametrize("lock", [LOCK, UNPINNED])
@pytest.mark.parametrize("environment", [{}, CACHE])
@pytest.mark.parametrize("asked", ["builtin", "pget"])
def test_what_was_asked_for_is_next(on_path, lock, environment, asked):
    assert choose_engine(lock, asked, environment) == Choice(asked, "as asked")
    variable = environment | {"COGVIDEOX_FETCH_ENGINE": asked}
    assert choose_engine(lock, None, variable) == Choice(asked, "as asked")


def test_the_argument_beats_the_variable():
    assert choose_engine(LOCK, "builtin", {"COGVIDEOX_FETCH_ENGINE": "pget"}).engine == "builtin"


@pytest.mark.parametrize(
    "variable", [{}, {"COGVIDEOX_FETCH_ENGINE": ""}, {"COGVIDEOX_FETCH_ENGINE": "auto"}]
)
@pytest.mark.parametrize("lock", [LOCK, UNPINNED, at("http://example.org/w.tar")])
def test_pget_is_next_where_it_is_and_has_a_cache(on_path, lock, variable):
    choice = choose_engine(lock, None, CACHE | variable)
    assert choice.engine == ("pget" if on_path else "builtin")
    assert choose_engine(lock, None, variable) == Choice("builtin", "the default")


def test_the_environment_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("COGVIDEOX_FETCH_ENGINE", "pget")
    assert choose_engine(LOCK).engine == "pget"


def test_an_unknown_engine_is_refused():
    with pytest.raises(UserError, match=r"no fetch engine 'curl'.*auto, builtin or pget.*--engine"):
        engine_named("curl")
    with pytest.raises(UserError, match="COGVIDEOX_FETCH_ENGINE"):
        choose_engine(LOCK, None, {"COGVIDEOX_FETCH_ENGINE": "curl"})


@pytest.mark.parametrize(
    ("name", "engine"), [("auto", None), ("builtin", "builtin"), ("pget", "pget")]
)
def test_engines_have_names(name, engine):
    assert engine_named(name) == engine


def test_the_local_way_is_none_to_ask_for():
    with pytest.raises(UserError):
        engine_named("local")


def test_a_lock_without_a_place_is_refused():
    with pytest.raises(UserError, match="where its tarball is"):
        choose_engine(at(None), None, {})
