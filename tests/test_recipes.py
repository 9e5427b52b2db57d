"""Recipes: what is written is what is read, what is wrong is named, and each task has one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import Adam, AdamW

from molsam import datasets, fit, recipes
from molsam.criteria import loss_name, metric_name
from molsam.datasets import TASKS
from molsam.losses import KINDS
from molsam.models import CoMPTConfig, GraphTransformerConfig
from molsam.optim import SAM, GraphSAM
from molsam.recipes import OptimizerConfig, Recipe, RecipeError, parse_value

NORMS = ("layer", "scale")
# Tasks of which no copy was at hand.
UNSEEN = [name for name, task in TASKS.items() if not any(task.editions.values())]
SPLITS = ("random", "paper", "scaffold", "balanced_scaffold", "stratified", "k_fold")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(1, 10**6)


def maybe(values):
    return st.none() | values


@st.composite
def model_tables(draw):
    heads = draw(st.integers(1, 8))
    shared = {
        "width": heads * draw(st.integers(1, 100)),
        "heads": heads,
        "depth": draw(COUNT),
        "dropout": draw(st.floats(0, 1, exclude_max=True)),
        "readout": draw(st.sampled_from(["gru", "mean", "sum"])),
        "join_dropout": draw(st.floats(0, 1, exclude_max=True)),
        "fingerprint_dropout": draw(st.floats(0, 1, exclude_max=True)),
        "head_layers": draw(COUNT),
        "head_width": draw(COUNT | st.just("width")),
    }
    if draw(st.booleans()):
        kernel, norm = draw(st.sampled_from(["exp", "softmax"])), draw(st.sampled_from(NORMS))
        return shared | {"name": "compt", "kernel": kernel, "norm": norm, "positions": draw(COUNT)}
    return shared | {"name": "graph_transformer", "feed_forward": draw(COUNT)}


OPTIMIZERS = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*recipes.POLICIES, "none"]),
        "base": st.sampled_from(["adamw", "adam"]),
        "lr": st.floats(0, 1e300, exclude_min=True),
        "weight_decay": st.floats(0, 1e300),
        "rho": st.floats(0, 1e300),
        "beta": st.floats(0, 1, exclude_max=True),
        "reuse_interval": COUNT | st.sampled_from(["epoch", "2 epochs", "12 epochs", "never"]),
        "normalize_anchor": st.booleans(),
        "alpha": st.floats(0, 1e300),
        "probability": st.floats(0, 1),
        "lambda_1": st.floats(-1e300, 1e300),
        "lambda_2": st.floats(-1e300, 1e300),
        "delta": st.floats(0, 1, exclude_max=True),
        "gamma": st.floats(0, 1, exclude_min=True),
        "rho_epochs": COUNT,
        "start": st.integers(0, 10**6) | st.floats(0, 1, exclude_max=True),
        "masks": st.sampled_from(["fresh", "same"]),
    }
)
TRAININGS = st.fixed_dictionaries(
    {
        "epochs": COUNT,
        "batch_size": COUNT,
        "schedule": st.sampled_from(["constant", "noam", "one_cycle", "cosine"]),
        "warmup": st.floats(0, 1),
        "clip_norm": maybe(st.floats(0, 1e300, exclude_min=True)),
        "patience": maybe(COUNT),
        "loss": maybe(st.sampled_from(["mse", "bce", "cross_entropy"])),
        "metric": maybe(TEXT),
        "average": st.floats(0, 1, exclude_max=True),
        "members": COUNT,
        "precision": st.sampled_from(["float32", "bfloat16"]),
        "compile": st.booleans(),
        "sharpness_every": maybe(COUNT),
    }
)


@st.composite
def data_tables(draw):
    train, valid = draw(st.floats(0.1, 0.8)), draw(st.floats(0.05, 0.1))
    split = draw(st.sampled_from([*SPLITS, "column", "file"]))
    return {
        "smiles_column": draw(maybe(TEXT)),
        "targets": tuple(draw(st.lists(TEXT, max_size=3))),
        "salts": draw(st.sampled_from(["keep", "largest", "refuse"])),
        "charges": draw(st.sampled_from(["keep", "neutralize"])),
        "descriptors": draw(st.booleans()),
        "fingerprints": draw(st.booleans()),
        "split": split,
        "split_seed": draw(maybe(st.integers(0, 2**62))),
        "split_column": draw(TEXT) if split == "column" else None,
        "split_file": draw(TEXT) if split == "file" else None,
        "folds": draw(st.integers(3, 100)),
        "fractions": (train, valid, 1 - train - valid),
    }


RECIPES = st.fixed_dictionaries(
    {
        "task": maybe(TEXT),
        "model": model_tables(),
        "optimizer": OPTIMIZERS,
        "training": TRAININGS,
        "data": data_tables(),
    }
).map(Recipe.parse)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(path: Path | str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Files


@settings(max_examples=100)
@given(recipe=RECIPES)
def test_a_saved_recipe_loads_as_it_was(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.save(path)
    assert Recipe.load(path) == recipe


def test_a_saved_recipe_spells_out_the_defaults(write):
    text = Recipe().to_toml()
    assert Recipe.load(write(text)) == Recipe()
    for section in ("model", "optimizer", "training", "data"):
        for field, value in getattr(Recipe(), section):
            assert (f"\n{field} = " in text) == (value is not None), field


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes(name):
    recipe = Recipe.load(name)
    assert recipe.task == (None if name == "default" else name)
    assert recipe.task is None or recipe.task in TASKS


def test_every_task_has_a_recipe_that_is_judged_as_moleculenet_judges_it():
    assert set(recipes.names()) == {*TASKS, "default"}
    for name, task in TASKS.items():
        settings = Recipe.load(name).training
        assert metric_name(settings, task.kind) == task.metric
        assert KINDS[loss_name(settings, task.kind)] == task.kind


def test_a_recipe_that_was_never_run_says_so():
    headers = {name: recipes.find(name).read_text().partition("\n\n")[0] for name in TASKS}
    assert {name for name, header in headers.items() if "Never run here." in header} == set(UNSEEN)


@pytest.mark.filterwarnings("error::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("name", UNSEEN)
def test_a_table_with_the_columns_of_a_task_trains_by_its_recipe(name, tmp_path, monkeypatch):
    task = TASKS[name]
    columns = task.targets or tuple(f"assay {i}" for i in range(min(task.columns, 128)))
    smiles, draw = tiny.regression().smiles, np.random.default_rng(0)
    y = draw.normal(size=(len(smiles), len(columns)))
    if task.kind == "binary":
        y = np.where(draw.random(y.shape) < 0.3, np.nan, y > 0)
    frame = pd.DataFrame(y, columns=columns).convert_dtypes()
    frame.insert(0, task.smiles, smiles)
    heads = [column.removesuffix(".1") for column in frame]  # as QM8 is published
    frame.to_csv(tmp_path / task.file, index=False, header=heads)
    published = replace(task, editions={len(frame): None}, columns=len(columns))
    monkeypatch.setitem(TASKS, name, published)
    recipe = Recipe.load(name)
    small = recipe.change({"epochs": 1, "width": 8, "depth": 1, "heads": 1})
    with tiny.undrawn():
        run = fit(small, datasets.load(name, data_dir=tmp_path), out=tmp_path / "run")
    assert math.isfinite(run.scores["valid"][task.metric]["mean"])
    assert run.info.tasks == columns
    assert tiny.history(run).columns.str.fullmatch(f"valid_{task.metric}").sum() == 1


def test_the_default_recipe_is_five_models_of_the_defaults_and_a_process():
    assert Recipe.load("default") == Recipe().change({"members": 5, "gaussian_process": True})


def test_an_empty_file_is_the_defaults_and_a_model_is_compt_unless_named(write):
    assert Recipe.load(write("")) == Recipe()
    recipe = Recipe.load(write("[model]\nkernel = 'softmax'"))
    assert recipe.model == CoMPTConfig(kernel="softmax")
    recipe = Recipe.load(write("[model]\nname = 'graph_transformer'\nmax_distance = 5"))
    assert recipe.model == GraphTransformerConfig(max_distance=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\nbetta = 0.9", "unknown key optimizer.betta (did you mean beta?)"),
        ("[optimiser]\nbeta = 0.9", "unknown key optimiser (did you mean optimizer?)"),
        ("[model]\nwdth = 8", "unknown key model.wdth (did you mean width?)"),
        ("[data]\nzzz = 8", "unknown key data.zzz"),
        ("[compt]\nwidth = 8", "unknown key compt"),
        ("[model]\nname = 'graph_transformer'\nkernel = 'exp'", "unknown key model.kernel"),
        ("[model]\nname = 'comppt'", "no model 'comppt' (did you mean compt?); there are compt, "),
        ("model = 3", "model: input should be a valid dictionary"),
        ("task = 5", "task: input should be a valid string, not 5"),
        ("[data]\ntargets = 'y'", "data.targets: input should be a list, not 'y'"),
        ("[optimizer]\nlr = 'fast'", "optimizer.lr: input should be a valid number"),
        ("[optimizer]\nlr = nan", "optimizer.lr: input should be a finite number, not nan"),
        ("[optimizer]\nlr = 0", "optimizer.lr: input should be greater than 0, not 0"),
        ("[optimizer]\nrho = -0.1", "optimizer.rho: input should be greater than or equal to 0"),
        ("[optimizer]\nbeta = 1", "optimizer.beta: input should be less than 1, not 1"),
        ("[optimizer]\nreuse_interval = 0", "optimizer.reuse_interval: input should be greater"),
        ("[optimizer]\nreuse_interval = 'x'", "optimizer.reuse_interval: input should be a valid"),
        ("[optimizer]\nreuse_interval = '0 epochs'", "optimizer.reuse_interval: input should be"),
        ("[optimizer]\nname = 'sum'", "optimizer.name: input should be 'graphsam', 'sam',"),
        ("[optimizer]\nstart = 1.5", "optimizer.start: "),
        ("[optimizer]\nstart = -1", "optimizer.start: "),
        ("[optimizer]\nname = 'none'\ndiagnose_every = 5", "diagnose_every needs a policy"),
        ("[training]\nepochs = 2.5", "training.epochs: input should be a valid integer"),
        ("[training]\nloss = 'rmse'", "training.loss: input should be 'mse', 'mae',"),
        ("[model]\ndropout = 1.0", "model.dropout: input should be less than 1"),
        ("[model]\nwidth = 10\nheads = 4", "width 10 is not divisible by heads 4; try width = 12"),
        ("[data]\ntargets = ['a', 2]", "data.targets.1: input should be a valid string, not 2"),
        ("[data]\nsplit = 'colum'", "data.split: input should be 'random', "),
        ("[data]\nsplit = 'column'", "split = 'column' and split_column go together"),
        ("[data]\nsplit_column = 'fold'", "split = 'column' and split_column go together"),
        ("[data]\nsplit = 'file'", "split = 'file' and split_file go together"),
        ("[data]\nsplit_file = 'a.json'", "split = 'file' and split_file go together"),
        ("[data]\nfractions = [0.8, 0.2]", "data.fractions.2: field required"),
        ("[data]\nfractions = [0.8, 0.1, 0.2]", "must sum to 1 and be positive"),
        ("[data]\nfractions = [0.9, 0.0, 0.1]", "the last may be 0"),
        ("[data]\nfractions = [1.0, 0.1, -0.1]", "the last may be 0"),
        ("rho = ", "is not valid TOML"),
        ("[data]\n[data]", "is not valid TOML"),
        (b"task = '\xff'", "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(write, text, message):
    path = write(text)
    found = refusal(path)
    assert found.startswith(str(path))
    assert message in found


def test_recipes_that_are_not_there(tmp_path, monkeypatch):
    assert "no recipe 'esoll' (did you mean esol?); there are bace, bbbp," in refusal("esoll")
    assert "no recipe file nowhere.toml" in refusal("nowhere.toml")
    assert "no recipe" in refusal(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("esol").write_text("task = 'mine'")
    assert Recipe.load("esol").task == "esol"
    assert Recipe.load("./esol").task == "mine"


# Changes


def test_change_by_full_and_by_short_key():
    recipe = Recipe().change({"optimizer.rho": 0.5, "epochs": 7, "task": "mine", "width": 64})
    assert (recipe.optimizer.rho, recipe.training.epochs) == (0.5, 7)
    assert (recipe.task, recipe.model.width) == ("mine", 64)
    default = Recipe()
    back = {"rho": default.optimizer.rho, "training.epochs": default.training.epochs}
    assert recipe.change({**back, "width": default.model.width, "task": None}) == default
    assert Recipe().change({}) == Recipe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sam"}, "'name' is ambiguous: say one of optimizer.name, model.name"),
        ({"epoch": 1}, "no field 'epoch' (did you mean epochs?)"),
        ({"optimizer.epochs": 1}, "no field 'optimizer.epochs'"),
        ({"training.epoch": 1}, "no field 'training.epoch' (did you mean training.epochs?)"),
        ({"model": "compt"}, "no field 'model'"),
        ({"epochs": 0}, "training.epochs: input should be greater than or equal to 1, not 0"),
        ({"max_distance": 3}, "unknown key model.max_distance"),
        ({"model.name": "gnn"}, "no model 'gnn'; there are compt, graph_transformer"),
        ({"model.name": ["compt"]}, "no model ['compt']"),
        ({"split": "column"}, "split = 'column' and split_column go together"),
    ],
)
def test_changes_that_cannot_be_made(changes, message):
    with pytest.raises(RecipeError) as caught:
        Recipe().change(changes)
    assert message in str(caught.value)


def test_every_field_has_a_key_of_its_own():
    for section in ("model", "optimizer", "training", "data"):
        for field, value in getattr(Recipe(), section):
            assert Recipe().change({f"{section}.{field}": value}) == Recipe()
            if field != "name":
                assert Recipe().change({field: value}) == Recipe()


def test_another_model_keeps_the_fields_that_both_have():
    recipe = Recipe().change({"kernel": "softmax", "width": 96, "heads": 6, "readout": "sum"})
    other = recipe.change({"max_degree": 3, "model.name": "graph_transformer", "depth": 2})
    assert other.model == GraphTransformerConfig(
        width=96, heads=6, readout="sum", max_degree=3, depth=2
    )
    back = other.change({"model.name": "compt"}).model
    assert back == CoMPTConfig(width=96, heads=6, readout="sum", depth=2)


def test_recipes_are_frozen():
    recipe = Recipe()
    for section, field in ((recipe, "task"), (recipe.model, "width"), (recipe.optimizer, "rho")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1e-3", 1e-3),
        ("7", 7),
        ("true", True),
        ("[0.8, 0.1, 0.1]", [0.8, 0.1, 0.1]),
        ("'quoted'", "quoted"),
        ("scaffold", "scaffold"),
        ("True", "True"),
        ("", ""),
        ("a = b", "a = b"),
    ],
)
def test_parse_value(text, value):
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


# Optimizers


@pytest.mark.parametrize(("base", "kind"), [("adam", Adam), ("adamw", AdamW)])
def test_optimizers_are_built_as_written(base, kind):
    model = torch.nn.Linear(3, 2)
    config = OptimizerConfig(base=base, lr=0.25, weight_decay=0.125, rho=0.5, beta=0.75)

    def build(name, **changes) -> Any:
        changed = config.model_copy(update={"name": name, **changes})
        return changed.build(model, steps=100, seed=7)

    plain = build("none")
    assert type(plain) is kind
    for optimizer in (plain, build("sam").base, build("graphsam").base):
        (group,) = optimizer.param_groups
        assert type(optimizer) is kind
        assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
        assert group["betas"] == (0.9, 0.999)
        assert list(map(id, group["params"])) == list(map(id, model.parameters()))
    sam = build("sam")
    assert type(sam) is SAM
    assert sam.param_groups[0]["rho"] == 0.5
    graphsam = build("graphsam", normalize_anchor=True)
    assert type(graphsam) is GraphSAM
    assert (graphsam.param_groups[0]["rho"], graphsam.param_groups[0]["beta"]) == (0.5, 0.75)
    assert (graphsam.reuse_interval, graphsam.normalize_anchor) == (None, True)
    assert build("graphsam", reuse_interval=20).reuse_interval == 20
    aesam = build("aesam", lambda_1=-3.0, lambda_2=2.0, delta=0.5)
    assert (aesam.steps, aesam.lambda_1, aesam.lambda_2, aesam.delta) == (100, -3.0, 2.0, 0.5)
    rst, looksam = build("rst", probability=0.25), build("looksam", alpha=0.5, reuse_interval=8)
    assert (rst.probability, rst.seed) == (0.25, 7)
    assert (looksam.alpha, looksam.reuse_interval) == (0.5, 8)


@pytest.mark.parametrize("name", recipes.POLICIES)
def test_every_policy_is_built(name):
    config = OptimizerConfig(name=name, rho=0.5)
    optimizer = config.build(torch.nn.Linear(3, 2), steps=100, seed=0)
    assert type(optimizer).__name__.lower() == name
    assert [group["rho"] for group in optimizer.param_groups] == [0.5]
    anchored = name in ("graphsam", "samk", "looksam")
    for interval, epochs in {
        "epoch": 1,
        "2 epochs": 2,
        "12 epochs": 12,
        "never": None,
        5: None,
    }.items():
        every = OptimizerConfig.model_validate({"name": name, "reuse_interval": interval})
        assert every.anchor_epochs == (epochs if anchored else None)


@pytest.mark.parametrize(("start", "step"), [(0, 0), (30, 30), (0.25, 50), (0.999, 200)])
def test_a_late_start_in_steps_or_as_a_share(start, step):
    config = OptimizerConfig(name="sam", start=start)
    assert config.build(torch.nn.Linear(3, 2), steps=200, seed=0).start == step


@pytest.mark.parametrize("name", ["sam", "graphsam"])
@given(rho=st.floats(0, 1), gamma=st.floats(0.01, 1), every=st.integers(1, 5))
def test_radius_decays_as_equation_4_says(name, rho, gamma, every):
    config = OptimizerConfig(name=name, rho=rho, gamma=gamma, rho_epochs=every)
    optimizer = config.build(torch.nn.Linear(2, 1), steps=10, seed=0)
    schedule = config.rho_schedule(optimizer)
    assert schedule is not None
    for epoch in range(12):
        assert optimizer.param_groups[0]["rho"] == rho * gamma ** (epoch // every)
        schedule.step()


def test_a_base_optimizer_has_no_radius_to_decay():
    config = OptimizerConfig(name="none", gamma=0.5)
    assert config.rho_schedule(config.build(torch.nn.Linear(2, 1), steps=10, seed=0)) is None
