"""Splits: disjoint, complete, reproducible, and equal to the protocols they are named after."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from molsam import molecules, splits
from molsam.splits import PARTS, Split, SplitError

RELAXED = settings(deadline=None, max_examples=60)
FRACTIONS = st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.6, 0.3, 0.1)])
SEEDS = st.integers(0, 2**32 - 1)


def counts(split: Split) -> list[int]:
    return [len(getattr(split, part)) for part in PARTS]


def everything(split: Split) -> list[int]:
    return sorted(np.concatenate([split.train, split.valid, split.test]).tolist())


def sets(split: Split) -> list[set[int]]:
    return [set(part) for part in split.to_dict().values()]


@pytest.fixture(scope="module")
def bbbp(moleculenet):
    """RDKit molecules of BBBP's readable rows, their scaffolds and labels."""
    table = pd.read_csv(moleculenet / "bbbp.csv")
    parsed = molecules.parse_many(table["smiles"], salts="keep", charges="keep")
    scaffolds = [molecules.scaffold(mol) for mol in parsed.mols]
    return SimpleNamespace(
        mols=parsed.mols, scaffolds=scaffolds, y=table["p_np"].to_numpy()[parsed.index]
    )


# Split


def test_parts_are_ascending_int64():
    split = Split(np.array([4, 0, 2]), np.array([3], dtype=np.int32), np.array([1]))
    assert split.train.tolist() == [0, 2, 4]
    assert all(getattr(split, part).dtype == np.int64 for part in PARTS)
    assert split == Split(np.array([0, 2, 4]), np.array([3]), np.array([1]))
    assert split != Split(np.array([0, 2]), np.array([3]), np.array([1]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1], [1], [2]), "position 1 twice"),
        (([0, 0], [1], [2]), "position 0 twice"),
        (([0, 1], [], [2]), r"of 3 molecules leaves a part empty \(train 2, valid 0, test 1\)"),
        (([0, -1], [1], [2]), "'train' must list whole numbers"),
        (([0], [1.5], [2]), "'valid' must list whole numbers"),
        (([0], [1], [True]), "'test' must list whole numbers"),
        (([[0]], [1], [2]), "'train' must list whole numbers"),
    ],
)
def test_impossible_splits_are_refused(parts, message):
    with pytest.raises(SplitError, match=message):
        Split(*(np.array(part) for part in parts))


def test_check_refuses_positions_beyond_the_table():
    split = splits.random(10)
    assert split.check(10) is split
    with pytest.raises(SplitError, match="position 9 of a table of 9 molecules"):
        split.check(9)


@RELAXED
@given(n=st.integers(3, 60), seed=SEEDS)
def test_json_round_trip(n, seed, tmp_path_factory):
    split = splits.random(n, seed)
    path = tmp_path_factory.mktemp("split") / "split.json"
    path.write_text(json.dumps(split.to_dict()), encoding="utf-8")
    assert splits.from_json(path) == split
    assert splits.from_json(json.loads(path.read_text(encoding="utf-8"))) == split


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[1, 2]", "holds no lists"), ('{"train": [0]}', "without 'valid'")],
)
def test_bad_json_is_named(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SplitError, match=message):
        splits.from_json(path)


def test_json_reads_other_peoples_words():
    split = splits.from_json({"Train": [0], "val": [1], "TEST": [2]})
    assert split.to_dict() == {"train": [0], "valid": [1], "test": [2]}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.4, 0.3, 0.2, 0.1), (), (0.9, 0.0, 0.1)])
def test_fractions_that_are_not_three_shares_are_refused(fractions):
    with pytest.raises(SplitError, match="must be three that sum to 1, above 0 but for the last"):
        splits.random(10, fractions=fractions)


def test_scaffolds_that_leave_none_to_test_are_refused():
    """Unless none was asked for."""
    rings = ["a", "b", "b", "b"]
    with pytest.raises(SplitError, match=r"leaves a part empty \(train 1, valid 3, test 0\)"):
        splits.scaffold(rings, fractions=(0.7, 0.1, 0.2))
    assert counts(splits.scaffold(rings, fractions=(0.25, 0.75, 0))) == [1, 3, 0]


# every split by name


