"""Where a study's runs are computed: processes of this machine (loky), or a Ray or Dask cluster, all through joblib.

A cluster is found as its own users expect: --cluster ADDRESS, else RAY_ADDRESS or DASK_SCHEDULER_ADDRESS, else the one that this
process is connected to, else one begun here. Its workers need this package, and those of the user's files that the study names.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from traces import BadInput

BACKENDS = ("loky", "ray", "dask")

_PACKAGE = {"ray": "ray", "dask": "distributed"}
_PATIENCE_S = 10.0      # until a cluster answers


def checked(backend: str, address: str | None) -> None:
    """BadInput when they cannot be meant; nothing is started."""
    if backend not in BACKENDS:
        raise BadInput("--backend", backend, f"must be one of {', '.join(BACKENDS)}")
    if address is not None and backend == "loky":
        raise BadInput("--cluster", address, "needs --backend ray or dask")
    if backend != "loky" and find_spec(_PACKAGE[backend]) is None:
        raise _missing(backend)


@contextmanager
def workers(backend: str, address: str | None, jobs: int | None, cores: int) -> Iterator[int]:
    """How many runs at a time, and joblib set up for them. `jobs`: what the user wants, None: all there are."""
    checked(backend, address)
    if backend == "loky":
        yield cores if jobs is None else jobs
        return
    from joblib import parallel_config
    with (_ray if backend == "ray" else _dask)(address, jobs) as (name, there), parallel_config(backend=name):
        yield there if jobs is None else jobs


@contextmanager
def _ray(address: str | None, jobs: int | None) -> Iterator[tuple[str, int]]:
    import ray as untyped
    from joblib import register_parallel_backend
    from ray.util.joblib.ray_backend import RayBackend

    class Streaming(RayBackend):        # type: ignore[misc, unused-ignore]
        """Ray's own, whose results joblib takes as they come."""

        supports_return_generator = True

    ray: Any = untyped
    mine = not ray.is_initialized()
    if mine:
        try:
            _must_answer(address or os.environ.get("RAY_ADDRESS", ""))
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=None)
        except (OSError, ValueError, RuntimeError) as error:
            raise _silent("Ray", address, error) from error
    try:
        register_parallel_backend("tokenflow-ray", Streaming)
        yield "tokenflow-ray", max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _dask(address: str | None, jobs: int | None) -> Iterator[tuple[str, int]]:
    import dask
    import distributed as untyped
    distributed: Any = untyped
    given = address or dask.config.get("scheduler-address", None)
    client: Any = None
    try:
        if given is None:
            try:
                distributed.get_client()        # the caller's own
            except ValueError:
                client = distributed.Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
        else:
            client = distributed.Client(given, timeout=_PATIENCE_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise _silent("Dask", given, error) from error
    try:
        cores = sum((client or distributed.get_client()).ncores().values())
        if not cores:
            raise BadInput("--cluster", str(given), "the Dask cluster has no workers")
        yield "dask", cores
    finally:
        if client is not None:
            client.close()


def _must_answer(address: str) -> None:
    """OSError where HOST:PORT does not: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()


def _missing(extra: str) -> BadInput:
    return BadInput("--backend", extra, f"is not installed: pip install 'tokenflow-lab[{extra}]'")


def _silent(name: str, address: str | None, error: Exception) -> BadInput:
    why = str(error).strip().split("\n")[0]
    return BadInput("--cluster", address or "(not given)", f"no {name} cluster answers: {why or type(error).__name__}")
