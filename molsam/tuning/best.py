"""What a study leaves: its best trial as a recipe file with the evidence."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version
from statistics import mean
from typing import TYPE_CHECKING, Any

import tomlkit
from pydantic import BaseModel
from tomlkit.items import Table

from ..environment import provenance
from ..recipes import MODEL_CONFIGS, SECTIONS, Recipe
from ..spaces import Space
from .objective import FIRST_SEED

if TYPE_CHECKING:
    from .study import Study


def to_toml(study: Study, command: str) -> str:
    """Where the best recipe differs from the defaults, or was searched, and why."""
    document = tomlkit.document()
    for line in _evidence(study, command):
        document.add(tomlkit.comment(line))
    recipe, searched = study.best, study.best_fields
    if recipe.task is not None:
        document.add(tomlkit.nl())
        document.add("task", tomlkit.item(recipe.task))
    for section, kind in (("model", MODEL_CONFIGS[recipe.model.name]), *SECTIONS.items()):
        table = _table(section, kind, recipe, searched, study.space)
        if table:
            document.add(tomlkit.nl())
            document.add(section, table)
    return tomlkit.dumps(document)


def _table(
    section: str, kind: type[BaseModel], recipe: Recipe, searched: dict[str, Any], space: Space
) -> Table:
    table = tomlkit.table()
    values = getattr(recipe, section).model_dump(mode="json")
    for field, info in sorted(kind.model_fields.items(), key=lambda item: item[0] != "name"):
        name, value = f"{section}.{field}", values[field]
        if name in searched:
            item = tomlkit.item(value)
            item.comment(f"searched: {space.ranges[name]}")
            table.add(field, item)
        elif getattr(getattr(recipe, section), field) != info.default:
            table.add(field, tomlkit.item(value))
    return table


def _evidence(study: Study, command: str) -> list[str]:
    """Where the recipe comes from, a line each."""
    best, request, counts = study.best_trial, study.request, study.counts()
    scores = study.scores(best)
    seeds = ", ".join(str(FIRST_SEED + repeat) for repeat in scores)
    each = ", ".join(f"{score:.4g}" for score in scores.values())
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    versions = {**provenance(), "optuna": version("optuna")}
    first = study.first
    before = "" if first is None else f" The recipe it started from: {mean(first.values()):.4g}."
    return [
        f"Trial {best.number} of the study {study.request.name} on {request.source}: {states}.",
        f"{request.metric} {best.value:.4g} on validation rows ({each} on split seeds {seeds}); no "
        f"test row was looked at.{before}",
        "The best of many trials looks better than it is: train it on other seeds.",
        f"{date.today().isoformat()}: {command}",
        ", ".join(f"{name} {text}" for name, text in versions.items()),
    ]
