"""The connection to Ray: a cluster that is already there, or one of this machine's own.

Ray's processes run whatever code they are sent. A cluster of our own therefore listens on the
loopback address only, wants a token that is made for it, and ends with us.
"""

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from weights.errors import OperationError, UserError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise Ray warns that it will one day leave CUDA_VISIBLE_DEVICES alone without GPUs.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray's switch for systems whose firewall asks about every port. There it keeps to 127.0.0.1 and
# binds nothing else; `_node_ip_address` does not do that, it is replaced by the machine's address.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray's sockets lie two long names below its folder, and a socket's path has at most 107 bytes.
_FOLDER_OF_SOCKETS = "/tmp"  # noqa: S108  what is made there is for this user only
# Seconds for the head to accept a connection.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What Ray offers: how many workers to have there, and what each one takes.

    `folder` is where a cluster of our own keeps its logs, until it ends; None: somebody else's.
    """

    workers: int
    gpus_per_worker: int
    folder: Path | None


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one here, and leave or end it afterwards.

    What Ray prints on stdout meanwhile goes to stderr.

    Args:
        address: HOST:PORT, or `auto` for that of this machine or job; None: start one.
        workers: how many to plan for. None: one per GPU; where there are none, one per machine,
            since torch uses all of a machine's cores anyway.

    Raises:
        UserError: Ray is not installed, the address is none of a cluster, or this machine has fewer
            GPUs than workers are wanted.
        OperationError: Ray can't be started here.
    """
    _check(address, workers)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if address is None:
            yield _started(stack, workers)
        else:
            yield _joined(stack, address, workers)


def _check(address: str | None, workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UserError(
            f"--workers is {workers}.", "It must be 1 or more.", "Leave it out for one per GPU."
        )
    if address is not None and "://" in address:
        raise UserError(
            f"--ray is {address!r}.",
            "HOST:PORT of the cluster's head is expected, or `auto`; prompts are encoded by this "
            "process, which has to be one of the cluster's own machines.",
            "Submit the command with `ray job submit -- cogvideox sample ... --ray auto`.",
        )


def _ray(environment: Mapping[str, str]) -> Any:
    # Ray reads its settings when it is imported.
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError(
            "--ray needs Ray, which is not installed here.",
            "It comes with the extra `sample`.",
            "Run `pip install -r requirements-sample.txt` in the checkout.",
        ) from None
    return ray


def _started(stack: ExitStack, workers: int | None) -> Cluster:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own = {} if "RAY_AUTH_MODE" in os.environ else token
    ray = _ray(_QUIET | _LOOPBACK | own)
    gpus = _gpus_here()
    if gpus and workers is not None and workers > gpus:
        raise UserError(
            f"--workers is {workers}, and this machine has {gpus} GPU{'s' if gpus > 1 else ''}.",
            "Every worker needs a GPU of its own.",
            "Leave it out for one per GPU, or name a larger cluster with --ray ADDRESS.",
        )
    count = workers or gpus or 1
    private = stack.enter_context(
        TemporaryDirectory(prefix="cogvideox-", dir=_FOLDER_OF_SOCKETS, ignore_cleanup_errors=True)
    )
    # Ray lets everyone into its folder: hence one within ours.
    folder = Path(private) / "ray"
    stack.callback(ray.shutdown)
    try:
        _init(
            ray,
            address="local",
            num_cpus=count,
            num_gpus=gpus,
            include_dashboard=False,
            _temp_dir=str(folder),
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise OperationError(
            f"Ray could not be started on this machine: {error}",
            f"It needs free ports on 127.0.0.1 and to write to {_FOLDER_OF_SOCKETS}.",
            "Without --ray the same clips are sampled one after the other.",
        ) from error
    return Cluster(workers=count, gpus_per_worker=min(gpus, 1), folder=folder)


def _joined(stack: ExitStack, address: str, workers: int | None) -> Cluster:
    ray = _ray(_QUIET)
    stack.callback(ray.shutdown)
    try:
        _knock(address)
        _init(ray, address=address)
    except (
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        ray.exceptions.RayError,
    ) as error:
        raise UserError(
            f"--ray is {address!r}, and connecting there failed: {str(error).rstrip('. ')}.",
            "The address of a running Ray cluster is expected, with the same Python and Ray as "
            "here.",
            "Give HOST:PORT of its head, `auto` on one of its machines, or no address for a "
            "cluster of this machine's own.",
        ) from None
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return Cluster(
        workers=workers or gpus or _machines(ray), gpus_per_worker=min(gpus, 1), folder=None
    )


def _knock(address: str) -> None:
    """Raise OSError, ValueError or OverflowError where nobody listens.

    Ray would try again for many minutes.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


def _machines(ray: Any) -> int:
    """How many machines of the cluster have a core for a worker; at least one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, len([resources for resources in nodes if resources.get("CPU", 0) >= 1]))


def _gpus_here() -> int:
    import torch

    return int(torch.cuda.device_count())


def _init(ray: Any, **options: Any) -> None:
    # Workers' own lines stay in Ray's logs: among the progress they could not be read.
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level="critical", **options)
    # Ray's would end us with the signal's number as exit code.
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
