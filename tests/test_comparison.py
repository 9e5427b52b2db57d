"""molsam.comparison and `molsam compare`: the same splits, every fit once, honest differences."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kill_compare
import numpy as np
import pandas as pd
import pytest
import shell
import tiny
from scipy import stats

from molsam import Recipe, Run, baselines, comparison, fit, metrics
from molsam.baselines import forests, machines
from molsam.comparison import CompareError, Comparison, Row, Summary, baseline_rows, fitted
from molsam.files import read_json
from molsam.splits import SplitError

TWO = ["svm-tanimoto", "svm-rbf"]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(forests, "TREES", 40)


def compared(seeds=range(3), table=None, **fields) -> Comparison:
    return Comparison.of(tiny.recipe(**fields), table or tiny.regression(), seeds, processes=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A finished run of seed 1."""
    with tiny.undrawn():
        out = tmp_path_factory.mktemp("runs") / "tiny-1"
        return fit(tiny.recipe(), tiny.regression(), out=out, seed=1)


# The same splits, the same scores


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data.split": "balanced_scaffold"},
        {"data.split": "k_fold", "data.folds": 4},
        {"data.split_seed": 5, "data.fractions": (0.6, 0.2, 0.2)},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_the_splits_are_those_of_training(fields, tmp_path):
    bad = ["not a molecule" if i in (3, 40) else s for i, s in enumerate(tiny.regression().smiles)]
    table = replace(tiny.regression(), smiles=tuple(bad))
    with tiny.undrawn():
        run = fit(tiny.recipe(epochs=1, **fields), table, out=tmp_path / "run", seed=2)
    found = compared([2], table, **fields)
    assert found.parts(2) == read_json(run.folder / "split.json")
    assert comparison.mismatch(found, run) == ""


def test_scores_are_of_every_molecule_of_the_parts(tmp_path):
    found = compared([1])
    (row,) = baseline_rows(found, ["rf"], tmp_path / "b.csv")
    split, problem = found.splits[1], found.problem
    prediction = baselines.predict("rf", problem, split, metric="rmse", seed=1)
    for part, value in (("valid", row.valid), ("test", row.test)):
        index = getattr(split, part)
        expected = metrics.rmse(problem.y[index], prediction[index])
        assert value == pytest.approx(expected, rel=1e-5)
    assert (row.n_train, row.n_test) == (len(split.train), len(split.test))
    assert row.versions.startswith("molsam ")


def test_undefined_scores_are_left_out_as_in_runs(tmp_path):
    """The rare task of `multilabel` has one positive: no part but train can score it."""
    with tiny.undrawn():
        run = fit(tiny.recipe(epochs=1), tiny.multilabel(), out=tmp_path / "run")
    assert "task 2" in run.scores["test"]["roc_auc"]["excluded"]
    found = compared([0], tiny.multilabel())
    (row,) = baseline_rows(found, ["svm-rbf"], tmp_path / "b.csv")
    split = found.splits[0]
    prediction = baselines.predict("svm-rbf", found.problem, split, metric="roc_auc", seed=0)
    judged = metrics.score(
        "roc_auc", found.problem.y[split.test], prediction[split.test], found.problem.tasks
    )
    assert judged.excluded == tuple(run.scores["test"]["roc_auc"]["excluded"])
    assert row.test == pytest.approx(judged.mean, rel=1e-5, nan_ok=True)


def test_scores_of_a_run_stand_beside(run):
    found = compared()
    (row,) = comparison.run_rows(found, [run])
    assert (row.model, row.seed, row.metric) == ("molsam", 1, "rmse")
    assert row.valid == pytest.approx(run.scores["valid"]["rmse"]["mean"], rel=1e-5)
    assert row.test == pytest.approx(run.scores["test"]["rmse"]["mean"], rel=1e-5)
    assert (row.n_train, row.n_test) == (run.info.molecules["train"], run.info.molecules["test"])
    trained = pd.read_csv(run.members[0] / "history.csv")["seconds"].sum()
    assert row.seconds == pytest.approx(trained, abs=0.051)  # in tenths


