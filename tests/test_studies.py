"""molsam.studies: what differs, what is held, and what is read off."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy import stats
from typer.testing import CliRunner

from molsam import Recipe, Run, datasets, studies, training
from molsam.cli import app
from molsam.splits import PARTS
from molsam.studies import Contest, Study, StudyError

TABLES = {"esol": tiny.regression(), "bace": tiny.binary()}


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of `tiny` in place of the tasks."""
    monkeypatch.setattr(datasets, "load", lambda name, **_: TABLES[name])


STUDY = Study(
    about="for tests",
    tasks=("esol", "bace"),
    common={**tiny.SMALL, "diagnose_every": 1, "sharpness_every": 1},
    variants={"one, two": {"optimizer.name": "sam"}, "samone": {"optimizer.name": "samone"}},
)


def run(study: Study, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for row, _ in studies.run_study(study, folder, **options)]


@pytest.mark.parametrize("study", studies.STUDIES.values(), ids=studies.STUDIES)
def test_the_recipes_of_the_studies_are_valid_and_differ(study):
    assert set(study.tasks) <= set(datasets.TASKS)
    for task in study.tasks:
        recipes = [study.recipe(task, variant) for variant in study.variants]
        assert all(recipes[i] != recipes[j] for i in range(len(recipes)) for j in range(i))
    folders = {studies.run_folder(Path(), "t", variant, 0) for variant in study.variants}
    assert len(folders) == len(study.variants)


def test_the_help_of_the_command_names_every_study():
    from molsam.cli import measuring

    (argument,) = get_type_hints(measuring.study, include_extras=True)["name"].__metadata__
    assert re.split(r", | or ", argument.help.rstrip(".")) == list(studies.STUDIES)


def test_every_cell_once_with_what_its_history_says(tmp_path):
    rows = run(STUDY, tmp_path, seeds=2)
    cells = [(row["task"], row["variant"], row["seed"]) for row in rows]
    assert len(set(cells)) == len(cells) == 2 * 2 * 2
    for row in rows:
        name = row["variant"].replace(", ", "-")
        folder = tmp_path / row["task"] / name / f"seed-{row['seed']}"
        history = pd.read_csv(folder / "member-0" / "history.csv")
        best = history[f"valid_{row['metric']}"].agg("min" if row["task"] == "esol" else "max")
        assert row["valid"] == best
        assert row["metric"] == {"esol": "rmse", "bace": "roc_auc"}[row["task"]]
        assert row["gradients"] == history["gradients"].sum()
        assert row["sharpness"] == history["sharpness"].iloc[-1]
        assert row["aligned"] == pytest.approx(history["aligned"].mean(), nan_ok=True)


def test_seeds_count_from_the_first_of_the_study(tmp_path):
    study = replace(STUDY, tasks=("esol",), variants={"sam": {}}, first_seed=7)
    assert [row["seed"] for row in run(study, tmp_path, seeds=2)] == [7, 8]
    assert (tmp_path / "esol" / "sam" / "seed-8").is_dir()


def test_tasks_and_variants_of_one_s_choice(tmp_path):
    rows = run(STUDY, tmp_path, tasks=["bace"], variants=["samone"], seeds=2)
    cells = [(row["task"], row["variant"], row["seed"]) for row in rows]
    assert cells == [("bace", "samone", 0), ("bace", "samone", 1)]


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    cells = studies.run_study(STUDY, tmp_path, seeds=1)
    first, _ = next(cells)
    second, _ = next(cells)
    cells.close()
    trained = []
    train = training.Trainer.train
    monkeypatch.setattr(
        training.Trainer, "train", lambda self, n: (trained.append(self.run.folder), train(self, n))
    )
    rows = run(STUDY, tmp_path, seeds=1)
    assert len(trained) == len(rows) - 2
    assert rows[:2] == [first, second]


