"""How flat the loss is around the weights of runs, side by side: numbers, curves, contours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import landscape
from .datasets import MoleculeTable
from .epochs import Trainer
from .files import RunError, read_json, write_csv
from .pictures import GREY, new_figure, save_figure
from .preparation import load_table, prepare
from .runs import Run
from .splits import PARTS
from .training import as_read

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

REACH = 1.0  # as far as a step that could replace the weights
PLACES = ["a", "b"]


@dataclass(frozen=True)
class Surroundings:
    """The loss of a run's first model on training rows, at its weights and around them.

    Attributes
    ----------
    name : of the run.
    loss, top_eigenvalue, trace, trace_error : of the loss and its Hessian at the weights; the last
        is the standard error of the trace.
    plane : a row for each place (a, b), the loss at w + a d + b e with d and e of `seed`,
        filter-normalised.
    """

    name: str
    loss: float
    top_eigenvalue: float
    trace: float
    trace_error: float
    plane: pd.DataFrame


def survey(
    run: Run,
    data: MoleculeTable | str | Path,
    *,
    name: str | None = None,
    seed: int = 0,
    points: int = 15,
) -> Surroundings:
    """Look around the weights of a run, on up to 512 of the rows that it was trained on.

    data -> that of the run, as `fit` takes it; points -> on each axis of the plane, odd, so that
    the weights themselves are one.

    Raises
    ------
    RunError : other data than the run's, or an even number of points.
    """
    if points < 3 or points % 2 == 0:
        raise RunError(f"{points} points: take an odd number from 3 on, so that one is the weights")
    import pandas as pd

    is_read = isinstance(data, MoleculeTable)
    table = data if is_read else load_table(run.recipe, data, kind=run.info.kind)
    trainer = trainer_of(run, table)
    model = run.models[0]
    terms, parameters = trainer.loss_terms(model), list(model.parameters())
    generator = torch.Generator(run.device).manual_seed(seed)
    directions = [landscape.filter_normalized(parameters, generator=generator) for _ in PLACES]
    axis = np.linspace(-REACH, REACH, points)
    places = list(product(axis, axis))
    losses = landscape.losses_along(terms, parameters, directions, places)
    mean, error = landscape.trace(terms, parameters, generator=generator)
    plane = pd.DataFrame(places, columns=PLACES).assign(loss=losses)
    return Surroundings(
        name=name or run.folder.name,
        loss=losses[len(losses) // 2],
        top_eigenvalue=landscape.top_eigenvalue(terms, parameters, generator=generator),
        trace=mean,
        trace_error=error,
        plane=plane,
    )


def trainer_of(run: Run, table: MoleculeTable) -> Trainer:
    """What trained `run`, on the same rows."""
    asked = run.recipe.data.asked(process=False)
    prepared = prepare(table, run.recipe.data, run.info.seed, **asked)
    rows = prepared.table.rows - 1
    split = {part: rows[getattr(prepared.split, part)].tolist() for part in PARTS}
    if table.digest() != run.info.digest or split != read_json(run.folder / "split.json"):
        raise RunError(f"{table.source} is not the data that {run.folder} was trained on")
    return Trainer(run, as_read(run, prepared), prepared.split)


def names_of(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise RunError("a run is named twice; name each folder once")


def save(found: Sequence[Surroundings], folder: Path) -> None:
    """`sharpness.csv`, a row a run; `landscape.csv`, one a run and place; `landscape.png`."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    planes = pd.concat([each.plane.assign(run=each.name) for each in found])
    write_csv(folder / "sharpness.csv", numbers(found))
    write_csv(folder / "landscape.csv", planes[["run", *PLACES, "loss"]])
    save_figure(draw(found), folder / "landscape.png")


def numbers(found: Sequence[Surroundings]) -> pd.DataFrame:
    """Loss, top eigenvalue and trace of each run."""
    import pandas as pd

    rows = [asdict(each) for each in found]
    return pd.DataFrame(rows).drop(columns="plane").rename(columns={"name": "run"})


def draw(found: Sequence[Surroundings]) -> Figure:
    """The losses along the first direction in one panel, and the plane of each run beside it.

    Contours stand at the same losses in all panels, every second one twice as high.
    """
    from matplotlib.colors import LogNorm

    figure, panels = new_figure(-(-(len(found) + 1) // 4), min(4, len(found) + 1))
    line, *planes = panels
    losses = np.concatenate([each.plane["loss"] for each in found])
    levels = steps(max(losses.min(), 1e-12), losses.max())
    for each in found:
        ahead = each.plane[each.plane["b"] == 0]
        line.plot(ahead["a"], ahead["loss"], label=each.name)
    line.axvline(0, color=GREY, linewidth=1)
    line.set(xlabel="a", ylabel="training loss (scaled)", yscale="log")
    line.legend(frameon=False, fontsize=8)
    for panel, each in zip(planes, found, strict=False):
        grid = each.plane.pivot(index="b", columns="a", values="loss")
        shown = {"levels": levels, "norm": LogNorm(levels[0], levels[-1])}
        lines = panel.contour(grid.columns, grid.index, grid.to_numpy(), **shown)
        panel.clabel(lines, fontsize=7, fmt="%.2g")
        panel.plot(0, 0, "+", color=GREY)
        panel.set(xlabel="a", ylabel="b", aspect="equal", title=each.name)
    for panel in planes[len(found) :]:
        panel.axis("off")
    return figure


def steps(low: float, high: float) -> np.ndarray:
    """Two at least, each sqrt(2) times the last, from above `low` up to `high` or beyond."""
    count = max(2, int(np.floor(2 * np.log2(high / low))))
    return low * 2.0 ** (np.arange(1, count + 1) / 2)
