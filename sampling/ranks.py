"""One of several processes that torchrun started on the same prompt file.

There is no traffic between them: which units are whose follows from their numbers, and each adds
its own records to the manifest. Only at the end they wait for each other.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from weights.errors import UserError

# Seconds between looks whether all others are done.
_POLL = 0.5


@dataclass(frozen=True, slots=True)
class Rank:
    """The process `number`, from 0, of `world`; on its machine it is the `local`th."""

    number: int
    world: int
    local: int


def rank_of(environment: Mapping[str, str]) -> Rank:
    """The rank that torchrun describes with RANK, WORLD_SIZE and LOCAL_RANK.

    Raises:
        UserError: they are not set, or say no rank.
    """
    try:
        number, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment["LOCAL_RANK"])
    except (KeyError, ValueError):
        number = world = local = -1
    if not (0 <= number < world and local >= 0):
        found = ", ".join(
            f"{name}={environment.get(name, '')!r}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        )
        raise UserError(
            f"`-m sampling` was started with {found}.",
            "torchrun sets them for each of its processes.",
            "Start it as `torchrun --nproc-per-node N -m sampling PROMPTS OUT`, or sample in one "
            "process with `cogvideox sample PROMPTS OUT`.",
        )
    return Rank(number, world, local)


def take_own_gpu(rank: Rank) -> None:
    """Let this process see no GPU but its own; before anything is done on one.

    All else then holds as on a machine with one GPU. `torch.cuda.set_device` would not do: offload
    hooks go to the first GPU whichever is the current one.

    Raises:
        UserError: there are fewer GPUs than ranks on this machine.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        return
    if rank.local >= count:
        raise UserError(
            f"torchrun started {rank.local + 1} or more processes here, and there "
            f"{'are' if count > 1 else 'is'} {count} GPU{'s' if count > 1 else ''}.",
            "Every process needs a GPU of its own.",
            f"Use --nproc-per-node {count}.",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(count)]
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank.local]


def wait_for_all(rank: Rank) -> None:
    """Come back when every rank has come here.

    torchrun ends all ranks as soon as one exits with a code that is not 0, in the middle of their
    clips, and machines whose ranks are done do not wait for the others for more than minutes.
    Elsewhere than under torchrun it does nothing.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    from torch.distributed import TCPStore

    # torchrun's own; a client of it takes no part in any collective.
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    # The store outlives ranks that --max-restarts starts anew.
    name = f"cogvideox/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if store.add(f"{name}/arrived", 1) == rank.world:
        store.set(f"{name}/all", "1")
    while not store.check([f"{name}/all"]):  # its own wait can't be interrupted
        time.sleep(_POLL)
