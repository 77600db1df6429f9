"""When a request becomes one that the policy knows of, and what is made of what it says of its reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

from .stream import Stream

logger = init_logger(f"vllm.{__name__}")      # in the format of the server's log


class Arrivals:
    """Whose answer has a grammar cannot run before that is compiled: such a request arrives then. `ready`: vLLM's own look."""

    def __init__(self, ready: Callable[[Any], bool]) -> None:
        self.compiling: list[Any] = []      # vLLM's requests
        self._ready = ready
        self.begin_afresh()

    def begin_afresh(self) -> None:
        """Nobody has come yet."""
        self.misread = 0                    # who described a reader in a way that makes no sense
        self._arrived = 0

    def compiles(self, request: Any) -> bool:
        """Whether it is to be waited for."""
        if request.status != RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            return False
        self.compiling.append(request)
        return True

    def compiled(self) -> Iterator[Any]:
        """Whose grammar is ready by now; vLLM itself ends those that will have none."""
        compiling, self.compiling = self.compiling, []
        for request in compiling:
            if request.is_finished():
                continue
            if self._ready(request):
                yield request
            else:
                self.compiling.append(request)

    def stream(self, request: Any, now_s: float) -> Stream:
        stream = Stream.of(request, self._arrived, now_s)
        self._arrived += 1
        for what in stream.misread:
            logger.warning("request %s: %s; the default counts", stream.name, what)
        self.misread += bool(stream.misread)
        return stream
