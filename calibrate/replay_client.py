"""Plays a trace against an OpenAI-compatible server, with the `openai` client: every token timed where it arrives, at the client.

Over HTTP tokens come in bursts, and a busy client is late: these are times of a whole service, not of an engine.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sim.cli_errors import Ended
from sim.cli_progress import Bar
from sim.counted import counted
from sim.records import Records
from traces import BadInput, Trace

from . import replay_play
from .cli_engine import EngineFlags
from .cli_replay import TierFlags
from .replay_play import GaveUp, Played, explain, prompt, readers
from .replay_result import AT_CLIENT, SERVER, Replayed, Setup, Stock, replayed

if TYPE_CHECKING:
    from .cli_replay import ReplayOptions

_CONNECT_S = 10.0
_LOOK_S = 0.2           # how often somebody looks whether it is over
_VOCAB = 500            # token ids that every model has
_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


def on_server(asked: ReplayOptions, trace: Trace, reported: Mapping[str, Any], bar: Bar) -> tuple[Replayed, BaseException | None]:
    """The result, and what ended it early if anything did. BadInput if nobody answers there."""
    url = _url(asked)
    try:
        import openai  # noqa: F401
    except ImportError:
        raise BadInput("--url", str(asked.url), "needs the package openai, which is not installed") from None
    bar.begin(asked.policy or SERVER)
    records = Records.blank(len(trace))
    run = _Client(asked, url, trace, records, bar)
    with _signals_kept():
        asyncio.run(run.play())
    played = run.played
    explain(played, trace)
    from .replay import settings
    setup = Setup(label=asked.policy or SERVER, policy=Stock(), engine=f"OpenAI-compatible server at {asked.url}",
                  model=run.model, token_times=AT_CLIENT, link_status="not known: the server's",
                  settings=settings(asked, run.max_model_len))
    return replayed(trace, played, setup, **reported), played.ended


def _url(asked: ReplayOptions) -> str:
    """The API's. BadInput beside flags of an engine in this process."""
    ours = [*(f.name for f in fields(EngineFlags)), *(f.name for f in fields(TierFlags)), "profile", "policy_arg", "save_timeline"]
    for name in ours:
        if getattr(asked, name) not in (None, False, []):
            flag = "--" + name.replace("_", "-")
            raise BadInput(flag, str(getattr(asked, name)), "is for an engine in this process: a server at --url has its own")
    if not _written_well(str(asked.url)):
        raise BadInput("--url", repr(asked.url), "must be written http://HOST:PORT")
    url = str(asked.url).rstrip("/")
    return url if url.endswith("/v1") else url + "/v1"


