"""SMILES to predictions: molecules a second and peak memory, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets import iter_chunks
from ..environment import pick_device
from ..recipes import Recipe
from ..training import fit
from .inputs import random_molecules
from .racing import Entrant, Told, machine, rate, ratios, run_rounds
from .tables import random_table, write_smiles

TRAINED_ON = 60
SMALLEST = 1000
COMMAND = "from molsam.cli import main; main()"


class Command(Entrant):
    """A command line in a race; the same for one molecule is the time of its start."""

    def __init__(self, name: str, words: Sequence[str], start: Sequence[str]) -> None:
        super().__init__(name, torch.device("cpu"))
        self.words, self.start = words, start
        self.peak_bytes: list[int] = []
        self.after_start = Entrant(name, self.device)

    def start_round(self) -> None:
        super().start_round()
        self.after_start.start_round()

    def forget(self) -> None:
        super().forget()
        self.after_start.forget()
        self.peak_bytes.clear()

    def take(self, turn: Sequence[Any]) -> None:
        """Run the command once for each item, in a process of its own."""
        for _ in turn:
            started, done = launch(self.start), launch(self.words)
            self.seconds[-1] += done["seconds"]
            self.after_start.seconds[-1] += done["seconds"] - started["seconds"]
            self.peak_bytes.append(done["peak_bytes"])


def launch(words: Sequence[str]) -> dict[str, Any]:
    """Run a command; a `RuntimeError` with its last words where it fails."""
    launcher = [sys.executable, str(Path(__file__).with_name("launch.py"))]
    said = subprocess.run([*launcher, *words], capture_output=True, text=True, check=True)
    done = json.loads(said.stdout)
    if done["code"]:
        raise RuntimeError(f"{' '.join(words)} failed: {done['err'].strip()[-500:]}")
    return done


def measure_prediction(
    *,
    rounds: int = 3,
    count: int = 2000,
    table: Path | None = None,
    device: str = "auto",
    progress: Told = lambda done: None,
) -> dict[str, Any]:
    """`molsam predict`, and `chemprop predict` where chemprop is installed, as commands.

    Two races: the default recipe without descriptors beside chemprop's default model, and with
    RDKit's descriptors beside chemprop's model with its `rdkit_2d` features. All are trained for
    an epoch or three before.

    rounds, count -> rounds of `count` BBBP-sized random molecules, each in a new process;
    table -> a file whose molecules are predicted instead.

    Returns what JSON can hold: the machine, the settings, and `rows`: molecules a second with and
    without the start of the command, which is the time of one molecule; the most memory that its
    largest process held; and the ratios of molsam to chemprop. Medians over rounds.
    """
    where = pick_device(device)
    generator = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new = _smiles_of(table) if table else random_stream(count, generator)
        count = write_smiles(folder / "new.csv", new)
        write_smiles(folder / "one.csv", ["CCO"])
        races = [line_up(folder, str(where), descriptors=each) for each in (False, True)]
        run_rounds(list(chain(*races)), [[0]], rounds, generator, progress)
    for ours, *others in races:
        rows += [_row(entrant, count) for entrant in (ours, *others)]
        for other in others:
            rows[-2] |= ratios(other, ours)
            rows[-2]["ratio_after_start"] = ratios(other.after_start, ours.after_start)["ratio"]
    return {
        "bench": "predict",
        **machine(where),
        "settings": {"count": count, "rounds": rounds, "table": table and table.name},
        "rows": rows,
    }


def measure_scale(
    *, largest: int = 100_000, device: str = "auto", progress: Told = lambda done: None
) -> dict[str, Any]:
    """`molsam predict` without descriptors on 1,000 molecules, on ten times as many, and so on.

    largest -> where to stop. Once each, in a process of its own; random BBBP-sized molecules.

    Returns what JSON can hold: the machine, and `rows` as in `measure_prediction`, with `count`.
    """
    where = pick_device(device)
    rows, count = [], SMALLEST
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_smiles(folder / "one.csv", ["CCO"])
        (folder / "new.csv").touch()
        ours = molsam(folder, str(where), descriptors=False)
        while count <= largest:
            write_smiles(folder / "new.csv", random_stream(count, np.random.default_rng(0)))
            run_rounds([ours], [[0]], 1, np.random.default_rng(0), lambda _: None)
            rows.append({"count": count, **_row(ours, count)})
            ours.forget()
            progress(len(rows))
            count *= 10
    return {"bench": "scale", **machine(where), "settings": {"largest": largest}, "rows": rows}


def random_stream(count: int, generator: np.random.Generator) -> Iterator[str]:
    """`random_molecules`, some at a time."""
    for start in range(0, count, 10_000):
        yield from random_molecules(min(10_000, count - start), generator)


def _smiles_of(table: Path) -> Iterator[str]:
    for frame, column in iter_chunks(table):
        yield from frame[column]


def _row(entrant: Command, count: int) -> dict[str, Any]:
    return {
        "form": entrant.name,
        "molecules_per_second": rate(count, entrant),
        "molecules_per_second_after_start": rate(count, entrant.after_start),
        "peak_bytes": max(entrant.peak_bytes),
    }


def line_up(folder: Path, device: str, *, descriptors: bool) -> list[Command]:
    """Who races over new.csv in `folder`."""
    return [
        molsam(folder, device, descriptors=descriptors),
        *chemprop(folder, descriptors=descriptors),
    ]


def molsam(folder: Path, device: str, *, descriptors: bool) -> Command:
    """`molsam predict` of a new run in `folder`."""
    name = "molsam, descriptors" if descriptors else "molsam"
    joined = {"data.descriptors": descriptors, "data.fingerprints": False}
    recipe = Recipe().change({"training.epochs": 1, **joined})
    table = random_table(TRAINED_ON, np.random.default_rng(0))
    run = str(folder / name)
    fit(recipe, table, out=run, device=device)
    command = [sys.executable, "-c", COMMAND, "predict", run]
    written = ["-o", str(folder / "molsam.csv"), "--device", device]
    new, one = ([*command, str(folder / file), *written] for file in ("new.csv", "one.csv"))
    return Command(name, new, one)


def chemprop(folder: Path, *, descriptors: bool) -> list[Command]:
    """`chemprop predict` of a new model in `folder`; nothing where chemprop is not installed."""
    program = shutil.which("chemprop")
    if program is None:
        return []
    name = "chemprop, rdkit_2d" if descriptors else "chemprop"
    features = ["--molecule-featurizers", "rdkit_2d"] if descriptors else []
    known, model = folder / "known.csv", str(folder / name)
    generator = np.random.default_rng(0)
    smiles = random_molecules(TRAINED_ON, generator)
    write_smiles(known, smiles, y=generator.normal(size=TRAINED_ON))
    # Its learning rate warms up for two epochs, which must not be all.
    trained = ["--data-path", str(known), "--output-dir", model, "--epochs", "3"]
    launch([program, "train", *trained, *features])
    written = ["--preds-path", str(folder / "chemprop.csv"), "--model-paths", model, *features]
    command = [program, "predict", *written, "--test-path"]
    new, one = ([*command, str(folder / file)] for file in ("new.csv", "one.csv"))
    return [Command(name, new, one)]
