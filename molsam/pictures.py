"""What a run shows people: its test predictions as a table, and pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .datasets import MoleculeTable
from .files import fitting, write_atomic, write_csv
from .runs import NEARNESS, Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3465a4", "#ce5c00", "#888888"
PANELS = 12


def write_predictions(
    run: Run, table: MoleculeTable, mean: np.ndarray, std: np.ndarray, counts: np.ndarray
) -> None:
    """`predictions.csv`: data row, SMILES, what was measured, and the columns that `Run.outcomes`
    makes of `mean`, `std` and Morgan `counts`."""
    import pandas as pd

    columns: dict[str, Any] = {"row": table.rows, "smiles": table.smiles}
    for task, y in zip(table.tasks, table.y.T, strict=True):
        columns[f"measured {task}"] = class_names(y, table.classes) if table.classes else y
    found = run.outcomes(mean, std, counts)
    nearness = {name: found.pop(name) for name in NEARNESS if name in found}
    columns |= {f"predicted {name}": column for name, column in found.items()}
    write_csv(run.folder / "predictions.csv", pd.DataFrame(columns | nearness))


def class_names(codes: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Names of class codes, "" for NaN."""
    return ["" if np.isnan(code) else classes[int(code)] for code in codes]


def draw(run: Run, y: np.ndarray, mean: np.ndarray) -> None:
    """`learning_curve.png`, and where there are test rows (N, T), `parity.png`, `roc.png` or
    `confusion.png` by the kind."""
    save_figure(learning_curve(run), run.folder / "learning_curve.png")
    if not len(y):
        return
    if run.info.kind == "regression":
        save_figure(panels(run, y, mean, parity), run.folder / "parity.png")
    elif run.info.kind == "binary":
        save_figure(panels(run, y, mean, roc), run.folder / "roc.png")
    else:
        save_figure(panels(run, y, mean.argmax(-1), confusion), run.folder / "confusion.png")


def learning_curve(run: Run) -> Figure:
    """Training and validation loss and the validation score of every member, by epoch."""
    import pandas as pd

    figure, (left, right) = new_figure(1, 2)
    for path in (member / "history.csv" for member in run.members):
        with fitting(path):
            _plot_history(left, right, pd.read_csv(path))
    left.set_ylabel("loss (scaled)")
    left.set_yscale("log")
    left.legend(["training", "validation"], frameon=False)
    for axes in (left, right):
        axes.locator_params(axis="x", integer=True)
    left.set_xlabel("epoch")
    right.set_xlabel("epoch (dot: weights kept)")
    return figure


def _plot_history(left: Axes, right: Axes, history: pd.DataFrame) -> None:
    left.plot(history["epoch"], history["loss"], color=BLUE)
    left.plot(history["epoch"], history["valid_loss"], color=ORANGE)
    names = history.columns.drop("valid_loss").astype(str)
    score = names[names.str.startswith("valid_")][0]
    right.plot(history["epoch"], history[score], color=ORANGE)
    chosen = history[history["kept"]].tail(1)
    right.plot(chosen["epoch"], chosen[score], "o", color=ORANGE)
    right.set_ylabel(f"{score.removeprefix('valid_').upper().replace('_', '-')} on validation")


def parity(axes: Axes, y: np.ndarray, prediction: np.ndarray, name: str) -> None:
    """Predicted against measured, with the diagonal."""
    low, high = min(y.min(), prediction.min()), max(y.max(), prediction.max())
    margin = 0.03 * (high - low or 1.0)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    axes.plot(y, prediction, "o", color=BLUE, alpha=0.5, markersize=4, markeredgewidth=0)
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    axes.set(xlabel="measured", ylabel="predicted")
    rmse = float(np.sqrt(np.mean((y - prediction) ** 2)))
    axes.set_title(f"{name}\ntest, n = {len(y)}, RMSE {rmse:.3g}", fontsize=9)


def roc(axes: Axes, y: np.ndarray, prediction: np.ndarray, name: str) -> None:
    """True against false positive rate as the threshold falls."""
    found, asked = (np.append(0, counts) for counts in by_threshold(y, prediction))
    false = asked - found
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axes.plot(false / max(1, false[-1]), found / max(1, found[-1]), color=BLUE)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.set_title(f"{name}\ntest, {found[-1]} of {len(y)} positive", fontsize=9)


def by_threshold(y: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives, and molecules in all, that are predicted to be no less than each value that is
    predicted, from the highest on."""
    order = np.argsort(-prediction, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(prediction[order]) != 0, True))
    return np.cumsum(y[order] == 1)[ends], ends + 1


def precision_recall(axes: Axes, y: np.ndarray, prediction: np.ndarray, name: str) -> None:
    """Precision against recall as the threshold falls, with the share of positives."""
    found, asked = by_threshold(y, prediction)
    axes.axhline(found[-1] / len(y), color=GREY, linewidth=1)
    axes.step(found / max(1, found[-1]), found / asked, color=BLUE, where="post")
    axes.set(xlabel="recall", ylabel="precision", aspect="equal", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"{name}\ntest, {found[-1]} of {len(y)} positive", fontsize=9)


def confusion(axes: Axes, y: np.ndarray, prediction: np.ndarray, name: str) -> None:
    """Counts of measured against predicted class."""
    size = int(max(y.max(), prediction.max())) + 1
    counts = np.zeros((size, size), dtype=int)
    np.add.at(counts, (y.astype(int), prediction.astype(int)), 1)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
    axes.set(xlabel="predicted class", ylabel="measured class")
    axes.set_title(f"{name}\ntest, n = {len(y)}", fontsize=9)


def panels(run: Run, y: np.ndarray, prediction: np.ndarray, plot) -> Figure:
    """`plot` for each of the first `PANELS` tasks, over the molecules with a label."""
    shown = min(len(run.info.tasks), PANELS)
    columns = min(shown, 4)
    figure, axes = new_figure(-(-shown // columns), columns)
    for t, panel in enumerate(axes):
        known = ~np.isnan(y[:, t]) if t < shown else np.zeros(len(y), bool)
        if known.any():
            plot(panel, y[known, t], prediction[known, t], literal(run.columns()[t]))
        else:
            panel.axis("off")
    return figure


def new_figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot, so that no global state or display is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def literal(text: str) -> str:
    """A name in which `$` is a dollar and begins no formula."""
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """The SVG element, the same for the same figure; its letters are outlines."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "molsam", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    png = io.BytesIO()
    figure.savefig(png, dpi=150, format="png")
    write_atomic(path, png.getvalue())