def test_runs_of_several_recipes_are_several_models(run, tmp_path):
    with tiny.undrawn():
        other = fit(
            tiny.recipe(lr=1e-3), tiny.regression(), out=tmp_path / "big" / "seed-2", seed=2
        )
        same = fit(tiny.recipe(), tiny.regression(), out=tmp_path / "same", seed=0)
    rows = comparison.run_rows(compared(), [run, other, same])
    named = [(row.model, row.seed) for row in rows]
    assert named == [("molsam tiny-1", 1), ("molsam big", 2), ("molsam tiny-1", 0)]


def test_an_ensemble_stands_beside_its_first_member(tmp_path):
    found = compared([0])
    with tiny.undrawn():
        one, three = (
            fit(tiny.recipe(members=m), tiny.regression(), out=tmp_path / str(m)) for m in (1, 3)
        )
    for k, member in enumerate(three.members):
        (member / "history.csv").write_text(f"epoch,seconds\n1,{k}\n2,2.52\n", encoding="utf-8")
    ensemble, first = comparison.run_rows(found, [three])
    (alone,) = comparison.run_rows(found, [one])
    assert (ensemble.model, first.model) == ("molsam x3", "molsam")
    assert (first.valid, first.test) == (alone.valid, alone.test)
    assert ensemble.test == pytest.approx(three.scores["test"]["rmse"]["mean"], rel=1e-5)
    assert ensemble.test != first.test
    assert (first.seconds, ensemble.seconds) == (2.5, 10.6)  # of both epochs, of all members


def test_an_ensemble_with_a_process_stands_before_its_models_alone(tmp_path):
    recipe = tiny.recipe(members=2, gaussian_process=True)
    with tiny.undrawn():
        run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    rows = comparison.run_rows(compared([0]), [run])
    parts = ["test", "models alone, test", "first member, test"]
    assert [row.model for row in rows] == ["molsam x2 + GP", "molsam x2", "molsam"]
    for row, part in zip(rows, parts, strict=True):
        assert row.test == pytest.approx(run.scores[part]["rmse"]["mean"], rel=1e-5)
    assert len({row.test for row in rows}) == 3
    one = recipe.change({"members": 1})
    assert comparison.titles("molsam", one) == {"molsam + GP": "", "molsam": "models alone, "}


def test_runs_are_recorded_by_what_was_trained(run, tmp_path):
    found, path = compared([1]), tmp_path / "scores.csv"
    (forest,) = baseline_rows(found, ["rf"], path)
    for _ in range(2):
        comparison.record(found, [run], path)
    kept, ours = comparison.read_rows(path)
    assert kept == forest
    assert ours.model == f"molsam {comparison.recipe_digest(run.recipe)}"
    assert ours.test == pytest.approx(run.scores["test"]["rmse"]["mean"], rel=1e-5)


def test_a_recipe_is_told_apart_by_what_is_trained():
    digest, recipe = comparison.recipe_digest, tiny.recipe()
    same = {"data.split": "scaffold", "data.split_seed": 3, "data.targets": ("a",), "members": 2}
    same |= {"gaussian_process": True}
    others = {
        "optimizer.lr": 0.123,
        "data.descriptors": not recipe.data.descriptors,
        "data.salts": "largest",
        "model.name": "graph_transformer",
    }
    assert digest(recipe.change(same | {"task": "esol"})) == digest(recipe)
    assert len({digest(recipe.change({key: value})) for key, value in others.items()}) == 4
    assert digest(recipe) not in {digest(recipe.change({k: v})) for k, v in others.items()}
    other = Recipe().change({"model.name": "graph_transformer"})
    assert digest(other) != digest(Recipe())


# Every fit once