@RELAXED
@given(
    name=st.sampled_from(sorted(set(splits.SPLITS) - {"column"})),
    n=st.integers(0, 80),
    seed=SEEDS,
    fractions=FRACTIONS,
    kinds=st.integers(1, 40),
)
def test_a_split_is_complete_and_reproducible_or_advises(name, n, seed, fractions, kinds):
    generator = np.random.default_rng(seed)
    scaffolds = [f"ring {i}" for i in generator.integers(0, kinds, n)]
    y = generator.normal(size=(n, 2))
    arguments = {"n": n, "y": y, "scaffolds": scaffolds, "seed": seed, "fractions": fractions}
    if n < 3:
        with pytest.raises(SplitError, match=f"{n} molecules leave none to train"):
            splits.make(name, **arguments)
        return
    try:
        split = splits.make(name, **arguments)
    except SplitError:
        assert "scaffold" in name  # a scaffold too large for any split
        return
    assert everything(split) == list(range(n))
    assert min(counts(split)) >= 1
    assert split == splits.make(name, **arguments)


@RELAXED
@given(
    name=st.sampled_from(sorted(set(splits.SPLITS) - {"column", "paper"})),
    n=st.integers(2, 80),
    seed=SEEDS,
    train=st.sampled_from([0.9, 0.8, 0.5]),
    kinds=st.integers(1, 40),
)
def test_a_model_judged_elsewhere_spares_no_molecules_to_test(name, n, seed, train, kinds):
    generator = np.random.default_rng(seed)
    scaffolds = [f"ring {i}" for i in generator.integers(0, kinds, n)]
    arguments = {"n": n, "y": generator.normal(size=n), "scaffolds": scaffolds, "seed": seed}
    try:
        split = splits.make(name, **arguments, fractions=(train, 1 - train, 0))
    except SplitError:
        assert "scaffold" in name
        return
    assert len(split.test) == 0
    assert everything(split) == list(range(n))
    assert splits.from_json(split.to_dict()) == split
    if "scaffold" not in name:
        assert len(split.valid) == max(1, round(n * (1 - train)))


