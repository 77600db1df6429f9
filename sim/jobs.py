"""Several things at a time, in processes of their own; what is done comes back as soon as it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import cache
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def each_done(make: Callable[[Given], Made], given: Sequence[Given], jobs: int) -> Generator[tuple[Given, Made], None, None]:
    """`make` of each, `jobs` at a time, begun in this order and yielded as they end; with joblib, whose backend may be another
    (`joblib.parallel_config`). `make` must be a function that another process can import."""
    from joblib import Parallel, delayed
    with Parallel(n_jobs=min(jobs, max(len(given), 1)), return_as="generator_unordered", pre_dispatch="2*n_jobs",
                  batch_size=1) as parallel:
        for index, made in parallel(delayed(_one)(make, i, each) for i, each in enumerate(given)):
            yield given[index], made


def _one(make: Callable[[Given], Made], index: int, given: Given) -> tuple[int, Made]:
    _leave_with_parent()
    return index, make(given)


@cache
def _leave_with_parent() -> None:
    """A process that works for others ends when the one that started it does, whatever ended that one."""
    parent = os.getppid()
    if _is_worker():
        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1.0)
            os._exit(1)
        threading.Thread(target=watch, daemon=True).start()


def _is_worker() -> bool:
    """Whether this process was started by joblib."""
    import multiprocessing
    return multiprocessing.current_process().name.startswith("Loky")