def _written_well(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:          # an unclosed bracket; a port that is none
        return False


class _Client:
    """All clients of one server."""

    def __init__(self, asked: ReplayOptions, url: str, trace: Trace, records: Records, bar: Bar) -> None:
        self.asked, self.url, self.trace, self.records, self.bar = asked, url, trace, records, bar
        self.readers = readers(trace, asked.readers()[0])
        self.model = ""
        self.max_model_len: int | None = None
        self.start_s = self.token_s = 0.0
        self.in_flight = self.done = 0
        self.over = asyncio.Event()

    def now_s(self) -> float:
        return time.perf_counter() - self.start_s

    def end(self, why: BaseException | None) -> None:
        if not self.over.is_set():
            self.played.ended = why
            self.over.set()

    async def play(self) -> None:
        import httpx
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        for number in _SIGNALS:
            ending: BaseException = KeyboardInterrupt() if number == signal.SIGINT else Ended(number)
            with suppress(ValueError, RuntimeError, NotImplementedError):       # not the main thread; Windows
                asyncio.get_running_loop().add_signal_handler(number, self.end, ending)
        limits, timeout = httpx.Limits(max_connections=None), httpx.Timeout(None, connect=_CONNECT_S)
        async with AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=timeout,
                               http_client=DefaultAsyncHttpxClient(limits=limits, timeout=timeout)) as self.api:
            await self._meet()
            self.played = Played.blank(self.records, self.records.turn_away(self.trace, None, self.max_model_len))
            seats = asyncio.Semaphore(self.asked.max_concurrency or len(self.trace))
            self.start_s = time.perf_counter()
            asks = [asyncio.create_task(self._ask(id, seats)) for id in (~self.played.rejected).nonzero()[0].tolist()]
            watch = asyncio.create_task(self._watch())
            everyone: asyncio.Future[Any] = asyncio.gather(*asks, return_exceptions=True)
            await asyncio.wait((everyone, watch), return_when=asyncio.FIRST_COMPLETED)
            self.over.set()
            self.played.start_s, self.played.end_s = self.start_s, self.now_s()
            for task in (*asks, watch):
                task.cancel()
            await asyncio.gather(everyone, watch, return_exceptions=True)
            if self.played.ended is None:
                self.played.ended = next((error for task in asks if not task.cancelled() and (error := task.exception())), None)

    async def _meet(self) -> None:
        """Whom we talk to. BadInput if nobody is there."""
        from openai import OpenAIError
        try:
            models = (await self.api.models.list()).data
        except OpenAIError as error:
            raise BadInput("--url", str(self.asked.url), f"no OpenAI-compatible server answers: {_said(error)}") from None
        names = [model.id for model in models]
        if self.asked.model is not None and self.asked.model not in names:
            raise BadInput("--model", repr(self.asked.model), f"the server has {', '.join(names) or 'none'}")
        if not names:
            raise BadInput("--url", str(self.asked.url), "the server has no model")
        self.model = self.asked.model or names[0]
        longest = getattr(models[names.index(self.model)], "max_model_len", None)
        self.max_model_len = longest if isinstance(longest, int) else None

    async def _watch(self) -> None:
        """Until it is over: by a signal, by --until, or because nothing comes any more."""
        until_s = self.asked.until
        while not self.over.is_set():
            now_s = self.now_s()
            if until_s is not None and now_s >= until_s:
                self.end(None)
            elif self.in_flight and now_s - self.token_s > replay_play.PATIENCE_S:
                self.end(GaveUp(f"no token for {replay_play.PATIENCE_S:g} s, with {counted(self.in_flight, 'request')} in flight"))
            wait_s = _LOOK_S if until_s is None else min(_LOOK_S, max(until_s - now_s, 0.0))
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), wait_s)

    async def _ask(self, id: int, seats: asyncio.Semaphore) -> None:
        await asyncio.sleep(float(self.trace.arrival_s[id]) - self.now_s())
        async with seats:
            self.played.sent_s[id] = self.now_s()
            if not self.in_flight:
                self.token_s = self.now_s()
            self.in_flight += 1
            try:
                await self._listen(id)
            finally:
                self.in_flight -= 1
                self.done += 1
                self.bar(self.done, len(self.trace), self.now_s())

    async def _listen(self, id: int) -> None:
        import httpx
        from openai import APIConnectionError, APIError, APIStatusError
        played, output = self.played, int(self.trace.output_tokens[id])
        try:
            stream = await self.api.completions.create(
                model=self.model, prompt=prompt(self.asked.seed, id, int(self.trace.input_tokens[id]), _VOCAB), max_tokens=output,
                temperature=0.0, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True},
                extra_body={"ignore_eos": True, "min_tokens": output, "vllm_xargs": self.readers[id]})
            async for chunk in stream:
                heard = played.times_s[id]
                tokens = chunk.usage.completion_tokens - len(heard) if chunk.usage else len(chunk.choices)
                if tokens > 0:
                    self.token_s = self.now_s()
                    heard += [self.token_s] * tokens
        except APIStatusError as error:
            if 400 <= error.status_code < 500 and not played.times_s[id]:
                played.rejected[id] = True
            played.reason[id] = _said(error)
        except (APIConnectionError, APIError, httpx.HTTPError) as error:
            played.reason[id] = f"unfinished: {_said(error)}"
            await self._still_there(_said(error))
        else:
            if len(played.times_s[id]) < output:
                played.reason[id] = "the server ended it before its last token"
                await self._still_there(played.reason[id])

    async def _still_there(self, why: str) -> None:
        """Ends it all if the server is gone: what is measured is kept, and nobody waits for the rest."""
        from openai import OpenAIError
        try:
            await self.api.models.list()
        except OpenAIError:
            self.end(GaveUp(f"the server is gone: {why}"))


def _said(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """asyncio leaves signals at the system's defaults; they go back to whoever had them."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)
