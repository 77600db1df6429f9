"""Unwatched, the engine brings rows up to date only when someone looks; it must come to the same as when watched at every run."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from builders import Rotate, random_asks, random_machine, run_engine
from random_policy import RandomPolicy

from policies import POLICIES

pytestmark = pytest.mark.unaudited
MAKERS = {**POLICIES, "rotate": Rotate, "random": RandomPolicy}


@pytest.mark.parametrize("tight", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_watched_and_unwatched_agree(name: str, tight: bool) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, tight])
        asks = random_asks(rng, 40)
        machine = random_machine(rng, asks, tight)
        watched = run_engine(asks, MAKERS[name](), machine)
        ran = run_engine(asks, MAKERS[name](), machine, watched=False)
        engine, records = ran.engine, ran.records
        seen, unseen = ({k: v for k, v in asdict(e.count).items() if k != "runs"} for e in (watched.engine, engine))
        assert unseen == pytest.approx(seen, abs=1e-6)
        assert (engine.kv.free, engine.kv.host_free) == (machine.kv_blocks, machine.host_kv_blocks)
        for link in ("h2d", "d2h"):
            assert getattr(engine, link).blocks == pytest.approx(getattr(watched.engine, link).blocks, abs=1e-6)
        assert engine.write_through.tokens == pytest.approx(watched.engine.write_through.tokens, abs=1e-6)
        for id in range(len(asks)):
            np.testing.assert_allclose(records.token_times_s(id), watched.records.token_times_s(id), rtol=0, atol=1e-9)
        np.testing.assert_allclose(records.first_s, watched.records.first_s, rtol=0, atol=1e-9)
