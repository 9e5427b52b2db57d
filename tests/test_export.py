"""A run as one file that predicts without molsam."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from shell import assert_refused, molsam

from molsam import Run, fit
from molsam import export as exporting
from molsam.batches import UNREACHABLE
from molsam.export import ExportError, Program, Relatives, ScannedGRU, export, inputs
from molsam.files import RunError
from molsam.gaussian_process import GaussianProcess, Inputs
from molsam.models.layers import Layout
from molsam.models.readouts import GRUReadout

pytestmark = pytest.mark.usefixtures("undrawn")

Arrays = dict[str, np.ndarray]
Predict = Callable[[Arrays], list[np.ndarray]]
SUFFIXES = (".pt2", ".onnx")
JOINED = {"data.descriptors": True, "data.fingerprints": True}
PROCESS = {"training.gaussian_process": True}
GRAPH_TRANSFORMER = {"model.name": "graph_transformer"}
RECIPES = {
    "ensemble": (JOINED | PROCESS | {"training.members": 2}, tiny.regression),
    "classes": (GRAPH_TRANSFORMER | JOINED | {"model.readout": "sum"}, tiny.multiclass),
    "tasks": (PROCESS | {"model.readout": "sum"}, tiny.multilabel),
    "alone": ({"model.kernel": "softmax", "model.norm": "scale"}, tiny.binary),
    "placed": ({"model.positions": 5, "model.head_layers": 1, "model.depth": 2}, tiny.lengths),
    "after": (
        GRAPH_TRANSFORMER | PROCESS | {"model.norm_first": False, "model.activation": "gelu"},
        tiny.multiclass,
    ),
    "ranked": (
        JOINED | PROCESS | {"data.descriptor_scale": "ranked", "data.featurizer": "attentivefp"},
        tiny.regression,
    ),
    "charged": (
        {"model.readout": "gru", "training.members": 2, "data.featurizer": "pagtn"},
        tiny.multilabel,
    ),
}
QUICK = [("ensemble", ".pt2"), ("ensemble", ".onnx"), ("classes", ".pt2")]
SLOW = [(name, suffix) for name in RECIPES for suffix in SUFFIXES if (name, suffix) not in QUICK]
# Of one molecule, of one atom, larger than any that is traced or trained on, in parts, of all.
COMPANIES = (
    ["C"],
    ["CCO"],
    ["[H][H]", "[Na+].[Cl-]", "O"],
    ["C" * 90, *tiny.DRUGS, "C[N+](C)(C)C.[Br-]"],
    list(tiny.regression().smiles),
)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The run of a name, trained when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run_of(name: str) -> Run:
        if name not in made:
            fields, table = RECIPES[name]
            made[name] = fit(tiny.recipe(epochs=1, **fields), table(), out=folder / name)
        return made[name]

    return run_of


@pytest.fixture(scope="module")
def file_of(run_of, tmp_path_factory) -> Callable[[str, str], Path]:
    """The file of a run, written by the command, over another, when it is first asked for."""
    folder = tmp_path_factory.mktemp("files")

    def file_of(name: str, suffix: str) -> Path:
        if suffix == ".onnx":
            pytest.importorskip("onnxruntime")
        path = folder / f"{name}-{suffix[1:]}" / f"run{suffix}"
        if not path.exists():
            path.parent.mkdir()
            path.write_text("of yesterday")
            result = molsam("export", run_of(name).folder, "-o", path)
            assert result == (0, f"written to {path}\n", "")
            assert list(path.parent.iterdir()) == [path]
        return path

    return file_of


@cache
def opened(path: Path) -> Predict:
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda asked: [
            y.numpy() for y in module(**{name: torch.from_numpy(x) for name, x in asked.items()})
        ]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda asked: session.run(["prediction", "std"], asked)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


# The same numbers


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*QUICK, *(pytest.param(*choice, marks=pytest.mark.slow) for choice in SLOW)],
)
def test_a_file_predicts_what_the_run_does(run_of, file_of, name, suffix):
    run, predict = run_of(name), opened(file_of(name, suffix))
    for company in COMPANIES:
        read = run.read(company)
        assert_same(predict(inputs(run, read)), run.predict_read(read))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "charged"])
def test_the_program_predicts_what_the_run_does(run_of, name):
    """Before it is traced, whatever the recipe. The GRU is compared below."""
    run = run_of(name)
    program = Program(run)
    for company in COMPANIES:
        read = run.read(company)
        asked = {name: torch.from_numpy(x) for name, x in inputs(run, read).items()}
        assert_same([y.numpy() for y in program(**asked)], run.predict_read(read))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_predicted_stands_under_the_columns_of_the_run(run_of, file_of, suffix):
    run, path = run_of("ensemble"), file_of("ensemble", suffix)
    if suffix == ".pt2":
        extra = {"molsam.json": ""}
        torch.export.load(path, extra_files=extra)
        about = json.loads(extra["molsam.json"])
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        about = json.loads(found["molsam"])
    assert about == {"columns": run.columns(), "classes": []}
    table = run.predict(tiny.DRUGS)
    prediction, std = opened(path)(inputs(run, run.read(tiny.DRUGS)))
    (column,) = about["columns"]
    assert_same([prediction[:, 0], std[:, 0]], [table[column], table[f"{column} std"]])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_padding_and_unused_kinds_of_bonds_do_not_matter(run_of, file_of, suffix):
    run, predict = run_of("ensemble"), opened(file_of("ensemble", suffix))
    asked = inputs(run, run.read(tiny.DRUGS))
    wider = ((0, 0), (0, 9), (0, 9))
    changed = {
        "pair_codes": np.pad(asked["pair_codes"], wider),
        "distance": np.pad(asked["distance"], wider, constant_values=UNREACHABLE),
        "bonds": np.pad(asked["bonds"], ((0, 5), (0, 0)), constant_values=1),
    }
    assert_same(predict(asked | changed), predict(asked))


def test_a_file_needs_no_molsam(run_of, file_of, tmp_path):
    run = run_of("ensemble")
    read = run.read(tiny.DRUGS)
    np.savez(tmp_path / "asked.npz", **inputs(run, read))
    script = f"""
