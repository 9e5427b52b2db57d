"""Search spaces: ranges, where they differ, and which fields matter beside the others."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from shell import assert_refused, molsam

from molsam import Recipe
from molsam.recipes import MODEL_CONFIGS, POLICIES, Section
from molsam.spaces import DEFAULTS, PROTOCOL, Choice, Float, Int, Space, SpaceError, value_of

EMPTY = Space().change({"*": {}})


class Drawn:
    """A trial whose values are drawn by hypothesis; keeps what it was asked for."""

    def __init__(self, draw: st.DataObject):
        self.draw, self.asked = draw, dict[str, str]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked[name] = "log" if log else "linear"
        return self.draw.draw(st.floats(low, high), name)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        self.asked[name] = "log" if log else "linear"
        return self.draw.draw(st.sampled_from(range(low, high + 1, step)), name)

    def suggest_categorical(self, name, choices):
        self.asked[name] = "choice"
        return self.draw.draw(st.sampled_from(choices), name)


def suggested(space: Space, recipe: Recipe) -> set[str]:
    """The fields that a trial of a space chooses, for the lowest of every range."""
    lowest = {k: r.ends()[0] for k, r in space.ranges.items()}
    return set(space.suggest(optuna.trial.FixedTrial(lowest), recipe))


# What is suggested


@given(st.data(), st.sampled_from(["graphsam", "sam", "samk", "none", "asam", "msam"]))
def test_every_suggestion_of_the_default_space_makes_a_recipe_within_its_ranges(data, policy):
    base = Recipe().change({"optimizer.name": policy})
    trial = Drawn(data)
    chosen = Space().suggest(trial, base)
    recipe = base.change(chosen)
    assert set(chosen) == set(trial.asked)
    for name, value in chosen.items():
        assert value_of(recipe, name) == value
        assert DEFAULTS[name].holds(value)
    options = POLICIES.get(policy, (None, ()))[1]
    for name in ("beta", "reuse_interval"):
        assert (f"optimizer.{name}" in chosen) == (name in options)
    assert ("optimizer.rho" in chosen) == ("optimizer.gamma" in chosen) == (policy != "none")
    decays = policy != "none" and recipe.optimizer.gamma < 1
    assert ("optimizer.rho_epochs" in chosen) == decays
    for name in ("model.join_dropout", "model.head_width", "data.fingerprints", "training.average"):
        assert name in chosen
    assert ("model.fingerprint_dropout" in chosen) == recipe.data.fingerprints
    assert ("data.descriptor_scale" in chosen) == recipe.data.descriptors
    others = {"model.kernel": "compt", "model.feed_forward": "graph_transformer"}
    for name, model in others.items():
        assert (name in chosen) == (recipe.model.name == model)
    untouched = set(recipe.optimizer.model_fields_set) - {n.split(".")[1] for n in chosen}
    for name in untouched:
        assert getattr(recipe.optimizer, name) == getattr(base.optimizer, name)


def test_a_field_that_is_not_searched_has_the_recipes_say_on_the_others():
    space = EMPTY.change({"rho_epochs": {"low": 1, "high": 9}, "kernel": ["exp", "softmax"]})
    assert suggested(space, Recipe()) == {"model.kernel"}
    decaying = Recipe().change({"gamma": 0.5})
    assert suggested(space, decaying) == {"model.kernel", "optimizer.rho_epochs"}
    other = decaying.change({"model.name": "graph_transformer", "optimizer.name": "none"})
    assert suggested(space, other) == set()


def test_a_policy_that_is_searched_takes_its_own_fields_with_it():
    space = EMPTY.change(
        {"alpha": {"low": 0.1, "high": 1.0}, "optimizer.name": ["looksam", "sam", "none"],
         "rho": {"low": 0.1, "high": 0.2}}
    )  # fmt: skip
    assert suggested(space, Recipe()) == {"optimizer.name", "optimizer.alpha", "optimizer.rho"}
    sam = space.change({"optimizer.name": ["sam", "none"]})
    assert suggested(sam, Recipe()) == {"optimizer.name", "optimizer.rho"}
    none = space.change({"optimizer.name": ["none", "sam"]})
    assert suggested(none, Recipe()) == {"optimizer.name"}


def test_the_width_of_the_head_matters_where_the_head_has_a_layer_within():
    space = EMPTY.change({"head_width": ["width", 8], "head_layers": [1, 2]})
    assert suggested(space, Recipe()) == {"model.head_layers"}
    both = {"model.head_layers", "model.head_width"}
    assert suggested(space.change({"head_layers": [2, 1]}), Recipe()) == both
    alone = space.change({"head_layers": {}})
    assert suggested(alone, Recipe()) == {"model.head_width"}
    assert suggested(alone, Recipe().change({"head_layers": 1})) == set()


def test_budgets_are_searched_where_a_space_says_so_alone():
    entries = {"epochs": [10, 20], "members": {"low": 1, "high": 3}}
    space = EMPTY.change(entries)
    assert not set(space.ranges) & set(DEFAULTS)
    assert suggested(space, Recipe()) == {"training.epochs", "training.members"}


@given(st.data())
def test_numbers_have_four_figures_and_stay_within_their_range(data):
    low, high = sorted(data.draw(st.tuples(st.floats(1e-6, 1.0), st.floats(1.1, 1e3))))
    for log in (True, False):
        trial = Drawn(data)
        value = Float(low=low, high=high, log=log).suggest(trial, "x")
        assert low <= value <= high
        assert value in (low, high) or float(f"{value:.4g}") == value
        assert trial.asked == {"x": "log" if log else "linear"}


def test_whole_numbers_have_steps_or_logarithms():
    assert Int(low=64, high=256, step=64).holds(192)
    assert not Int(low=64, high=256, step=64).holds(100)
    assert not Int(low=0, high=1).holds(True)
    assert Float(low=0, high=1).holds(0.5)
    assert not Float(low=0, high=1).holds(1.5)
    assert not Float(low=0, high=1).holds("epoch")
    assert not Choice(values=(1, 2)).holds(True)
    assert str(Int(low=1, high=9, step=2)) == "1 to 9, steps of 2"
    assert str(Float(low=1e-4, high=1, log=True)) == "0.0001 to 1, log"
    assert str(Choice(values=("epoch", 5, True))) == '"epoch", 5, true'


def test_the_recipe_s_own_values_are_inside_where_the_ranges_hold_them():
    own = Space().inside(Recipe())
    assert own["optimizer.lr"] == Recipe().optimizer.lr
    assert own["data.descriptors"] is True
    assert (own["training.average"], own["model.head_width"]) == (0.0, "width")
    assert "model.feed_forward" not in own  # CoMPT has none
    assert "model.width" not in Space().inside(Recipe().change({"width": 20}))
    for name in Space().inside(tiny.recipe()):
        assert DEFAULTS[name].holds(value_of(tiny.recipe(), name))


def test_the_default_recipe_is_a_trial_of_the_default_space():
    """Else a study could not begin with what it starts from."""
    matter = set(Space().suggest(optuna.trial.FixedTrial(Space().inside(Recipe())), Recipe()))
    assert matter <= set(Space().inside(Recipe()))


def test_a_space_survives_json():
    space = Space().change({"lr": {"low": 1.0, "high": 2.0}, "dropout": 0.25, "depth": [1, 2]})
    assert Space.model_validate_json(space.model_dump_json()) == space
    assert isinstance(
        Space.model_validate_json(space.model_dump_json()).ranges["optimizer.lr"], Float
    )


# Where a space differs

FILE = """
[search]
"optimizer.rho" = {low = 0.01, high = 0.2}
"model.width" = [64, 128]
depth = {low = 2, high = 8, step = 2}
"training.batch_size" = 32
"data.descriptors" = {}
reuse_interval = {low = 1, high = 64, log = true}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "space.toml"


