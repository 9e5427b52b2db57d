"""What each atom adds to a prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from rdkit import Chem
from shell import assert_refused, molsam
from sklearn.metrics import roc_auc_score

from molsam import InvalidMolecule, Run, fit, molecules
from molsam.explain import METHODS, ExplainError, Explanation, Subject, explain
from molsam.gaussian_process import Inputs

pytestmark = pytest.mark.usefixtures("undrawn")

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
METHOD = pytest.mark.parametrize("method", METHODS)
JOINED = {"data.descriptors": True, "data.fingerprints": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run for each kind of labels and each thing that may join the graph."""
    recipes = {
        "graph": ({}, tiny.regression()),
        "joined": (JOINED | {"training.members": 2}, tiny.regression()),
        "process": ({"training.gaussian_process": True}, tiny.regression()),
        "gru": ({"model.readout": "gru"}, tiny.regression()),
        "tasks": (JOINED, tiny.multilabel()),
        "classes": ({"training.gaussian_process": True}, tiny.multiclass()),
    }
    folder = tmp_path_factory.mktemp("runs")
    with tiny.undrawn():
        return {
            name: fit(tiny.recipe(epochs=2, **fields), table, out=folder / name)
            for name, (fields, table) in recipes.items()
        }


def task_of(run: Run) -> str | None:
    return run.info.tasks[1] if len(run.info.tasks) > 1 else None


def predicted(run: Run, column: str, smiles: str = ASPIRIN) -> float:
    return float(run.predict([smiles])[column].item())


# A task whose answer is known


@pytest.fixture(scope="module", params=["compt", "graph_transformer"])
def counter(request, tmp_path_factory) -> tuple[Run, list[str]]:
    """A model of the graph that has learnt to count the oxygens of chains, and chains to come."""
    rng = np.random.default_rng(0)
    chains = tuple("".join(rng.choice(list("CCNOS"), rng.integers(4, 12))) for _ in range(440))
    oxygens = np.array([[text.count("O")] for text in chains], np.float32)
    table = replace(tiny.regression(), smiles=chains, y=oxygens, rows=np.arange(1, 441))
    recipe = tiny.recipe(
        epochs=30, lr=3e-3, width=32, readout="sum", dropout=0.0, rho=0.002,
        **{"model.name": request.param},
    )  # fmt: skip
    with tiny.undrawn():
        run = fit(recipe, table.take(slice(400)), out=tmp_path_factory.mktemp("counter") / "run")
    assert run.scores["test"]["r2"]["mean"] > 0.9
    return run, list(chains[400:])


def test_what_is_counted_is_found_by_both_methods_alike(counter):
    """An oxygen adds about 1 to the number of oxygens, any other atom about 0."""
    run, chains = counter
    atoms = (atom for text in chains for atom in molecules.parse(text).GetAtoms())
    oxygen = np.array([atom.GetSymbol() == "O" for atom in atoms])
    weights = {}
    for method in METHODS:
        found = [explain(run, text, method=method).weights for text in chains]
        weights[method] = np.concatenate(found)
        assert roc_auc_score(oxygen, weights[method]) > 0.99
        ahead = weights[method][oxygen].mean() - weights[method][~oxygen].mean()
        assert 0.5 < ahead < 1.5
    assert np.corrcoef(weights["masking"], weights["gradients"])[0, 1] > 0.9


# Masking


def test_masking_is_the_run_without_one_atom(runs):
    """Atom by atom, with plain loops."""
    run = runs["process"]
    mol = molecules.parse(ASPIRIN)
    found = explain(run, ASPIRIN)
    subject = Subject.of(run, ASPIRIN, None)
    process = run.process
    for atom in range(mol.GetNumAtoms()):
        batch = subject.packed.batch([0])
        atoms = batch.atoms.clone()
        atoms[atom] = 0
        with torch.no_grad():
            z = run.models[0](replace(batch, atoms=atoms)).double().numpy()
        models = run.scalers.target.inverse(z)[0, 0]
        counts = molecules.morgan_counts(mol).astype(int)
        for bit, within in molecules.morgan_environments(mol):
            counts[bit] -= atom in within
        inputs = Inputs(counts[None], molecules.descriptors(mol)[None])
        mixed = process.mixed(np.array([[models]]), inputs)[0, 0]
        assert found.weights[atom] == pytest.approx(found.prediction - mixed, abs=1e-5)


@pytest.mark.parametrize("name", ["graph", "joined", "process", "gru", "tasks", "classes"])
def test_masking_explains_what_the_run_predicts(runs, name):
    run = runs[name]
    found = explain(run, ASPIRIN, task=task_of(run))
    assert found.prediction == pytest.approx(predicted(run, found.column), rel=1e-5)
    assert found.weights.shape == (13,)
    assert np.abs(found.weights).max() > 0


def test_of_several_classes_the_likeliest_is_explained(runs):
    run = runs["classes"]
    row = run.predict([ASPIRIN]).iloc[0]
    assert explain(run, ASPIRIN).column == f"task p({row['task']})"


def test_environments_are_those_that_are_counted():
    for text in (ASPIRIN, "C", "[Na+].[Cl-]", "C1CC1.OCC"):
        mol = molecules.parse(text)
        counts = np.zeros(molecules.MORGAN_SIZE)
        for bit, within in molecules.morgan_environments(mol):
            counts[bit] += 1
            assert len(within) >= 1
        np.testing.assert_array_equal(counts, molecules.morgan_counts(mol))


