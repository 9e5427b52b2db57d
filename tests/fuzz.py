"""Broken input, by the thousand: `python tests/fuzz.py smiles --inputs 10000`.

An input either works or is refused by a sentence that names the place. Anything else is a fault:
another exception, an end of the process, a minute of processor time, 4 GiB, a file written
elsewhere. Faults lie in `runs/fuzz` as they were given. Where atheris is installed, it chooses the
next input by the branches of molsam that the last ones took; else all are drawn at random.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import mutations

HERE = Path(__file__).resolve().parent
SECONDS, MEMORY = 60, 4 << 30
COLUMNS = ("target", "inputs", "worked", "refused", "faults", "slowest", "mebibytes", "seconds")
FAULTS = Path("runs/fuzz")


@dataclass(frozen=True)
class Target:
    """What is tried: `run(data)` works, or raises what the command line makes a sentence of.

    place -> a text that the sentence must hold.
    """

    seeds: Callable[[], Sequence[bytes]]
    mutate: mutations.Mutate
    run: Callable[[bytes], object]
    place: str = ""


def changed(target: Target, data: bytes, rng: Random) -> bytes:
    """A mutation; blind where the data is too odd by now to be taken apart."""
    try:
        return target.mutate(data, rng)
    except Exception:
        return mutations.BYTES(data, rng)


class Fault(Exception):
    """Neither a result nor a sentence."""


@dataclass
class Tally:
    """What became of the inputs."""

    worked: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.worked + self.refused


# What is tried. The working folder is a temporary one.


def smiles(data: bytes) -> None:
    from molsam import molecules, reading

    text = data.decode(errors="replace")
    if molecules.is_demanding(text):  # a process of its own describes it
        refused = molecules.parse_many([text]).errors
    else:
        many = zlib.crc32(data) % 8 == 0
        asked = {"fingerprints": True, "scaffolds": True, "descriptors": many}
        refused = reading.read([text], "compt", processes=1, **asked).errors
    for error in refused:
        raise error


def _smiles_seeds() -> list[bytes]:
    from odd_molecules import ODD
    from odd_rings import C60

    from molsam import datasets

    table = datasets.load("bundled").smiles[::20]
    return [text.encode() for text in (*ODD, *table, C60, "CC |m:1:0|", "F[C@@](Cl)(Br)I name")]


ENDINGS = ("csv", "csv.gz", "tsv", "tsv.gz", "smi", "smi.gz")
TABLES = (
    b"smiles,y\nCCO,1\nCCN,2.5\nxyz,\n",
    b'"smiles","logS [mol/L]",split\r\n"C,C",-1e3,train\r\n"C\nC",nan,test\r\n',
    b"\xef\xbb\xbfid;smiles;a\n1;C;0\n2;CC;1\n",
    b"smiles\n\nC\nCC\n",
    b"smiles,smiles,a b,\nC,CC,0,1\nCCC,C,true,0\n",
    b"mol\ty\tz\nC\t1\tA\nCC\t0\tB\nCCC\t1\tB\nCO\t0\tA\n",
    b"CCO ethanol\nCC\n\nN ammonia and more\n",
)


def table(data: bytes) -> None:
    """The first byte chooses the ending, and of those with .gz whether the rest is compressed."""
    from molsam import datasets

    first, rest = data[0] if data else 0, data[1:]
    ending = ENDINGS[first % len(ENDINGS)]
    if ending.endswith("gz") and first < 220:
        rest = gzip.compress(rest, 1)
    path = Path(f"odd.{ending}")
    path.write_bytes(rest)
    found = datasets.load(str(path))
    datasets.check(found.take(slice(0, 4)))


def _table_seeds() -> list[bytes]:
    plain = [bytes([i % 6]) + text for i, text in enumerate(TABLES * 2)]
    return [*plain, *(bytes([223]) + gzip.compress(text, 1) for text in TABLES[:2])]


def _table_mutated(data: bytes, rng: Random) -> bytes:
    first = data[:1] if rng.random() < 0.8 else rng.randbytes(1)
    return first + mutations.table(data[1:], rng)


def records(data: bytes) -> None:
    from molsam import datasets

    path = Path("odd.sdf")
    path.write_bytes(data)
    datasets.check(datasets.read_table(path).take(slice(0, 4)))


def _record_seeds() -> list[bytes]:
    from odd_rings import v3000
    from rdkit import Chem
    from rdkit.Chem import AllChem

    seeds = [v3000(3, [(0, 1), (1, 2)]).encode()]
    for text in ("CCO", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "F/C=C/F", "c1ccccc1[13CH3]"):
        mol = Chem.MolFromSmiles(text)
        AllChem.Compute2DCoords(mol)
        for v3 in (False, True):
            block = Chem.MolToMolBlock(mol, forceV3000=v3)
            seeds.append(f"{block}>  <y>\n1.5\n\n>  <name>  (1)\na\nb\n\n$$$$\n".encode())
    return [*seeds, seeds[1] + seeds[2] + seeds[3]]


def recipe(data: bytes) -> None:
    import tomlkit

    from molsam import Recipe

    Path("odd.toml").write_bytes(data)
    found = Recipe.load(Path("odd.toml"))
    assert Recipe.parse(tomlkit.parse(found.to_toml()).unwrap()) == found


def _recipe_seeds() -> list[bytes]:
    from molsam import Recipe, recipes

    files = [path.read_bytes() for path in sorted(recipes.FOLDER.glob("*.toml"))]
    return [Recipe().to_toml().encode(), *files]


def space(data: bytes) -> None:
    from molsam import Recipe
    from molsam.spaces import Space, SpaceError

    Path("odd.toml").write_bytes(data)
    found = Space.load("odd.toml")
    with contextlib.suppress(SpaceError):  # what does not fit together has no place
        found.recipe(Recipe())


SPACES = (
    b"[search]\n'*' = {}\n\"optimizer.rho\" = {low = 1e-4, high = 0.1, log = true}\n",
    b'[search]\n"model.width" = [64, 128]\n"model.heads" = {low = 2, high = 8, step = 2}\n',
    b'[search]\nlr = {low = 1e-5, high = 1e-2}\n"training.epochs" = 5\n"model.*" = {}\n',
)


def run(data: bytes) -> None:
    """The first byte chooses a file of the run, and whether the seal is made anew; rest: the file.

    The run predicts then. One in a hundred makes its page too.
    """
    from molsam import Run, files, report

    folder, first = Path("odd-run"), data[0] if data else 0
    name = _run_files()[first % len(_run_files())]
    path = folder / name
    whole, seal = path.read_bytes(), (folder / files.SUMS).read_bytes()
    path.write_bytes(data[1:])
    try:
        if first < 200 and name != files.SUMS:
            Run.seal(_Folder(folder))  # type: ignore[arg-type]
        opened = Run.load(folder, device="cpu")
        opened.predict(["CCO", "x"], processes=1, dropout_passes=first % 2)
        opened.read(["CCO"], processes=1)
        if zlib.crc32(data) % 100 == 0:
            report.page(opened)
    finally:
        path.write_bytes(whole)
        (folder / files.SUMS).write_bytes(seal)


@dataclass
class _Folder:
    folder: Path


def _run_files() -> list[str]:
    from molsam import files

    names = sorted(str(p.relative_to("odd-run")) for p in Path("odd-run").rglob("*.safetensors"))
    records = ["run.json", "recipe.toml", "split.json", "scalers.json", "scores.json"]
    return [*records, *names, "predictions.csv", "member-0/history.csv", files.SUMS]


def _run_seeds() -> list[bytes]:
    import tiny

    from molsam import fit

    more = {"data.descriptors": True, "data.fingerprints": True, "gaussian_process": True}
    with tiny.undrawn():
        fit(tiny.recipe(epochs=1, members=2, **more), tiny.regression(40), out=Path("odd-run"))
    return [bytes([i]) + Path("odd-run", name).read_bytes() for i, name in enumerate(_run_files())]


def _run_mutated(data: bytes, rng: Random) -> bytes:
    name = _run_files()[data[0] % len(_run_files())] if data else ""
    kinds = {".json": mutations.js, ".toml": mutations.toml, ".safetensors": mutations.safetensors}
    mutate = kinds.get(Path(name).suffix, mutations.BYTES)
    first = data[:1] if rng.random() < 0.7 else rng.randbytes(1)
    return first + mutate(data[1:], rng)


def cache(data: bytes) -> None:
    """An entry whose checksum is right, unless the first byte says otherwise: it is made anew."""
    from molsam import cache, reading

    os.environ["MOLSAM_CACHE"] = "odd-cache"
    texts = ["CCO", "x"]
    reading.read(texts, "compt", processes=1, keep=True)
    (path,) = cache.folder().iterdir()
    body = data[1:]
    path.write_bytes((hashlib.sha256(body).digest() if data[:1] != b"\xff" else b"") + body)
    try:
        found = reading.read(texts, "compt", processes=1, keep=True)
        assert len(found.index) + len(found.errors) == 2
    finally:
        path.unlink()


def _cache_seeds() -> list[bytes]:
    from molsam import cache, reading

    os.environ["MOLSAM_CACHE"] = "odd-cache"
    reading.read(["CCO", "x"], "compt", processes=1, keep=True)
    (path,) = cache.folder().iterdir()
    return [b"\0" + path.read_bytes()[32:]]


def _cache_mutated(data: bytes, rng: Random) -> bytes:
    return data[:1] + mutations.safetensors(data[1:], rng)


def study(data: bytes) -> None:
    from molsam.tuning import Study

    path = Path("odd-study/tune.json")
    path.write_bytes(data)
    found = Study.load("odd-study")
    found.space.recipe(found.best)


def _study_seeds() -> list[bytes]:
    import tiny

    from molsam import tune

    with tiny.undrawn():
        tune(tiny.recipe(epochs=1), tiny.regression(30), out="odd-study", trials=1, repeats=1)
    return [Path("odd-study/tune.json").read_bytes()]


RECORD_TEXT = mutations.texts(
    "V2000 V3000 BEGIN END ATOM BOND SGROUP 999 CFG=1 MASS=300 CHG=-15 STEBOND R# [C,N] ENDPTS=(2",
    *("M  V30 ", "M  END\n", "$$$$\n", "M  CHG  1   1   1\n", "M  ISO", "M  RGP", "M  SAP"),
    *(" -\n", ">  <y>\n", "\n", "\r\n"),
)
TARGETS = {
    "smiles": Target(_smiles_seeds, mutations.smiles, smiles),
    "table": Target(_table_seeds, _table_mutated, table, "odd."),
    "sdf": Target(_record_seeds, RECORD_TEXT, records, "odd.sdf"),
    "recipe": Target(_recipe_seeds, mutations.toml, recipe, "odd.toml"),
    "space": Target(lambda: SPACES, mutations.toml, space, "odd.toml"),
    "run": Target(_run_seeds, _run_mutated, run, "odd-run"),
    "cache": Target(_cache_seeds, _cache_mutated, cache, "odd-cache"),
    "study": Target(_study_seeds, mutations.js, study, "odd-study"),
}


# The judge


def judge(target: Target, data: bytes) -> bool:
    """Whether the input works; False where a sentence refuses it. Else a `Fault`."""
    from molsam.molecules import InvalidMolecule

    with _watched_writes() as strays, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.run(data)
        except (ValueError, OSError) as error:
            own = isinstance(error, OSError) or type(error).__module__.startswith("molsam")
            text = str(error).strip()
            place = "" if isinstance(error, InvalidMolecule) else target.place
            if not (own and text and place in text and text.count("\n") < 5 and len(text) < 5000):
                raise Fault(_told(error)) from error
            return False
        except Exception as error:
            raise Fault(_told(error)) from error
        finally:
            stray = next(iter(strays), None)
        if stray:
            raise Fault(f"writes {stray}")
    return True


def _told(error: BaseException) -> str:
    """What kind of exception came from where in molsam."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.name}" for f in frames if "/molsam/" in f.filename]
    return f"{type(error).__name__} in {' < '.join(ours[-2:][::-1])}: {str(error)[:150]}"


