"""Sharpness along training: at equal training loss, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..pictures import new_figure, save_figure
from .rows import Rows, Runs, history

if TYPE_CHECKING:
    import pandas as pd


def at_equal_loss(trajectories: Mapping[str, pd.DataFrame]) -> tuple[float, dict[str, float]]:
    """The lowest training loss that all trajectories reach, and the sharpness of each there.

    A trajectory is a history with `train_loss` and `sharpness`; between its looks the sharpness
    is interpolated linearly in the logarithms of both, where the loss is first reached.
    """
    looks = {
        name: path[["train_loss", "sharpness"]].dropna() for name, path in trajectories.items()
    }
    level = max(path["train_loss"].min() for path in looks.values())
    return level, {name: _crossing(path.to_numpy(), level) for name, path in looks.items()}


def _crossing(path: np.ndarray, level: float) -> float:
    i = int(np.argmax(path[:, 0] <= level))
    if i == 0:
        return float(path[0, 1])
    (loss_0, sharp_0), (loss_1, sharp_1) = np.log(path[i - 1 : i + 1])
    share = (loss_0 - np.log(level)) / (loss_0 - loss_1)
    return float(np.exp(sharp_0 + share * (sharp_1 - sharp_0)))


def compare_sharpness(runs: Runs) -> Rows:
    """For each task and seed, every variant's sharpness at the loss that all of them reach."""
    rows = []
    for task, seed in sorted({(task, seed) for task, _, seed in runs}):
        paths = {v: history(run) for (t, v, s), run in runs.items() if (t, s) == (task, seed)}
        level, found = at_equal_loss(paths)
        rows += [
            {"task": task, "variant": v, "seed": seed, "train_loss": level, "sharpness": value}
            for v, value in found.items()
        ]
    return rows


def draw_sharpness(runs: Runs, path: Path) -> None:
    """Sharpness against training loss, one line a run, one colour a variant."""
    from matplotlib.ticker import NullFormatter

    figure, (axes,) = new_figure(1, 1)
    variants = list(dict.fromkeys(variant for _, variant, _ in runs))
    for (_, variant, _), run in runs.items():
        looks = history(run)[["train_loss", "sharpness"]].dropna()
        color = f"C{variants.index(variant)}"
        axes.plot(looks["train_loss"], looks["sharpness"], color=color, linewidth=1, alpha=0.7)
        axes.plot(*looks.to_numpy()[-1], "o", color=color, markersize=4)
    for i, variant in enumerate(variants):
        axes.plot([], [], color=f"C{i}", label=variant)
    axes.set(xscale="log", yscale="log", xlabel="training loss", ylabel="top Hessian eigenvalue")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)
    save_figure(figure, path)