def test_what_stands_in_the_csv_is_not_fitted_again(tmp_path, monkeypatch):
    path, told = tmp_path / "new" / "b.csv", []
    first = baseline_rows(compared(range(2)), TWO, path, told=told.append)
    assert told == first == comparison.read_rows(path)
    assert [(row.seed, row.model) for row in first] == [(s, name) for s in (0, 1) for name in TWO]
    monkeypatch.setattr(fitted, "fit_baseline", lambda *_: pytest.fail("fitted again"))
    assert baseline_rows(compared(range(2)), TWO, path) == first
    assert baseline_rows(compared([1]), TWO[1:], path) == first[3:]
    monkeypatch.undo()
    other = baseline_rows(compared([0], **{"data.split": "stratified"}), TWO[:1], path)
    assert len(comparison.read_rows(path)) == 5
    assert other[0].protocol == "stratified 0.8/0.1/0.1"


def test_a_score_that_is_not_defined_survives_the_csv(tmp_path):
    row = compared([0]).row(0, "rf", valid=math.nan, test=1.5, seconds=0.1, versions="a 1, b 2")
    comparison.add_rows(tmp_path / "b.csv", [row])
    (read,) = comparison.read_rows(tmp_path / "b.csv")
    assert math.isnan(read.valid)
    assert read._replace(valid=0.0) == row._replace(valid=0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Row]:
    """What a comparison that nobody stops gives."""
    return kill_compare.compare(tmp_path_factory.mktemp("whole") / "b.csv")


@pytest.mark.parametrize("where", kill_compare.PLACES)
def test_a_killed_comparison_goes_on(where, tmp_path, whole):
    path = tmp_path / "b.csv"
    words = [sys.executable, str(Path(kill_compare.__file__)), str(path), where]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, timeout=250
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    kept = comparison.read_rows(path)
    assert len(kept) == (3 if where == "after the third write" else 2)
    rows = kill_compare.compare(path)
    assert rows[: len(kept)] == kept
    assert comparison.read_rows(path) == rows
    assert [row._replace(seconds=0) for row in rows] == [row._replace(seconds=0) for row in whole]


def add_many(path: Path, model: str, row: Row, barrier) -> None:
    barrier.wait(timeout=60)
    for seed in range(20):
        comparison.add_rows(path, [row._replace(model=model, seed=seed)])


