"""Broken input, by the thousand: `python tests/fuzz.py smiles table --inputs 10000`.

An input either works or is refused by a sentence that names the place. Anything else is a fault:
another exception, an end of the process, a minute of processor time, 4 GiB, a file written
elsewhere. Faults lie in `runs/fuzz` as they were given. Where atheris is installed, it chooses the
next input by the branches of molsam that the last ones took; else all are drawn at random.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any

from fuzz_targets import TARGETS, Target

Try = Callable[[bytes], None]
MEMORY = 4 << 30
FAULTS = Path("runs/fuzz")
CAMPAIGN = 5000  # inputs of one row, so that what was stopped goes on


class Fault(Exception):
    """Neither a result nor a sentence."""


@dataclass
class Tally:
    """What became of the inputs; `told` holds a file for each sort of fault."""

    worked: int = 0
    refused: int = 0
    faults: int = 0
    slowest: float = 0.0
    mebibytes: int = 0
    told: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.worked + self.refused + self.faults

    def fault(self, told: str, data: bytes, kept: Path) -> None:
        """Count it, and keep the first input of its sort."""
        self.faults += 1
        if told not in self.told:
            path = kept / hashlib.sha256(data).hexdigest()[:8]
            path.write_bytes(data)
            self.told[told] = str(path)

    def join(self, other: Tally) -> None:
        """Add what another process counted."""
        self.worked += other.worked
        self.refused += other.refused
        self.faults += other.faults
        self.slowest = max(self.slowest, other.slowest)
        self.mebibytes = max(self.mebibytes, other.mebibytes)
        self.told = other.told | self.told


# The judge


def judge(target: Target, data: bytes) -> bool:
    """Whether the input works; False where a sentence refuses it. Else a `Fault`."""
    with _watched_writes() as strays, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.run(data)
            worked = True
        except Exception as error:
            if not _is_a_sentence(error, target.place):
                raise Fault(_told(error)) from error
            worked = False
    if strays:
        raise Fault(f"writes {strays[0]}")
    return worked


def _is_a_sentence(error: Exception, place: str) -> bool:
    from molsam.molecules import InvalidMolecule

    ours = isinstance(error, ValueError) and type(error).__module__.startswith("molsam")
    text = str(error).strip()
    named = isinstance(error, InvalidMolecule) or place in text
    short = text and text.count("\n") < 5 and len(text) < 5000
    return bool((ours or isinstance(error, OSError)) and named and short)


def _told(error: BaseException) -> str:
    """What kind of exception came from where in molsam."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.name}" for f in frames if "/molsam/" in f.filename]
    return f"{type(error).__name__} in {' < '.join(ours[-2:][::-1])}"


_strays: list[str] | None = None


