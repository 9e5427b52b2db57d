"""What a batch takes is bounded by its pairs, a stream by its chunks: peaks of processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from molsam import fit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak"),
]

# Of this program alone: `ru_maxrss` starts from the peak of who forked it.
PEAK = """
import re
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""

LARGE = f"""{PEAK}
import sys
import numpy as np, torch
from molsam import Recipe
from molsam.batches import PackedMolecules, training_batches
from molsam.models import CoMPT
from molsam.molecules import FEATURIZERS, parse_many
from molsam.inference import infer

stage, max_pairs = sys.argv[1], int(sys.argv[2])
mols = parse_many(["C" * 492] * 16).mols
packed = PackedMolecules.from_mols(mols, "canonical", np.zeros((16, 1)))
kind = FEATURIZERS["canonical"]
model = CoMPT(kind.atom_size, kind.bond_size, 1, width=16, depth=2, heads=4, readout="mean")
recipe = Recipe().change(dict([("training.max_pairs", max_pairs)]))
before = peak()
if stage == "predict":
    infer(model, packed, recipe)
else:
    for index in training_batches(packed.sizes.numpy(), 16, seed=0, epoch=0, max_pairs=max_pairs):
        model(packed.batch(index)).sum().backward()
print(peak() - before)
"""

MANY = f"""{PEAK}
import sys
import molsam
from molsam import runs
runs.CHUNK = 256
run = molsam.load(sys.argv[1], device="cpu")
texts = ("C1CC" + "C" * (i % 7) + "1O" for i in range(int(sys.argv[2])))
rows = sum(map(len, run.predict_chunks(texts, processes=1)))
assert rows == int(sys.argv[2])
print(peak())
"""


def kilobytes(script: str, *words: object) -> int:
    """What a script says of its memory."""
    command = [sys.executable, "-c", script, *map(str, words)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("stage", ["train", "predict"])
def test_pairs_bound_a_batch_of_large_molecules(stage):
    pairs = 492**2
    bounded, unbounded = (kilobytes(LARGE, stage, count * pairs) for count in (2, 16))
    assert unbounded > 3 * bounded


def test_a_stream_is_predicted_in_bounded_memory(tmp_path: Path):
    with tiny.undrawn():
        folder = fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "run").folder
    few, many = (kilobytes(MANY, folder, count) for count in (512, 5120))
    assert many < 1.1 * few
