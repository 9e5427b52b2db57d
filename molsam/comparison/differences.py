"""What differences between models over seeds mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import metrics
from ..baselines import BASELINES
from .rows import OURS, Row


@dataclass(frozen=True)
class Summary:
    """A model over seeds, and beside the reference over the seeds that both have.

    mean, sd of test scores by seed, mean of validation scores; behind -> mean of how far it scores
    behind the reference, in units of the metric, negative where it is ahead; wins -> on how many
    of `pairs` seeds it is ahead; p -> of `corrected_t_test`.
    """

    model: str
    n: int
    valid: float
    mean: float
    sd: float
    behind: float = math.nan
    behind_sd: float = math.nan
    wins: int = 0
    pairs: int = 0
    p: float = math.nan


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Every model of one table and protocol in order of its first row; ours first is compared with.

    Where one split serves all seeds, nothing is tested.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    reference = next((model for model in models if model.startswith(OURS)), None)
    scores = {m: {row.seed: row.test for row in rows if row.model == m} for m in models}
    ratio = float(np.mean([row.n_test / row.n_train for row in rows]))
    sign = -1 if metrics.METRICS[rows[0].metric].greater_is_better else 1
    out = []
    for model in models:
        test = np.array(list(scores[model].values()))
        valid = float(np.mean([row.valid for row in rows if row.model == model]))
        paired = {}
        if reference is not None and model != reference:
            seeds = [seed for seed in scores[model] if seed in scores[reference]]
            behind = [scores[model][seed] - scores[reference][seed] for seed in seeds]
            paired = _paired(sign * np.array(behind), ratio, resampled(rows))
        out.append(Summary(model, len(test), valid, float(test.mean()), _sd(test), **paired))
    return out


def resampled(rows: Sequence[Row]) -> bool:
    """Whether the splits differ from seed to seed."""
    return len({row.split for row in rows}) > 1


def _paired(behind: np.ndarray, ratio: float, differ: bool) -> dict[str, Any]:
    if not len(behind):
        return {}
    tested = differ and len(behind) > 1
    return {
        "behind": float(behind.mean()),
        "behind_sd": _sd(behind),
        "wins": int((behind < 0).sum()),
        "pairs": len(behind),
        "p": corrected_t_test(behind, ratio)[1] if tested else math.nan,
    }


def corrected_t_test(differences: np.ndarray, ratio: float) -> tuple[float, float]:
    """t = mean(d) / sqrt((1 / J + n_test / n_train) var(d)), and its two-sided p, J - 1 degrees.

    The corrected resampled t-test of Nadeau and Bengio, Machine Learning 52 (2003) 239, section 4:
    J random splits share training and test molecules, so that scores vary less from split to split
    than from data set to data set; the plain paired test, without n_test / n_train, would find
    differences where there are none.

    differences -> (J,) of the two models' scores, J > 1; ratio -> n_test / n_train. The sample
    variance var(d) divides by J - 1.
    """
    from scipy import stats

    count = len(differences)
    spread = math.sqrt((1 / count + ratio) * float(np.var(differences, ddof=1)))
    mean = float(np.mean(differences))
    if spread == 0:
        return (math.nan, math.nan) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / spread
    return t, 2 * float(stats.t.sf(abs(t), count - 1))


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def verdicts(metric: str, summaries: Sequence[Summary]) -> Iterator[str]:
    """One sentence for each baseline that is ahead of the reference, or one that none is.

    A baseline on fewer seeds than the reference has is named with their number.
    """
    ours = next((s for s in summaries if s.model.startswith(OURS)), None)
    if ours is None:
        return
    title = metrics.METRICS[metric].title
    beside = [s for s in summaries if s.pairs and s.model in BASELINES]
    ahead = sorted((s for s in beside if s.behind < 0), key=lambda s: s.behind)
    for s in ahead:
        p = "" if math.isnan(s.p) else f", p = {s.p:.2g}"
        seeds = f" on average, and on {s.wins} of {s.pairs} seeds{p}" if ours.n > 1 else ""
        yield f"{BASELINES[s.model].title} wins over {ours.model} by {-s.behind:.3f} {title}{seeds}"
    if beside and not ahead:
        names = ", ".join(_name(s, ours.n) for s in beside)
        yield f"{ours.model} is ahead of {names}{' on average' if ours.n > 1 else ''}"


def seeds_text(seeds: Iterable[int]) -> str:
    """`seed 3`, or `seeds 0, 1, 2`."""
    numbers = sorted(set(seeds))
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _name(summary: Summary, seeds: int) -> str:
    title = BASELINES[summary.model].title
    return title if summary.pairs == seeds else f"{title} (on {summary.pairs} of {seeds} seeds)"
