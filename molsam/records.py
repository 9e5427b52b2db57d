"""`run.json`, `scalers.json` and `scores.json`: what a run is about, how it scales and scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from .files import fitting, read_json, write_json
from .metrics import Kind
from .scaling import DescriptorScaler, Standardizer


class RunInfo(BaseModel):
    """`run.json`: what a run is about and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    digest: str
    seed: int
    kind: Kind
    tasks: tuple[str, ...]
    units: tuple[str, ...]
    classes: tuple[str, ...]
    molecules: dict[str, int]
    bad_rows: tuple[tuple[int, str, str], ...]
    versions: dict[str, str]
    device: str

    @model_validator(mode="after")
    def _check(self) -> RunInfo:
        if not self.tasks or len(self.units) != len(self.tasks):
            raise ValueError("units and tasks go together")
        if (self.kind == "multiclass") != bool(self.classes):
            raise ValueError("classes and the kind go together")
        return self

    def shape(self, count: int) -> tuple[int, ...]:
        """Of so many predictions: a number a task, of multiclass labels one a class."""
        shape = (count, len(self.tasks), len(self.classes))
        return shape if self.classes else shape[:2]


@dataclass(frozen=True)
class Scalers:
    """Scales fitted on training rows; `descriptors` is None where the recipe has none."""

    target: Standardizer
    descriptors: DescriptorScaler | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        joined = self.descriptors.to_dict() if self.descriptors else None
        return {"target": self.target.to_dict(), "descriptors": joined}

    @classmethod
    def load(cls, path: Path) -> Scalers:
        """What `to_dict` gave, from a JSON file."""
        data = read_json(path)
        with fitting(path):
            target, joined = data["target"], data["descriptors"]
            descriptors = DescriptorScaler.from_dict(joined) if joined else None
            return cls(Standardizer.from_dict(target), descriptors)


def write_scores(path: Path, scores: dict[str, Any]) -> None:
    """Part -> what `metrics.score_all` gives; a mean over no task is null, for JSON has no NaN."""
    write_json(path, _with_means(scores, lambda mean: None if math.isnan(mean) else mean))


def read_scores(path: Path) -> dict[str, Any]:
    """What `write_scores` was given."""
    found = read_json(path)
    with fitting(path):
        return _with_means(found, lambda mean: math.nan if mean is None else mean)


def _with_means(scores: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        part: {name: found | {"mean": change(found["mean"])} for name, found in metrics.items()}
        for part, metrics in scores.items()
    }
