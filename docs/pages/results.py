"""The tables of docs/results.md and the evidence in recipes/*.toml, from docs/results/."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from molsam.baselines import BASELINES
from molsam.comparison import (
    OURS,
    Row,
    Summary,
    read_rows,
    recipe_digest,
    seeds_text,
    summarize,
    titles,
    verdicts,
)
from molsam.datasets import TASKS
from molsam.metrics import METRICS
from molsam.recipes import Recipe
from molsam.studies.pairing import LEVEL
from molsam.tuning.objective import FIRST_SEED

from .text import DOCS, filled, line, number

PAGE = DOCS / "results.md"
RECIPES = DOCS.parent / "recipes"
SCORES = DOCS / "results/scores.csv"
TRIALS = DOCS / "results/tuning"
SEEDS = range(5)
TUNED_ON = range(FIRST_SEED, FIRST_SEED + 5)  # seeds of the splits of tuning
BEGIN, END = "<!-- tables: make results -->", "<!-- end of tables -->"
BOUGHT = "<!-- searches: make results -->", "<!-- end of searches -->"
EVIDENCE, LAST = "# Evidence, written by `make results`:", "# End of the evidence."

PROTOCOLS = {"random 0.8/0.1/0.1": "random", "balanced_scaffold 0.8/0.1/0.1": "balanced_scaffold"}
PAPER_PROTOCOL = "random 0.8/0.1/0.1"
PAPER_SPLIT = "paper"  # the one random split of its released script
# CoMPT + GraphSAM in Table 1 of arXiv 2406.13137: that split, five initial weights.
PAPER = {
    "esol": ".511 ± .018",
    "lipophilicity": ".608 ± .007",
    "bbbp": ".961 ± .012",
    "clintox": ".937 ± .008",
    "sider": ".645 ± .013",
    "tox21": ".841 ± .004",
}


def main() -> None:
    """Write what there is evidence for."""
    rows = read_rows(SCORES)
    PAGE.write_text(page(rows, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for path in sorted(RECIPES.glob("*.toml")):
        path.write_text(recipe(rows, path, path.read_text(encoding="utf-8")), encoding="utf-8")


def page(rows: Sequence[Row], text: str) -> str:
    """The page with the tables of today's evidence."""
    tables = dict.fromkeys([*TASKS, *(row.task for row in rows)], "default")
    shown = [*PROTOCOLS, PAPER_SPLIT]
    names = {task: task for task in TASKS}
    own = [section(rows, protocol, "Recipes", names) for protocol in shown]
    title = "Recipes on the splits of their searches"
    searched_on = section(rows, PAPER_PROTOCOL, title, names, TUNED_ON)
    default = section(rows, PAPER_PROTOCOL, "The default recipe", tables)
    text = filled(text, BEGIN, chain(*own, searched_on, default), END)
    return filled(text, BOUGHT[0], ["\n".join(map(line, bought(rows)))], BOUGHT[1])


def section(
    rows: Sequence[Row],
    protocol: str,
    title: str,
    recipes: Mapping[str, str],
    seeds: Sequence[int] = SEEDS,
) -> Iterator[str]:
    """Title, table, verdicts and leads of one protocol, where there are rows, and what is missing.

    recipes -> task, or file: the name of the recipe that is shown for it.
    """
    found = {task: of_recipe(rows, task, protocol, name, seeds) for task, name in recipes.items()}
    found = {task: chosen for task, chosen in found.items() if chosen}
    if not found:
        return
    yield f"### {title}, {protocol}"
    yield table(found, protocol)
    lines = [verdict(task, chosen) for task, chosen in found.items()]
    if missing := [task for task in recipes if trials(task) and task not in found]:
        lines.append(f"- Not run: {', '.join(missing)}.")
    yield "\n".join(lines)
    yield from leads(found)


def of_recipe(
    rows: Sequence[Row],
    task: str,
    protocol: str,
    name: str,
    seeds: Sequence[int] = SEEDS,
    **changes: str,
) -> list[Row]:
    """Rows on `task` of the shipped recipe `name`, an ensemble's first, and of the baselines.

    changes -> fields of the recipe that were trained with another value.
    """
    ours = names_of(name, **changes)
    chosen = []
    for row in rows:
        if (row.task, row.protocol) != (task, protocol) or row.seed not in seeds:
            continue
        if row.model in BASELINES:
            chosen.append(row)
        elif row.model in ours:
            chosen.append(row._replace(model=ours[row.model]))
    order = [*ours.values(), *BASELINES]
    return sorted(chosen, key=lambda row: order.index(row.model))