@pytest.mark.parametrize("name", ["random", "paper", "stratified", "balanced_scaffold"])
def test_another_seed_is_another_split(name):
    arguments = {"n": 60, "y": np.arange(60.0), "scaffolds": [str(i // 2) for i in range(60)]}
    several = [splits.make(name, seed=seed, **arguments) for seed in range(5)]
    assert all(a != b for i, a in enumerate(several) for b in several[:i])


def test_seeds_mean_the_same_split_everywhere():
    assert splits.random(12).to_dict() == {
        "train": [0, 2, 3, 4, 5, 6, 7, 9, 10, 11], "valid": [8], "test": [1],
    }  # fmt: skip
    assert splits.stratified(np.arange(12), seed=3).test.tolist() == [1]
    assert splits.paper(12).to_dict() == {
        "train": [1, 2, 4, 5, 6, 7, 9, 11], "valid": [3, 8], "test": [0, 10],
    }  # fmt: skip


def test_without_a_seed_it_is_seed_0():
    y, scaffolds = np.arange(60.0), [str(i // 2) for i in range(60)]
    assert splits.random(60) == splits.random(60, 0)
    assert splits.stratified(y) == splits.stratified(y, 0)
    assert splits.balanced_scaffold(scaffolds) == splits.balanced_scaffold(scaffolds, 0)
    assert splits.k_fold(60, 5) == splits.k_fold(60, 5, 0)
    assert splits.paper(60) == splits.paper(60, 777)


def test_make_keeps_each_functions_defaults():
    assert splits.make("paper", n=50) == splits.paper(50, 777)
    assert splits.make("random", n=50) == splits.random(50, 0, (0.8, 0.1, 0.1))
    assert splits.make("random", n=50, seed=4, fractions=(0.6, 0.2, 0.2)) == splits.random(
        50, 4, (0.6, 0.2, 0.2)
    )
    words = ["train", "valid", "test"]
    assert splits.make("column", n=3, column=words, seed=9) == splits.from_column(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "butina", "n": 9}, "no split is called 'butina'; choose from random, paper"),
        ({"name": "scaffold", "n": 9}, "'scaffold' needs scaffolds"),
        ({"name": "stratified", "n": 9}, "'stratified' needs y"),
        ({"name": "column", "n": 9}, "'column' needs column"),
        ({"name": "stratified", "n": 9, "y": np.zeros(8)}, "y has 8 entries for 9 molecules"),
        ({"name": "scaffold", "n": 9, "scaffolds": ["C"] * 8}, "scaffolds has 8 entries for 9"),
        ({"name": "column", "n": 9, "column": ["test"] * 10}, "column has 10 entries for 9"),
        ({"name": "random", "n": 9, "fractions": (0.8, 0.0, 0.2)}, "above 0 but for the last"),
        ({"name": "random", "n": 9, "fractions": (0.9, 0.2, -0.1)}, "above 0 but for the last"),
        ({"name": "random", "n": 9, "fractions": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"name": "random", "n": 2}, "2 molecules leave none to train"),
        ({"name": "paper", "n": 2}, "2 molecules leave none to train"),
        ({"name": "scaffold", "n": 5, "scaffolds": [""] * 5}, "train 0, valid 0, test 5"),
    ],
)
def test_make_advises(arguments, message):
    with pytest.raises(SplitError, match=message):
        splits.make(**arguments)


# the protocols


@RELAXED
@given(n=st.integers(3, 400), seed=st.integers(0, 1000))
def test_paper_is_the_released_scripts_two_calls(n, seed):
    index = list(range(n))
    rest, test = train_test_split(index, test_size=0.1, random_state=seed)
    train, valid = train_test_split(rest, test_size=len(test), random_state=seed)
    assert sets(splits.paper(n, seed)) == [set(train), set(valid), set(test)]


@pytest.mark.parametrize("n", [3, 4, 10, 99, 1128])
def test_random_sizes(n):
    held = max(1, round(n / 10))
    assert counts(splits.random(n)) == [n - 2 * held, held, held]


@RELAXED
@given(
    labels=st.lists(st.integers(0, 12), min_size=3, max_size=120),
    seed=SEEDS,
    name=st.sampled_from(["scaffold", "balanced_scaffold"]),
)
def test_a_scaffold_lies_in_one_part(labels, seed, name):
    scaffolds = [str(label) for label in labels]
    try:
        parts = sets(splits.make(name, n=len(labels), scaffolds=scaffolds, seed=seed))
    except SplitError:
        return
    homes = [{scaffolds[i] for i in part} for part in parts]
    assert sum(map(len, homes)) == len(set(scaffolds))


def test_scaffold_by_hand():
    scaffolds = list("aaaabbbccdde") + [""] * 8
    split = splits.scaffold(scaffolds)  # 20 molecules: room for 16 to train, 18 before the test
    assert split.train.tolist() == [*range(7), 11, *range(12, 20)]
    assert split.valid.tolist() == [9, 10]  # of two scaffolds of one size, the later goes first
    assert split.test.tolist() == [7, 8]


def test_fractions_that_floating_point_spoils_still_fill_their_part():
    scaffolds = ["a"] * 7 + ["b"] + ["c", "d"]
    assert 0.7 + 0.1 < 0.8
    split = splits.scaffold(scaffolds, (0.7, 0.1, 0.2))
    assert counts(split) == [7, 1, 2]


def test_balanced_scaffold_trains_on_big_scaffolds():
    scaffolds = ["big"] * 6 + ["also big"] * 6 + [str(i) for i in range(88)]
    for seed in range(20):
        split = splits.balanced_scaffold(scaffolds, seed)
        assert set(range(12)) <= set(split.train.tolist())
        assert counts(split) == [80, 10, 10]


def assert_balanced_as_its_twin(scaffolds: list[str], seed: int, fractions) -> None:
    train, valid, test = (Fraction(str(fraction)) * len(scaffolds) for fraction in fractions)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(scaffolds):
        groups.setdefault(name, []).append(row)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(groups))
    shuffled = [list(groups.values())[i] for i in order]
    big = [x for x in shuffled if len(x) > valid / 2 or (test and len(x) > test / 2)]
    parts: list[list[int]] = [[], [], []]
    for group in big + [x for x in shuffled if x not in big]:
        if len(parts[0]) + len(group) <= train:
            parts[0] += group
        elif not test or len(parts[1]) + len(group) <= valid:
            parts[1] += group
        else:
            parts[2] += group
    try:
        found = splits.balanced_scaffold(scaffolds, seed, fractions)
    except SplitError:
        assert not (parts[0] and parts[1])
        return
    assert sets(found) == [set(part) for part in parts]


@RELAXED
@given(
    labels=st.lists(st.integers(0, 12), min_size=12, max_size=120),
    seed=SEEDS,
    fractions=st.one_of(FRACTIONS, st.just((0.75, 0.25, 0.0))),
)
def test_balanced_scaffold_is_its_twin(labels, seed, fractions):
    assert_balanced_as_its_twin([str(label) for label in labels], seed, fractions)


@pytest.mark.parametrize("seed", range(5))
def test_a_scaffold_of_half_a_part_waits_for_its_turn(seed):
    scaffolds = ["half"] * 5 + ["also half"] * 5 + [str(i) for i in range(90)]
    assert_balanced_as_its_twin(scaffolds, seed, (0.8, 0.1, 0.1))


def test_scaffold_is_dgllifes_on_bbbp(bbbp):
    splitters = molecules.dgllife("utils.splitters")
    parts = splitters.ScaffoldSplitter.train_val_test_split(
        _Sized(bbbp.mols),
        mols=bbbp.mols,
        log_every_n=None,
        scaffold_func="smiles",
    )
    ours = splits.scaffold(bbbp.scaffolds)
    assert sets(ours) == [set(part.indices) for part in parts]


def test_scaffold_on_bbbp_is_the_hard_one(bbbp):
    split = splits.scaffold(bbbp.scaffolds)
    assert counts(split) == [1631, 204, 204]
    # the large scaffolds train and are mostly permeable: the known shift of this split
    assert bbbp.y[split.train].mean() > 0.8
    assert bbbp.y[split.test].mean() < 0.6


def test_balanced_scaffold_on_bbbp_keeps_the_balance(bbbp):
    shares = []
    for seed in range(5):
        split = splits.balanced_scaffold(bbbp.scaffolds, seed)
        assert np.abs(np.array(counts(split)) - [1631, 204, 204]).max() <= 1
        shares.append(bbbp.y[split.test].mean())
    assert abs(np.mean(shares) - bbbp.y.mean()) < 0.1


@RELAXED
@given(n=st.integers(3, 60), k=st.integers(3, 10), seed=SEEDS)
def test_k_fold_tests_and_validates_everyone_once(n, k, seed):
    if k > n:
        with pytest.raises(SplitError, match=f"cannot make {k} folds; use from 3 to {n} folds"):
            splits.k_fold(n, k, seed)
        return
    folds = splits.k_fold(n, k, seed)
    assert len(folds) == k
    assert all(everything(fold) == list(range(n)) for fold in folds)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(n))
    for fold, following in zip(folds, folds[1:] + folds[:1], strict=True):
        assert fold.valid.tolist() == following.test.tolist()


