"""The pages of results and studies, the recipes' evidence and the CSV agree; what makes them says
what is there."""

from __future__ import annotations

import pandas as pd
import pytest

from molsam.comparison import Row, read_rows, summarize
from molsam.studies import write_rows
from pages import certainty, charges, commands, results, studies, trust

RECIPES = sorted(results.RECIPES.glob("*.toml"))
PROTOCOL = results.PAPER_PROTOCOL


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read_rows(results.SCORES)


def row(model: str, seed: int, test: float, task: str = "esol", metric: str = "rmse") -> Row:
    *_, own = results.names_of(task)
    named = model.replace("molsam", own)
    return Row(task, PROTOCOL, f"s{seed}", seed, named, metric, 0, test, 90, 10, 7, "v 1", "d")


OURS = [row("molsam x5", s, 0.5 + s / 10) for s in range(5)]
ALONE = [row("molsam", s, 0.6 + s / 10) for s in range(5)]
FOREST = [row("rf", s, 0.4 + s / 10) for s in range(2)]
OTHER = [row("molsam", 0, 0.1)._replace(model="molsam 00000000")]


def test_the_page_is_that_of_the_evidence(rows):
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.page(rows, text) == text, "make results"


def test_the_reference_is_that_of_the_commands():
    text = commands.PAGE.read_text(encoding="utf-8")
    assert commands.page() == text, "make results"
    for command in ("molsam train", "molsam recipes show", "molsam cache", "molsam bench train"):
        assert f"\n## `{command}`\n" in text


def test_the_tables_of_charges_are_those_of_the_evidence(rows):
    text = results.PAGE.read_text(encoding="utf-8")
    assert charges.page(rows, text) == text, "make results"
    assert "| clintox | CT_TOX | 866 of 1,368, 63% | 2 of 112, 2% |" in text


def test_scores_of_neutral_molecules_stand_below_those_as_written():
    forest = [row("rf", s, 0.8 + s / 100, "clintox", "roc_auc") for s in range(5)]
    neutral = [r._replace(protocol=charges.NEUTRAL, test=0.6) for r in forest]
    model = next(iter(results.names_of("clintox", charges="neutralize")))
    ours = [r._replace(model=model, test=0.7) for r in neutral]
    text = charges.page([*forest, *neutral, *ours], charges.BEGIN + charges.END)
    assert "|  |  | one model | ensemble of 5, GP | random forest |" in text
    assert "| as written | ROC-AUC |  |  | **.820** ± .016 |" in text
    assert "| neutral | ROC-AUC |  | **.700** ± .000 | .600 ± .000 |" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_carry_the_evidence(rows, path):
    text = path.read_text(encoding="utf-8")
    assert results.recipe(rows, path, text) == text, "make results"


def test_the_evidence_holds_each_fit_once(rows):
    assert len({row.key for row in rows}) == len(rows)
    assert len({(row.task, row.protocol, row.seed, row.split) for row in rows}) == len(
        {(row.task, row.protocol, row.seed) for row in rows}
    ), "two splits for one seed"


def test_the_table_shows_means_spreads_and_the_best():
    empty = f"a{results.BEGIN}old{results.END}b{''.join(results.BOUGHT)}c"
    text = results.page([*OURS, *ALONE, *FOREST, *OTHER], empty)
    assert text.startswith("a")
    assert text.endswith("c")
    assert "old" not in text
    assert "| esol | RMSE | .800 ± .158 | **.700** ± .158 | .450 ± .071 (2) | .511 ± .018 |" in text
    assert "|  |  | one model | ensemble of 5 | random forest | the paper |" in text
    assert "- esol: random forest wins over molsam x5 by 0.100 RMSE" in text


