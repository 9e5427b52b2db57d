"""What molsam is made of: pinned, and whole in every package that is built of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomlkit
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
# chemprop alone; it is raced where it is installed, and pins half of what we use.
UNPINNED = ("bench",)


def declared() -> list[Requirement]:
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text())["project"].unwrap()
    extras = (lines for e, lines in project["optional-dependencies"].items() if e not in UNPINNED)
    return [
        Requirement(line) for line in (*project["dependencies"], *(x for e in extras for x in e))
    ]


def pins(python: str) -> dict[str, str]:
    """Name -> version of what constraints.txt pins on that Python."""
    here = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {
        r.name.lower(): str(r.specifier).removeprefix("==")
        for r in found
        if r.marker is None or r.marker.evaluate(here)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_at_a_version_that_is_asked_for(python):
    pinned = pins(python)
    here = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    for requirement in declared():
        if requirement.marker is None or requirement.marker.evaluate(here):
            version = pinned[requirement.name.lower()]
            assert requirement.specifier.contains(version), f"{requirement} and =={version}"


def interpreter(python: str) -> str:
    """A Python of that version among pyenv's, or on the path, where pyenv may have a mere name."""
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin"))
    path = os.pathsep.join([*map(str, homes), os.environ["PATH"]])
    found = shutil.which(f"python{python}", path=path)
    if found is None:
        pytest.skip(f"no Python {python} here")
    return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built of a copy without what git ignores."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_wheel_and_archive_hold_all_that_is_needed(built):
    (wheel,) = built.glob("*.whl")
    (archive,) = built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {f"molsam/_recipes/{path.name}" for path in (ROOT / "recipes").glob("*.toml")}
    assert recipes | {"molsam/py.typed", "molsam/report/page.html"} <= set(names)
    assert all(name.startswith(("molsam/", "molsam-")) for name in names)
    with tarfile.open(archive) as opened:
        kept = {name.partition("/")[2] for name in opened.getnames()}
    assert {"tests/test_supply.py", "docs/index.md", "constraints.txt", "LICENSE"} <= kept


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
@pytest.mark.parametrize("python", PYTHONS)
def test_it_installs_and_works_in_an_empty_environment(python, kind, built, tmp_path):
    if kind == "*.tar.gz" and python != PYTHONS[0]:
        pytest.skip("the wheel of the archive is the same on every Python")
    home = tmp_path / "venv"
    subprocess.run([interpreter(python), "-m", "venv", home], check=True)
    (package,) = built.glob(kind)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", package], check=True)

    def molsam(*words: object) -> str:
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [home / "bin" / "molsam", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    findings = {f["name"]: f for f in json.loads(molsam("doctor", "--json"))["findings"]}
    assert findings["python"]["found"].startswith(f"{python}.")
    assert "default" in molsam("recipes", "list")
    molsam(
        "train", "bundled", "--epochs", 1, "--set", "members=1", "--set", "width=16", "--out", "run"
    )
    (tmp_path / "mine.csv").write_text("smiles\nCCO\nC1CC1\n")
    molsam("predict", "run", "mine.csv", "-o", "out.csv")
    assert (tmp_path / "out.csv").read_text().count("\n") == 3
    (package,) = home.glob("lib/python3*/site-packages/molsam")
    assert (package / "py.typed").is_file()


EVERY_CALL = """
from contextlib import nullcontext

from rdkit import Chem, rdBase

rdBase.BlockLogs = nullcontext  # before molsam takes it

import numpy as np
from rdkit.Chem import AllChem

from molsam import molecules, reading
from molsam.molecules import pictures

texts = ["CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "F/C=C/Br", "C1CC2CCC1C2", "C("]
parts = {"descriptors": True, "fingerprints": True, "scaffolds": True}
for featurizer in molecules.FEATURIZERS:
    cleaned = {"salts": "largest", "charges": "neutralize"}
    assert len(reading.read(texts, featurizer, **parts, **cleaned).index) == 5
for mol in molecules.parse_many(texts).mols:
    pictures.draw(mol)
    for svg in (True, False):
        pictures.draw_weights(mol, np.zeros(mol.GetNumAtoms()), svg=svg)
print("ours ends", flush=True)
AllChem.GetMorganFingerprint(Chem.MolFromSmiles("C"), 2)
"""


# dgllife's, which is not ours to change.
DGLLIFES = {
    f"please use GetValence(Chem.ValenceType.{which}) instead" for which in ("IMPLICIT", "EXPLICIT")
}


def test_nothing_of_rdkit_that_is_used_will_be_gone():
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CALL],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    ours, _, theirs = done.stdout.partition("ours ends")
    assert done.returncode == 0, done.stdout
    assert set(re.findall("DEPRECATION WARNING: (.*)", ours)) <= DGLLIFES
    assert "DEPRECATION WARNING: please use MorganGenerator" in theirs  # it would have been seen