def test_processes_add_rows_at_once(tmp_path):
    row = compared([0]).row(0, "rf", valid=1.0, test=1.5, seconds=0.1, versions="")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    path = tmp_path / "b.csv"
    writers = [context.Process(target=add_many, args=(path, m, row, barrier)) for m in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert len({found.key for found in comparison.read_rows(path)}) == 40


# What is refused


def test_rows_of_other_data_are_refused(tmp_path):
    path = tmp_path / "b.csv"
    baseline_rows(compared([0]), TWO[:1], path)
    changed = replace(tiny.regression(), y=tiny.regression().y + 1)
    with pytest.raises(
        CompareError, match=r"the data or the metric differ; name another file \(out\)"
    ):
        baseline_rows(compared([0], changed), TWO[:1], path)
    with pytest.raises(CompareError, match=r"was scored by rmse .* \(mae, "):
        baseline_rows(compared([0], **{"training.metric": "mae"}), TWO[:1], path)


def test_a_csv_that_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("smiles,y\nCCO,1\n")
    with pytest.raises(CompareError, match=r"b\.csv has other columns than task, protocol"):
        comparison.read_rows(path)
    path.write_text("")
    with pytest.raises(CompareError, match=r"b\.csv has other columns than task, protocol"):
        comparison.read_rows(path)
    path.write_text(",".join(Row._fields) + "\na,b,c,0,rf,rmse,1,2,3\n")
    with pytest.raises(CompareError, match=r"b\.csv: row 1 cannot be read"):
        comparison.read_rows(path)


def test_splits_without_test_rows_are_refused():
    with pytest.raises(SplitError, match="no test rows to compare models on"):
        compared(fractions=(0.9, 0.1, 0))


def test_runs_that_do_not_fit_are_refused_or_passed_over(run, tmp_path):
    with tiny.undrawn():
        fit(tiny.recipe(epochs=1), tiny.lengths(), out=tmp_path / "other-data", seed=1)
        split = tiny.recipe(epochs=1, **{"data.split": "stratified"})
        fit(split, tiny.regression(), out=tmp_path / "other-split", seed=1)
        begun = fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "begun", seed=1)
        fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "good", seed=1)
        fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "seed", seed=7)
        damaged = fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "worn", seed=1)
    (begun.folder / "SHA256SUMS").unlink()
    (damaged.folder / "scores.json").write_text("{}")
    found = compared([0, 1])
    reasons = {
        "other-data": "was trained on other data than",
        "other-split": "has another split than random 0.8/0.1/0.1 with seed 1; choose the --split",
        "begun": "is not finished; go on with molsam train --resume",
        "worn": "was changed or cut short after training",
        "seed": "has one of the seeds 0, 1; choose --seeds",
        "nothing": "is no run folder and holds none",
    }
    (tmp_path / "nothing").mkdir()
    for folder, reason in reasons.items():
        with pytest.raises(ValueError, match=re.escape(reason)):
            comparison.named_runs(found, [tmp_path / folder])
    fitting = comparison.fitting_runs(found, tmp_path)
    assert [run.folder.name for run in fitting] == ["good"]
    assert comparison.fitting_runs(found, tmp_path / "absent") == []
    many = comparison.named_runs(found, [tmp_path / "good", run.folder.parent])
    assert [run.folder.name for run in many] == ["good", "tiny-1"]


def test_a_run_of_another_kind_of_labels_is_refused(tmp_path):
    with tiny.undrawn():
        values = replace(tiny.binary(), kind="regression")
        run = fit(tiny.recipe(epochs=1), values, out=tmp_path / "run", seed=1)
    with pytest.raises(CompareError, match="run has no score by roc_auc"):
        comparison.named_runs(compared([1], tiny.binary()), [run.folder])


# What differences mean


def test_the_corrected_t_test_by_hand():
    """d = 1, 2, 3: mean 2, variance 1; t = 2 / sqrt(1/3 + 1/8); p of two degrees in closed form."""
    t, p = comparison.corrected_t_test(np.array([1.0, 2.0, 3.0]), 1 / 8)
    assert t == pytest.approx(2 / math.sqrt(11 / 24))
    assert t == pytest.approx(2.954196, abs=1e-6)
    assert p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert p == pytest.approx(0.0980, abs=1e-4)


def test_without_overlap_it_is_the_paired_test():
    d = np.array([0.3, -0.1, 0.4, 0.2, 0.05])
    plain = stats.ttest_1samp(d, 0)
    t, p = comparison.corrected_t_test(d, 0)
    assert (t, p) == pytest.approx((plain.statistic, plain.pvalue))
    mirrored = comparison.corrected_t_test(-d, 0.125)
    assert mirrored[0] == -comparison.corrected_t_test(d, 0.125)[0]
    assert mirrored[1] > p


def test_differences_without_spread():
    assert comparison.corrected_t_test(np.full(3, -0.5), 0.1) == (-math.inf, 0.0)
    assert all(map(math.isnan, comparison.corrected_t_test(np.zeros(3), 0.1)))


