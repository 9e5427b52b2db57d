"""The package as a whole: a light import, public names, documents that run, the wheel."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from textwrap import dedent

import pytest
from typer.testing import CliRunner

import molsam
from molsam.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HEAVY = {"torch", "dgl", "dgllife", "rdkit", "pandas", "sklearn", "scipy", "matplotlib", "numpy"}
HEAVY |= {"optuna", "sqlalchemy"}


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of a document in one language."""
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Every line of a document's shell blocks, as words."""
    text = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = [path for path in DOCUMENTS if blocks(path, "python")]
COMMANDS = [
    pytest.param(words, id=f"{name_of(path)}: {' '.join(words)}")
    for path in DOCUMENTS
    for words in commands(path)
]


# Imports


def run_python(home: Path, code: str) -> None:
    """A fresh process with an empty home folder, which stays empty; nothing is said."""
    home.mkdir()
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        cwd=ROOT,
        env=keep | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []


def test_importing_molsam_is_light_and_silent(tmp_path):
    run_python(
        tmp_path / "home",
        f"""
        import sys
        import molsam
        dir(molsam)
        loaded = {HEAVY} & set(sys.modules)
        assert not loaded, loaded
        """,
    )


def test_the_optimizers_need_torch_alone(tmp_path):
    run_python(
        tmp_path / "home",
        f"""
        import sys
        import torch
        before = set(sys.modules)
        import molsam.optim
        from molsam import GraphSAM, SAM
        new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
        assert not new & ({HEAVY} - {{"torch"}}), new
        rooms = {{name.split(".")[1] for name in sys.modules if name.startswith("molsam.")}}
        assert rooms == {{"optim"}}, rooms
        """,
    )


def test_the_command_line_shows_help_without_heavy_imports(tmp_path):
    run_python(
        tmp_path / "home",
        f"""
        import sys
        from molsam.cli import app
        loaded = {HEAVY} & set(sys.modules)
        assert not loaded, loaded
        """,
    )


def test_every_room_is_imported_in_silence_and_writes_nothing_at_home(tmp_path):
    run_python(
        tmp_path / "home",
        """
        import importlib, pkgutil
        import molsam
        for room in pkgutil.walk_packages(molsam.__path__, "molsam."):
            importlib.import_module(room.name)
        molsam.Recipe.load("esol")
        mols = molsam.molecules.parse_many(["CCO", "not a molecule"]).mols
        packed = molsam.PackedMolecules.from_mols(mols, "compt")
        molsam.Batch.from_dgl(packed.batch([0]).to_dgl())
        """,
    )


# Names


def test_every_public_name_resolves():
    assert sorted(molsam.__all__) == sorted(set(molsam.__all__)) == sorted(dir(molsam))
    for name in molsam.__all__:
        assert callable(getattr(molsam, name)), name
    assert molsam.fit.__module__ == "molsam.training"
    assert molsam.load == molsam.Run.load
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        molsam.fitt  # noqa: B018


def test_every_room_in_the_documents_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = [line for line in readme.splitlines() if line.startswith("| `")]
    rooms = [room for line in table for room in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert len(rooms) > 10
    for room in rooms:
        resolve_name(f"molsam.{room}")
    public = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert len(public) > 10
    for name in public:
        resolve_name(name)


# Documents


@pytest.mark.usefixtures("polite_ray", "rdkit_logs")
@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_in_a_document_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for code in blocks(path, "python"):
        exec(compile(code, name_of(path), "exec"), namespace)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_in_a_document_exist(words):
    if words[0] == "torchrun":
        words = words[words.index("--no-python") + 1 :]
    program, *arguments = words
    if program == "molsam":
        done = CliRunner().invoke(app, [*arguments, "--help"])
        assert done.exit_code == 0, done.output
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in arguments:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    elif program == "python" and arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
    else:
        assert program == "pip"


def test_a_command_that_does_not_exist_is_seen():
    for arguments in (["trian", "esol"], ["train", "--rows", "3"], ["data", "look"]):
        assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 2


def test_links_between_documents_lead_somewhere():
    links = 0
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                links += 1
                assert (path.parent / target).exists(), f"{name_of(path)}: {target}"
    assert links > 3


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_document_holds_both_sides_of_a_merge(path):
    assert not re.search("^(<<<<<<<|>>>>>>>)", path.read_text(encoding="utf-8"), re.MULTILINE)


# The wheel


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_and_finds_them(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; pip install hatchling")
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"molsam-{version('molsam')}-py3")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    shipped = sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))
    assert sorted(n.split("/")[-1] for n in names if n.startswith("molsam/_recipes/")) == shipped
    assert not [n for n in names if not n.startswith(("molsam/", "molsam-"))]
    code = (
        "import molsam.recipes as r; print(r.FOLDER); assert r.Recipe.load('esol').task == 'esol'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(done.stdout.strip()) == site / "molsam" / "_recipes"