def test_a_file_changes_fixes_and_removes(file):
    file.write_text(FILE)
    space = Space.load(file)
    expected = DEFAULTS | {
        "optimizer.rho": Float(low=0.01, high=0.2),
        "model.width": Choice(values=(64, 128)),
        "model.depth": Int(low=2, high=8, step=2),
        "optimizer.reuse_interval": Int(low=1, high=64, log=True),
    }
    gone = {"training.batch_size", "data.descriptors"}
    assert dict(space.ranges) == {k: r for k, r in expected.items() if k not in gone}
    assert space.fixed == {"training.batch_size": 32}
    assert space.recipe(Recipe()) == Recipe().change({"batch_size": 32})


def test_a_later_entry_has_the_last_word_and_patterns_remove(file):
    file.write_text('[search]\n"*" = {}\nlr = 0.1\n"optimizer.lr" = {low = 0.1, high = 0.2}\n')
    space = Space.load(file)
    assert dict(space.ranges) == {"optimizer.lr": Float(low=0.1, high=0.2)}
    assert space.fixed == {}
    assert {n.split(".")[0] for n in Space().change({"model.*": {}}).ranges} == {
        "optimizer", "training", "data",
    }  # fmt: skip
    assert Space().change({"lr": 0.5}).change({"lr": {}}).fixed == {}