def names_of(recipe: str, **changes: str) -> dict[str, str]:
    """`molsam DIGEST x5` -> `molsam x5`, and so on for all titles of a shipped recipe's rows.

    The whole comes first, then its parts: one model and the process, where `members = 1` was
    trained, and one model alone last.
    """
    path = RECIPES / f"{recipe}.toml"
    if not path.is_file():
        return {}
    chosen = Recipe.load(path).change(changes)
    *wholes, _ = titles(OURS, chosen)  # the last is one model, as among the parts
    parts = titles(OURS, chosen.change({"members": 1}))
    recorded = f"{OURS} {recipe_digest(chosen)}"
    return {title.replace(OURS, recorded, 1): title for title in dict.fromkeys([*wholes, *parts])}


def table(found: dict[str, list[Row]], protocol: str) -> str:
    """Tasks below each other, models beside each other; bold is the best mean of the most seeds."""
    summaries = {task: {named(s.model): s for s in summarize(rows)} for task, rows in found.items()}
    known = {name for each in summaries.values() for name in each}
    baselines = [b.title for b in BASELINES.values() if b.title in known]
    names = ["one model", *sorted(known - {"one model", *baselines}), *baselines]
    paper = ["the paper"] if protocol in (PAPER_PROTOCOL, PAPER_SPLIT) else []
    lines = [["", "", *names, *paper], ["---"] * (2 + len(names) + len(paper))]
    for task, each in summaries.items():
        metric = METRICS[found[task][0].metric]
        most = max(s.n for s in each.values())
        whole = [s.mean for s in each.values() if s.n == most]
        best = max(whole) if metric.greater_is_better else min(whole)
        cells = [cell(each.get(name), best) for name in names]
        lines.append([task, metric.title, *cells, *(PAPER.get(task, "") for _ in paper)])
    return "\n".join(map(line, lines))


def cell(summary: Summary | None, best: float = math.nan) -> str:
    """`.612 ± .034`, bold if best, with the number of seeds where these are not all."""
    if summary is None:
        return ""
    mean = number(summary.mean)
    text = f"**{mean}**" if summary.mean == best else mean
    spread = f" ± {number(summary.sd)}" if summary.n > 1 else ""
    return text + spread + (f" ({summary.n})" if summary.n != len(SEEDS) else "")


def verdict(task: str, rows: Sequence[Row]) -> str:
    """What the differences mean, as `molsam compare` says it."""
    reference = rows[0].model
    if reference in BASELINES:
        return f"- {task}: the recipe was not run."
    seeds = sorted({row.seed for row in rows if row.model == reference})
    which = "" if seeds == list(SEEDS) else f", {seeds_text(seeds)}"
    return f"- {task}{which}: {'; '.join(verdicts(rows[0].metric, summarize(rows)))}."


