"""Commands killed at random moments leave in the end what they leave when nobody kills them."""

from __future__ import annotations

import json
import subprocess
import sys

import kill_at_random
import pytest

PROGRAM = "import sys, kill_at_random; kill_at_random.main(*map(int, sys.argv[1:]))"


def killed(kills: int, seed: int) -> list[dict]:
    """The rows that a process of its own gives, which has not used torch before it forks."""
    words = [sys.executable, "-c", PROGRAM, str(kills), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=kill_at_random.HERE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_whatever_was_killed_ends_as_if_nothing_had_happened(kills):
    rows = killed(kills, seed=0)
    assert [row["command"] for row in rows] == list(kill_at_random.TARGETS)
    for row in rows:
        assert row["kills"] >= kills // len(rows)
        assert row["different"] == 0, row
