"""Several processes at one model: torchrun, on two and three processes of a CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import share_runs
import tiny
import torch

from molsam import Run, distributed, epochs, histories

if not torch.distributed.is_available():
    pytest.skip("torch without distributed", allow_module_level=True)

PREDICTIONS, LOSSES = 1e-5, 1e-4  # what a sum in another order may change, the latter relatively
WEIGHTS = 1e-3  # AdamW steps by the sign of a gradient that is nothing but rounding, too


class Together(NamedTuple):
    """What two processes left, then three; what was killed, as it lay there; what was said."""

    folder: Path
    killed: Path
    ends: tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with tiny.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(histories, "find_spec", lambda name: None)
        yield


def torchrun(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes, *words]
    return subprocess.run([str(word) for word in launch], capture_output=True, text=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    begun = torchrun(2, share_runs.__file__, folder, "begin")
    assert "(SIGKILL)" in begun.stderr, begun.stderr
    killed = tmp_path_factory.mktemp("left")
    shutil.copytree(folder / "killed", killed / "killed")
    return Together(folder, killed, (begun, torchrun(3, share_runs.__file__, folder, "go-on")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """What one process makes of each case."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: share_runs.train(name, folder) for name in share_runs.CASES}


def assert_equal_to_rounding(a: Run, b: Run) -> None:
    for ours, theirs in zip(tiny.weights(a), tiny.weights(b), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=WEIGHTS)
    pd.testing.assert_frame_equal(tiny.history(a), tiny.history(b), rtol=LOSSES, atol=LOSSES)
    ours, theirs = (run.predict(tiny.PROBES).select_dtypes("number") for run in (a, b))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=PREDICTIONS)


@pytest.mark.parametrize("name", share_runs.CASES)
def test_several_processes_train_the_model_of_one(name, together, alone):
    """Labels missing, gradients clipped, a last batch of one molecule; one was killed under two
    processes and ended by three."""
    run = Run.load(together.folder / name)
    rows = json.loads((run.folder / "split.json").read_text())["train"]
    assert len(rows) % run.recipe.training.batch_size == 1
    assert_equal_to_rounding(run, alone[name])


def test_one_process_ends_what_two_have_begun(together, alone):
    left = pd.read_csv(together.killed / "killed/member-0/history.csv")
    assert len(left) == 1
    assert_equal_to_rounding(share_runs.train("killed", together.killed), alone["killed"])


def test_the_same_processes_train_the_same_bits(together):
    """With dropout, whose masks are each process's own."""
    a, b = (Run.load(together.folder / name) for name in share_runs.DRAWN)
    tiny.assert_same_run(a, b)


def test_one_process_speaks_for_all(together):
    """torchrun tells its own story of a failure; molsam tells it once."""
    _, gone_on = together.ends
    said = [line for line in gone_on.stderr.splitlines() if line.startswith("molsam: ")]
    assert len(said) == 1, gone_on.stderr
    assert "z" in said[0]
    assert gone_on.returncode == 1
    assert gone_on.stdout == ""
    assert gone_on.stderr.count("Traceback") == 1  # torchrun's


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_are_the_batch(processes, monkeypatch):
    known = np.array([0, 3, 1, 0, 2, 2])
    monkeypatch.setattr(distributed, "size", lambda: processes)
    for rows in (np.arange(6), np.array([4]), np.array([2, 1]), np.array([3])):
        found = []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            found.append(distributed.share(rows, known))
        assert all(len(mine) for mine, _ in found)
        real = [mine for rank, (mine, _) in enumerate(found) if rank < len(rows)]
        assert sorted(np.concatenate(real)) == sorted(rows)
        assert sum(weight for _, weight in found) == pytest.approx(min(known[rows].sum(), 1))


@pytest.mark.slow
def test_the_command_of_the_documents(tmp_path):
    """torchrun with the script itself; all of a run is there, and it goes on with one process."""
    script = shutil.which("molsam", path=os.path.dirname(sys.executable))
    if script is None:
        pytest.skip("the script molsam is not installed")
    small = ["--epochs", 1, "--set", "members=1", "--set", "width=32"]
    words = ["--no-python", script, "train", "bundled", *small, "--out", tmp_path / "run"]
    done = torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    assert Run.load(tmp_path / "run").scores["test"]