_strays: list[str] | None = None


@contextlib.contextmanager
def _watched_writes():
    """Files opened to be written outside of the working folder, by name."""
    global _strays
    _strays = []
    try:
        yield _strays
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


class Campaign:
    """Inputs one after the other, each written down before it is tried."""

    def __init__(self, name: str, inputs: int, kept: Path) -> None:
        self.name, self.inputs, self.kept = name, inputs, kept
        self.target, self.tally = TARGETS[name], Tally()

    def one(self, data: bytes) -> None:
        """Try an input; leave the process after the last."""
        Path("last").write_bytes(data)
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            worked = judge(self.target, data)
            self.tally.worked += worked
            self.tally.refused += not worked
        except Fault as fault:
            self.tally.refused += 1
            self.fault(str(fault), data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.tally.slowest = max(self.tally.slowest, time.process_time() - begun)
        if self.tally.inputs % 50 == 0 or self.tally.inputs >= self.inputs:
            self.save()
        if self.tally.inputs >= self.inputs:
            os._exit(0)

    def fault(self, told: str, data: bytes) -> None:
        if told.partition(":")[0] not in {known.partition(":")[0] for known in self.tally.faults}:
            path = self.kept / f"{self.name}-{hashlib.sha256(data).hexdigest()[:8]}"
            path.write_bytes(data)
            self.tally.faults[told] = str(path)

    def save(self) -> None:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        Path("tally").write_text(json.dumps(asdict(self.tally) | {"mebibytes": most}))


def child(name: str, inputs: int, seed: int, kept: Path) -> None:
    """A campaign in this process, which ends with it."""
    target, guided = TARGETS[name], importlib.util.find_spec("atheris")
    if guided:
        import atheris

        with atheris.instrument_imports(include=["molsam"], enable_loader_override=False):
            import molsam.datasets.tables
            import molsam.reading
            import molsam.runs
            import molsam.spaces  # noqa: F401
    seeds = target.seeds()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    campaign = Campaign(name, inputs, kept)
    if not guided:
        rng, pool = Random(seed), list(seeds)
        while True:
            campaign.one(changed(target, rng.choice(pool), rng))
    Path("corpus").mkdir(exist_ok=True)
    for i, data in enumerate(seeds):
        Path("corpus", str(i)).write_bytes(data)

    def mutate(data: bytes, most: int, draw: int) -> bytes:
        rng = Random(draw)
        if rng.random() < 0.1:
            return atheris.Mutate(data, most)
        again = rng.random() < 0.7  # what is changed again and again is refused at the first place
        return changed(target, rng.choice(seeds) if again else data, rng)[:most]

    # libFuzzer's own limits are off: the kernel keeps ours.
    options = [
        f"-seed={seed + 1}",
        "-timeout=1000000",
        "-rss_limit_mb=0",
        "-max_len=1000000",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, "corpus"], campaign.one, custom_mutator=mutate)
    atheris.Fuzz()