def test_a_model_that_reads_no_atoms_gives_them_no_weight(runs):
    run = Run.load(runs["graph"].folder)
    for parameter in run.models[0].get_submodule("atom_embedding").parameters():
        parameter.data.zero_()
    for method in METHODS:
        np.testing.assert_allclose(explain(run, ASPIRIN, method=method).weights, 0, atol=1e-6)


# Gradients


@pytest.mark.parametrize("name", ["graph", "joined", "gru", "tasks", "classes"])
def test_gradients_add_up_to_what_the_molecule_changes(runs, name):
    run = runs[name]
    found = explain(run, ASPIRIN, task=task_of(run), method="gradients")
    subject = Subject.of(run, ASPIRIN, task_of(run))
    atoms = subject.packed.batch([0]).atoms[None]
    with torch.no_grad():
        nothing = subject.models(0 * atoms, *subject.read(0 * subject.counts))
    expected = found.prediction - float(nothing)
    assert found.weights.sum() == pytest.approx(expected, abs=1e-3)


def test_gradients_explain_the_models_alone(runs):
    alone, mixed = (explain(runs["process"], ASPIRIN, method=m) for m in ("gradients", "masking"))
    each = runs["process"].predict_each(Subject.of(runs["process"], ASPIRIN, None).packed)
    assert alone.prediction == pytest.approx(each.mean(), rel=1e-5)
    assert alone.prediction != pytest.approx(mixed.prediction, rel=1e-5)


# What does not matter


@METHOD
def test_the_spelling_does_not_matter(runs, method):
    tables = [
        explain(runs["joined"], text, method=method).table()
        for text in molecules.random_spellings(ASPIRIN, 3)
    ]
    for table in tables[1:]:
        assert table["element"].tolist() == tables[0]["element"].tolist()
        np.testing.assert_allclose(table["weight"], tables[0]["weight"], atol=1e-5)


@METHOD
def test_how_many_copies_are_computed_at_once_does_not_matter(runs, method, monkeypatch):
    whole = explain(runs["joined"], ASPIRIN, method=method).weights
    monkeypatch.setattr("molsam.explain.MOST_PAIRS", 3 * 13**2)
    np.testing.assert_allclose(
        explain(runs["joined"], ASPIRIN, method=method).weights, whole, atol=1e-5
    )


@METHOD
@pytest.mark.parametrize("smiles", ["C", "[Na+].[Cl-]", "[H][H]"])
def test_the_smallest_molecules_have_weights_too(runs, method, smiles):
    found = explain(runs["joined"], smiles, method=method)
    assert found.weights.shape == (found.mol.GetNumAtoms(),)
    assert np.isfinite(found.weights).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@METHOD
@pytest.mark.parametrize("name", ["joined", "process", "gru", "classes"])
def test_a_gpu_explains_as_the_cpu_does(runs, name, method):
    there = explain(Run.load(runs[name].folder, device="cuda"), ASPIRIN, method=method)
    here = explain(Run.load(runs[name].folder, device="cpu"), ASPIRIN, method=method)
    np.testing.assert_allclose(there.weights, here.weights, atol=1e-3)


# Pictures, tables, the command


def test_the_table_follows_the_text():
    """Whatever the order of the atoms in the molecule."""
    mol = Chem.RenumberAtoms(molecules.parse("CCOC(=O)N"), [3, 1, 5, 0, 4, 2])
    weights = np.array([float(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    found = Explanation(mol, "y", 0.0, weights)
    table = found.table()
    again = Chem.MolFromSmiles(found.smiles)
    assert table["element"].tolist() == [atom.GetSymbol() for atom in again.GetAtoms()]
    assert table["weight"].tolist() == [atom.GetAtomicNum() for atom in again.GetAtoms()]
    assert table["atom"].tolist() == [1, 2, 3, 4, 5, 6]


def test_the_picture_shows_the_molecule_in_either_form(runs, tmp_path):
    found = explain(runs["graph"], ASPIRIN)
    found.save(tmp_path / "a.svg")
    found.save(tmp_path / "a.png")
    text = (tmp_path / "a.svg").read_text()
    assert "<svg" in text
    assert "</svg>" in text
    assert "atom-12" in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    turned = replace(found, weights=-found.weights)
    assert turned.svg() != found.svg()


def test_the_command(runs, tmp_path):
    folder = runs["graph"].folder
    result = molsam("explain", folder, ASPIRIN, "-o", tmp_path / "a.csv")
    assert result.code == 0, result.err
    found = explain(runs["graph"], ASPIRIN)
    lines = result.out.splitlines()
    assert lines[0] == found.smiles
    assert lines[1] == f"{found.column}: {found.prediction:.4g}"
    assert len(lines) == 2 + 1 + 13 + 1
    table = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(table["weight"], found.table()["weight"], rtol=1e-5)


def test_what_cannot_be_explained_is_refused(runs, tmp_path):
    folder = runs["tasks"].folder
    assert_refused(molsam("explain", folder, ASPIRIN), "several tasks; name one of task 0, task 1")
    assert_refused(molsam("explain", folder, ASPIRIN, "--task", "x"), "no task 'x'; it has task 0")
    folder = runs["graph"].folder
    assert_refused(molsam("explain", folder, "C1CC"), "cannot use 'C1CC' as a molecule")
    assert_refused(
        molsam("explain", folder, "C", "--method", "lime"), "no method 'lime'; there are"
    )
    bad: list[Any] = ["explain", folder, "C", "-o", tmp_path / "a.txt"]
    assert_refused(molsam(*bad), "write to a .svg, .png or .csv file")
    with pytest.raises(InvalidMolecule):
        explain(runs["graph"], "")
    with pytest.raises(ExplainError):
        explain(runs["graph"], "C", method="guess")
