"""A real `tokenflow-calibrate serve` in a process of its own, on a tiny model whose weights mean nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import openai

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
_SHARED = ("engine", "model_name")      # labels of every metric
BLOCK, GPU_BLOCKS, HOST_BLOCKS = 32, 40, 60
#: small pools, so that a dozen requests do not fit
POOLS = ["--enforce-eager", "--block-size", str(BLOCK), "--num-gpu-blocks-override", str(GPU_BLOCKS + 1), "--max-model-len",
         str(BLOCK * GPU_BLOCKS)]
BELIEFS = ["--profile", "h200", "--profile-model", "llama3-8b", "--host-blocks", str(HOST_BLOCKS), "--emulate-link", "0.05"]


class Server:
    def __init__(self, folder: Path, *words: str) -> None:
        self.log, self.cache, port = folder / "server.log", folder / "cache", _free_port()
        self.url = f"http://127.0.0.1:{port}"
        path = os.pathsep.join((str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                                    "VLLM_LOGGING_LEVEL": "INFO", "XDG_CACHE_HOME": str(self.cache)}
        main = "from calibrate.cli import main; raise SystemExit(main())"
        with self.log.open("w") as log:
            command = [sys.executable, "-c", main, "serve", *words, "--host", "127.0.0.1", "--port", str(port)]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> Server:
        try:
            self.await_(lambda: self._get("/health") is not None)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def await_(self, true: Callable[[], bool]) -> None:
        """Until it is so."""
        end_s = time.monotonic() + PATIENCE_S
        while not true():
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < end_s, self.said()
            time.sleep(0.2)

    def said(self) -> str:
        return self.log.read_text()[-6000:]

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)

    def metrics(self, prefix: str = "tokenflow:") -> dict[str, float]:
        """By name, and label where there is one beside the model's and the engine's."""
        found = {}
        for line in (self._get("/metrics") or "").splitlines():
            if line.startswith(prefix) and "_created" not in line:
                name, labels, value = re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line).groups()   # type: ignore[union-attr]
                own = [label for label in re.findall(r'\w+="[^"]*"', labels or "") if label.split("=")[0] not in _SHARED]
                found[name + "".join(f"[{label}]" for label in own).replace('"', "")] = float(value)
        return found

    def idle(self) -> bool:
        """Nobody is in the engine, and it has said so."""
        at_work, counts = self.metrics("vllm:num_requests_"), self.metrics("tokenflow:streams")
        return not any(at_work.values()) and not any(counts.values())

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