def rows_of(found: Comparison, model: str, scores: dict[int, float]) -> list[Row]:
    fixed = {"valid": 0.5, "seconds": 1.0, "versions": "", "date": "2026-01-31"}
    return [found.row(seed, model, test=test, **fixed) for seed, test in scores.items()]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_pairs_by_seed(better):
    found = compared(range(3))
    sign = 1 if better == "lower" else -1
    if better == "higher":
        found = replace(found, metric="r2")
    ours = rows_of(found, "molsam", {0: 1.0, 1: 2.0, 2: 1.0})
    forest = rows_of(found, "rf", {0: 1.0 - sign * 0.3, 1: 2.0 + sign * 0.1, 2: 1.0 - sign * 0.1})
    machine = rows_of(found, "svm-rbf", {0: 1.0 + sign, 2: 1.0 + sign})
    own, rf, svm = comparison.summarize([*ours, *forest, *machine])
    assert (own.model, own.n, own.pairs) == ("molsam", 3, 0)
    assert (own.mean, own.sd) == (pytest.approx(4 / 3), pytest.approx(math.sqrt(1 / 3)))
    assert (rf.behind, rf.wins, rf.pairs) == (pytest.approx(-0.1), 2, 3)
    ratio = ours[0].n_test / ours[0].n_train
    assert rf.p == pytest.approx(comparison.corrected_t_test(np.array([-0.3, 0.1, -0.1]), ratio)[1])
    assert (svm.behind, svm.wins, svm.pairs, svm.n) == (pytest.approx(1.0), 0, 2, 2)
    title = {"lower": "RMSE", "higher": "R²"}[better]
    assert list(comparison.verdicts(found.metric, [own, rf, svm])) == [
        f"random forest wins over molsam by 0.100 {title} on average, and on 2 of 3 seeds, "
        f"p = {rf.p:.2g}"
    ]
    assert list(comparison.verdicts(found.metric, [own, svm])) == [
        "molsam is ahead of RBF SVM (on 2 of 3 seeds) on average"
    ]


def test_one_split_for_all_seeds_allows_no_test():
    found = compared(range(3), **{"data.split": "scaffold"})
    rows = rows_of(found, "molsam", {0: 1.0, 1: 1.1}) + rows_of(found, "rf", {0: 0.8, 1: 1.0})
    assert not comparison.resampled(rows)
    _, rf = comparison.summarize(rows)
    assert math.isnan(rf.p)
    assert rf.pairs == 2
    (sentence,) = comparison.verdicts(found.metric, [Summary("molsam", 2, 0, 0, 0), rf])
    assert sentence.endswith("on 2 of 2 seeds")


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (0.8, "random forest wins over molsam by 0.200 RMSE"),
        (1.2, "molsam is ahead of random forest"),
    ],
)
def test_one_seed_has_no_average(theirs, sentence):
    found = compared([3])
    rows = rows_of(found, "molsam", {3: 1.0}) + rows_of(found, "rf", {3: theirs})
    assert list(comparison.verdicts(found.metric, comparison.summarize(rows))) == [sentence]


def test_seeds_are_counted_in_words():
    assert comparison.seeds_text([3, 3]) == "seed 3"
    assert comparison.seeds_text([2, 0]) == "seeds 0, 2"


def test_protocols_tell_splits_apart():
    changes = [
        {},
        {"data.split_seed": 3},
        {"data.fractions": (0.6, 0.2, 0.2)},
        {"data.split": "paper"},
        {"data.split": "k_fold"},
        {"data.split": "k_fold", "data.folds": 10},
        {"data.split": "column", "data.split_column": "fold"},
        {"data.split": "file", "data.split_file": "s.json"},
        {"data.salts": "largest"},
        *({"data.split": name} for name in ("scaffold", "balanced_scaffold", "stratified")),
    ]
    texts = [comparison.protocol(tiny.recipe(**change).data) for change in changes]
    assert len(set(texts)) == len(texts)
    assert texts[1] == "random 0.8/0.1/0.1, split seed 3"


