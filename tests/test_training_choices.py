"""Training as a recipe says: every choice has its effect, and what cannot be is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from molsam import MoleculeTable, Run, criteria, epochs, fit, inference, splits, training
from molsam.criteria import TrainingError
from molsam.datasets import DataError
from molsam.files import RunError, read_json
from molsam.optim.schedules import SCHEDULES
from molsam.preparation import prepare
from molsam.recipes import DataConfig
from molsam.splits import Split, SplitError

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Regression, seed 0."""
    return fit(tiny.recipe(), tiny.regression(), out=tmp_path_factory.mktemp("runs") / "a")


# Every choice of a recipe


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_sets_the_learning_rate(schedule, tmp_path):
    recipe = tiny.recipe(schedule=schedule, warmup=0.5, epochs=4)
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    last_step = [(epoch + 2 / 3) / 4 for epoch in range(4)]  # 48 rows are three batches of 16
    expected = [recipe.optimizer.lr * SCHEDULES[schedule](t, 0.5) for t in last_step]
    assert tiny.history(run)["lr"].tolist() == pytest.approx(expected)


LOSSES = {
    "mse": tiny.lengths,
    "mae": tiny.lengths,
    "huber": tiny.lengths,
    "bce": tiny.multilabel,
    "cross_entropy": tiny.multiclass,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls(loss, tmp_path):
    recipe = tiny.recipe(loss=loss, epochs=8, dropout=0.0, **{"optimizer.lr": 0.005})
    losses = tiny.history(fit(recipe, LOSSES[loss](), out=tmp_path / "run"))["loss"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]


@pytest.mark.parametrize("model", ["compt", "graph_transformer"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_models_learn_in_both_precisions(model, precision, tmp_path):
    recipe = tiny.recipe(epochs=8, precision=precision, **{"model.name": model})
    recipe = recipe.change({"optimizer.lr": 0.005, "dropout": 0.0})
    run = fit(recipe, tiny.lengths(), out=tmp_path / "run")
    losses = tiny.history(run)["loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert all(t.dtype == torch.float32 for t in tiny.weights(run)[0].values())
    assert np.isfinite(run.predict(tiny.PROBES)["task"]).all()


@pytest.mark.parametrize("featurizer", ["canonical", "attentivefp", "weave", "pagtn", "compt"])
def test_every_featurizer_trains(featurizer, tmp_path):
    run = fit(tiny.recipe(epochs=1, featurizer=featurizer), tiny.regression(), out=tmp_path / "r")
    assert np.isfinite(run.predict(tiny.PROBES)["activity"]).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_norm": 0.01},
        {"gamma": 0.5},
        {"reuse_interval": 1},
        {"normalize_anchor": True},
        {"optimizer.base": "adam"},
        {"optimizer.name": "sam"},
        {"optimizer.name": "none"},
        {"optimizer.name": "asam", "optimizer.rho": 0.5},
        {"optimizer.name": "samk"},
        {"optimizer.name": "samone"},
        {"optimizer.name": "rst"},
        {"optimizer.name": "aesam"},
        {"optimizer.name": "looksam"},
        {"optimizer.name": "s2sam"},
        {"optimizer.name": "msam"},
        {"start": 4},
        {"masks": "same"},
        {"optimizer.rho": 0.2},
        {"batch_size": 7},
        {"max_pairs": 3000},
        {"readout": "gru"},
        {"descriptors": True},
        {"fingerprints": True},
        {"join_dropout": 0.3},
        {"head_width": 7},
        {"average": 0.5},
    ],
    ids=str,
)
def test_a_choice_has_its_effect(fields, reference, tmp_path):
    run = fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run")
    losses = tiny.history(run)["valid_loss"]
    assert np.isfinite(losses).all()
    assert not losses.equals(tiny.history(reference)["valid_loss"])


def test_an_anchor_an_epoch_is_one_in_as_many_steps_as_it_has(reference, tmp_path):
    every, once = (
        fit(tiny.recipe(reuse_interval=n), tiny.regression(), out=tmp_path / str(n))
        for n in (3, 1000)
    )
    assert tiny.history(every).equals(tiny.history(reference))
    assert tiny.same_weights(every, reference)
    assert not tiny.history(once).equals(tiny.history(reference))


@pytest.mark.parametrize(
    ("fields", "gradients"),
    [
        ({"optimizer.name": "none"}, [3, 3, 3]),
        ({"optimizer.name": "sam"}, [6, 6, 6]),
        ({"optimizer.name": "graphsam"}, [4, 4, 4]),
        ({"optimizer.name": "graphsam", "reuse_interval": 2}, [5, 4, 5]),
        ({"optimizer.name": "graphsam", "reuse_interval": "2 epochs"}, [4, 3, 4]),
        ({"optimizer.name": "graphsam", "reuse_interval": "never"}, [4, 3, 3]),
        ({"optimizer.name": "samk", "reuse_interval": "2 epochs", "start": 4}, [3, 4, 4]),
        ({"optimizer.name": "looksam"}, [4, 4, 4]),
        ({"optimizer.name": "samone"}, [4, 3, 3]),
        ({"optimizer.name": "s2sam"}, [4, 3, 3]),
        ({"optimizer.name": "msam"}, [3, 3, 3]),
        ({"optimizer.name": "sam", "start": 4}, [3, 5, 6]),
        ({"optimizer.name": "sam", "start": 0.5}, [3, 5, 6]),
        ({"optimizer.name": "graphsam", "diagnose_every": 2}, [6, 6, 6]),
    ],
    ids=str,
)
def test_gradients_are_counted(fields, gradients, tmp_path):
    run = fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run")
    assert tiny.history(run)["gradients"].tolist() == gradients


@pytest.mark.parametrize(("decay", "epochs_"), [(0.999, 2), (0.75, 3)])
def test_an_average_is_kept_of_the_weights_after_each_step(decay, epochs_, tmp_path, monkeypatch):
    seen, judged, step, infer = [], [], epochs.Trainer._step, inference.infer

    def stepping(trainer, member, *args):
        out = step(trainer, member, *args)
        seen.append([p.detach().double().clone() for p in member.model.parameters()])
        return out

    def inferring(model, *args):
        judged.append([p.clone() for p in model.parameters()])
        return infer(model, *args)

    monkeypatch.setattr(epochs.Trainer, "_step", stepping)
    monkeypatch.setattr(inference, "infer", inferring)
    fields = {"epochs": epochs_, "optimizer.lr": 0.01, "schedule": "constant"}
    run = fit(tiny.recipe(**fields, average=decay), tiny.regression(), out=tmp_path / "averaged")
    expected, ends = seen[0], []
    for n, weights in enumerate(seen, start=1):
        share = max(1 - decay, 1 / n)
        expected = [a + share * (w - a) for a, w in zip(expected, weights, strict=True)]
        if n % 3 == 0:
            ends.append(expected)
    for found, end in zip(judged, ends, strict=False):
        for a, b in zip(found, end, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-7)
    best = int(tiny.history(run)["kept"].to_numpy().nonzero()[0][-1])
    assert all(
        torch.equal(a, b) for a, b in zip(judged[best], tiny.weights(run)[0].values(), strict=True)
    )
    if decay == 0.999:  # still the plain mean
        mean = [sum(each) / len(seen) for each in zip(*seen, strict=True)]
        for a, b in zip(expected, mean, strict=True):
            torch.testing.assert_close(a, b)


def test_an_average_looks_and_does_not_touch(reference, tmp_path):
    run = fit(tiny.recipe(average=0.9), tiny.regression(), out=tmp_path / "run")
    assert tiny.history(run)["loss"].equals(tiny.history(reference)["loss"])


def test_an_average_without_a_past_is_the_weights_themselves(reference, tmp_path):
    run = fit(tiny.recipe(average=1e-12), tiny.regression(), out=tmp_path / "run")
    assert tiny.history(run).equals(tiny.history(reference))
    assert tiny.same_weights(run, reference)
    assert reference.recipe.training.average == 0


@pytest.mark.parametrize("name", ["graphsam", "samone", "msam"])
def test_diagnostics_look_and_do_not_touch(name, tmp_path):
    fields = {"optimizer.name": name}
    plain = fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "plain")
    watched = fit(
        tiny.recipe(**fields, diagnose_every=1), tiny.regression(), out=tmp_path / "watched"
    )
    assert tiny.same_weights(plain, watched)
    history = tiny.history(watched)
    assert history[["cosine", "eps_cosine", "omega_cosine"]].abs().max().max() <= 1 + 1e-6
    assert history["aligned"].between(0, 1).all()
    assert (history[["eps_norm", "omega_norm"]] > 0).all(axis=None)


def test_a_start_that_never_comes_is_the_base_alone(tmp_path):
    late, never = (
        fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / str(i))
        for i, fields in enumerate([{"start": 10**6}, {"optimizer.name": "none"}])
    )
    assert tiny.same_weights(late, never)


