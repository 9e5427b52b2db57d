"""The sections of a page: each a list of parts, of a run and its test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics, molecules, pictures
from ..pictures import BLUE, GREY, ORANGE, PANELS, new_figure
from ..runs import FIRST_MEMBER, FOREST, MODELS_ALONE, Run
from .held_out import (
    COVERAGES,
    DRAWS,
    HeldOut,
    beside,
    binned,
    by_scaffold,
    mean_errors,
    mean_of,
    resampled,
)
from .parts import Part, drawings, figure, number, table, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rdkit.Chem import Mol

SHOWN = 12  # molecules, scaffolds, unreadable rows


def scores(run: Run, test: HeldOut | None) -> list[Part]:
    """Every metric on validation and test rows, and how far chance may carry the main one."""
    found = run.scores
    main = run.recipe.training.metric or metrics.default_metric(run.info.kind)
    held = [part for part in ("valid", "test", FOREST) if part in found]
    titles = {"valid": "validation", "test": "test", FOREST: FOREST}
    rows = []
    for name in found["valid"]:
        title = metrics.METRICS[name].title
        rows.append([title, *(number(found[part][name]["mean"]) for part in held)])
    parts = [table(["metric", *(titles[part] for part in held)], rows)]
    title = metrics.METRICS[main].title
    low, high = resampled(main, test) if test is not None else (np.nan, np.nan)
    if not np.isnan(low):
        parts.append(
            text(
                f"{title} of the test rows lies between {number(low)} and {number(high)} in 95% of "
                f"{DRAWS} draws of them with replacement: what other test rows might have given."
            )
        )
    for which, words in ((MODELS_ALONE, "The models alone"), (FIRST_MEMBER, "One model alone")):
        part = f"{which}test" if test is not None else f"{which}valid"
        if part in found:
            parts.append(text(f"{words}: {title} {number(found[part][main]['mean'])}."))
    if others := beside(run, main):
        mean, std = number(float(np.mean(others))), number(float(np.std(others, ddof=1)))
        parts.append(
            text(f"{len(others)} runs with seeds of their own: test {title} {mean} ± {std}.")
        )
    if test is not None and len(run.info.tasks) > 1:
        parts.append(by_task(run, test, main))
    return parts


def by_task(run: Run, test: HeldOut, metric: str) -> Part:
    """The test score of each task, with its labels."""
    found = run.scores["test"][metric]["tasks"]
    rows = [
        [task, str(int((~np.isnan(y)).sum())), number(found.get(task, np.nan))]
        for task, y in zip(run.info.tasks, test.y.T, strict=True)
    ]
    return table(["task", "labels", metrics.METRICS[metric].title], rows)


def training(run: Run) -> list[Part]:
    """The learning curves."""
    return [figure(pictures.learning_curve(run), "Loss and validation score by epoch")]


def predictions(run: Run, test: HeldOut) -> list[Part]:
    """Predicted against measured; ROC and precision-recall curves; or a table of classes."""
    kind, parts = run.info.kind, []
    if kind == "regression":
        drawn = pictures.panels(run, test.y, test.mean, pictures.parity)
        parts.append(figure(drawn, "Predicted against measured values"))
    elif kind == "binary":
        for plot, words in ((pictures.roc, "ROC"), (pictures.precision_recall, "Precision-recall")):
            parts.append(figure(pictures.panels(run, test.y, test.mean, plot), f"{words} curves"))
    else:
        drawn = pictures.panels(run, test.y, test.mean.argmax(-1), pictures.confusion)
        parts.append(figure(drawn, "Measured against predicted classes"))
    if len(run.info.tasks) > PANELS:
        parts.append(text(f"The first {PANELS} of {len(run.info.tasks)} tasks are drawn."))
    return parts


def calibration(run: Run, test: HeldOut) -> list[Part]:
    """How many intervals hold the truth; or how far probabilities are from shares."""
    assert run.certainty is not None
    known = ~np.isnan(test.y)
    if not known.any():
        return [text("No test row has a label.")]
    if run.info.kind == "regression":
        rows = []
        for coverage in COVERAGES:
            within, widths = test.within(coverage)
            shown = ", ".join(map(number, widths[:PANELS]))
            rows.append([f"{coverage:.0%}", f"{within:.1%}", shown])
        return [
            text(
                "Intervals are fitted to the validation rows. They keep their promise for "
                "molecules that are like those, as after a random split."
            ),
            table(["intervals of", "hold the truth", "median width"], rows),
        ]
    rows, shown = [], {}
    both = {"as predicted": test.mean, "calibrated": run.certainty.calibrated(test.mean)}
    for name, p in both.items():
        classes = p.ndim == 3
        sure = p[known].max(-1) if classes else p[known]
        hit = p[known].argmax(-1) == test.y[known] if classes else test.y[known]
        shown[name] = metrics.reliability(hit, sure)
        rows.append([name, number(metrics.calibration_error(hit, sure))])
    temperature = number(run.certainty.temperature)
    return [
        text(
            f"The temperature of the calibrated probabilities is {temperature}, from the "
            "validation rows. The calibration error is the mean distance between probability and "
            "share of hits, in ten groups of rising probability; some hundred labels have one of "
            "a few hundredths by chance."
        ),
        table(["probabilities", "calibration error"], rows),
        figure(reliability_curves(shown), "Share of hits against probability"),
    ]


def errors(run: Run, test: HeldOut) -> list[Part]:
    """Errors by size, by nearness to the training molecules, by scaffold."""
    mean = mean_errors(test)
    atoms = np.array([mol.GetNumAtoms() for mol in test.mols])
    name = test.error_name
    inside, outside = (number(mean_of(mean[which])) for which in (test.inside, ~test.inside))
    edge = number(run.certainty.edge) if run.certainty else ""
    return [
        figure(scatter(test, atoms, mean), "Error against size and similarity"),
        _ranges("atoms", name, binned(atoms, mean)),
        text(
            f"A molecule is in the domain if its similarity to the nearest training molecule is "
            f"{edge} at least, as that of 95% of the validation rows: {int(test.inside.sum())} of "
            f"{len(mean)} test rows, whose mean error is {inside}; that of the others is {outside}."
        ),
        _ranges("similarity", name, binned(test.similarity, mean)),
        text("The most frequent scaffolds of the test rows:"),
        drawings(_scaffold(*each) for each in by_scaffold(test, mean)[:SHOWN]),
    ]


def _ranges(what: str, error: str, rows: list[tuple[float, float, int, float]]) -> Part:
    shown = [[_range(a, b), str(n), number(mean)] for a, b, n, mean in rows]
    return table([what, "molecules", f"mean {error}"], shown)


def _range(low: float, high: float) -> str:
    ends = number(low), number(high)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _scaffold(smiles: str, count: int, error: float) -> tuple[Mol | None, list[str]]:
    lines = [f"{count} molecules", f"mean error {number(error)}"]
    return (molecules.parse(smiles), lines) if smiles else (None, ["no rings", *lines])


def worst(run: Run, test: HeldOut) -> list[Part]:
    """The molecules with the largest errors, drawn."""
    wrong = np.nan_to_num(test.errors, nan=-1.0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    places = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place] >= 0]
    return [drawings(_prediction(run, test, int(n), int(t)) for n, t in places)]


def _prediction(run: Run, test: HeldOut, n: int, t: int) -> tuple[Mol, list[str]]:
    measured, predicted = said(run, test.y[n, t]), guess(run, test.mean[n, t])
    return test.mols[n], [
        f"row {test.rows[n]}: {run.columns()[t]}",
        f"measured {measured}, predicted {predicted}",
        f"similarity {number(test.similarity[n])}",
    ]


def origins(run: Run) -> list[Part]:
    """Where it came from: data, rows that could not be read, versions."""
    info = run.info
    facts = [
        ["data", info.source],
        ["digest of the data", info.digest],
        *(
            [part if part == "rows" else f"{part} rows", str(count)]
            for part, count in info.molecules.items()
        ),
        ["seed", str(info.seed)],
        ["device", info.device],
        *([name, version] for name, version in info.versions.items()),
    ]
    parts = [table([], facts)]
    if info.bad_rows:
        rows = [[smiles, str(row), reason] for row, smiles, reason in info.bad_rows[:SHOWN]]
        parts.append(text(f"{len(info.bad_rows)} rows could not be read:"))
        parts.append(table(["SMILES", "row", "reason"], rows))
    return parts


# Pictures


def scatter(test: HeldOut, atoms: np.ndarray, error: np.ndarray) -> Figure:
    """The error of each molecule against its size and its similarity."""
    drawn, (left, right) = new_figure(1, 2)
    for axes, x, name in ((left, atoms, "atoms"), (right, test.similarity, "similarity")):
        axes.plot(x, error, "o", color=BLUE, alpha=0.5, markersize=4, markeredgewidth=0)
        axes.set(xlabel=name, ylabel=pictures.literal(test.error_name))
    return drawn


def reliability_curves(shown: dict[str, tuple[np.ndarray, ...]]) -> Figure:
    """Share of hits against mean probability, for each kind of probability."""
    drawn, (axes,) = new_figure(1, 1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for (name, (p, hit, _)), color in zip(shown.items(), (BLUE, ORANGE), strict=True):
        axes.plot(p, hit, "o-", color=color, label=name, markersize=4)
    axes.set(xlabel="probability", ylabel="share of hits", aspect="equal")
    axes.legend(frameon=False)
    return drawn


def said(run: Run, y: float) -> str:
    """A label, a class by its name."""
    return run.info.classes[int(y)] if run.info.classes else number(y)


def guess(run: Run, mean: Any) -> str:
    """A prediction; of classes the likeliest, with its probability."""
    if not run.info.classes:
        return number(mean)
    return f"{run.info.classes[int(mean.argmax())]} ({number(mean.max())})"
