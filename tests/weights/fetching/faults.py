"""How a web server goes wrong: each fault turns the right answer to a request into a wrong one."""

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal


@dataclass(frozen=True, slots=True)
class Object:
    data: bytes
    etag: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, and what is there. `number` counts the server's requests from 0."""

    number: int
    method: str
    path: str
    range: str | None
    if_match: str | None
    if_range: str | None
    object: Object | None

    @property
    def size(self) -> int:
        return len(self.object.data) if self.object else 0

    @property
    def span(self) -> tuple[int, int]:
        """The bytes asked for, from the first to before the last; all without a range."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.range or "bytes=0-")
        assert found, f"odd range {self.range}"
        if not found[1]:
            return max(0, self.size - int(found[2])), self.size
        end = int(found[2]) + 1 if found[2] else self.size
        return int(found[1]), min(end, self.size)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes over the wire. A `status` of None: nothing, not even a status line.

    After `sent` bytes of `body` comes the `ending`: the connection is kept, closed in order, reset,
    or stalls until the server is closed.
    """

    status: int | None
    headers: dict[str, str]
    body: bytes
    sent: int | None = None
    ending: Literal["keep", "close", "reset", "stall"] = "keep"


Fault = Callable[[Answer, Request], Answer]


def right_answer(request: Request) -> Answer:
    """What RFC 9110 says of GET, Range, If-Match and If-Range."""
    if request.object is None:
        return Answer(HTTPStatus.NOT_FOUND, {"Content-Length": "0"}, b"")
    data, etag = request.object.data, request.object.etag
    headers = {"ETag": etag} if etag else {}
    strong = etag if etag and not etag.startswith("W/") else None
    if request.if_match is not None and request.if_match not in ("*", strong):
        return Answer(HTTPStatus.PRECONDITION_FAILED, headers | {"Content-Length": "0"}, b"")
    if request.range is None or request.if_range not in (None, strong):
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(len(data))}
        return Answer(HTTPStatus.OK, headers, data)
    start, end = request.span
    if start >= end:
        unfit = {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"}
        return Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers | unfit, b"")
    headers |= {
        "Content-Range": f"bytes {start}-{end - 1}/{len(data)}",
        "Content-Length": str(end - start),
    }
    return Answer(HTTPStatus.PARTIAL_CONTENT, headers, data[start:end])


def with_body(request: Request) -> bool:
    """Whether it asks for more than the one byte with which clients look at an object."""
    start, end = request.span
    return request.method == "GET" and end - start > 1


# The faults.


def status(code: int, **headers: str) -> Fault:
    """Another status, with `Retry_After="0"` and such as headers."""

    def fault(answer: Answer, request: Request) -> Answer:
        text = f"{code} on purpose".encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(code, named | {"Content-Length": str(len(text))}, text)

    return fault


def no_answer(answer: Answer, request: Request) -> Answer:
    return Answer(None, {}, b"", ending="close")


def not_http(answer: Answer, request: Request) -> Answer:
    return Answer(None, {}, b"\x00\x01 this is no HTTP\r\n\r\n", ending="close")


def cut(answer: Answer, request: Request) -> Answer:
    return replace(answer, sent=len(answer.body) // 2, ending="close")


def cut_before_the_last_byte(answer: Answer, request: Request) -> Answer:
    return replace(answer, sent=len(answer.body) - 1, ending="close")


def cut_before_the_body(answer: Answer, request: Request) -> Answer:
    return replace(answer, sent=0, ending="close")


def reset(answer: Answer, request: Request) -> Answer:
    return replace(answer, sent=len(answer.body) // 2, ending="reset")


def reset_at_once(answer: Answer, request: Request) -> Answer:
    return Answer(None, {}, b"", ending="reset")


def stall(answer: Answer, request: Request) -> Answer:
    return replace(answer, sent=len(answer.body) // 2, ending="stall")


def stall_at_once(answer: Answer, request: Request) -> Answer:
    return Answer(None, {}, b"", ending="stall")


def ignore_range(answer: Answer, request: Request) -> Answer:
    """Everything, with 200."""
    return right_answer(replace(request, range=None))


def without_headers(*names: str) -> Fault:
    def fault(answer: Answer, request: Request) -> Answer:
        kept = {name: value for name, value in answer.headers.items() if name not in names}
        return replace(answer, headers=kept)

    return fault


def with_headers(**headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer, request: replace(answer, headers=answer.headers | named)


def shift_range(answer: Answer, request: Request) -> Answer:
    """The right bytes, called others."""
    start, end = request.span
    told = f"bytes {start + 512}-{end + 511}/{request.size}"
    return replace(answer, headers=answer.headers | {"Content-Range": told})


def widen_range(answer: Answer, request: Request) -> Answer:
    """More than asked for, said honestly, as a cache that fetches whole blocks might."""
    start, end = request.span
    assert request.object
    body = request.object.data[start : end + 512]
    told = {
        "Content-Range": f"bytes {start}-{start + len(body) - 1}/{request.size}",
        "Content-Length": str(len(body)),
    }
    return replace(answer, headers=answer.headers | told, body=body)


def add_bytes(answer: Answer, request: Request) -> Answer:
    """More bytes than the range that is named has."""
    body = answer.body + b"x" * 512
    length = {"Content-Length": str(len(body))}
    return replace(answer, headers=answer.headers | length, body=body)


def junk_after(answer: Answer, request: Request) -> Answer:
    """Bytes after the end of a right answer, where a client expects the next one."""
    return replace(answer, body=answer.body + b"junk" * 64)


def shorten_range(answer: Answer, request: Request) -> Answer:
    """Less than asked for, said honestly; RFC 9110 allows it."""
    if len(answer.body) < 2:
        return answer
    body = answer.body[: len(answer.body) // 2]
    start = request.span[0]
    told = {
        "Content-Range": f"bytes {start}-{start + len(body) - 1}/{request.size}",
        "Content-Length": str(len(body)),
    }
    return replace(answer, headers=answer.headers | told, body=body)


def flip_bit(answer: Answer, request: Request) -> Answer:
    """One wrong bit in the middle: what a proxy's bad memory does."""
    if not answer.body:
        return answer
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 1
    return replace(answer, body=bytes(body))


def compress(answer: Answer, request: Request) -> Answer:
    body = gzip.compress(answer.body)
    told = {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
    return replace(answer, headers=answer.headers | told, body=body)


def chunk(answer: Answer, request: Request) -> Answer:
    """The same in chunks, so that the length is not told."""
    headers = {n: v for n, v in answer.headers.items() if n != "Content-Length"}
    pieces = [answer.body[at : at + 1000] for at in range(0, len(answer.body), 1000)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return replace(answer, headers=headers | {"Transfer-Encoding": "chunked"}, body=body)


def cut_chunks(answer: Answer, request: Request) -> Answer:
    return cut(chunk(answer, request), request)


def without_length(answer: Answer, request: Request) -> Answer:
    """No length at all: the end of the connection is the end of the body, as HTTP/1.0 has it."""
    headers = {n: v for n, v in answer.headers.items() if n != "Content-Length"}
    return replace(answer, headers=headers | {"Connection": "close"}, ending="close")


def lower_case(answer: Answer, request: Request) -> Answer:
    return replace(answer, headers={name.lower(): v for name, v in answer.headers.items()})


def redirect(location: str) -> Fault:
    return status(302, Location=location)


def doing(action: Callable[[], object]) -> Fault:
    """A right answer, before which something happens: the object is replaced, say."""

    def fault(answer: Answer, request: Request) -> Answer:
        action()
        return answer

    return fault