def trajectory(*looks: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(looks, columns=["train_loss", "sharpness"])


def test_sharpness_at_the_loss_that_all_reach():
    sharp = trajectory((1.0, 10.0), (0.1, 1000.0), (0.01, 2000.0))
    flat = trajectory((2.0, 8.0), (np.nan, np.nan), (0.5, 4.0), (0.6, 3.0))
    level, found = studies.at_equal_loss({"sharp": sharp, "flat": flat})
    assert level == 0.5
    # half of a decade in loss is two in sharpness: log-linear
    assert found["sharp"] == pytest.approx(10.0 * 10 ** (2 * np.log10(2)))
    assert found["flat"] == 4.0


def test_a_loss_reached_at_once():
    paths = {"a": trajectory((0.1, 5.0), (0.05, 6.0)), "b": trajectory((1.0, 1.0), (0.2, 2.0))}
    assert studies.at_equal_loss(paths) == (0.2, {"a": 5.0, "b": 2.0})


def test_mean_and_spread():
    rows = [
        {"task": "a", "variant": v, "seed": s, "valid": x}
        for v, s, x in [("p", 0, 1.0), ("q", 0, 5.0), ("p", 1, 3.0)]
    ]
    p, q = studies.summarize(rows, "valid")
    assert (p["variant"], p["n"], p["mean"], p["std"]) == ("p", 2, 2.0, pytest.approx(2**0.5))
    assert (q["variant"], q["n"], q["mean"]) == ("q", 1, 5.0)
    assert np.isnan(q["std"])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(studies.STUDIES, "tiny", STUDY)
    out = tmp_path / "study"
    result = CliRunner().invoke(app, ["study", "tiny", "--seeds", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for title in ("best validation", "share of steps with cosine >= 0", "top Hessian eigenvalue"):
        assert title in result.stdout
    rows, equal = pd.read_csv(out / "rows.csv"), pd.read_csv(out / "equal_loss.csv")
    assert len(rows) == len(equal) == 8
    losses = equal.groupby(["task", "seed"])["train_loss"]
    assert (losses.nunique() == 1).all()
    assert (out / "sharpness.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_that_is_not_there():
    result = CliRunner().invoke(app, ["study", "sharpnes"])
    words = "no study 'sharpnes'; there are sharpness, anchor, stand-in, levers"
    assert words in str(result.exception)


# Contests: variants beside a reference, on the recipes of the tasks

SHORT = {**tiny.SMALL, "training.epochs": 4, "model.dropout": 0.0}
CONTEST = Contest(
    about="for tests",
    tasks=("esol", "bace"),
    common=SHORT,
    variants={
        "adam": {"optimizer.name": "none"},
        "sam": {"optimizer.name": "sam"},
        "graphsam": {"optimizer.name": "graphsam"},
        "sam, half the epochs": {"optimizer.name": "sam"},
    },
    lengths={"sam, half the epochs": 0.5},
    reference="adam",
)
SCALED = ("members", "gaussian_process", "epochs")  # what a contest sets of training
CONTESTS = {name: study for name, study in studies.STUDIES.items() if isinstance(study, Contest)}


@pytest.fixture(scope="module")
def two_calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[pd.DataFrame], str]:
    """The folder of a contest after a call for each task, its rows after each, what was said."""
    out, tables, said = tmp_path_factory.mktemp("contest"), [], ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, **_: TABLES[name])
        patch.setitem(studies.STUDIES, "tiny", CONTEST)
        for task, seeds in (("bace", "1"), ("esol", "2")):
            words = ["study", "tiny", "--task", task, "--seeds", seeds, "--out", str(out)]
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, result.output
            tables.append(pd.read_csv(out / "rows.csv"))
            said = result.stdout
    return out, tables, said


@pytest.mark.parametrize("study", CONTESTS.values(), ids=CONTESTS)
def test_a_contest_holds_the_task_s_own_recipe_but_for_optimizer_and_length(study):
    for task in study.tasks:
        shipped, own = Recipe.load(task), {}
        for variant in study.variants:
            recipe = study.recipe(task, variant)
            epochs = recipe.training.epochs
            assert epochs == study.lengths.get(variant, 1) * shipped.training.epochs
            assert recipe.training.sharpness_every == recipe.training.patience == epochs
            assert (recipe.optimizer.base, recipe.optimizer.weight_decay) == ("adam", 0.0)
            assert recipe.optimizer.lr == shipped.optimizer.lr
            assert (recipe.task, recipe.data) == (task, shipped.data)
            assert recipe.training.members == 1
            assert not recipe.training.gaussian_process
            same = {name: getattr(shipped.training, name) for name in SCALED}
            same |= {"sharpness_every": None, "patience": shipped.training.patience}
            assert recipe.change(same).training == shipped.training
            own[variant] = recipe.model
        assert len(set(map(str, own.values()))) == 1
        # what the t-test asks for: each seed splits anew
        assert (shipped.data.split, shipped.data.split_seed) == ("random", None)


def test_calls_for_one_task_each_leave_the_table_of_all(two_calls):
    _, (first, both), _ = two_calls
    assert set(first["task"]) == {"bace"}
    assert list(both["task"]) == ["esol"] * 8 + ["bace"] * 4  # in the order of the study
    assert not both.duplicated(["task", "variant", "seed"]).any()
    again = both[both["task"] == "bace"].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_a_row_of_a_contest_says_what_its_run_says(two_calls):
    out, (_, rows), _ = two_calls
    for _, row in rows.iterrows():
        folder = studies.run_folder(out, row["task"], row["variant"], row["seed"])
        history = pd.read_csv(folder / "member-0" / "history.csv")
        scores = json.loads((folder / "scores.json").read_text())
        split = json.loads((folder / "split.json").read_text())
        kept = history[history["epoch"] == row["best_epoch"]].iloc[0]
        assert row["test"] == pytest.approx(scores["test"][row["metric"]]["mean"], rel=1e-5)
        assert row["valid"] == pytest.approx(scores["valid"][row["metric"]]["mean"], rel=1e-5)
        assert row["valid"] == pytest.approx(kept[f"valid_{row['metric']}"], rel=1e-5)
        assert row["sharpness"] == pytest.approx(history["sharpness"].iloc[-1], rel=1e-5)
        assert history["sharpness"].notna().sum() == 1
        assert [row[f"n_{part}"] for part in PARTS] == [len(split[part]) for part in PARTS]


def test_scores_are_compared_as_they_are_written(two_calls):
    out, (_, rows), _ = two_calls
    for _, row in rows.iterrows():
        folder = studies.run_folder(out, row["task"], row["variant"], row["seed"])
        compared = CONTEST.row(Run.load(folder))
        assert (compared["valid"], compared["test"]) == (row["valid"], row["test"])


def test_half_the_epochs_of_sam_take_as_many_gradients_as_adam(two_calls):
    rows = two_calls[1][-1].set_index(["task", "seed", "variant"])
    gradients, epochs = (rows[name].unstack("variant") for name in ("gradients", "epochs"))
    assert (gradients["sam, half the epochs"] == gradients["adam"]).all()
    assert (gradients["sam"] == 2 * gradients["adam"]).all()
    for at, steps in gradients["adam"].items():
        every = Recipe.load(at[0]).optimizer.reuse_interval
        anchors = epochs["graphsam"][at] if every == "epoch" else math.ceil(steps / every)
        assert gradients["graphsam"][at] == steps + anchors
    assert (2 * epochs["sam, half the epochs"] == epochs["adam"]).all()


def test_the_tables_of_a_contest(two_calls):
    out, (_, rows), said = two_calls
    found = pd.read_csv(out / "gains.csv").set_index(["part", "task", "variant"])
    assert len(found) == 2 * 2 * 4
    esol = rows[rows["task"] == "esol"].set_index(["variant", "seed"])
    for part in ("valid", "test"):
        scores = esol[part].unstack("variant")
        ahead = scores["adam"] - scores["sam"]  # an error: lower is better
        assert found.loc[(part, "esol", "sam"), "ahead"] == pytest.approx(ahead.mean(), abs=1e-5)
        assert found.loc[(part, "esol", "sam"), "pairs"] == 2
        assert np.isnan(found.loc[(part, "esol", "adam"), "ahead"])
    costs = pd.read_csv(out / "costs.csv").set_index(["task", "variant"])
    assert costs.loc[("esol", "sam"), "sharpness"] == pytest.approx(
        esol.loc["sam", "sharpness"].mean(), rel=1e-5
    )
    assert (out / "gains.png").read_bytes().startswith(b"\x89PNG")
    assert "esol, RMSE beside adam: sam " in said
    assert "bace, ROC-AUC beside adam: sam " in said


def test_test_labels_are_scored_and_choose_nothing(two_calls, tmp_path, monkeypatch):
    out = two_calls[0]
    split = json.loads((out / "esol" / "adam" / "seed-0" / "split.json").read_text())
    poisoned = TABLES["esol"].y.copy()
    poisoned[split["test"]] += 100
    tables = {"esol": replace(TABLES["esol"], y=poisoned)}
    monkeypatch.setattr(datasets, "load", lambda name, **_: tables[name])
    rows = run(CONTEST, tmp_path, tasks=["esol"], seeds=1)
    before = two_calls[1][-1].query("task == 'esol' and seed == 0").reset_index(drop=True)
    after, judged = pd.DataFrame(rows), ["test", "seconds"]
    pd.testing.assert_frame_equal(
        after.drop(columns=judged), before.drop(columns=judged), rtol=1e-5
    )
    assert (after["test"] > before["test"] + 50).all()


def made_up(task: str, metric: str, scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    sizes = {"n_train": 80, "n_valid": 10, "n_test": 10}
    return [
        {"task": task, "variant": v, "seed": s, "metric": metric, "test": x, **sizes}
        for v, values in scores.items()
        for s, x in enumerate(values)
    ]


def test_gains_are_paired_by_seed_and_positive_where_better():
    errors = made_up("a", "rmse", {"adam": [1.0, 2.0, 3.0], "sam": [0.9, 2.1, 2.5, 9.0]})
    areas = made_up("b", "roc_auc", {"adam": [0.5], "sam": [0.4]})
    plain, sam, _, one = studies.gains(errors + areas, "adam", "test")
    ahead = np.array([0.1, -0.1, 0.5])
    assert sam["ahead"] == pytest.approx(ahead.mean())
    assert sam["ahead_std"] == pytest.approx(ahead.std(ddof=1))
    assert (sam["n"], sam["wins"], sam["pairs"]) == (4, 2, 3)
    t = ahead.mean() / np.sqrt((1 / 3 + 10 / 80) * ahead.var(ddof=1))
    assert sam["p"] == pytest.approx(2 * stats.t.sf(t, 2))
    assert one["ahead"] == pytest.approx(-0.1)
    assert np.isnan(one["p"])
    assert plain["pairs"] == 0


def test_sentences_tell_noise_from_more():
    sure = {"adam": [1.0, 2.0, 3.0], "sam": [0.5, 1.51, 2.49], "msam": [1.1, 1.9, 3.1]}
    rows = made_up("a", "rmse", sure) + made_up("b", "roc_auc", {"adam": [0.5], "sam": [0.4]})
    rows += made_up("c", "rmse", {"adam": [1.0, 2.0], "sam": [1.1, 1.8]})
    a, b, c, all_ = studies.verdicts(studies.gains(rows, "adam", "test"), "adam")
    assert a.startswith("a, RMSE beside adam: sam ahead by 0.5 (better on 3 of 3 seeds, p = 0.000")
    assert "msam behind by 0.033 (better on 1 of 3 seeds" in a
    assert a.endswith("More than noise (p < 0.05): sam.")
    assert b.endswith("sam behind by 0.1 (better on 0 of 1 seeds). Too little to tell from noise.")
    assert c.endswith("None of it is more than noise (p < 0.05).")
    assert all_.startswith("1 of 3 differences have p < 0.05;")


def test_the_picture_has_every_seed_as_a_dot(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "molsam.studies.pairing.save_figure", lambda figure, _: drawn.append(figure)
    )
    rows = made_up("a", "rmse", {"adam": [1.0, 2.0], "sam": [0.5, 2.5], "msam": [1.0, 1.0]})
    rows += made_up("b", "roc_auc", {"adam": [0.5], "sam": [0.75]})
    studies.draw_gains(rows, "adam", tmp_path / "gains.png")
    (figure,) = drawn
    dots = {
        panel.get_title(): [
            list(line.get_xdata()) for line in panel.lines if line.get_marker() == "o"
        ]
        for panel in figure.axes
    }
    assert dots == {"a": [[0.0, 1.0], [0.5, -0.5]], "b": [[], [0.25]]}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["msam", "sam"]
    assert {panel.get_ylim() for panel in figure.axes} == {(-0.5, 1.5)}


@pytest.mark.parametrize(
    ("what", "has"),
    [("task", "esol; freesolv; bbbp"), ("variant", "graphsam; adam; rho 0.002; rho 0.05; ")],
)
def test_what_a_study_has_not(what, has):
    result = CliRunner().invoke(app, ["study", "ablations", f"--{what}", "hiv"])
    assert f"this study has no {what} 'hiv'; it has {has}" in str(result.exception)


def test_a_finished_run_of_another_recipe_is_refused(two_calls):
    other = replace(CONTEST, common={**SHORT, "optimizer.rho": 0.1})
    with pytest.raises(StudyError, match=r"adam/seed-0 was trained by another recipe; name"):
        studies.conclude(other, two_calls[0])
