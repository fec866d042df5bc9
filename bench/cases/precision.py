"""Whether 16 bits are enough for finite frames."""

from collections.abc import Iterator

from bench.case import Case
from bench.figures import Figure
from bench.random_model import Setup
from bench.session import Session
from weights.errors import OperationError
from weights.variants import Dtype

_DTYPES: tuple[Dtype, ...] = ("bfloat16", "float16")


def _precision(session: Session) -> Iterator[Figure]:
    for dtype in _DTYPES:
        model = session.model(Setup(dtype=dtype))
        try:
            session.sample(model, session.request(2))
            finite, note = 1, ""
        except OperationError as error:
            finite, note = 0, error.given
        yield Figure(name=f"finite frames in {dtype}", value=finite, unit="yes/no", note=note)


PRECISION = Case(
    name="precision",
    shows="finite frames in bfloat16 and float16, of random weights",
    run=_precision,
    expected_seconds=lambda s: 2 * s.cost(Setup(dtype="float16"), steps=2),
    # CPUs lack float16 kernels for some of the layers.
    obstacle=lambda s: "" if s.device == "cuda" else "there is no CUDA device",
)
