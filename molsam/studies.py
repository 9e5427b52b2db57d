"""Studies: one thing changes, everything else is held, several seeds; tables that can be quoted."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import datasets, training
from .files import write_atomic
from .recipes import Recipe
from .report import new_figure, save_figure

if TYPE_CHECKING:
    import pandas as pd

    from .runs import Run


Rows = list[dict[str, Any]]
Runs = Mapping[tuple[str, str, int], "Run"]  # by task, variant and seed


class StudyError(ValueError):
    """A study that cannot be made: says why, and what to try."""


@dataclass(frozen=True)
class Study:
    """Which recipes are trained on which tasks.

    common -> changes of the default recipe that hold for all; variants -> those that differ;
    first_seed -> of the seeds, so that a choice may leave the splits alone that results stand on.
    """

    about: str
    tasks: tuple[str, ...]
    common: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    first_seed: int = 0

    def recipe(self, variant: str) -> Recipe:
        return Recipe().change({**self.common, **self.variants[variant]})


SMALL = {"model.width": 128, "model.depth": 2, "data.descriptors": False}
ANCHORS = {
    f"{name}, beta {beta}, rho {rho}": {
        "normalize_anchor": name == "normalised",
        "beta": beta,
        "rho": rho,
    }
    for beta, rho in ((0.9, 0.02), (0.99, 0.02), (0.9, 0.002))
    for name in ("raw", "normalised")
}
STUDIES = {
    "sharpness": Study(
        about="top Hessian eigenvalue along training, against the training loss",
        tasks=("freesolv",),
        common={
            "model.width": 64,
            "model.depth": 2,
            "data.descriptors": False,
            "training.epochs": 60,
            "training.sharpness_every": 2,
            "optimizer.base": "adam",
            "optimizer.weight_decay": 0.0,
        },
        variants={
            "adam": {"optimizer.name": "none"},
            "sam": {"optimizer.name": "sam", "rho": 0.02},
            "graphsam": {"optimizer.name": "graphsam", "rho": 0.02},
        },
    ),
    "anchor": Study(
        about="the anchor of GraphSAM stored raw or normalised",
        tasks=("esol", "freesolv", "bbbp"),
        common={**SMALL, "training.epochs": 30, "diagnose_every": 10},
        variants=ANCHORS,
    ),
    "stand-in": Study(
        about="how far what stands in is from the true perturbation gradient",
        tasks=("bbbp",),
        common={
            **SMALL,
            "training.epochs": 30,
            "rho": 0.02,
            "normalize_anchor": True,
            "diagnose_every": 5,
        },
        variants={
            "graphsam": {"optimizer.name": "graphsam"},
            "graphsam, beta 0.99": {"optimizer.name": "graphsam", "beta": 0.99},
            "samk": {"optimizer.name": "samk"},
            "samone": {"optimizer.name": "samone"},
            "s2sam": {"optimizer.name": "s2sam"},
            "msam": {"optimizer.name": "msam"},
        },
    ),
    "levers": Study(
        about="what joins the readout, dropout, and the average of the weights",
        tasks=("freesolv", "esol", "bace"),
        common={
            "model.width": 64,
            "model.depth": 2,
            "training.epochs": 20,
            "data.fractions": (0.8, 0.19, 0.01),  # twice the rows to validate on, none to test
        },
        variants={
            "defaults": {},
            "fingerprints": {"fingerprints": True},
            "join dropout .3": {"join_dropout": 0.3},
            "fingerprints, join dropout .3": {"fingerprints": True, "join_dropout": 0.3},
            "dropout .1": {"dropout": 0.1},
            "average .98": {"average": 0.98},
            "average .99, constant rate": {"average": 0.99, "schedule": "constant"},
            "no descriptors": {"descriptors": False},
        },
        first_seed=1000,
    ),
    "defaults": Study(
        about="what the default recipe takes, at its full size",
        tasks=("esol", "clintox", "bace", "bbbp", "freesolv"),
        common={"data.fractions": (0.8, 0.19, 0.01)},
        variants={
            "width 256": {},
            "fingerprints": {"fingerprints": True},
            "fingerprints, width 128": {"fingerprints": True, "width": 128},
            "fingerprints, dropout .1": {"fingerprints": True, "dropout": 0.1},
        },
        first_seed=1000,
    ),
}


def find(name: str) -> Study:
    """A study by name."""
    if name not in STUDIES:
        raise StudyError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


def run_study(
    study: Study,
    folder: Path,
    *,
    seeds: int = 5,
    data_dir: Path | None = None,
    device: str = "auto",
) -> Iterator[tuple[dict[str, Any], Run]]:
    """Train every task, variant and seed; yields a row and a run as each is done.

    Runs are `folder/<task>/<variant>/seed-<s>`. One that is finished is read, not trained again,
    so that the same call goes on where it stopped.
    """
    for task in study.tasks:
        table = datasets.load(task, data_dir=data_dir)
        for seed in range(study.first_seed, study.first_seed + seeds):
            for variant in study.variants:
                out = folder / task / variant.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
                run = training.fit(
                    study.recipe(variant), table, out=out, seed=seed, device=device, resume=True
                )
                yield {"task": task, "variant": variant, "seed": seed, **row_of(run)}, run


def history(run: Run) -> pd.DataFrame:
    """The history of the first member."""
    import pandas as pd

    return pd.read_csv(run.members[0] / "history.csv")


def row_of(run: Run) -> dict[str, Any]:
    """Best validation score, gradients and seconds of a run, and what its history looked at.

    Diagnostics are means over epochs; training loss and sharpness are those of the last look.
    """
    epochs = history(run)
    scores = (str(c) for c in epochs if c != "valid_loss")
    score = next(c for c in scores if c.startswith("valid_"))
    row: dict[str, Any] = {
        "metric": score.removeprefix("valid_"),
        "valid": epochs[score][epochs["best"]].iloc[-1],
        "gradients": int(epochs["gradients"].sum()),
        "seconds": round(float(epochs["seconds"].sum()), 1),
    }
    diagnosed = ("cosine", "aligned", "eps_norm", "omega_norm", "eps_cosine", "omega_cosine")
    row |= {name: float(epochs[name].mean()) for name in diagnosed if name in epochs}
    if "sharpness" in epochs:
        row |= epochs[["train_loss", "sharpness"]].dropna().iloc[-1].to_dict()
    return row


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


def conclude(rows: Rows, runs: Runs, folder: Path) -> dict[str, Rows]:
    """Write the tables and pictures of a study that is done; returns summaries by title."""
    write_rows(rows, folder / "rows.csv")
    metrics = ", ".join(dict.fromkeys(row["metric"] for row in rows))
    summaries = {f"best validation score ({metrics})": summarize(rows, "valid")}
    if "aligned" in rows[0]:
        summaries["share of steps with cosine >= 0"] = summarize(rows, "aligned")
    if "sharpness" in rows[0]:
        equal = compare_sharpness(runs)
        write_rows(equal, folder / "equal_loss.csv")
        draw_sharpness(runs, folder / "sharpness.png")
        title = "top Hessian eigenvalue at equal training loss"
        summaries[title] = summarize(equal, "sharpness")
    return summaries


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


def summarize(rows: Rows, by: str) -> Rows:
    """Mean and sample standard deviation of column `by` for each task and variant, in order."""
    cells: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["variant"]), []).append(row[by])
    return [
        {
            "task": task,
            "variant": variant,
            "n": len(values),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        }
        for (task, variant), values in cells.items()
    ]


def write_rows(rows: Rows, path: Path) -> None:
    """The rows as CSV, to six figures."""
    import pandas as pd

    text = io.StringIO()
    pd.DataFrame(rows).to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
    write_atomic(path, text.getvalue().encode())
