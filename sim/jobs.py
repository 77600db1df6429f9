"""Several things at a time, in processes of their own; what is done comes back as soon as it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache
from typing import TypeVar

from traces import BadInput

Given = TypeVar("Given")
Made = TypeVar("Made")


KILLED = "its process was killed, for want of memory perhaps"

_AHEAD = 2          # times `jobs` are under way, or about to be


def each_done(make: Callable[[Given], Made], given: Sequence[Given], jobs: int,
              killed: Callable[[Given], Made] | None = None) -> Generator[tuple[Given, Made], None, None]:
    """`make` of each, `jobs` at a time, begun in this order and yielded as they end; with joblib, whose backend may be another
    (`joblib.parallel_config`). `make` must be a function that another process can import. Who was under way when a process was
    killed is tried again, alone; `killed`: what is made of whoever takes its process down even then (None: BadInput)."""
    left = dict.fromkeys(range(len(given)))
    while left:
        try:
            with closing(_together(make, given, list(left), jobs)) as together:
                for index, made in together:
                    del left[index]
                    yield given[index], made
        except BrokenProcessPool:
            for index in list(left)[:_AHEAD * jobs]:
                made = _alone(make, given[index], killed)
                del left[index]
                yield given[index], made


def _together(make: Callable[[Given], Made], given: Sequence[Given], which: Sequence[int],
              jobs: int) -> Generator[tuple[int, Made], None, None]:
    from joblib import Parallel, delayed
    with Parallel(n_jobs=min(jobs, len(which)), return_as="generator_unordered", pre_dispatch=f"{_AHEAD}*n_jobs",
                  batch_size=1) as parallel:
        for made in parallel(delayed(_one)(make, index, given[index]) for index in which):      # noqa: UP028
            yield made          # not `yield from`: whoever stops here stops the processes once, by the `with`


def _alone(make: Callable[[Given], Made], each: Given, killed: Callable[[Given], Made] | None) -> Made:
    from joblib.externals.loky import ProcessPoolExecutor  # joblib itself would not start a process for one
    with ProcessPoolExecutor(max_workers=1) as process:
        try:
            made: Made = process.submit(_one, make, 0, each).result()[1]
        except BrokenProcessPool as error:
            if killed is None:
                raise BadInput("simulation", str(each), KILLED) from error
            return killed(each)
    return made


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