def campaign(name: str, inputs: int, seed: int, kept: Path) -> dict[str, Any]:
    """A row of `COLUMNS`; a child that dies is a fault, and another one goes on."""
    kept.mkdir(parents=True, exist_ok=True)
    begun, total = time.monotonic(), dict.fromkeys(("inputs", "worked", "refused"), 0)
    slowest, most, faults = 0.0, 0, {}
    with tempfile.TemporaryDirectory(prefix="molsam-fuzz-") as folder:
        while total["inputs"] < inputs:
            shutil.rmtree(folder)
            Path(folder).mkdir()
            rest, start = str(inputs - total["inputs"]), str(seed + total["inputs"])
            options = [
                "--child",
                name,
                "--inputs",
                rest,
                "--seed",
                start,
            ]
            done = subprocess.run(
                [sys.executable, HERE / "fuzz.py", *options, "--kept", kept.resolve()],
                cwd=folder,
                env=os.environ | {"MOLSAM_CACHE": str(Path(folder, "cache"))},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            path = Path(folder, "tally")
            if not path.exists():
                sys.exit(done.stderr.decode()[-3000:])
            found = json.loads(path.read_text())
            for key in ("worked", "refused"):
                total[key] += found[key]
            total["inputs"] = total["worked"] + total["refused"]
            slowest, most = max(slowest, found["slowest"]), max(most, found["mebibytes"])
            faults |= found["faults"]
            if done.returncode:
                data = Path(folder, "last").read_bytes()
                total["inputs"] += 1
                total["refused"] += 1
                ended = kept / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}"
                ended.write_bytes(data)
                last = done.stderr.decode(errors="replace").strip().splitlines()[-12:]
                faults[f"the process ended with {done.returncode}: {last}"] = str(ended)
    for told, where in faults.items():
        print(f"{name}: {told} ({where})")
    seconds = round(time.monotonic() - begun)
    row = total | {"faults": len(faults), "slowest": round(slowest, 2), "mebibytes": most}
    return {"target": name} | row | {"seconds": seconds}


def main() -> None:
    """A campaign a target; the rows join a CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="where to add rows")
    parser.add_argument("--kept", type=Path, default=FAULTS, help="folder of inputs with a fault")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.targets, asked.inputs, asked.seed, asked.kept)
    faults = 0
    for name in asked.targets:
        row = campaign(name, asked.inputs, asked.seed, asked.kept)
        print(row, flush=True)
        faults += row["faults"]
        if asked.csv:
            new = not asked.csv.exists()
            with asked.csv.open("a") as file:
                file.write((",".join(COLUMNS) + "\n") * new)
                file.write(",".join(str(row[column]) for column in COLUMNS) + "\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