def test_rho_decays_as_in_equation_4(tmp_path):
    recipe = tiny.recipe(gamma=0.5, rho_epochs=2, epochs=5, **{"optimizer.rho": 0.08})
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    expected = [0.08 * 0.5 ** (epoch // 2) for epoch in range(5)]
    assert tiny.history(run)["rho"].tolist() == pytest.approx(expected)


def test_a_plain_optimizer_has_no_radius(tmp_path):
    run = fit(
        tiny.recipe(epochs=1, **{"optimizer.name": "none"}), tiny.regression(), out=tmp_path / "r"
    )
    assert tiny.history(run)["rho"].tolist() == [0.0]


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_class_weighs_the_more_the_rarer_it_is_in_training(weighted, kind, tmp_path):
    y = tiny.regression().y
    table = tiny.relabel(y > np.quantile(y, 0.85), kind, "ab" if kind == "multiclass" else ())
    recipe = tiny.recipe(epochs=1, class_weights=weighted)
    run = fit(recipe, table, out=tmp_path / "run")
    parts = prepare(table, recipe.data, seed=0).split
    packed: Any = SimpleNamespace(y=torch.from_numpy(table.y))
    loss = criteria.pick_loss(run, packed, parts)
    undecided = torch.zeros(1, inference.output_size(run.info))
    known = torch.ones(1, 1, dtype=torch.bool)
    common, rare = (loss(undecided, torch.full((1, 1), float(c)), known) for c in (0, 1))
    train = table.y[parts.train]
    ratio = (train == 0).sum() / (train == 1).sum() if weighted else 1.0
    assert float(rare / common) == pytest.approx(ratio)


# Splits


@pytest.mark.parametrize(
    "split", ["random", "paper", "scaffold", "balanced_scaffold", "stratified", "k_fold"]
)
def test_every_split_covers_the_table_once(split):
    prepared = prepare(tiny.regression(100), DataConfig(split=split), seed=3)
    parts = prepared.split.to_dict()
    assert sorted(chain(*parts.values())) == list(range(100))
    fixed = split in ("paper", "scaffold")
    other = prepare(tiny.regression(100), DataConfig(split=split), seed=4).split
    assert (other == prepared.split) == fixed


def test_k_fold_tests_every_molecule_once_over_its_seeds():
    choices = DataConfig(split="k_fold", folds=4)
    tested = [prepare(tiny.regression(), choices, seed=s).split.test for s in range(4)]
    assert sorted(np.concatenate(tested)) == list(range(60))


def test_a_split_column_is_followed():
    words = ("train",) * 40 + ("valid",) * 10 + ("test",) * 10
    table = replace(tiny.regression(), folds=words)
    choices = DataConfig(split="column", split_column="fold")
    parts = prepare(table, choices, seed=0).split
    assert parts == Split(np.arange(40), np.arange(40, 50), np.arange(50, 60))
    with pytest.raises(SplitError, match="column"):
        prepare(tiny.regression(), choices, seed=0)


def unreadable(*rows: int) -> MoleculeTable:
    """`regression` with the SMILES of these data rows spoilt."""
    table = tiny.regression()
    smiles = tuple("xyz" if i + 1 in rows else s for i, s in enumerate(table.smiles))
    return replace(table, smiles=smiles)


def test_a_split_file_counts_all_rows_the_unreadable_ones_too(tmp_path):
    splits_file = tmp_path / "split.json"
    parts = {"train": list(range(40)), "val": list(range(40, 50)), "test": list(range(50, 60))}
    splits_file.write_text(json.dumps(parts))
    choices = DataConfig(split="file", split_file=str(splits_file))
    prepared = prepare(unreadable(1, 45, 60), choices, seed=0)
    rows = {p: (prepared.table.rows[getattr(prepared.split, p)]).tolist() for p in splits.PARTS}
    assert rows == {
        "train": list(range(2, 41)),
        "valid": [41, 42, 43, 44, *range(46, 51)],
        "test": list(range(51, 60)),
    }
    parts["test"].append(60)
    splits_file.write_text(json.dumps(parts))
    with pytest.raises(SplitError, match="position 60"):
        prepare(unreadable(1), choices, seed=0)


def test_the_split_of_a_run_gives_the_same_split_to_another(tmp_path):
    table = unreadable(7, 60)
    first = fit(tiny.recipe(epochs=1), table, out=tmp_path / "a", seed=3)
    given = tmp_path / "a" / "split.json"
    again = tiny.recipe(epochs=1, split="file", split_file=str(given))
    second = fit(again, table, out=tmp_path / "b", seed=8)
    assert (second.folder / "split.json").read_bytes() == given.read_bytes()
    assert first.info.molecules == second.info.molecules
    assert first.info.molecules["unreadable"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("[1, 2]", "no lists under"),
        ('{"train": [0], "test": [1]}', "without 'valid'"),
        ('{"train": [0], "valid": [1], "test": [1]}', "twice"),
        ('{"train": [0], "valid": [], "test": [1]}', "empty"),
        (None, "there is no split file"),
    ],
)
def test_a_bad_split_file_is_refused(text, words, tmp_path):
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SplitError, match=words):
        prepare(tiny.regression(), DataConfig(split="file", split_file=str(path)), seed=0)


