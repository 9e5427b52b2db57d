"""How far a stand-in is from the true perturbation gradient, measured while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .directions import Direction, cosine
from .generators import same_generators_after
from .sharpness import SharpnessAware

Loss = TypeVar("Loss")


class Diagnostics:
    """Takes the steps of `optimizer` and looks closely at one in `every`.

    `rows` gets one row for each step looked at, with eps = grad L(w_t), the true perturbation
    gradient, and omega, the gradient that `base` stepped with:

        t                         the step
        rho                       radius of the first param group
        cosine                    between what memory offers (`stand_in`) and eps
        eps_norm, omega_norm      global L2 norms
        eps_cosine, omega_cosine  with the eps and the omega of the row before: 1 is no change

    NaN where there is nothing to compare. Looking costs one more gradient and leaves training as
    it is, bit for bit: torch's random generators are set back, and statistics that are counted
    once (`count_statistics_once`) are not counted for it.

        watch = Diagnostics(optimizer, every=10)
        loss = watch.step(closure)

    every -> one step in `every` is looked at; >= 1.
    """

    def __init__(self, optimizer: SharpnessAware, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every={every} is no number of steps; give an integer >= 1")
        self.optimizer = optimizer
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._calls = 0
        self._before: dict[str, Direction] = {}

    def step(self, closure: Callable[[], Loss]) -> Loss:
        """A step of the optimizer, looked at if its turn has come."""
        look = self._calls % self.every == 0
        self._calls += 1
        if not look:
            return self.optimizer.step(closure)
        with same_generators_after(p.device for p in self.optimizer.trainable()):
            eps = self.optimizer.probe(closure)
        row: dict[str, Any] = {"t": self.optimizer.t, "cosine": self._agreement(eps)}
        loss = self.optimizer.step(closure)
        if eps is not None and self.optimizer.t > row["t"]:
            self._add(row, eps)
        return loss

    def means(self) -> dict[str, float]:
        """The mean of each column over the rows that have it, t and rho aside.

        `aligned` is the share of rows with cosine >= 0.
        """
        columns = ("cosine", "eps_norm", "omega_norm", "eps_cosine", "omega_cosine")
        found = {name: _known(row[name] for row in self.rows) for name in columns}
        aligned = [float(value >= 0) for value in found["cosine"]]
        return {name: _mean(values) for name, values in {**found, "aligned": aligned}.items()}

    def _agreement(self, eps: Direction | None) -> float:
        kept = self.optimizer.stand_in()
        return math.nan if kept is None or eps is None else cosine(kept, eps)

    def _add(self, row: dict[str, float], eps: Direction) -> None:
        gradients = {p: p.grad for p in self.optimizer.trainable() if p.grad is not None}
        now = {"eps": eps, "omega": Direction.of(gradients).clone()}
        row["rho"] = self.optimizer.param_groups[0]["rho"]
        for name, vector in now.items():
            before = self._before.get(name)
            row[f"{name}_norm"] = vector.norm
            row[f"{name}_cosine"] = cosine(vector, before) if before else math.nan
        self._before = now
        self.rows.append(row)


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
