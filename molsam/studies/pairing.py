"""How far variants are ahead of a reference on the same seeds, and whether that is more than noise.

`by` names the scores that are compared: "test" or "valid".
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..comparison import corrected_t_test
from ..metrics import METRICS
from ..pictures import BLUE, GREY, ORANGE, new_figure, save_figure
from .rows import Rows, summarize

LEVEL = 0.05
COSTS = ["epochs", "best_epoch", "gradients", "seconds", "train_loss", "sharpness"]

Pairs = dict[tuple[str, str], dict[int, float]]  # by task and variant, then by seed


def pair(rows: Rows, reference: str, by: str) -> Pairs:
    """How far each variant is ahead of `reference` on the seeds that both have.

    In units of the metric, positive where the variant is the better one, whatever the metric.
    """
    scores = {(row["task"], row["variant"], row["seed"]): row[by] for row in rows}
    pairs: Pairs = {}
    for (task, variant, seed), score in scores.items():
        beside = scores.get((task, reference, seed))
        if variant != reference and beside is not None:
            sign = 1 if METRICS[metric_of(rows, task)].greater_is_better else -1
            pairs.setdefault((task, variant), {})[seed] = sign * (score - beside)
    return pairs


def metric_of(rows: Rows, task: str) -> str:
    """What the scores of a task are measured by."""
    return next(row["metric"] for row in rows if row["task"] == task)


def gains(rows: Rows, reference: str, by: str) -> Rows:
    """`summarize`, and for all but the reference the paired differences to it.

    ahead, ahead_std -> mean and sample standard deviation of `pair`; wins -> on how many of `pairs`
    seeds the variant is ahead; p -> of `corrected_t_test`, NaN with fewer than two pairs.
    """
    pairs = pair(rows, reference, by)
    cells = []
    for cell in summarize(rows, by):
        task, variant = cell["task"], cell["variant"]
        ratio = np.mean([r[f"n_{by}"] / r["n_train"] for r in rows if r["task"] == task])
        ahead = np.array(list(pairs.get((task, variant), {}).values()))
        cells.append({**cell, "metric": metric_of(rows, task), **_judged(ahead, float(ratio))})
    return cells


def _judged(ahead: np.ndarray, ratio: float) -> dict[str, Any]:
    several = len(ahead) > 1
    return {
        "ahead": float(ahead.mean()) if len(ahead) else math.nan,
        "ahead_std": float(ahead.std(ddof=1)) if several else math.nan,
        "wins": int((ahead > 0).sum()),
        "pairs": len(ahead),
        "p": corrected_t_test(ahead, ratio)[1] if several else math.nan,
    }


def costs(rows: Rows) -> Rows:
    """Means over seeds of what training took and of where it ended."""
    import pandas as pd

    groups = pd.DataFrame(rows).groupby(["task", "variant"], sort=False)
    return groups[COSTS].mean().reset_index().to_dict("records")  # type: ignore[return-value]


def verdicts(cells: Rows, reference: str) -> list[str]:
    """A sentence for each task, and one on how many differences chance alone would offer."""
    beside = [cell for cell in cells if cell["pairs"]]
    by_task: dict[str, Rows] = {}
    for cell in beside:
        by_task.setdefault(cell["task"], []).append(cell)
    sentences = [_verdict(task, group, reference) for task, group in by_task.items()]
    tested = [cell["p"] for cell in beside if not math.isnan(cell["p"])]
    if tested:
        found = sum(p < LEVEL for p in tested)
        sentences.append(
            f"{found} of {len(tested)} differences have p < {LEVEL}; if no variant differed from "
            f"{reference}, chance alone would give about {LEVEL * len(tested):.1f}."
        )
    return sentences


def _verdict(task: str, cells: Rows, reference: str) -> str:
    found = "; ".join(
        f"{cell['variant']} {'ahead' if cell['ahead'] >= 0 else 'behind'} by "
        f"{abs(cell['ahead']):.2g} (better on {cell['wins']} of {cell['pairs']} seeds"
        + ("" if math.isnan(cell["p"]) else f", p = {cell['p']:.2g}")
        + ")"
        for cell in cells
    )
    noted = ", ".join(cell["variant"] for cell in cells if cell["p"] < LEVEL)
    if all(math.isnan(cell["p"]) for cell in cells):
        close = "Too little to tell from noise."
    elif noted:
        close = f"More than noise (p < {LEVEL}): {noted}."
    else:
        close = f"None of it is more than noise (p < {LEVEL})."
    title = METRICS[cells[0]["metric"]].title
    return f"{task}, {title} beside {reference}: {found}. {close}"


def draw_gains(rows: Rows, reference: str, path: Path) -> None:
    """A panel a task: how far variants are ahead on the test rows, a dot a seed, a bar the mean."""
    pairs = pair(rows, reference, "test")
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    variants = list(dict.fromkeys(variant for _, variant in pairs))[::-1]  # the first on top
    columns = min(4, len(tasks)) or 1
    figure, panels = new_figure(-(-len(tasks) // columns) or 1, columns)
    for at, panel in enumerate(panels):
        if at >= len(tasks):
            panel.axis("off")
            continue
        task = tasks[at]
        panel.axvline(0, color=GREY, linewidth=1)
        for y, variant in enumerate(variants):
            ahead = list(pairs.get((task, variant), {}).values())
            panel.plot(ahead, [y] * len(ahead), "o", color=BLUE, alpha=0.6, markersize=4)
            if ahead:
                panel.plot(np.mean(ahead), y, "|", color=ORANGE, markersize=14, markeredgewidth=2)
        labels = variants if at % columns == 0 else [""] * len(variants)
        panel.set_yticks(range(len(variants)), labels)
        title = METRICS[metric_of(rows, task)].title
        panel.set(title=task, xlabel=f"ahead of {reference}, {title}")
        panel.locator_params(axis="x", nbins=4)  # more labels than these run into each other
        panel.set_ylim(-0.5, len(variants) - 0.5)  # the same rows in every panel, be they empty
    save_figure(figure, path)
