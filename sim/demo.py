"""`tokenflow demo`: a burst of requests under the policies worth telling apart, as a table, figures and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from traces import Trace, generate

from . import cli_tables, plots, report, saving
from .cli_progress import Bar
from .result import Result
from .simulate import simulate

POLICIES = ("sglang", "sglang-chunked", "vllm", "tokenflow", "sglang-ratecap")
NUM_PROMPTS, INPUT_LEN, OUTPUT_LEN = 80, "normal:1024:205", "normal:2048:410"       # TokenFlow's burst on this GPU
HARDWARE, MODEL = "rtx4090", "llama3-8b"


def show(seed: int = 0, target: Path | None = None, num_prompts: int | None = None) -> Path:
    """Run it, keep everything in a new directory, print the table and what there is to look at; returns the directory."""
    burst = generate(num_prompts or NUM_PROMPTS, input_len=INPUT_LEN, output_len=OUTPUT_LEN, seed=seed)
    with saving.Draft(target, "demo") as draft:
        with Bar(wanted=True) as bar:
            results = {name: _simulated(name, burst, seed, bar) for name in POLICIES}
        saving.write_comparison(draft, results)
        draft.write("host.json", saving.as_json(saving.host_facts(command=["tokenflow", *sys.argv[1:]])))
        drawings = plots.draw(results)
        for drawing in drawings:
            draft.write(f"{drawing.name}.png", drawing.png)
        draft.write("report.html", report.page(results, drawings, commands(seed, len(burst))))
        path = draft.publish()
    cli_tables.show(results)
    for name in (*(f"{drawing.name}.png" for drawing in drawings), "report.html"):
        print(path / name)
    return path


def commands(seed: int, num_prompts: int) -> Sequence[str]:
    """What gives all of it again, and what gives the same results with flags to change."""
    return (f"tokenflow demo --seed {seed}",
            f"tokenflow compare --hardware {HARDWARE} --model {MODEL} --arrival burst --num-prompts {num_prompts} "
            f"--input-len {INPUT_LEN} --output-len {OUTPUT_LEN} --seed {seed} --policies {','.join(POLICIES)} --save-timeline",)


def _simulated(name: str, burst: Trace, seed: int, bar: Bar) -> Result:
    bar.begin(name)
    return simulate(name, burst, HARDWARE, MODEL, seed=seed, progress=bar, timeline=True)