# Bad rows and refusals


def test_bad_rows_take_no_part_and_are_told_with_row_and_reason(tmp_path):
    table = unreadable(3, 60)
    run = fit(tiny.recipe(epochs=1), table, out=tmp_path / "run")
    assert [(row, smiles) for row, smiles, _ in run.info.bad_rows] == [(3, "xyz"), (60, "xyz")]
    assert all("not valid SMILES" in reason for *_, reason in run.info.bad_rows)
    assert run.info.molecules["unreadable"] == 2
    used = chain(*read_json(run.folder / "split.json").values())
    assert sorted(used) == [i for i in range(60) if i not in (2, 59)]


def test_rows_are_those_of_the_source_where_a_part_of_it_is_trained_on(tmp_path):
    run = fit(tiny.recipe(epochs=1), unreadable(3, 60).take(slice(2, 60)), out=tmp_path / "run")
    assert [row for row, *_ in run.info.bad_rows] == [3, 60]


def test_a_table_with_no_readable_row_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none of the 60 rows .* the first: row 1"):
        fit(tiny.recipe(), unreadable(*range(1, 61)), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": "roc_auc"}, "'roc_auc' does not serve regression targets; use rmse, mae, r2"),
        ({"metric": "rsme"}, "'rsme' does not serve"),
        ({"loss": "bce"}, "'bce' does not serve regression targets; use mse, mae, huber"),
    ],
)
def test_a_metric_or_loss_of_another_kind_is_refused_before_a_folder_is_made(
    fields, words, tmp_path
):
    with pytest.raises(TrainingError, match=words):
        fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_device_is_refused_before_the_molecules_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "prepare", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run", device="abacus")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"optimizer.lr": 1e20, "optimizer.name": "none"},
            r"loss is \w+ in step [23] of epoch 1 \(learning rate \S+\), \S+ a step before",
        ),
        (
            {"optimizer.lr": 1e20, "batch_size": 64, "schedule": "constant", "warmup": 0.0},
            "validation loss is [a-z]+ after epoch 1",
        ),
    ],
)
def test_divergence_says_where_and_what_to_try(fields, words, tmp_path):
    advice = ", as after steps that are too long: try a lower .*; no epoch was finished"
    with pytest.raises(TrainingError, match=words + advice):
        fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("spoils", "words"),
    [
        (
            "_gradient",
            r"training loss is nan in step 2 of epoch 3 .*learning rate 0.0005\), [\d.]+ a",
        ),
        ("_validate", "validation loss is nan after epoch 3"),
    ],
)
def test_the_last_good_weights_outlast_a_divergence(spoils, words, tmp_path, monkeypatch):
    recipe, table = tiny.recipe(schedule="constant", warmup=0.0), tiny.regression()
    steps: list[int] = []

    def stop(p: epochs.Progress) -> None:
        if p.epochs_done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, table, out=tmp_path / "good", progress=stop)

    right = getattr(epochs.Trainer, spoils)

    def spoilt(trainer: epochs.Trainer, member: epochs.Member, *more: Any) -> Any:
        steps.append(member.epoch)
        if member.epoch == 2 and steps.count(2) >= (2 if spoils == "_gradient" else 1):
            trainer.loss = lambda z, y, mask: (z * math.nan).sum()
        return right(trainer, member, *more)

    monkeypatch.setattr(epochs, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(epochs.Trainer, spoils, spoilt)
    with pytest.raises(TrainingError, match=words + ".*; the weights of epoch 2 are kept"):
        fit(recipe, table, out=tmp_path / "bad")
    good, bad = Run.load(tmp_path / "good"), Run.load(tmp_path / "bad")
    assert tiny.same_weights(good, bad)
    assert np.isfinite(bad.predict(tiny.PROBES)[bad.columns()]).all(axis=None)


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "full" / "thesis.tex")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_without_a_name_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = replace(tiny.regression(), source="data/mine.v2.csv")
    folders = [fit(tiny.recipe(epochs=1), table, seed=s).folder for s in range(2)]
    assert [str(folder) for folder in folders] == ["runs/mine-1", "runs/mine-2"]


def test_four_molecules_are_the_fewest(tmp_path):
    run = fit(tiny.recipe(epochs=1), tiny.regression(4), out=tmp_path / "run")
    assert run.scores["test"]["r2"]["excluded"] == ["activity"]
    assert math.isnan(run.scores["test"]["r2"]["mean"])
    parsed = json.loads((run.folder / "scores.json").read_text(), parse_constant=pytest.fail)
    assert parsed["test"]["r2"]["mean"] is None  # JSON has no NaN
    with pytest.raises(DataError, match="never differs in the 1 training rows"):
        fit(tiny.recipe(), tiny.regression(3), out=tmp_path / "three")
    for count in (1, 2):
        with pytest.raises(SplitError, match=f"{count} molecules leave none to train"):
            fit(tiny.recipe(), tiny.regression(count), out=tmp_path / "few")
