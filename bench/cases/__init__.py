"""Every case, the most telling first: what the time does not suffice for comes last."""

from bench.cases.acceleration import COMPILE, INT8, INT8_COMPILED, SPEED
from bench.cases.adapters import LORA
from bench.cases.attention import ATTENTION, GUIDANCE
from bench.cases.loading import LOAD
from bench.cases.memory import DECODE, PLACED
from bench.cases.precision import PRECISION
from bench.cases.requests import FULL_REQUESTS, SERVED

# Those that follow each other on the same model save building it again.
CASES = (
    SERVED,
    SPEED,
    ATTENTION,
    GUIDANCE,
    DECODE,
    LORA,
    COMPILE,
    *FULL_REQUESTS,
    *PLACED,
    INT8,
    PRECISION,
    LOAD,
    INT8_COMPILED,
)
