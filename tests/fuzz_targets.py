"""What tests/fuzz.py breaks: for each kind of input the seeds, the mutation and the work on it.

The working folder is a temporary one, and molsam is imported late, so that its branches can be
watched.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import fuzz_changes as changes


@dataclass(frozen=True)
class Target:
    """What is tried: `run(data)` works, or raises what the command line makes a sentence of.

    watched -> modules whose branches choose the next input; place -> a text that the sentence must
    hold; seconds of processor time that an input may take.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: changes.Mutate
    run: Callable[[bytes], object]
    watched: tuple[str, ...] = ()
    place: str = ""
    seconds: float = 60.0

    def changed(self, data: bytes, rng: Random) -> bytes:
        """A mutation; blind where the data is too odd by now to be taken apart."""
        try:
            return self.mutate(data, rng)
        except Exception:
            return changes.BYTES(data, rng)


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
PLAIN = 220  # first bytes from here on leave the compressing to the input


def table(data: bytes) -> None:
    """The first byte chooses the ending, and of those with .gz whether the rest is compressed."""
    from molsam import datasets

    first, rest = data[0] if data else 0, data[1:]
    path = Path(f"odd.{ENDINGS[first % len(ENDINGS)]}")
    path.write_bytes(gzip.compress(rest, 1) if path.suffix == ".gz" and first < PLAIN else rest)
    read = datasets.read_table if ".smi" in path.suffixes else datasets.load
    datasets.check(read(path).take(slice(0, 4)))


def _table_seeds() -> list[bytes]:
    csv = [
        b"smiles,y\nCCO,1\nCCN,2.5\nxyz,\n",
        b'"smiles","logS [mol/L]",split\r\n"C,C",-1e3,train\r\n"C\nC",nan,test\r\n',
        b"smiles,smiles,a b,\nC,CC,0,1\nCCC,C,true,0\n",
        b"\xef\xbb\xbfsmiles,id,a\nC,1,1\nCC,2,0\n",
    ]
    tsv = [b"mol\ty\tz\nC\t1\tA\nCC\t0\tB\nCCC\t1\tB\nCO\t0\tA\n", b"smiles\n\nC\nCC\n"]
    smi = [b"CCO ethanol\nCC\n\nN ammonia and more\n", b"smiles name\nC a\n"]
    endings = zip((0, 2, 4), (csv, tsv, smi), strict=True)
    seeds = [bytes([i + gz]) + text for i, texts in endings for text in texts for gz in (0, 1)]
    zipped = len(ENDINGS) * (PLAIN // len(ENDINGS) + 1) + ENDINGS.index("csv.gz")
    return [*seeds, *(bytes([zipped]) + gzip.compress(text, 1) for text in csv[:2])]


def _table_mutated(data: bytes, rng: Random) -> bytes:
    first = data[:1] if rng.random() < 0.8 else rng.randbytes(1)
    return first + changes.table(data[1:], rng)


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


def _space_seeds() -> list[bytes]:
    return [
        b"[search]\n'*' = {}\n\"optimizer.rho\" = {low = 1e-4, high = 0.1, log = true}\n",
        b'[search]\n"model.width" = [64, 128]\n"model.heads" = {low = 2, high = 8, step = 2}\n',
        b'[search]\nlr = {low = 1e-5, high = 1e-2}\n"training.epochs" = 5\n"model.*" = {}\n',
    ]


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
        fit(tiny.recipe(epochs=1, **more), tiny.regression(40), out=Path("odd-run"))
    return [bytes([i]) + Path("odd-run", name).read_bytes() for i, name in enumerate(_run_files())]


def _run_mutated(data: bytes, rng: Random) -> bytes:
    name = _run_files()[data[0] % len(_run_files())] if data else ""
    kinds = {".json": changes.js, ".toml": changes.toml, ".safetensors": changes.safetensors}
    mutate = kinds.get(Path(name).suffix, changes.BYTES)
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
    return data[:1] + changes.safetensors(data[1:], rng)


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


TARGETS = {
    target.name: target
    for target in (
        Target("smiles", _smiles_seeds, changes.smiles, smiles, ("molsam.reading",)),
        Target("table", _table_seeds, _table_mutated, table, ("molsam.datasets",), "odd."),
        Target("sdf", _record_seeds, changes.RECORD, records, ("molsam.datasets",), "odd.sdf"),
        Target("recipe", _recipe_seeds, changes.toml, recipe, ("molsam.recipes",), "odd.toml"),
        Target("space", _space_seeds, changes.toml, space, ("molsam.spaces",), "odd.toml"),
        Target("run", _run_seeds, _run_mutated, run, ("molsam.runs", "molsam.report"), "odd-run"),
        Target("cache", _cache_seeds, _cache_mutated, cache, ("molsam.reading",), "odd-cache"),
        Target("study", _study_seeds, changes.js, study, ("molsam.tuning",), "odd-study"),
    )
}