def test_how_far_a_recipe_is_ahead_of_each_baseline_is_told_with_p_and_summed():
    """Seeds that both have are compared; one alone is not tested, and nor is a single split."""
    forest = [row("rf", s, 0.7 + s / 10 + s / 100) for s in range(5)]  # .20 to .24 behind ours
    machine = [row("svm-rbf", s, 0.48 + s / 10 + (s == 4) / 20) for s in range(5)]
    process = [row("gp", 2, 0.6)]
    section = "\n".join(
        results.section([*OURS, *forest, *machine, *process], PROTOCOL, "Recipes", {"esol": "esol"})
    )
    p = {m.model: m.p for m in summarize([*OURS, *forest, *machine])}
    assert 0 < p["rf"] < 0.05 < p["svm-rbf"]
    assert "| ahead of |  | random forest | RBF SVM | Gaussian process |" in section
    found = f"**.220**, p = {p['rf']:.2g} | -.010, p = {p['svm-rbf']:.2g} | -.100 |"
    assert f"| esol | RMSE | {found}" in section
    assert section.endswith(
        "\nOf 2 differences the recipes are ahead in 1, in 1 of them with p < 0.05, and behind in "
        "1, in 0 with p < 0.05; if nothing differed, chance alone would give about 0.1 such p."
    )
    same = [r._replace(split="s") for r in [*OURS, *forest]]
    assert "ahead of |" not in "\n".join(results.section(same, PROTOCOL, "", {"esol": "esol"}))


def test_on_the_split_of_the_paper_its_figures_stand_beside_those_of_the_recipes():
    """One split serves all seeds, so nothing is tested; the default recipe has no table there."""
    rows = [r._replace(protocol="paper", split="s") for r in [*ALONE, *FOREST]]
    text = results.page(rows, f"{results.BEGIN}{results.END}{''.join(results.BOUGHT)}")
    assert text.count("### ") == 1
    assert "### Recipes, paper\n\n|  |  | one model | random forest | the paper |" in text
    assert "| esol | RMSE | **.800** ± .158 | .450 ± .071 (2) | .511 ± .018 |" in text
    assert "by 0.200 RMSE on average, and on 2 of 2 seeds." in text


def test_one_model_of_an_ensemble_and_the_process_say_how_they_were_trained():
    joined = [row("molsam + GP", s, 0.3 + s / 10) for s in range(5)]
    scaffold = [r._replace(protocol="balanced_scaffold 0.8/0.1/0.1") for r in [*ALONE, *joined]]
    text = results.page(scaffold, results.BEGIN + results.END)
    assert "| esol | RMSE | .800 ± .158 | **.500** ± .158 |" in text
    evidence = "\n".join(results.evidence(scaffold, "esol", scaffold[0].protocol))
    how = "esol --split balanced_scaffold --set members=1"
    assert f"  molsam train {how} --repeats 5 --out runs/balanced_scaffold/esol\n" in evidence
    random = "\n".join(results.evidence(OURS, "esol", PROTOCOL))
    assert "  molsam train esol --split random --repeats 5 --out runs/esol\n" in random
    assert "members=1" not in random


def test_tasks_that_were_searched_and_not_run_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TRIALS", tmp_path)
    for task in ("esol", "bbbp", "bace"):
        (tmp_path / f"{task}.csv").write_text("state,score,seconds\ncomplete,0.9,1\n")
    text = "\n".join(results.section(OURS, PROTOCOL, "Recipes", {t: t for t in results.TASKS}))
    assert text.endswith("\n- Not run: bbbp, bace.")


