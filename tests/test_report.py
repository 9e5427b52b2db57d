"""The page of a run: whole, true to the run, safe whatever names are in it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from shell import molsam

from molsam import Run, fit, metrics, report
from molsam.datasets import MoleculeTable
from molsam.files import RunError
from molsam.report.held_out import HeldOut, binned, by_scaffold, mean_errors, resampled

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)> & \"q\" $x^2"
FETCHING = {"script", "iframe", "object", "embed", "link", "base", "form", "img"}
SECTIONS = [
    "Scores", "Training", "Predictions of test rows", "Is it sure?", "Where it errs",
    "The worst predictions", "Recipe", "Data and versions",
]  # fmt: skip


class Reader(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def trained(table: MoleculeTable, folder: Path, **fields) -> Run:
    recipe = tiny.recipe(epochs=1, fractions=(0.5, 0.25, 0.25), **fields)
    return fit(recipe, table, out=folder)


@pytest.fixture(scope="module", params=tiny.KINDS)
def run(request, tmp_path_factory) -> Run:
    with tiny.undrawn():
        return trained(tiny.KINDS[request.param](), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def page(run) -> str:
    return report.page(run)


@pytest.fixture(scope="module")
def read(page) -> Reader:
    return Reader(page)


def test_a_page_is_whole_and_alone(read):
    """Every tag is closed; nothing runs, nothing is fetched."""
    assert read.open == []
    assert not FETCHING & set(read.tags)
    for name, value in read.attributes:
        assert not name.startswith("on")
        if name in ("href", "xlink:href", "src"):
            assert (value or "").startswith(("#", "data:image/png;base64,")), value
        assert not re.search(r"url\((?!#)", value or "")
    assert read.tags.count("svg") >= 4


def test_it_has_every_section_and_the_scores_of_the_run(run, page, read):
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    for metric, found in run.scores["test"].items():
        assert metrics.METRICS[metric].title in read.text
        shown = "-" if np.isnan(found["mean"]) else f"{found['mean']:.3g}"
        assert shown in read.text
    assert run.recipe.model.name in read.text
    assert run.info.versions["rdkit"] in read.text
    assert "<th></th>" not in page
    assert "rows rows" not in read.text


def test_the_test_rows_are_read_as_they_were_predicted(run):
    test = HeldOut.of(run)
    assert test is not None
    mean, _ = run.predict_mols(test.mols)
    np.testing.assert_allclose(test.mean, mean, rtol=1e-4, atol=1e-5)
    assert len(test.rows) == run.info.molecules["test"]
    found = metrics.score_all(run.info.kind, test.y, test.mean, run.info.tasks)
    for metric, score in run.scores["test"].items():
        assert found[metric]["mean"] == pytest.approx(score["mean"], rel=1e-4, nan_ok=True)


def test_errors_are_distances_or_missing_probability(run):
    test = HeldOut.of(run)
    assert test is not None
    for n, t in np.ndindex(test.y.shape):
        y, f = test.y[n, t], test.mean[n, t]
        if np.isnan(y):
            expected = np.nan
        elif run.info.kind == "regression":
            expected = abs(y - f)
        elif run.info.kind == "binary":
            expected = 1 - f if y else f
        else:
            expected = 1 - f[int(y)]
        assert test.errors[n, t] == pytest.approx(expected, nan_ok=True)


def test_the_worst_come_first(run, read):
    test = HeldOut.of(run)
    assert test is not None
    n, t = np.unravel_index(np.nanargmax(test.errors), test.errors.shape)
    worst = read.text.split("The worst predictions")[1]
    assert worst.strip().startswith(f"row {test.rows[n]}: {run.columns()[t]}")


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_names_cannot_do_harm(kind, tmp_path):
    """A hostile name of a task, of classes, of a file, of a SMILES that cannot be read."""
    table = tiny.KINDS[kind]()
    smiles = [*table.smiles[:-1], HOSTILE]
    classes = tuple(f"{HOSTILE} {c}" for c in range(len(table.classes)))
    table = replace(
        table, smiles=smiles, tasks=(HOSTILE,), classes=classes, source=f"{HOSTILE}.csv"
    )
    page = report.page(trained(table, tmp_path / "run"))
    found = Reader(page)
    test_a_page_is_whole_and_alone(found)
    assert "evil.example" in found.text  # as text
    assert "<script" not in page
    assert "<img" not in page


def test_an_unfinished_run_and_one_without_test_rows(tmp_path):
    recipe = tiny.recipe(epochs=1, fractions=(0.7, 0.3, 0))
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    page = report.page(run)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [*SECTIONS[:2], *SECTIONS[-2:]]
    (run.folder / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match=r"is not finished; go on with molsam train --resume"):
        report.page(run)


def test_several_seeds_are_shown_beside_one(tmp_path):
    from molsam import fit_repeats

    runs = fit_repeats(tiny.recipe(epochs=1), tiny.regression(), 3, out=tmp_path / "runs")
    scores = [run.scores["test"]["rmse"]["mean"] for run in runs]
    spread = f"{np.mean(scores):.3g} ± {np.std(scores, ddof=1):.3g}"
    shown = f"3 runs with seeds of their own: test RMSE {spread}."
    assert shown in Reader(report.page(runs[1])).text


def test_the_command_writes_it_and_each_time_the_same(run, page, tmp_path):
    done = molsam("report", run.folder, "-o", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    done = molsam("report", tmp_path / "nothing")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "there is no run folder" in done.err


# Numbers


def test_ranges_hold_every_molecule_once():
    x, error = np.array([3, 1, 2, 2, 2, 9, 9, 40]), np.arange(8.0)
    rows = binned(x, error)
    assert sum(count for _, _, count, _ in rows) == 8
    assert sum(count * mean for _, _, count, mean in rows) == pytest.approx(error.sum())
    ends = [(low, high) for low, high, _, _ in rows]
    assert ends == sorted(ends)
    assert all(high < low for (_, high), (low, _) in pairwise(ends))
    assert binned(np.full(4, 7), np.ones(4)) == [(7, 7, 4, 1)]


def test_scaffolds_are_counted(run):
    test = HeldOut.of(run)
    assert test is not None
    found = by_scaffold(test, mean_errors(test))
    counts = [count for _, count, _ in found]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(test.mols)


def test_the_score_lies_in_what_chance_allows(run):
    test = HeldOut.of(run)
    assert test is not None
    metric = metrics.default_metric(run.info.kind)
    low, high = resampled(metric, test)
    assert low <= run.scores["test"][metric]["mean"] <= high
    assert low < high
    assert pd.notna([low, high]).all()


def test_test_rows_without_labels_are_no_error(tmp_path):
    """And names of classes that pandas would take for numbers or for nothing."""
    table = tiny.multiclass()
    table = replace(table, classes=("1.50", "NA", "None"))
    folds = np.array(["train"] * 30 + ["valid"] * 15 + ["test"] * (len(table) - 45), dtype=object)
    y = table.y.copy()
    y[folds == "test"] = np.nan
    recipe = tiny.recipe(epochs=1).change({"split": "column", "split_column": "part"})
    with tiny.undrawn():
        bare = fit(recipe, replace(table, y=y, folds=list(folds)), out=tmp_path / "bare")
        full = fit(recipe, replace(table, folds=list(folds)), out=tmp_path / "full")
    assert "No test row has a label." in Reader(report.page(bare)).text
    test = HeldOut.of(full)
    assert test is not None
    np.testing.assert_array_equal(test.y, table.y[folds == "test"])