def test_column_words():
    split = splits.from_column(["Train", "VAL", " test ", "validation", "valid", "train"])
    assert split.to_dict() == {"train": [0, 5], "valid": [1, 3, 4], "test": [2]}


@pytest.mark.parametrize("word", ["dev", "", float("nan"), None, 1])
def test_other_words_are_named_with_their_row(word):
    with pytest.raises(SplitError, match=f"row 3 of the split column says {word!r}"):
        splits.from_column(["train", "test", word])


# stratified


@RELAXED
@given(rows=st.lists(st.integers(20, 200), min_size=1, max_size=4), seed=SEEDS)
@example(rows=[85, 200, 145, 107], seed=8662)
def test_classes_keep_their_shares(rows, seed):
    """A ten that lies within a class is dealt 8, 1, 1; at either end a class may cut one.

    A cut ten gives at most both rows that it holds out and none of its eight, or the other way
    round: 1.6 from the share that trains; or the one that validates alone: .9 from its share.
    """
    rows = [*rows, 20 + -sum(rows) % 10]  # tens alone, without one that is larger
    y = np.repeat(np.arange(len(rows)), rows).astype(float)
    generator = np.random.default_rng(seed)
    y = y[generator.permutation(len(y))]
    split = splits.stratified(y, seed)
    ends = (2 * 1.6, 2 * 0.9, 2 * 0.9)
    for label, count in enumerate(rows):
        for part, share, most in zip(PARTS, (0.8, 0.1, 0.1), ends, strict=True):
            here = (y[getattr(split, part)] == label).sum()
            assert here >= 1
            assert abs(here - share * count) <= most + 1e-9


