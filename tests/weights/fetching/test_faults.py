"""Whatever a server does: a correct install or a clear error, never a half, nothing elsewhere."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faults import Request, with_body
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, HostileTar, honest_tar
from tests.weights.surroundings import (
    QUICK,
    in_many_pieces,
    install_or_error,
    pget_on_path,
    pinned_lock,
    real_pget,
    split_lock,
    unpinned_lock,
)
from weights.lock import Lock


@dataclass(frozen=True)
class Site:
    """A server with the same weights as a tarball and as single files."""

    server: FaultyServer
    files: Files
    tar: HostileTar

    @property
    def lock(self) -> Lock:
        return pinned_lock(self.tar, self.files, f"{self.server.url}/w.tar")

    def serve(self, files: Files, etag: str | None = '"v1"') -> None:
        self.server.serve("/w.tar", honest_tar(files).data, etag=etag)
        for path, data in files.items():
            self.server.serve(f"/w/{path}", data, etag=etag)

    def change(self, etag: str | None) -> None:
        """All bytes change, and no size."""
        self.serve({path: bytes(b ^ 1 for b in data) for path, data in self.files.items()}, etag)


@pytest.fixture
def site(files: Files) -> Iterator[Site]:
    files = in_many_pieces(files)
    site = Site(FaultyServer(), files, honest_tar(files))
    site.serve(files)
    yield site
    site.server.close()


KINDS = ("tarball", "split", "unpinned", "pget", "real pget")
INSTALLS = "installs"
# Left out: without digests nobody could tell, or it would be the same over again.
LEFT_OUT = "left out"


Arrange = Callable[[Site], object]


class Case:
    """What goes wrong, and what comes of it: an install, or an error that matches."""

    def __init__(self, arrange: Arrange, result: str, **others: str) -> None:
        self.arrange = arrange
        self._results = dict.fromkeys(KINDS, result) | others

    def result(self, kind: str) -> str:
        if kind == "real pget":  # it may do better or worse at first; builtin follows in any case
            return self._results["pget"]
        return self._results[kind]


def answering(fault: faults.Fault, **rule) -> Arrange:
    return lambda site: site.server.fault(fault, **rule)


def once(fault: faults.Fault) -> Arrange:
    """In the first answer with a body: of a probe, nobody would see it."""
    return answering(fault, times=1, when=with_body)


def twice(fault: faults.Fault) -> Arrange:
    """As often as one piece may fail in a row and still be tried again."""
    return answering(fault, times=QUICK.attempts - 1)


def always(fault: faults.Fault) -> Arrange:
    return answering(fault)


def on_bodies(fault: faults.Fault) -> Arrange:
    return answering(fault, when=with_body)


def at_first_tries(fault: faults.Fault) -> Arrange:
    """Each range, and so each piece, fails once."""

    def arrange(site: Site) -> None:
        seen: set[str] = set()

        def is_new(request: Request) -> bool:
            asked = f"{request.path} {request.range}"
            return not (asked in seen or seen.add(asked))

        site.server.fault(fault, when=is_new)

    return arrange


def long(request: Request) -> bool:
    start, end = request.span
    return end - start > 1024


def changing(etag: str | None, before: str | None = '"v1"') -> Arrange:
    """After some pieces the object is another one."""

    def arrange(site: Site) -> None:
        site.serve(site.files, before)
        change = faults.doing(lambda: site.change(etag))
        site.server.fault(change, times=1, when=lambda request: request.number == 2)

    return arrange


def without_if_match(site: Site) -> None:
    """A server that does not know If-Match, when the object changes to another ETag."""
    new = Request(0, "GET", "", None, None, None, None)

    def ignore(answer: faults.Answer, request: Request) -> faults.Answer:
        return faults.right_answer(
            dataclasses.replace(new, range=request.range, object=request.object)
        )

    changing('"v2"')(site)
    site.server.fault(ignore)


def redirecting(site: Site) -> None:
    """Every object is really at another address."""

    def away(answer: faults.Answer, request: Request) -> faults.Answer:
        return faults.redirect(f"/real{request.path}")(answer, request)

    for path, data in site.files.items():
        site.server.serve(f"/real/w/{path}", data)
    site.server.serve("/real/w.tar", site.tar.data)
    site.server.fault(away, when=lambda request: not request.path.startswith("/real"))


def per_node_etag(answer: faults.Answer, request: Request) -> faults.Answer:
    headers = answer.headers | {"ETag": f'"node {request.number}"'}
    return dataclasses.replace(answer, headers=headers)


def size_unknown(answer: faults.Answer, request: Request) -> faults.Answer:
    told = answer.headers.get("Content-Range")
    if not told:
        return answer
    return faults.with_headers(Content_Range=f"{told.partition('/')[0]}/*")(answer, request)


def shrunk(answer: faults.Answer, request: Request) -> faults.Answer:
    """A part of an object that is shorter now, under the same ETag."""
    assert request.object
    less = faults.Object(request.object.data[:-1024], request.object.etag)
    return faults.right_answer(dataclasses.replace(request, object=less))


def statuses(
    *codes: int, arrange: Callable[[faults.Fault], Arrange], result: str
) -> dict[str, Case]:
    """Of these answers, all kinds of weights meet the first, and a tarball by builtin meets all."""
    return {
        f"{code}": Case(
            arrange(faults.status(code)),
            result.format(code=code),
            # pget, and what it does not get, builtin.
            pget=INSTALLS if code == codes[0] else LEFT_OUT,
            **({} if code == codes[0] else {"split": LEFT_OUT, "unpinned": LEFT_OUT}),
        )
        for code in codes
    }


BROKE = r"The download of .* broke"
CHANGED = r"changed while it was downloaded"
DIGEST = r"with the digest"

CASES = {
    "nothing": Case(lambda site: None, INSTALLS),
    # Answers that a later try may mend, and those that none will.
    **statuses(503, 429, 408, 500, 502, 504, arrange=twice, result=INSTALLS),
    **statuses(
        403, 404, 401, 400, 410, 304, 204, 301, arrange=once, result=r"can't be read \(HTTP {code}"
    ),
    "503 always": Case(always(faults.status(503)), rf"{BROKE} \(HTTP 503"),
    "503 for every body": Case(on_bodies(faults.status(503)), rf"{BROKE} \(HTTP 503"),
    "503 at the first try of each range": Case(at_first_tries(faults.status(503)), INSTALLS),
    "cut at the first try of each range, whatever is left of it": Case(
        at_first_tries(faults.cut), INSTALLS, split=LEFT_OUT, pget=LEFT_OUT
    ),
    "404 always": Case(always(faults.status(404)), r"can't be read \(HTTP 404"),
    "416 always": Case(always(faults.status(416)), "has 0 bytes|can't be", unpinned="can't be"),
    "retry after 0": Case(twice(faults.status(503, Retry_After="0")), INSTALLS, pget=LEFT_OUT),
    "retry after a day": Case(
        twice(faults.status(503, Retry_After="86400")), INSTALLS, pget=LEFT_OUT
    ),
    "retry after a date": Case(
        twice(faults.status(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")),
        INSTALLS,
        pget=LEFT_OUT,
    ),
    "retry after nonsense": Case(
        twice(faults.status(429, Retry_After="-1e9")), INSTALLS, pget=LEFT_OUT
    ),
    # Connections that break.
    "no answer twice": Case(twice(faults.no_answer), INSTALLS),
    "no answer always": Case(always(faults.no_answer), BROKE),
    "not http twice": Case(twice(faults.not_http), INSTALLS),
    "not http always": Case(always(faults.not_http), BROKE),
    "cut once": Case(once(faults.cut), INSTALLS),
    "cut in every long answer": Case(answering(faults.cut, when=long), INSTALLS),
    "cut before the last byte": Case(twice(faults.cut_before_the_last_byte), INSTALLS),
    "cut before the body": Case(once(faults.cut_before_the_body), INSTALLS),
    "cut before every body": Case(on_bodies(faults.cut_before_the_body), BROKE),
    "cut chunks": Case(once(faults.cut_chunks), INSTALLS),
    "reset once": Case(once(faults.reset), INSTALLS),
    "reset at once, twice": Case(twice(faults.reset_at_once), INSTALLS),
    "reset always": Case(always(faults.reset_at_once), BROKE),
    "stall once": Case(once(faults.stall), INSTALLS),
    "stall at once, once": Case(once(faults.stall_at_once), INSTALLS),
    "stall always": Case(on_bodies(faults.stall_at_once), rf"{BROKE} \(no byte for too long"),
    # Other ways to say the same.
    "chunks": Case(always(faults.chunk), INSTALLS),
    "no length": Case(always(faults.without_length), INSTALLS),
    "lower-case headers": Case(always(faults.lower_case), INSTALLS),
    "compressed": Case(always(faults.compress), "sends it compressed"),
    "a redirect": Case(redirecting, INSTALLS),
    "a loop of redirects": Case(always(faults.redirect("/w.tar")), "can't be read"),
    "a redirect off the web": Case(always(faults.redirect("file:///etc/hostname")), "can't be"),
    "a redirect to nowhere": Case(always(faults.status(302)), r"can't be read \(HTTP 302"),
    # Ranges.
    "no ranges": Case(always(faults.ignore_range), INSTALLS),
    "no ranges and a cut": Case(
        lambda site: (
            site.server.fault(
                lambda a, r: faults.cut(faults.ignore_range(a, r), r), when=with_body, times=1
            ),
            site.server.fault(faults.ignore_range),
        ),
        INSTALLS,
    ),
    "no ranges and no length": Case(
        always(lambda a, r: faults.without_length(faults.ignore_range(a, r), r)), INSTALLS
    ),
    "no ranges in chunks": Case(
        always(lambda a, r: faults.chunk(faults.ignore_range(a, r), r)), INSTALLS
    ),
    "a range ignored once": Case(once(faults.ignore_range), INSTALLS),
    "no range for any body": Case(
        on_bodies(faults.ignore_range), "sends the whole file instead of a part"
    ),
    "another range": Case(on_bodies(faults.shift_range), "it sends others", pget=INSTALLS),
    "a wider range": Case(once(faults.widen_range), "it sends others", pget=INSTALLS),
    "no Content-Range": Case(on_bodies(faults.without_headers("Content-Range")), "sends others"),
    "an odd Content-Range": Case(
        on_bodies(faults.with_headers(Content_Range="bytes 0-18446744073709551616/x")),
        "it sends others",
    ),
    "a Content-Range without size": Case(always(size_unknown), INSTALLS),
    "more bytes than asked": Case(on_bodies(faults.add_bytes), INSTALLS),
    "junk between answers": Case(twice(faults.junk_after), INSTALLS),
    # Versions.
    "a new version": Case(changing('"v2"'), CHANGED, pget=DIGEST),
    "a new version, If-Match unknown": Case(without_if_match, CHANGED, pget=DIGEST),
    "a new version of the same ETag": Case(changing('"v1"'), DIGEST, unpinned=LEFT_OUT),
    "a new version, no ETag": Case(changing(None, None), DIGEST, unpinned=LEFT_OUT),
    "a new version, weak ETag": Case(changing('W/"v2"', 'W/"v1"'), DIGEST, unpinned=LEFT_OUT),
    "an ETag for each answer": Case(always(per_node_etag), CHANGED, pget=INSTALLS),
    "no ETag": Case(always(faults.without_headers("ETag")), INSTALLS, pget=LEFT_OUT),
    "a weak ETag": Case(lambda site: site.serve(site.files, 'W/"v1"'), INSTALLS, pget=LEFT_OUT),
    "an object that shrinks": Case(
        answering(shrunk, when=lambda request: request.number > 2 and request.size > 2048),
        CHANGED,
        split=f"{CHANGED}|By the lock it has",
        pget="By the lock it has",
    ),
    # Wrong bytes.
    "a flipped bit once": Case(once(faults.flip_bit), INSTALLS, unpinned=LEFT_OUT),
    "a flipped bit in some answers": Case(
        answering(faults.flip_bit, when=lambda request: 6 < request.number < 9),
        INSTALLS,
        unpinned=LEFT_OUT,
    ),
    "a flipped bit always": Case(on_bodies(faults.flip_bit), DIGEST, unpinned=LEFT_OUT),
}


@pytest.fixture
def prepared(request, site: Site, tmp_path: Path) -> Iterator[tuple[Lock, str]]:
    """The lock of a kind, and the engine."""
    kind, url = request.param, site.server.url
    locks = {
        # What the url holds of secrets is never told; pget gets no such url.
        "tarball": dataclasses.replace(site.lock, url=f"{url}/w.tar?sig=SECRET"),
        "split": split_lock(site.lock, f"{url.replace('//', '//user:SECRET@')}/w/"),
        "unpinned": unpinned_lock(f"{url}/w.tar?sig=SECRET"),
    }
    if kind == "real pget":
        if real_pget() is None:
            pytest.skip("Replicate's pget is not on PATH")
        yield site.lock, "pget"
    elif kind == "pget":
        with pget_on_path(tmp_path):
            yield site.lock, "pget"
    else:
        yield locks[kind], "builtin"


@pytest.mark.parametrize(
    ("name", "prepared"),
    [(name, kind) for name in CASES for kind in KINDS if CASES[name].result(kind) != LEFT_OUT],
    indirect=["prepared"],
)
def test_a_fault_ends_in_a_correct_install_or_a_clear_error(
    request, prepared, site, around, name, caplog
):
    expected = CASES[name].result(request.node.callspec.params["prepared"])
    caplog.set_level(logging.INFO)
    CASES[name].arrange(site)
    lock, engine = prepared
    error = install_or_error(around, lock, site.files, "SECRET", engine=engine)
    assert "SECRET" not in caplog.text
    if expected == INSTALLS:
        assert error is None
    else:
        assert re.search(expected, str(error))
        # A healthy server mends it, whatever was left.
        site.server.heal()
        site.serve(site.files)
        assert install_or_error(around, lock, site.files, engine="builtin") is None
