"""Broken input by `tests/fuzz.py`: a little of it always, more of it with `-m slow`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCRIPT = Path(fuzz.__file__)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder and a cache of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.usefixtures("elsewhere")
def test_broken_input_is_refused_by_a_sentence(name):
    target = fuzz.TARGETS[name]
    seeds = target.seeds()
    assert fuzz.judge(target, seeds[0])

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64))
    def tries(draw: int) -> None:
        rng = Random(draw)
        fuzz.judge(target, fuzz.changed(target, rng.choice(seeds), rng))

    tries()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "run",
    [
        lambda _: {}["x"],
        lambda _: int("x"),
        lambda _: (_ for _ in ()).throw(OSError("")),
        lambda _: Path("/tmp/molsam-stray").write_text("x"),
    ],
)
def test_a_fault_is_seen(run):
    with pytest.raises(fuzz.Fault):
        fuzz.judge(fuzz.Target(list, lambda data, _: data, run), b"")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_more_of_it(tmp_path):
    command = [sys.executable, SCRIPT, "--inputs", "2000", "--csv", tmp_path / "fuzz.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "fuzz.csv").read_text().splitlines()) == 1 + len(fuzz.TARGETS)