@contextlib.contextmanager
def _watched_writes() -> Iterator[list[str]]:
    """Files opened to be written outside of the working folder, by name."""
    global _strays
    found = _strays = []
    try:
        yield found
    finally:
        _strays = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _strays is None or event != "open" or not isinstance(args[0], str | bytes):
        return
    if args[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(os.fsdecode(args[0]))
        if not path.startswith((os.getcwd(), "/dev/", "/proc/")):
            _strays.append(path)


sys.addaudithook(_watch)


# Many inputs, in a process that may die


def campaign(target: Target, inputs: int, seed: int, kept: Path) -> Tally:
    """So many inputs; a process that dies is a fault, and another one goes on."""
    kept.mkdir(parents=True, exist_ok=True)
    total = Tally()
    while total.inputs < inputs:
        with tempfile.TemporaryDirectory(prefix="molsam-fuzz-") as name:
            folder, rest = Path(name), inputs - total.inputs
            given = (target, rest, seed + total.inputs, folder, kept.resolve())
            process = multiprocessing.get_context("spawn").Process(target=child, args=given)
            process.start()
            process.join()
            if not (folder / "tally").exists():
                sys.exit((folder / "said").read_text(errors="replace"))
            total.join(Tally(**json.loads((folder / "tally").read_text())))
            if process.exitcode:
                data = (folder / "last").read_bytes()
                total.fault(f"the process ended with {process.exitcode}", data, kept)
                shutil.copy(folder / "said", kept / "said")
    return total


def child(target: Target, inputs: int, seed: int, folder: Path, kept: Path) -> None:
    """Inputs one after the other, each written down before it is tried."""
    os.chdir(folder)
    os.environ["MOLSAM_CACHE"] = str(folder / "cache")
    with open("said", "wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        watch(target.watched)
    seeds, tally = list(target.seeds()), Tally()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    def one(data: bytes) -> None:
        Path("last").write_bytes(data)
        Path("tally").write_text(json.dumps(asdict(tally)))
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, target.seconds)
        try:
            worked = judge(target, data)
            tally.worked += worked
            tally.refused += not worked
        except Fault as fault:
            tally.fault(str(fault), data, kept)
        signal.setitimer(signal.ITIMER_PROF, 0)
        tally.slowest = max(tally.slowest, time.process_time() - begun)
        tally.mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        if tally.inputs == inputs:
            Path("tally").write_text(json.dumps(asdict(tally)))
            os._exit(0)

    (by_branches if guided else at_random)(target, seeds, seed, one)


def at_random(target: Target, seeds: list[bytes], seed: int, one: Try) -> None:
    """Give `one` the seeds, then changed ones, without end."""
    rng = Random(seed)
    for data in seeds:
        one(data)
    while True:
        one(target.changed(rng.choice(seeds), rng))


def watch(modules: Iterable[str]) -> None:
    """Import them and what they import of molsam so that atheris sees their branches."""
    import atheris

    with atheris.instrument_imports(include=["molsam"], enable_loader_override=False):
        for name in modules:
            importlib.import_module(name)


def by_branches(target: Target, seeds: list[bytes], seed: int, one: Try) -> None:
    """Give `one` the seeds, then changed ones and changes of those that took new branches."""
    import atheris

    Path("corpus").mkdir()
    for i, data in enumerate(seeds):
        Path("corpus", str(i)).write_bytes(data)

    def mutate(data: bytes, most: int, draw: int) -> bytes:
        rng = Random(draw)
        if rng.random() < 0.1:
            return atheris.Mutate(data, most)
        again = rng.random() < 0.7  # what is changed again and again is refused at the first place
        return target.changed(rng.choice(seeds) if again else data, rng)[:most]

    # libFuzzer's own limits are off: the kernel keeps ours.
    limits = ["-timeout=1000000", "-rss_limit_mb=0", "-max_len=1000000", "-len_control=0"]
    options = [sys.argv[0], f"-seed={seed + 1}", *limits, "-verbosity=0", "corpus"]
    atheris.Setup(options, one, custom_mutator=mutate)
    atheris.Fuzz()


# The command

COUNTS = [field.name for field in fields(Tally) if field.name != "told"]
COLUMNS = ["target", "seed", "inputs", *COUNTS, "seconds"]


def main() -> None:
    """Campaigns of each target; those in the CSV already are not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000, help="of each target")
    parser.add_argument("--csv", type=Path, help="where to add a row for each campaign")
    asked = parser.parse_args()
    faults = 0
    for seed in range(0, asked.inputs, CAMPAIGN):
        for name in asked.targets:
            if (name, str(seed)) in _done(asked.csv):
                continue
            begun = time.monotonic()
            tally = campaign(TARGETS[name], min(CAMPAIGN, asked.inputs - seed), seed, FAULTS / name)
            seconds = round(time.monotonic() - begun)
            counts = {key: getattr(tally, key) for key in COUNTS}
            counts["slowest"] = round(tally.slowest, 2)
            row = {"target": name, "seed": seed, "inputs": tally.inputs, **counts}
            _report(asked.csv, row | {"seconds": seconds}, tally.told)
            faults += tally.faults
    sys.exit(1 if faults else 0)


def _done(path: Path | None) -> set[tuple[str, str]]:
    if path is None or not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(row["target"], row["seed"]) for row in csv.DictReader(file)}


def _report(path: Path | None, row: dict[str, Any], told: dict[str, str]) -> None:
    print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
    for what, where in told.items():
        print(f"  {what} ({where})", flush=True)
    if path is not None:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