def test_what_a_search_bought_is_told_task_by_task(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TRIALS", tmp_path)
    found = "state,score,seconds\ncomplete,0.9,1\npruned,,1\ncomplete,0.8,1\ncomplete,0.85,1\n"
    for task in ("esol", "freesolv"):  # that of ESOL found nothing
        (tmp_path / f"{task}.csv").write_text(found, encoding="utf-8")
    *_, default = results.names_of("default")
    before = [
        row(m, s, test, "freesolv")._replace(model=m.replace("molsam", default))
        for m, s, test in (("molsam x5", 0, 0.5), ("molsam", 0, 0.7), ("molsam", 1, 0.5))
    ]
    after = [row("molsam x5 + GP", s, 0.4, "freesolv") for s in range(5)]
    assert list(results.bought([*before, *after, *OURS, *FOREST]))[2:] == [
        ["freesolv", "default", ".900", ".600 ± .141 (2)", ".500 (1)", ""],
        ["freesolv", "searched", ".800", "", "", ".400 ± .000"],
    ]
    (tmp_path / "freesolv-default.csv").write_text("state,score\ncomplete,0.95\n")
    assert [cells[2] for cells in results.bought([*before, *after])][2:] == [".950", ".800"]


def test_what_few_seeds_say_names_them():
    forest = [row("rf", s, 0.4 + s / 10) for s in range(5)]
    text = results.page([*OURS[1:3], *forest], results.BEGIN + results.END)
    assert "| .650 ± .071 (2) | **.600** ± .158 |" in text
    assert "- esol, seeds 1, 2: random forest wins over molsam x5 by 0.100 RMSE" in text


def test_what_one_seed_says_has_no_average():
    text = results.page([OURS[1], *FOREST], results.BEGIN + results.END)
    assert "- esol, seed 1: random forest wins over molsam x5 by 0.100 RMSE.\n" in text


def test_what_is_compared_on_few_seeds_names_those():
    """Not the seeds of other rows of the recipe, which the sentence does not speak of."""
    text = results.page([*OURS[1:3], *ALONE, *FOREST], results.BEGIN + results.END)
    assert "- esol, seeds 1, 2: random forest wins over molsam x5" in text


def test_the_splits_of_a_search_have_a_table_of_their_own():
    tuned = [r._replace(seed=1000 + r.seed, test=r.test + 1) for r in [*OURS[:3], *FOREST]]
    text = results.page([*OURS, *FOREST, *tuned], results.BEGIN + results.END)
    final, searched, _default = text.split("### ")[1:]
    assert "| **.700** ± .158 | .450 ± .071 (2) | .511 ± .018 |" in final
    assert searched.startswith("Recipes on the splits of their searches, random 0.8/0.1/0.1\n")
    assert "| **1.600** ± .100 (3) | 1.450 ± .071 (2) | .511 ± .018 |" in searched
    assert "- esol, seeds 1000, 1001, 1002: random forest wins over molsam x5" in searched


def test_a_recipe_that_was_not_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TRIALS", tmp_path)
    assert "- esol: the recipe was not run." in results.page(FOREST, results.BEGIN + results.END)
    path = results.RECIPES / "esol.toml"
    assert results.EVIDENCE not in results.recipe(
        [*FOREST, *OTHER], path, "# title\n\ntask = 'esol'\n"
    )


def test_evidence_is_replaced_not_added(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TRIALS", tmp_path)
    path, first = results.RECIPES / "esol.toml", "# title\n\ntask = 'esol'\n"
    once = results.recipe([*OURS, *ALONE], path, first)
    assert "#     ensemble of 5: .700 ± .158\n" in once
    assert "#     7 s of training a run; v 1; d\n" in once
    assert once.startswith("# title\n")
    assert once.endswith("\n\ntask = 'esol'\n")
    assert results.recipe([*OURS, *ALONE], path, once) == once
    assert results.recipe(FOREST, path, once) == first


def test_evidence_tells_trials_and_the_test_parts_of_their_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TRIALS", tmp_path)
    (tmp_path / "esol.csv").write_text(
        "trial,state,seconds\n0,complete,1800\n1,pruned,900\n2,complete,900\n3,failed,\n"
    )
    tuned = [row("molsam", 1000 + s, 0.5 + s / 10) for s in range(3)]
    path = results.RECIPES / "esol.toml"
    text = results.recipe([*ALONE, *tuned], path, "# title\n\ntask = 'esol'\n")
    trials = "4 trials (2 complete, 1 pruned, 1 failed) in 1.0 h: docs/results/tuning/esol.csv"
    assert f"#   {trials}\n" in text
    line = "test parts of the tuning's splits 1000, 1001, 1002: one model .600 ± .100 (3)"
    assert f"#   {line}\n" in text
    assert "#     one model: .800 ± .158\n" in text


# studies


def studied(task: str, variant: str, seed: int, test: float) -> dict:
    parts = {"n_train": 80, "n_valid": 10, "n_test": 10}
    scores = {"metric": "rmse", "valid": test / 2, "test": test, "best_epoch": 3, "epochs": 4}
    took = {"gradients": 1234, "seconds": 2.0, "train_loss": 0.0123, "sharpness": 456.7}
    return {"task": task, "variant": variant, "seed": seed, **scores, **took, **parts}


def test_the_tables_of_studies_are_those_of_the_evidence():
    text = studies.PAGE.read_text(encoding="utf-8")
    assert studies.page(text) == text, "make results"


def test_the_tables_of_certainty_are_those_of_the_evidence():
    text = certainty.PAGE.read_text(encoding="utf-8")
    assert certainty.page(text) == text, "make results"
    assert "| esol (5) | " in text


def test_the_tables_of_trust_are_those_of_the_evidence():
    text = trust.PAGE.read_text(encoding="utf-8")
    assert trust.page(text) == text, "make results"
    kills, inputs = pd.read_csv(trust.KILLS), pd.read_csv(trust.FUZZ)
    assert kills["kills"].sum() >= 100
    assert not kills["different"].any()
    assert inputs["inputs"].sum() >= 100_000
    assert not inputs["faults"].any()


def test_most_mutants_are_noticed_and_the_rest_was_looked_at():
    counts, survivors = pd.read_csv(trust.MUTANTS), pd.read_csv(trust.SURVIVORS)
    rows = counts.groupby(counts["module"].str.split(".").str[1]).sum()
    assert set(rows.index) == {"losses", "metrics", "optim", "splits"}
    assert (rows["survived"] <= 0.15 * rows["judged"]).all()
    assert survivors["reason"].notna().all()
    assert counts["survived"].sum() == len(survivors)


def test_a_table_of_a_study_says_how_far_variants_are_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "ROWS", tmp_path)
    rows = [studied("esol", "adam", s, 0.6 + s / 10) for s in (1, 0)]
    rows += [studied("esol", "sam", s, 0.7 + s / 20) | {"seconds": 5.0} for s in (1, 0)]
    write_rows(rows, tmp_path / "optimizers.csv")
    text = "\n".join(studies.section("optimizers", studies.read("optimizers")))
    left = "`graphsam`, `s2sam`, `looksam`, `sam, half the epochs`, `adam, twice the epochs`"
    tasks = "bbbp, tox21, sider, clintox, lipophilicity, freesolv, bace"
    assert f"Not run: {tasks}; of esol {left}.\n" in text
    assert "| esol, RMSE | test | ahead of adam | better on | p | validation | epochs |" in text
    assert "| adam | .650 ± .071 |  |  |  | .325 ± .035 | 4 | 1,234 | 1.00 | 0.012 | 457 |" in text
    sam = "| sam | .725 ± .035 | -.075 ± .035 | 0 of 2 | 0.23 | .362 ± .018 | 4 | 1,234 | 2.50 |"
    assert sam in text
    assert "- esol, RMSE beside adam: sam behind by 0.075 (better on 0 of 2 seeds" in text


def test_a_study_that_was_not_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "ROWS", tmp_path)
    assert list(studies.section("ablations", studies.read("ablations"))) == [
        "Not run: esol, freesolv, bbbp."
    ]


def test_one_seed_has_no_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "ROWS", tmp_path)
    write_rows([studied("esol", v, 0, 1.25) for v in ("adam", "sam")], tmp_path / "optimizers.csv")
    text = "\n".join(studies.section("optimizers", studies.read("optimizers")))
    assert "| sam | 1.250 | .000 | 0 of 1 |  | .625 | 4 |" in text