import sys
import numpy as np
import torch
module = torch.export.load({str(file_of("ensemble", ".pt2"))!r}).module()
asked = np.load("asked.npz")
prediction, std = module(**{{name: torch.from_numpy(asked[name]) for name in asked}})
np.savez("found.npz", prediction=prediction.numpy(), std=std.numpy())
assert not [name for name in sys.modules if name.startswith(("molsam", "rdkit", "dgl"))]
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True, timeout=120)
    found = np.load(tmp_path / "found.npz")
    assert_same([found["prediction"], found["std"]], run.predict_read(read))


def test_a_file_tells_nothing_of_the_machine(file_of):
    with zipfile.ZipFile(file_of("ensemble", ".pt2")) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents.append(file_of("ensemble", ".onnx").read_bytes())
    for content in contents:
        for folder in (exporting.__file__, torch.__file__):
            assert str(Path(folder).parent).encode() not in content


# The parts, beside those they stand for


@torch.no_grad()
def test_the_scanned_gru_is_the_readout():
    torch.manual_seed(0)
    readout = GRUReadout(6).eval()
    torch.nn.init.normal_(readout.bias)
    scanned = ScannedGRU(readout)
    for sizes, width in (([1], 1), ([2, 2, 7, 1, 1, 6], 7), ([3, 1, 4], 6)):
        lengths = torch.tensor(sizes)
        mask = torch.arange(width) < lengths[:, None]
        layout = Layout.of(lengths, mask, mask.flatten().nonzero()[:, 0], 2)
        x = torch.randn(sum(sizes), 6)
        torch.testing.assert_close(scanned(x, layout), readout(x, layout))


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_relatives_are_the_process(classes):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.01, (40, 2048)).astype(np.uint16)
    descriptors = rng.normal(size=(40, 8))
    y = rng.integers(0, classes, (30, 2)).astype(float) if classes else rng.normal(size=(30, 2))
    process = GaussianProcess.fit(Inputs(counts[:30], descriptors[:30]), y, classes)
    counts[35] *= 9  # more than any of the training molecules has
    counts[36] = 0
    ranks = process.scaler.transform(descriptors)
    counted = torch.from_numpy(counts.astype(np.int64))
    found = Relatives(process)(counted, torch.from_numpy(ranks))
    expected = process.predict(Inputs(counts, descriptors))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_exporting_leaves_the_run_as_it_was(run_of):
    run = run_of("charged")
    before = run.predict(tiny.PROBES)
    Program(run)
    assert isinstance(run.models[0].readout, GRUReadout)
    assert run.predict(tiny.PROBES).equals(before)


# The command, and what is refused


def test_what_cannot_be_exported_is_refused(run_of, tmp_path, monkeypatch):
    folder = run_of("alone").folder
    for name in ("run.pt", "run"):
        refused = molsam("export", folder, "-o", tmp_path / name)
        assert_refused(refused, "write to a .pt2 or .onnx file")
    assert_refused(molsam("export", tmp_path / "none", "-o", "a.pt2"), "there is no run folder")
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
        refused = molsam("export", folder, "-o", tmp_path / "run.onnx")
        assert_refused(refused, "a .onnx file needs onnxscript: pip install 'molsam[onnx]', or")
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", lambda mod, args, *, strict=True: None)
        refused = molsam("export", folder, "-o", tmp_path / "run.pt2")
        assert_refused(refused, "is too old to export a run; take torch 2.9")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_would_predict_something_else_is_not_written(run_of, tmp_path, monkeypatch):
    path = tmp_path / "run.pt2"
    path.write_text("of yesterday")
    run = run_of("placed")
    monkeypatch.setattr(exporting, "_traced", lambda program, _: program)

    def off(program, partial, _):
        partial.write_text("of today")
        return lambda asked: [1.001 * y for y in program(**asked)]

    monkeypatch.setitem(exporting.WRITERS, ".pt2", off)
    with pytest.raises(ExportError, match="would not predict what the run does"):
        export(run, path)

    def fail(*_):
        raise RuntimeError("no such operation\nand a page more")

    monkeypatch.setitem(exporting.WRITERS, ".pt2", fail)
    with pytest.raises(ExportError, match=r"cannot write this run as .pt2: no such operation$"):
        export(run, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "of yesterday"


def test_no_molecules_have_no_inputs(run_of):
    run = run_of("alone")
    with pytest.raises(ExportError, match="no molecule could be read"):
        inputs(run, run.read(["xyz"]))


def test_an_unfinished_run_is_not_exported(run_of, tmp_path):
    run = run_of("alone")
    for name in ("run.json", "recipe.toml", "scalers.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    with pytest.raises(RunError, match="has no trained model yet"):
        export(Run.load(tmp_path, device="cpu"), tmp_path / "run.pt2")
