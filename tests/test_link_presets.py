"""`--link oracle`, `--link none`, or a rate: what any policy could gain from moving KV, or does without it."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from builders import Ask, machine, run_engine

from policies import POLICIES
from policies.api import Plan, Residency, View
from sim import simulate
from sim.cli import main
from sim.hardware import build_machine, load_hardware, manifest
from sim.result import Result
from traces import generate
from traces.errors import BadInput

MODEL = "llama3-8b"
OFFLOADING = {"tokenflow", "tokenflow-paper", "least-slack", "fcfs-offload", "fastserve"}


def pressed(policy: str, **options: Any) -> Result:
    """A burst of four times what fits, of readers who read slowly."""
    trace = generate(20, input_len="normal:300:60", output_len="normal:400:80", seed=3)
    return simulate(policy, trace, "rtx4090", MODEL, kv_tokens=3600, consume_rate=8.0, **options)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_a_burst_when_moving_kv_is_free(policy: str) -> None:
    said = pressed(policy, link="oracle").summary
    assert said["completed"] == 20
    assert (said["h2d_busy_s"], said["d2h_busy_s"], said["h2d_utilisation"], said["d2h_utilisation"]) == (0, 0, 0, 0)
    assert said["late_chunks"] == 0
    assert (said["loads"] > 0) == (policy in OFFLOADING)
    assert said["link_status"].startswith("oracle: ")
    assert (said["h2d_bytes_per_s"], said["d2h_bytes_per_s"]) == ("inf", "inf")


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_a_burst_without_a_host_tier(policy: str) -> None:
    said = pressed(policy, link="none").summary
    assert said["completed"] == 20
    assert (said["offloads"], said["loads"], said["h2d_bytes"], said["d2h_bytes"], said["host_kv_tokens"]) == (0, 0, 0, 0, 0)
    assert said["recomputed_tokens"] == said["lost_tokens"] + said["preemptions"], "what was lost, and its last token"
    assert said["link_status"].startswith("none: ")


def test_a_load_lands_at_the_instant_it_is_ordered() -> None:
    """And whoever it brings back joins the next step."""
    class Swing:
        """Out to the host, back again, and on."""

        def plan(self, view: View) -> Plan:
            away, here = view.id[view.residency == Residency.HOST], view.id[view.residency == Residency.GPU]
            seen.append((view.now_s, int(view.residency[0]), float(view.moved_s[0])))
            if len(view.id) == len(away):
                return Plan(load=away)
            if not len(here):
                return Plan(prefill=((0, int(view.remaining_tokens[0])),))
            return Plan(offload=here) if view.output_tokens[0] == 1 and len(seen) < 3 else Plan(decode=here)
    seen: list[tuple[float, int, float]] = []
    ran = run_engine([Ask(0.0, 64, 5)], Swing(), machine(h2d_bytes_per_s=inf, d2h_bytes_per_s=inf, copy_overhead_s=0.0))
    times = {at for at, _, _ in seen[1:4]}
    assert len(times) == 1, "out and back take no time"
    assert [place for _, place, _ in seen[1:4]] == [Residency.GPU, Residency.HOST, Residency.GPU]
    assert seen[3][2] == seen[3][0]
    assert ran.records.tokens[0] == 5


def test_oracle_is_the_limit_of_ever_faster_links() -> None:
    """A link that is fast enough is as good as none at all."""
    free, fast = (pressed("fcfs-offload", link=link).summary for link in ("oracle", 1e9))
    for name in ("mean_ttft_ms", "duration", "offloads"):
        assert fast[name] == pytest.approx(free[name], rel=0.02)


def test_what_the_presets_make_of_a_machine() -> None:
    profile = build_machine("h200", MODEL)
    oracle, none, given = (build_machine("h200", MODEL, link=link) for link in ("oracle", "none", 8))
    assert oracle.block_copy_s(oracle.h2d_bytes_per_s) == oracle.block_copy_s(oracle.d2h_bytes_per_s) == 0.0
    assert (oracle.duplex_h2d, oracle.duplex_d2h, oracle.host_kv_blocks) == (1.0, 1.0, profile.host_kv_blocks)
    assert none.host_kv_blocks == build_machine("h200", MODEL, link="none", host_kv_tokens=0).host_kv_blocks == 0
    assert (given.h2d_bytes_per_s, given.d2h_bytes_per_s) == (8e9, 8e9)
    assert (given.duplex_h2d, given.copy_overhead_s) == (profile.duplex_h2d, profile.copy_overhead_s)
    assert build_machine("h200", MODEL, link="8") == given


def test_the_manifest_says_which() -> None:
    assert manifest("h200", MODEL, link="oracle")["link_status"] == "oracle: copies take no time"
    assert manifest("h200", MODEL, link="none")["link_status"] == "none: no host tier, whoever is preempted is computed anew"
    assert manifest("h200", MODEL, link=25)["link_status"] == "set by the user: 25 GB/s each way"
    assert "link_duplex_status" not in manifest("h200", MODEL, link="oracle")
    for name in ("rtx4090", "a100", "h200"):
        assert manifest(name, MODEL)["link_duplex_status"] == load_hardware(name).link.duplex_status != ""


@pytest.mark.parametrize(("options", "says"), [
    ({"link": 0}, "got 0"), ({"link": -1.0}, "got -1.0"), ({"link": nan}, "got nan"), ({"link": inf}, "got inf"),
    ({"link": "0"}, "got 0"), ({"link": "nan"}, "got nan"), ({"link": "fast"}, "got fast"), ({"link": ""}, "got ''"),
    ({"link": True}, "got True"), ({"link": [25]}, r"got \[25\]"),
    ({"link": "none", "host_kv_tokens": 160}, "160 tokens, but link none means no host tier"),
])
def test_impossible_links_fail_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        build_machine("rtx4090", MODEL, **options)
    assert "\n" not in str(caught.value)
    if "host_kv_tokens" not in options:
        assert "must be oracle, none or a number of GB/s from 0.001" in str(caught.value)


@pytest.mark.parametrize(("link", "says"), [("oracle", "links oracle."), ("none", "links none."), ("20", "links set by the user.")])
def test_the_heading_says_which(link: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Any,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--policy", "tokenflow", "--num-prompts", "4", "--output-len", "20", "--link", link, "-o", "out"]) == 0
    assert says in " ".join(capsys.readouterr().out.split())
    said = json.loads((tmp_path / "out/run.json").read_text())
    assert said["link_status"].startswith({"20": "set by the user: 20 GB/s"}.get(link, f"{link}: "))


def test_presets_bound_the_policy_between_them() -> None:
    """For the policy of SGLang, which never moves KV, they change nothing."""
    ours = [pressed("sglang", link=link) for link in ("oracle", "none", None)]
    for other in ours[1:]:
        np.testing.assert_array_equal(ours[0].records.last_s, other.records.last_s)
