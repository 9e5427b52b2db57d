"""Search spaces: which fields of a recipe are searched, and between which values.

`Space()` holds the ranges that molsam searches. A TOML file says where a search differs:

    [search]
    "optimizer.rho" = {low = 0.001, high = 0.1, log = true}   # another range
    "model.width" = [64, 128, 256]                            # these values
    "training.batch_size" = 32                                # this value, in every trial
    "data.descriptors" = {}                                   # not searched: as the recipe says
    "model.*" = {}                                            # nor any field of the model
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias, get_args

import tomlkit
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from tomlkit.exceptions import TOMLKitError

from .recipes import MODEL_CONFIGS, POLICIES, SECTIONS, Recipe, RecipeError, Section, full_key

Value = str | int | float | bool


class SpaceError(ValueError):
    """A search space that cannot be used: says which file, which key, and what to try."""


class Suggest(Protocol):
    """The part of an Optuna trial that a range needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


def _check_ends(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low = {low:g} is not below high = {high:g}; write one value alone")
    if log and low <= 0:
        raise ValueError(f"low = {low:g} has no logarithm; try a low above 0, or leave log out")


class Float(Section):
    """A number between `low` and `high`, both included; `log`: drawn by its logarithm."""

    low: float = Field(description="the lowest value")
    high: float = Field(description="the highest, above low")
    log: bool = Field(default=False, description="draw the logarithm evenly; low is above 0 then")

    @model_validator(mode="after")
    def _check(self) -> Float:
        _check_ends(self.low, self.high, self.log)
        return self

    def suggest(self, trial: Suggest, name: str) -> float:
        """A value to four figures, which a person can read and write again."""
        value = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.4g}")
        return min(max(value, self.low), self.high)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + ", log" * self.log


