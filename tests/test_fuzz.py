"""Broken input by `tests/fuzz.py`: a little of it always, more of it with `-m slow`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import fuzz
import fuzz_changes as changes
import pytest
from fuzz_targets import TARGETS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder and a cache of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.usefixtures("elsewhere")
def test_broken_input_is_refused_by_a_sentence(name):
    target = TARGETS[name]
    seeds = target.seeds()
    assert fuzz.judge(target, seeds[0])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms())
    def tries(rng: Random) -> None:
        fuzz.judge(target, target.changed(rng.choice(seeds), rng))

    tries()


@pytest.mark.parametrize(
    ("change", "data"),
    [(changes.js, b'{"a": [1, {"b": 2}]}'), (changes.toml, b"a = [1]\n[b]\nc = 2\n")],
)
def test_the_same_numbers_make_the_same_change(change, data):
    def many() -> list[bytes]:
        return [change(data, Random(seed)) for seed in range(300)]

    assert many() == many()


# A fault is found where there is one


def seeds() -> list[bytes]:
    return [b"x"]


def same(data: bytes, _: Random) -> bytes:
    return data


def works(data: bytes) -> None:
    """Not a fault."""


def crashes(data: bytes) -> None:
    os.abort()


def hangs(data: bytes) -> None:
    while True:
        pass


def swells(data: bytes) -> None:
    bytearray(2 * fuzz.MEMORY)


def looks_up(data: bytes) -> None:
    {}["x"]


def converts(data: bytes) -> None:
    int("x")


def is_silent(data: bytes) -> None:
    raise OSError("")


def strays(data: bytes) -> None:
    Path("../stray").write_text("x")


@pytest.mark.parametrize("run", [looks_up, converts, is_silent, strays])
def test_neither_a_result_nor_a_sentence_is_a_fault(run, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(fuzz.Fault):
        fuzz.judge(Target("odd", seeds, same, run), b"")


def test_a_sentence_that_does_not_name_the_place_is_a_fault(elsewhere):
    with pytest.raises(fuzz.Fault, match="RecipeError"):
        fuzz.judge(Target("odd", seeds, same, TARGETS["recipe"].run, place="elsewhere"), b"[")


@pytest.mark.parametrize(
    ("run", "inputs", "told"),
    [(crashes, 2, "ended with"), (hangs, 1, "ended with -27"), (swells, 1, "MemoryError")],
)
def test_what_ends_or_fills_a_process_is_a_fault_and_another_goes_on(run, inputs, told, tmp_path):
    tally = fuzz.campaign(Target("odd", seeds, same, run, seconds=0.5), inputs, 0, tmp_path)
    assert tally.inputs == tally.faults == inputs
    ((said, where),) = tally.told.items()
    assert told in said
    assert Path(where).read_bytes() in (b"", b"x")


def test_campaigns_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "CAMPAIGN", 10)
    monkeypatch.setitem(TARGETS, "odd", Target("odd", seeds, same, works))
    monkeypatch.chdir(tmp_path)
    for inputs, told in (("10", 1), ("15", 1), ("15", 0)):
        monkeypatch.setattr(sys, "argv", ["fuzz.py", "odd", "--inputs", inputs, "--csv", "x.csv"])
        with pytest.raises(SystemExit, match="0"):
            fuzz.main()
        assert capsys.readouterr().out.count("faults 0") == told
    header, *rows = Path("x.csv").read_text().splitlines()
    assert header == ",".join(fuzz.COLUMNS)
    assert [row.split(",")[:6] for row in rows] == [
        ["odd", "0", "10", "10", "0", "0"],
        ["odd", "10", "5", "5", "0", "0"],
    ]


def test_without_atheris_inputs_are_drawn():
    tried: list[bytes] = []

    def one(data: bytes) -> None:
        tried.append(data)
        if len(tried) == 100:
            raise StopIteration

    target = TARGETS["space"]
    with pytest.raises(StopIteration):
        fuzz.at_random(target, target.seeds(), 0, one)
    assert tried[: len(target.seeds())] == target.seeds()
    assert len(set(tried)) > 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_more_of_it(tmp_path):
    command = [sys.executable, fuzz.__file__, "--inputs", "2000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
