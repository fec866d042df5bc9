"""Whether the GPU still answers, for the runner's `healthcheck()`.

Cog 0.23 calls `def healthcheck(self) -> bool` of the runner class once for each GET /health-check,
in a thread of its own and during predictions, too. False, an exception or more than 5 seconds make
that answer UNHEALTHY; the next call may be READY again, and predictions are still accepted: to
restart the container is up to whoever asks.
"""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Below Cog's own limit, so that a GPU that hangs leaves no thread waiting for it.
ANSWER_SECONDS = 3.0
_POLL_SECONDS = 0.01


def healthy(device: "torch.device | str") -> bool:
    """Whether `device`, where the pipeline computes, carries out what it is sent.

    A CPU always does. After an error such as an illegal memory access every call in the process's
    CUDA context fails, for good: only a new process helps. Not run on a GPU yet.
    """
    import torch

    if torch.device(device).type != "cuda":
        return True
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        # An event on another stream does not wait for the prediction's work, and takes no memory:
        # a full GPU is a healthy one.
        event = torch.cuda.Stream(device).record_event()
        while not event.query():
            if time.monotonic() > deadline:
                print(f"The GPU did not answer in {ANSWER_SECONDS:g} s.", flush=True)
                return False
            time.sleep(_POLL_SECONDS)
    except RuntimeError as error:
        print(f"The GPU can't be used any more: {error}", flush=True)
        return False
    return True