@RELAXED
@given(n=st.integers(3, 300), fractions=FRACTIONS, seed=SEEDS)
def test_parts_span_the_range_of_a_target(n, fractions, seed):
    """However many of the smallest labels are taken, each part has its share of them."""
    split = splits.stratified(np.arange(n, dtype=float), seed, fractions)
    sizes = counts(splits.random(n, 0, fractions))
    assert counts(split) == sizes
    for part, size in zip(PARTS, sizes, strict=True):
        taken = np.isin(np.arange(n), getattr(split, part)).cumsum()
        in_a_block = size / min(sizes) + 1
        assert np.abs(taken - np.arange(1, n + 1) * size / n).max() <= in_a_block + 1


def test_moleculenets_tens():
    split = splits.stratified(np.arange(100)[::-1], seed=1)
    for part, dealt in zip(PARTS, (8, 1, 1), strict=True):
        tens = (99 - getattr(split, part)) // 10
        assert np.bincount(tens, minlength=10).tolist() == [dealt] * 10


def test_many_tasks_spread_their_rare_labels():
    """25 positives of a rare task, 5 of them unmeasured in the other: some in every part."""
    y = np.zeros((1000, 2))
    y[::2, 0] = 1
    y[:25, 1] = 1
    y[:5, 0] = np.nan
    for seed in range(10):
        split = splits.stratified(y, seed)
        assert all((y[getattr(split, part), 1] == 1).sum() >= 1 for part in PARTS)


@RELAXED
@given(y=st.lists(st.integers(0, 5), min_size=3, max_size=90), fractions=FRACTIONS, seed=SEEDS)
def test_stratified_is_its_twin(y, fractions, seed):
    generator = np.random.Generator(np.random.PCG64(seed))
    order = sorted(generator.permutation(len(y)).tolist(), key=lambda row: y[row])
    sizes = counts(splits.random(len(y), 0, fractions))
    blocks = min(size for size in sizes if size)
    dealt = {part: [] for part in PARTS}
    for k in range(blocks):
        shares = [(k + 1) * size // blocks - k * size // blocks for size in sizes]
        for part in generator.permutation(np.repeat(PARTS, shares)):
            dealt[part].append(order.pop(0))
    found = splits.stratified(np.array(y, dtype=float), seed, fractions)
    assert sets(found) == [set(dealt[part]) for part in PARTS]


def several_tasks(n=100):
    """Labels of three tasks, a third of them missing; nothing is known of the last row."""
    generator = np.random.default_rng(0)
    y = generator.normal(size=(n, 3))
    y[generator.random((n, 3)) < 1 / 3] = np.nan
    y[-1] = np.nan
    return y + np.array([3, 0, -1])


def test_neighbours_are_told_by_their_mean_z_score():
    y = several_tasks()
    scores = (y - np.nanmean(y, axis=0)) / np.nanstd(y, axis=0)
    known = [[z for z in row if not np.isnan(z)] for row in scores]
    level = [sum(row) / len(row) if row else np.inf for row in known]
    rank = {row: place for place, row in enumerate(sorted(range(100), key=level.__getitem__))}
    split = splits.stratified(y, seed=2)
    for part, dealt in zip(PARTS, (8, 1, 1), strict=True):
        tens = [rank[row] // 10 for row in getattr(split, part)]
        assert np.bincount(tens, minlength=10).tolist() == [dealt] * 10


def test_labels_of_float32_tie_as_those_of_float64_do():
    """Tables hold float32."""
    y = np.array(list(product([0.1, 0.7, 1.3, 2.9], repeat=3)), dtype=np.float32)
    assert splits.stratified(y) == splits.stratified(y.astype(np.float64))


def test_units_of_tasks_change_no_split():
    y = several_tasks()
    assert splits.stratified(y * [1, 1000, 0.001] + [0, 7, -70]) == splits.stratified(y)


def test_unlabelled_and_constant_rows_are_still_split():
    y = np.full((40, 1), np.nan)
    assert everything(splits.stratified(y)) == list(range(40))
    y[:20] = 3.0
    assert everything(splits.stratified(y)) == list(range(40))


class _Sized:
    """What dgllife's splitters ask of a data set."""

    def __init__(self, mols):
        self.mols = mols

    def __len__(self):
        return len(self.mols)

    def __getitem__(self, position):
        return self.mols[position]
