"""`tokenflow-calibrate replay --url`, with the real `openai` client, against a server of this file's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from calibrate import replay_play
from calibrate.cli import main

pytestmark = pytest.mark.engine
pytest.importorskip("openai", reason="the openai client comes with vLLM")

ROOT = Path(__file__).parents[2]
TOKEN_S = 0.01


class Server(ThreadingHTTPServer):
    """Completions one token after the other, one chunk each; it remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.dies_at = self.mute_at = -1        # the token of a request at which the server is gone, or says no more
        self.drops: set[int] = set()            # requests, by prompt length, whose connection is cut
        self.tells_usage = True
        self.lock = threading.Lock()
        self.gone = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.gone:
            return self.close_at_once()
        self.answer(200, {"object": "list", "data": [{"id": "made", "object": "model", "created": 0, "owned_by": "us",
                                                      "max_model_len": 1000}]})

    def do_POST(self) -> None:
        server, ask = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if server.gone:
            return self.close_at_once()
        server.asked.append(ask)
        if len(ask["prompt"]) == 13:
            return self.answer(400, {"error": {"message": "we do not like thirteen", "type": "BadRequestError", "code": 400}})
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(ask["max_tokens"]):
            if i == server.mute_at:
                time.sleep(60)
            if i == server.dies_at:
                server.gone = True
            if server.gone or len(ask["prompt"]) in server.drops:
                return self.close_at_once()
            time.sleep(TOKEN_S)
            self.chunk([{"index": 0, "text": "x", "logprobs": None, "finish_reason": None}], i + 1)
        with server.lock:
            server.at_once -= 1
        self.chunk([], ask["max_tokens"])
        self.say("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, choices: list[Any], tokens: int) -> None:
        told = {"id": "1", "object": "text_completion", "created": 0, "model": "made", "choices": choices}
        if self.server.tells_usage:
            told["usage"] = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        self.say(json.dumps(told))

    def say(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()

    def answer(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def close_at_once(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trace(lines: str) -> None:
    Path("t.csv").write_text("arrival_s,input_tokens,output_tokens,consume_tps,reader\n" + lines)


def replayed(server: Server, *more: str, code: int = 0) -> dict[str, Any]:
    assert main(["replay", "--url", server.url, "--trace", "t.csv", "-o", "out", *more]) == code
    found: dict[str, Any] = json.loads(Path("out/run.json").read_text())
    return found


@pytest.mark.parametrize("usage", [True, False])
def test_tokens_are_timed_at_the_client(server: Server, usage: bool) -> None:
    server.tells_usage = usage
    trace("0,5,8,7,true\n0.1,6,4,30/10@2,false\n")
    run = replayed(server)
    assert (run["completed"], run["generated_tokens"], run["token_times"]) == (2, 12, "at the client")
    assert run["status"] == "measured"
    assert [len(itls) for itls in run["itls"]] == [7, 3]
    assert min(run["ttfts"]) >= TOKEN_S
    assert run["latencies"] >= [8 * TOKEN_S, 4 * TOKEN_S]
    assert run["start_times"][1] >= 0.1
    assert run["preemptions"] is None
    assert run["kv_tokens"] is None
    first, second = server.asked
    assert first["vllm_xargs"] == {"consumption_rate": 7.0}
    assert second["vllm_xargs"] == {"consumption_rate": "30/10@2", "reader": 0}
    assert (first["ignore_eos"], first["min_tokens"], first["max_tokens"], len(first["prompt"])) == (True, 8, 8, 5)
    assert run["model"] == first["model"] == "made"


def test_no_more_at_once_than_the_concurrency(server: Server) -> None:
    trace("0,5,4,,\n" * 6)
    run = replayed(server, "--max-concurrency", "2")
    assert run["completed"] == 6
    assert server.most_at_once == 2
    assert sorted(run["start_times"])[2] >= 4 * TOKEN_S


def test_who_is_too_long_or_refused_is_rejected(server: Server) -> None:
    trace("0,5,4,,\n0,900,101,,\n0,13,4,,\n")
    run = replayed(server)
    assert (run["completed"], run["rejected"]) == (1, 2)
    assert run["errors"][1] == "prompt + output exceeds --max-model-len 1000 tokens"
    assert "we do not like thirteen" in run["errors"][2]
    assert len(server.asked) == 2


def test_a_server_that_is_killed_leaves_what_was_measured(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.dies_at = 6
    trace("0,5,3,,\n0,5,50,,\n0,5,50,,\n90,5,3,,\n")
    run = replayed(server, code=1)
    assert (run["completed"], run["unfinished"]) == (1, 3)
    assert 3 + 2 * 4 <= run["generated_tokens"] <= 3 + 2 * 7
    assert run["duration"] < 30
    assert "the server is gone" in capsys.readouterr().err


def test_one_connection_cut_is_one_request_unfinished(server: Server) -> None:
    server.drops = {7}
    trace("0,5,3,,\n0,7,3,,\n0.2,5,3,,\n")
    run = replayed(server)
    assert (run["completed"], run["unfinished"]) == (2, 1)
    assert run["errors"][1].startswith("unfinished: ")


def test_until_stops_there(server: Server) -> None:
    trace("0,5,3,,\n0,5,900,,\n5,5,3,,\n")
    run = replayed(server, "--until", "0.5")
    assert (run["completed"], run["unfinished"]) == (1, 2)
    assert 0.5 <= run["duration"] < 3


def test_a_server_that_falls_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_play, "PATIENCE_S", 0.5)
    server.mute_at = 2
    trace("0,5,9,,\n")
    run = replayed(server, code=1)
    assert (run["unfinished"], run["generated_tokens"]) == (1, 2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_keeps_what_was_measured(server: Server, number: int, code: int, tmp_path: Path) -> None:
    trace("0,5,3,,\n0,5,900,,\n90,5,3,,\n")
    running = subprocess.Popen(
        [sys.executable, "-c", "import sys; from calibrate.cli import main; sys.exit(main())", "replay", "--url", server.url,
         "--trace", "t.csv", "-o", "out"], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 60
    while len(server.asked) < 2 and time.monotonic() < end_s:
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(number)
    _, says = running.communicate(timeout=60)
    assert running.returncode == code, says
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["completed"], run["unfinished"]) == (1, 2)
    assert "out keeps what was measured before" in says


@pytest.mark.parametrize(("words", "line"), [
    ("--url http://127.0.0.1:9", r"--url: http://127.0.0.1:9: no OpenAI-compatible server answers: "),
    ("--url localhost:8000", r"--url: 'localhost:8000': must be written http://HOST:PORT"),
    ("--url SERVER --model nosuch", r"--model: 'nosuch': the server has made"),
    ("--url SERVER --block-size 16", r"--block-size: 16: is for an engine in this process: a server at --url has its own"),
    ("--url SERVER --host-blocks 16", r"--host-blocks: 16: is for an engine in this process"),
    ("--url SERVER --profile rtx4090", r"--profile: rtx4090: is for an engine in this process"),
])
def test_bad_input_is_one_line(server: Server, words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    trace("0,5,3,,\n")
    assert main(["replay", *words.replace("SERVER", server.url).split(), "--trace", "t.csv", "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"tokenflow-calibrate: {line}")
    assert err.count("\n") == 1
    assert not Path("out").exists()