# The command


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Iterator[Path]:
    """A table, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return shell.write_table(tmp_path / "mine.csv")


def compare(*words: object) -> shell.Result:
    return shell.molsam("compare", "--processes", 1, *words)


def test_the_command_beside_the_runs_it_finds(mine):
    own = ["--data", mine, "--target", "pIC50"]
    with tiny.undrawn():
        assert shell.train(*own, "--repeats", 3, "--out", "runs/mine-1").code == 0
    words = [*own, "--seeds", "0-2", "--baselines", ",".join(TWO)]
    result = compare(*words)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["molsam", *TWO]
    assert "mine.csv, random 0.8/0.1/0.1, seeds 0, 1, 2" in result.out
    assert "Nadeau and Bengio" in result.out
    assert "…" not in result.out  # nothing is cut off at 80 columns
    assert any("wins over molsam by" in line or "is ahead of" in line for line in lines)
    assert result.err.count("svm-rbf") == 3
    again = compare(*words, "--json")
    assert again.err.count("svm-rbf") == 0
    report = json.loads(again.out)
    with open("runs/scores.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    digest = comparison.recipe_digest(Run.load("runs/mine-1/seed-0").recipe)
    expected = [
        {**row, "model": f"molsam {digest}"} if row["model"] == "molsam" else row
        for row in report["rows"]
    ]
    typed = [{name: type(expected[0][name])(text) for name, text in row.items()} for row in written]
    assert sorted(typed, key=str) == sorted(expected, key=str)
    tests = [Run.load(f"runs/mine-1/seed-{s}").scores["test"]["rmse"]["mean"] for s in range(3)]
    models = {model["model"]: model for model in report["models"]}
    assert models["molsam"]["mean"] == pytest.approx(np.mean(tests), rel=1e-5)
    assert models["molsam"]["p"] is None
    behind = [
        row["test"] - tests[row["seed"]] for row in report["rows"] if row["model"] == "svm-rbf"
    ]
    assert models["svm-rbf"]["behind"] == pytest.approx(np.mean(behind), rel=1e-3, abs=1e-5)
    alone = compare(*own, "--seeds", 0, "--baselines", "svm-rbf")
    assert "no p: one seed has no spread." in alone.out
    assert "random 0.8/0.1/0.1, seed 0.\n" in alone.out
    assert "deviation" not in alone.out


def test_the_command_without_runs(mine):
    result = compare("--data", mine, "--target", "pIC50", "--seeds", 3, "--baselines", "svm-rbf")
    assert result.code == 0, result.err
    assert "No finished run has these splits" in result.out
    assert "behind:" not in result.out


def test_a_baseline_that_does_not_serve_is_left_out(mine, monkeypatch):
    monkeypatch.setattr(machines, "MOST_ROWS", 50)
    monkeypatch.setenv("PATH", "")
    words = ["--data", mine, "--target", "pIC50", "--seeds", 0]
    result = compare(*words, "--baselines", "rf,svm-rbf,chemprop")
    assert result.code == 0, result.err
    assert "svm-rbf is left out: it serves up to 50 molecules, not 60" in result.err
    assert "chemprop is left out: it is not installed" in result.err
    assert [row.model for row in comparison.read_rows(Path("runs/scores.csv"))] == ["rf"]
    shell.assert_refused(
        compare(*words, "--baselines", "chemprop"), "nothing is left to compare", "--baselines"
    )


def test_what_the_command_refuses(mine):
    own = ["--data", mine, "--target", "pIC50"]
    shell.assert_refused(compare(*own, "--baselines", "xgb"), "no baseline 'xgb'; there are rf, gb")
    for seeds in ("a", "3-1", "-2", "0,,1"):
        shell.assert_refused(compare(*own, "--seeds", seeds), f"--seeds {seeds}: write numbers")
    shell.assert_refused(compare(*own, "--baselines", ""), "no baseline ''")
    shell.assert_refused(compare(), "name a data set, or your own table")
    shell.assert_refused(compare(*own, "--runs", "nowhere"), "nowhere is no run folder")
    shell.assert_refused(compare(*own, "--split", "halves"), "data.split")


def test_an_interrupt_names_what_stands(mine, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitted, "fit_baseline", interrupted)
    result = compare("--data", mine, "--target", "pIC50")
    assert result.code == 130
    assert "the same command goes on" in result.err
