"""The loop of `examples/by_hand.py` gives the numbers of the simulation."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fedjax_rec as fr

FILE = Path(__file__).resolve().parents[1] / "examples" / "by_hand.py"


def loaded() -> Any:
    spec: Any = importlib.util.spec_from_file_location("by_hand_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loop_equals_the_simulation(capsys):
    assert len(FILE.read_text().splitlines()) < 100
    example = loaded()
    hit_rates, state, personal = example.main()
    sim = fr.build(example.EXPERIMENT)
    result = sim.run()
    tested = {e["round"]: e["test"]["hr@10"] for e in result["history"] if "test" in e}
    tested[sim.rounds] = sim.evaluate("test")["hr@10"]
    assert {r: hit_rates[r] for r in tested} == pytest.approx(tested, abs=1e-6)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["4", "8", "12"]
    assert len(set(hit_rates.values())) > 1
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, (state.shared, personal), (sim.state.shared, sim.personal))
    before, first = sim.snapshot(), fr.build(example.EXPERIMENT)
    made = {"server": state, "personal": personal}
    first.restore(before._replace(arrays=made))
    assert first.evaluate("test") == pytest.approx(sim.evaluate("test"), abs=1e-6)