class Int(Section):
    """A whole number `low`, `low + step`, ... up to `high`; `log`: drawn by its logarithm."""

    low: int = Field(description="the lowest value")
    high: int = Field(description="the highest, whole steps above low")
    step: int = Field(default=1, ge=1, description="from value to value; 1 with log")
    log: bool = Field(default=False, description="draw the logarithm evenly; low is above 0 then")

    @model_validator(mode="after")
    def _check(self) -> Int:
        _check_ends(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("log and step do not go together; leave one out, or list the values")
        if (self.high - self.low) % self.step:
            last = self.high - (self.high - self.low) % self.step
            raise ValueError(f"steps of {self.step} do not end at {self.high}; try high = {last}")
        return self

    def suggest(self, trial: Suggest, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and value in range(self.low, self.high + 1, self.step)

    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def __str__(self) -> str:
        steps = f", steps of {self.step}" if self.step > 1 else ""
        return f"{self.low} to {self.high}{steps}" + ", log" * self.log


class Choice(Section):
    """One of some values."""

    values: tuple[Value, ...] = Field(min_length=1, description="at least one")

    def suggest(self, trial: Suggest, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Any) -> bool:
        return any(
            value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values
        )

    def ends(self) -> tuple[Value, ...]:
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(_toml, self.values))


Range: TypeAlias = Float | Int | Choice

DEFAULTS: dict[str, Range] = {
    "optimizer.lr": Float(low=1e-4, high=3e-3, log=True),
    "optimizer.weight_decay": Float(low=1e-6, high=1e-1, log=True),
    "optimizer.rho": Float(low=5e-4, high=1e-1, log=True),
    "optimizer.reuse_interval": Choice(values=("epoch", 5, 20, 50)),
    "optimizer.beta": Choice(values=(0.5, 0.9, 0.95, 0.99)),
    "optimizer.gamma": Choice(values=(1.0, 0.9, 0.7, 0.5)),
    "optimizer.rho_epochs": Int(low=1, high=20, log=True),
    "training.schedule": Choice(values=("one_cycle", "cosine", "noam", "constant")),
    "training.warmup": Float(low=0.0, high=0.4),
    "training.batch_size": Choice(values=(16, 32, 64, 128)),
    "training.average": Choice(values=(0.0, 0.98, 0.99, 0.998)),
    "model.name": Choice(values=("compt", "graph_transformer")),
    "model.width": Choice(values=(64, 128, 256)),
    "model.depth": Int(low=1, high=6),
    "model.heads": Choice(values=(2, 4, 8)),
    "model.dropout": Float(low=0.0, high=0.5),
    "model.readout": Choice(values=("mean", "sum", "gru")),
    "model.join_dropout": Float(low=0.0, high=0.5),
    "model.fingerprint_dropout": Choice(values=(0.5, 0.8, 0.9)),
    "model.head_width": Choice(values=("width", 128, 512)),
    "model.fading": Float(low=0.05, high=3.0, log=True),
    "model.kernel": Choice(values=("exp", "softmax")),
    "model.feed_forward": Choice(values=(128, 256, 512)),
    "model.attention_dropout": Float(low=0.0, high=0.3),
    "data.featurizer": Choice(values=("compt", "canonical", "attentivefp")),
    "data.descriptors": Choice(values=(True, False)),
    "data.descriptor_scale": Choice(values=("robust", "ranked")),
    "data.fingerprints": Choice(values=(True, False)),
}
# What is predicted, from which rows, and how it is judged: the same in every trial.
PROTOCOL = (
    "task",
    "training.metric",
    "data.smiles_column",
    "data.targets",
    "data.kind",
    "data.split",
    "data.split_seed",
    "data.split_column",
    "data.split_file",
    "data.folds",
    "data.fractions",
)
# Others depend on their values.
FIRST = (
    "model.name",
    "model.head_layers",
    "optimizer.name",
    "optimizer.gamma",
    "data.descriptors",
    "data.fingerprints",
)
PERTURBATION = ("rho", "gamma", "rho_epochs", "start", "masks")
OPTIONS = {name for _, names in POLICIES.values() for name in names} & set(
    SECTIONS["optimizer"].model_fields
)


class Space(Section):
    """Ranges of recipe fields, by `section.field`, and values that hold in every trial."""

    ranges: Mapping[str, Range] = Field(
        default=DEFAULTS, description="what is searched: field -> range"
    )
    fixed: Mapping[str, Any] = Field(default={}, description="what holds: field -> value")

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """The default space with the changes of a TOML file's table `[search]`."""
        try:
            tables = tomlkit.parse(Path(path).read_text(encoding="utf-8")).unwrap()
        except UnicodeDecodeError as error:
            raise SpaceError(f"{path} is not UTF-8 text; save it as UTF-8") from error
        except TOMLKitError as error:
            raise SpaceError(f"{path} is not valid TOML: {error}") from error
        other = [key for key in tables if key != "search"]
        if other or not isinstance(tables.get("search"), Mapping):
            found = f", not {other[0]}" if other else ""
            raise SpaceError(f"{path}: a search space is one table [search]{found}")
        return cls().change(tables["search"], where=str(path))

    def change(self, entries: Mapping[str, Any], where: str = "space") -> Space:
        """A space with other entries, in order; `where` names them in errors.

        A range or the table of one, a list of values to choose from, one value for every trial, or
        `{}` for what the recipe says. With `{}` a key may be a pattern: `"*": {}` clears the space.
        """
        ranges, fixed = dict(self.ranges), dict(self.fixed)
        for key, entry in entries.items():
            for name in _matching(key, where) if entry == {} else [_field(key, where)]:
                ranges.pop(name, None)
                fixed.pop(name, None)
                if isinstance(entry, Float | Int | Choice | list | tuple | dict) and entry:
                    ranges[name] = _range(name, entry, f"{where}: {key}")
                elif entry != {}:
                    fixed[name] = _checked(name, entry, f"{where}: {key}")
        return Space(ranges=ranges, fixed=fixed)

    def recipe(self, recipe: Recipe) -> Recipe:
        """`recipe` with the values that hold in every trial.

        Raises:
            SpaceError: trials of it could not be made.
        """
        try:
            recipe = recipe.change(self.fixed)
        except RecipeError as error:
            raise SpaceError(f"the values of the search space make no recipe: {error}") from error
        for width in self._values("model.width", recipe):
            for heads in self._values("model.heads", recipe):
                if width % heads:
                    raise SpaceError(
                        f"model.width = {width} is not divisible by model.heads = {heads}, and a "
                        "trial may have both; list values that fit, or give a step"
                    )
        return recipe

    def suggest(self, trial: Suggest, recipe: Recipe) -> dict[str, Value]:
        """A value for each field that matters beside the others; `recipe` has those not searched.

        `optimizer.rho_epochs` matters where `optimizer.gamma` is below 1, `model.head_width` where
        `model.head_layers` is above 1, a model's own fields where it is the model, a policy's own
        where it is the policy.
        """
        chosen: dict[str, Value] = {}
        for key in sorted(self.ranges, key=lambda key: key not in FIRST):
            if _matters(key, lambda other: chosen.get(other, value_of(recipe, other))):
                chosen[key] = self.ranges[key].suggest(trial, key)
        return chosen

    def inside(self, recipe: Recipe) -> dict[str, Value]:
        """The recipe's own values of the fields that are searched, where the ranges hold them."""
        own = {key: value_of(recipe, key) for key in self.ranges}
        return {key: value for key, value in own.items() if self.ranges[key].holds(value)}

    def require(self, recipe: Recipe, keys: Iterable[str]) -> None:
        """Refuse values of those fields of `recipe` that no trial could have.

        Raises:
            SpaceError: a field is searched, and its range does not hold the recipe's value.
        """
        own = self.inside(recipe)
        for key in map(full_key, keys):
            if key in self.ranges and key not in own:
                value = _toml(value_of(recipe, key))
                raise SpaceError(
                    f"{key} = {value} is not among what is searched ({self.ranges[key]}); a search "
                    f'space with "{key}" = {value} keeps it so in every trial'
                )

    def _values(self, key: str, recipe: Recipe) -> Iterator[int]:
        found = self.ranges.get(key)
        if isinstance(found, Int):
            yield from range(found.low, found.high + 1, found.step)
        else:
            yield from found.ends() if found else (value_of(recipe, key),)  # type: ignore[misc]


def value_of(recipe: Recipe, key: str) -> Any:
    """The recipe's value of `section.field`; None of a field that its model has not."""
    section, field = key.split(".")
    return getattr(getattr(recipe, section), field, None)


def _matters(key: str, value: Callable[[str], Any]) -> bool:
    """Whether a field does anything beside the values of the others."""
    section, field = key.split(".")
    if field == "head_width":
        return value("model.head_layers") > 1
    if field == "descriptor_scale":
        return value("data.descriptors")
    if field == "fingerprint_dropout":
        return value("data.fingerprints")
    if section == "model":
        return field in MODEL_CONFIGS[value("model.name")].model_fields
    if section != "optimizer":
        return True
    policy = value("optimizer.name")
    if field in PERTURBATION and policy == "none":
        return False
    if field == "rho_epochs":
        return value("optimizer.gamma") < 1
    return field not in OPTIONS or field in POLICIES.get(policy, (None, ()))[1]


def _matching(pattern: str, where: str) -> list[str]:
    if not any(mark in pattern for mark in "*?["):
        return [_field(pattern, where)]
    names = [name for name in _searchable() if fnmatch(name, pattern)]
    if not names:
        raise SpaceError(f"{where}: {pattern} matches no field of a recipe")
    return names


def _searchable() -> list[str]:
    models = dict.fromkeys(f for config in MODEL_CONFIGS.values() for f in config.model_fields)
    names = [f"{name}.{f}" for name, section in SECTIONS.items() for f in section.model_fields]
    return [n for n in [*names, *(f"model.{f}" for f in models)] if n not in PROTOCOL]


def _field(key: str, where: str) -> str:
    """The full name of a field that may be searched."""
    try:
        name = full_key(key)
    except RecipeError as error:
        raise SpaceError(f"{where}: {error}") from error
    if name in PROTOCOL:
        raise SpaceError(
            f"{where}: {name} says what is measured and cannot be searched; set it in the recipe"
        )
    return name


def _range(name: str, entry: Any, where: str) -> Range:
    """The range that a list, a table or a range means for a field, with both ends checked."""
    kind = type(entry) if isinstance(entry, Float | Int | Choice) else _kind(name, entry, where)
    given = {"values": entry} if isinstance(entry, list | tuple) else entry
    try:
        found = kind.model_validate(given)
    except ValidationError as error:
        raise SpaceError(f"{where}: {_explain(error, kind)}") from error
    for value in found.ends():
        _checked(name, value, where)
    return found


def _kind(name: str, entry: Any, where: str) -> type[Range]:
    if isinstance(entry, list | tuple) or "values" in entry:
        return Choice
    numbers = {float: Float, int: Int}
    found = [kind for number, kind in numbers.items() if number in set(_types(_annotation(name)))]
    if not found:
        raise SpaceError(f"{where}: this field is no number; list its values, as in [...]")
    return found[0]


def _annotation(name: str) -> Any:
    """The type of a field with its bounds; of a field that several models have, the first's."""
    section, field = name.split(".")
    tables = MODEL_CONFIGS.values() if section == "model" else [SECTIONS[section]]
    if name == "model.name":
        return Literal[tuple(MODEL_CONFIGS)]  # type: ignore[valid-type]
    info = next(table.model_fields[field] for table in tables if field in table.model_fields)
    return Annotated[info.annotation, info]  # type: ignore[valid-type]


def _types(annotation: Any) -> Iterator[type]:
    """The plain types within a union or an annotated type."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _checked(name: str, value: Any, where: str) -> Any:
    """`value`, if the recipe's field takes it."""
    try:
        return TypeAdapter(_annotation(name)).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SpaceError(
            f"{where}: a recipe does not take {value!r} there: {reason[0].lower()}{reason[1:]}"
        ) from error


def _explain(error: ValidationError, kind: type[Range]) -> str:
    fault = error.errors()[0]
    keys = ", ".join(kind.model_fields)
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place}; a range of this field has {keys}"
    if fault["type"] == "missing":
        return f"{place} is missing; a range of this field has {keys}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}{': ' if place else ''}{message[0].lower()}{message[1:]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _toml(value: Value) -> str:
    return tomlkit.item(value).as_string()