def test_typed_ranges_are_taken_as_they_are():
    assert EMPTY.change({"lr": Float(low=0.1, high=0.2)}).ranges == {
        "optimizer.lr": Float(low=0.1, high=0.2)
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rhoo = 0.1", "a recipe has no field 'rhoo' (did you mean rho?)"),
        ("rho = {low = 0.1, hgih = 0.2}", "rho: high is missing; a range of this field has low"),
        ("rho = {low = 0.1, high = 0.2, stp = 1}", "rho: unknown key stp; a range of this field"),
        ("rho = {low = 0.2, high = 0.1}", "rho: low = 0.2 is not below high = 0.1"),
        ("rho = {low = 0, high = 0.1, log = true}", "low = 0 has no logarithm; try a low above 0"),
        ("rho = {low = -1, high = 0.1}", "rho: a recipe does not take -1.0 there"),
        ("rho = []", "rho: "),
        ("rho = ['small']", "a recipe does not take 'small' there: input should be a valid number"),
        ("dropout = 1.5", "dropout: a recipe does not take 1.5 there: input should be less than 1"),
        ("depth = {low = 1, high = 2.5}", "depth: high: input should be a valid integer"),
        ("depth = {low = 1, high = 4, step = 2}", "steps of 2 do not end at 4; try high = 3"),
        ("depth = {low = 1, high = 4, step = 2, log = true}", "log and step do not go together"),
        ("readout = {low = 1, high = 2}", "this field is no number; list its values"),
        ("readout = ['men']", "does not take 'men' there: input should be 'gru', 'mean' or 'sum'"),
        ("'model.name' = ['comt']", "does not take 'comt' there: input should be 'compt' or"),
        ("'data.split' = ['random']", "data.split says what is measured and cannot be searched"),
        ("'training.metric' = 'mae'", "training.metric says what is measured"),
        ("'rho?' = {}", "rho? matches no field of a recipe"),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_is_named_with_file_and_key(line, words, file):
    file.write_text(f"[search]\n{line}\n")
    with pytest.raises(SpaceError) as caught:
        Space.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_value_is_shown_in_part(file):
    file.write_text(f"[search]\nheads = '{'x' * 5000}'\n")
    with pytest.raises(SpaceError, match=r"does not take 'x+\.\.\.x+' there") as caught:
        Space.load(file)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[search", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"rho = 1", "a search space is one table [search], not rho"),
        (b"[searching]\n", "a search space is one table [search], not searching"),
        (b"", "a search space is one table [search]"),
    ],
)
def test_what_is_no_space_is_refused(text, words, file):
    file.write_bytes(text)
    with pytest.raises(SpaceError) as caught:
        Space.load(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "fits"),
    [
        ({"width": [64, 100], "heads": [4, 8]}, False),
        ({"width": {"low": 60, "high": 70}}, False),
        ({"width": {"low": 8, "high": 64, "step": 8}, "heads": [2, 4, 8]}, True),
        ({"width": 66, "heads": {}}, False),
        ({"width": 66, "heads": [2, 3]}, True),
    ],
    ids=str,
)
def test_widths_that_heads_do_not_divide_are_refused(entries, fits):
    space = EMPTY.change({"heads": [2, 4, 8]}).change(entries)
    if fits:
        space.recipe(Recipe().change({"heads": 2}))
        return
    with pytest.raises(SpaceError, match="not divisible"):
        space.recipe(Recipe())


def test_a_width_and_heads_that_are_fixed_together_need_not_fit_the_recipes():
    assert EMPTY.change({"width": 66, "heads": 3}).recipe(Recipe()).model.heads == 3


def test_the_command_names_the_fault(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.write_text("[search]\nrho = {low = 1, high = 0}\n")
    assert_refused(molsam("tune", "bundled", "--space", file), f"{file}: rho: low = 1")
    assert not (tmp_path / "runs").exists()


def test_every_default_is_a_field_and_no_part_of_the_protocol():
    for name, found in DEFAULTS.items():
        assert isinstance(found, Section)
        section, field = name.split(".")
        if section == "model":
            assert any(field in config.model_fields for config in MODEL_CONFIGS.values())
        else:
            assert field in type(getattr(Recipe(), section)).model_fields
        assert name not in PROTOCOL
        again = EMPTY.change({name: found.model_dump()})
        assert dict(again.ranges) == {name: found}
    assert math.isclose(DEFAULTS["optimizer.rho"].ends()[0], 5e-4)  # type: ignore[arg-type]