def leads(found: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """How far each recipe is ahead of each baseline, where that is tested, and the sum of it."""
    each = {
        task: {s.model: s for s in summarize(rows) if s.model in BASELINES and s.pairs}
        for task, rows in found.items()
    }
    tested = [s for beside in each.values() for s in beside.values() if not math.isnan(s.p)]
    if not tested:
        return
    names = [name for name in BASELINES if any(name in beside for beside in each.values())]
    lines = [["ahead of", "", *(BASELINES[name].title for name in names)]]
    lines.append(["---"] * len(lines[0]))
    for task, beside in each.items():
        cells = [lead(beside.get(name)) for name in names]
        if any(cells):
            lines.append([task, METRICS[found[task][0].metric].title, *cells])
    yield "\n".join(map(line, lines))
    yield tally(tested)


def lead(summary: Summary | None) -> str:
    """`.035, p = 0.054`, in units of the metric, below 0 where the baseline leads; bold by p."""
    if summary is None:
        return ""
    ahead = number(summary.behind)
    text = f"**{ahead}**" if summary.p < LEVEL else ahead
    return text + ("" if math.isnan(summary.p) else f", p = {summary.p:.2g}")


def tally(tested: Sequence[Summary]) -> str:
    """How many leads there are on either side, and how many of them are more than noise."""
    ahead = [summary.p < LEVEL for summary in tested if summary.behind > 0]
    behind = [summary.p < LEVEL for summary in tested if summary.behind < 0]
    return (
        f"Of {len(tested)} differences the recipes are ahead in {len(ahead)}, in {sum(ahead)} of "
        f"them with p < {LEVEL}, and behind in {len(behind)}, in {sum(behind)} with p < {LEVEL}; "
        f"if nothing differed, chance alone would give about {LEVEL * len(tested):.1f} such p."
    )


def bought(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Cells of a table of the default recipe and of those that a search put in its place."""
    models = [OURS, f"{OURS} x5", f"{OURS} x5 + GP"]
    yield ["", "", "the search", *map(named, models)]
    yield ["---"] * (3 + len(models))
    for task in TASKS:
        tried = scores(task)
        if not tried or names_of(task) == names_of("default"):
            continue
        best = max if METRICS[TASKS[task].metric].greater_is_better else min
        first, *_ = scores(f"{task}-default") or tried
        both = ("default", "default", first), ("searched", task, best(tried))
        for title, name, score in both:
            ours = own(rows, task, name)
            means = {summary.model: summary for summary in summarize(ours)} if ours else {}
            yield [task, title, number(score), *(cell(means.get(m)) for m in models)]


def own(rows: Sequence[Row], task: str, name: str, seeds: Sequence[int] = SEEDS) -> list[Row]:
    """The rows of `of_recipe` without the baselines, by the paper's protocol."""
    found = of_recipe(rows, task, PAPER_PROTOCOL, name, seeds)
    return [row for row in found if row.model not in BASELINES]


def recipe(rows: Sequence[Row], path: Path, text: str) -> str:
    """The recipe file with the evidence of today in its comments."""
    lines = text.splitlines()
    if EVIDENCE in lines:
        start, end = lines.index(EVIDENCE), lines.index(LAST)
        del lines[start : end + 1]
    else:
        start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    found = [*searched(path.stem), *untouched(rows, path.stem)]
    found += [line for protocol in PROTOCOLS for line in evidence(rows, path.stem, protocol)]
    if found:
        lines[start:start] = [EVIDENCE, *(f"#   {line}" for line in found), LAST]
    return "\n".join(lines) + "\n"


def evidence(rows: Sequence[Row], task: str, protocol: str) -> Iterator[str]:
    """Scores of the recipe and of the baselines, time, versions, date and commands."""
    chosen = of_recipe(rows, task, protocol, task)
    ours = [row for row in chosen if row.model == chosen[0].model]
    if not ours or ours[0].model in BASELINES:
        return
    seeds = sorted(row.seed for row in ours)
    split = PROTOCOLS[protocol]
    how = f"{task} --split {split}"
    runs = f"runs/{task}" if protocol == PAPER_PROTOCOL else f"runs/{split}/{task}"
    spread = ", mean ± deviation" if len(seeds) > 1 else ""
    yield f"{protocol}, {seeds_text(seeds)}: test {METRICS[ours[0].metric].title}{spread}"
    for summary in summarize(chosen):
        yield f"  {named(summary.model)}: {cell(summary)}"
    seconds = sum(row.seconds for row in ours) / len(ours)
    yield f"  {seconds:.0f} s of training a run; {ours[0].versions}; {max(r.date for r in ours)}"
    ensemble = any(" x" in title for title in names_of(task).values())
    alone = " --set members=1" if ensemble and " x" not in ours[0].model else ""
    yield f"  molsam train {how}{alone} --repeats {len(ours)} --out {runs}"
    beside = ",".join(dict.fromkeys(row.model for row in chosen if row.model in BASELINES))
    files = f"--runs {runs} --out docs/results/scores.csv"
    which = "" if seeds == list(SEEDS) else f" --seeds {','.join(map(str, seeds))}"
    yield f"  molsam compare {how}{which} --baselines {beside} {files}"


def searched(task: str) -> Iterator[str]:
    """How many trials chose the recipe, and how long they took."""
    if found := trials(task):
        states = Counter(trial["state"] for trial in found)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        hours = sum(float(trial["seconds"] or 0) for trial in found) / 3600
        yield f"{len(found)} trials ({counts}) in {hours:.1f} h: docs/results/tuning/{task}.csv"


def scores(task: str) -> list[float]:
    """Those of the complete trials on `task`.

    The first is of the recipe that the search started from: the default's, or there is
    `TASK-default`.
    """
    return [float(trial["score"]) for trial in trials(task) if trial["state"] == "complete"]


def trials(task: str) -> list[dict[str, str]]:
    """The rows of the search on `task`, if there was one."""
    path = TRIALS / f"{task}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def untouched(rows: Sequence[Row], task: str) -> Iterator[str]:
    """Scores on the test parts of the splits of tuning, which no trial saw."""
    ours = own(rows, task, task, TUNED_ON)
    for summary in summarize(ours) if ours else ():
        seeds = ", ".join(str(row.seed) for row in ours if row.model == summary.model)
        yield f"test parts of the tuning's splits {seeds}: {named(summary.model)} {cell(summary)}"


def named(model: str) -> str:
    """`molsam x5` -> ensemble of 5; a baseline by its title."""
    if model in BASELINES:
        return BASELINES[model].title
    members, _, process = model.removeprefix(OURS).removeprefix(" x").partition(" + ")
    ours = f"ensemble of {members}" if members else "one model"
    return f"{ours}, {process}" if process else ours
