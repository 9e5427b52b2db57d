"""Splits: which molecules train, which validate, which test.

Every split is a function that returns a `Split`, three arrays of 0-based positions. `SPLITS` names
them, `make` calls one by its name, `k_fold` gives several. A seed gives the same split on any
machine: NumPy's PCG64 shuffles, and scikit-learn's own generator in the split of the paper.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path

import numpy as np

Fractions = tuple[float, float, float]

FRACTIONS: Fractions = (0.8, 0.1, 0.1)
PARTS = ("train", "valid", "test")
WORDS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


class SplitError(ValueError):
    """A split that cannot be made or read: says which part or row, and what to try."""


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the molecules that train, validate and test: three ascending int64 arrays.

    The parts are disjoint; they need not cover the whole table. `test` alone may be empty: a model
    that is judged elsewhere spares no molecules for it.

    Raises:
        SplitError: nothing to train or to validate, a position that is not a whole number from 0,
            or one named twice.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, _positions(part, getattr(self, part)))
        counts = {part: len(getattr(self, part)) for part in PARTS}
        if not (counts["train"] and counts["valid"]):
            raise _empty(counts)
        positions, times = np.unique(self._all(), return_counts=True)
        if times.max() > 1:
            twice = positions[times > 1][0]
            raise SplitError(f"a split names position {twice} twice; name each molecule once")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Split) and self.to_dict() == other.to_dict()

    def check(self, n: int) -> Split:
        """This split, if all its positions lie in a table of `n` molecules; else SplitError."""
        last = self._all().max()
        if last >= n:
            raise SplitError(
                f"a split names position {last} of a table of {n} molecules; "
                "positions count from 0: use the split with the table it was made for"
            )
        return self

    def to_dict(self) -> dict[str, list[int]]:
        """Plain lists under `train`, `valid` and `test`, for JSON."""
        return {part: getattr(self, part).tolist() for part in PARTS}

    @classmethod
    def from_dict(cls, parts: Mapping[str, Sequence[int]]) -> Split:
        """The split that `to_dict` wrote; `val` and `validation` are read as `valid`."""
        named = {WORDS.get(key.lower()): value for key, value in parts.items()}
        missing = [part for part in PARTS if part not in named]
        if missing:
            raise SplitError(
                f"a split without {missing[0]!r}; give lists under 'train', 'valid' and 'test'"
            )
        return cls(*(np.asarray(named[part]) for part in PARTS))

    def _all(self) -> np.ndarray:
        return np.concatenate([self.train, self.valid, self.test])


def random(n: int, seed: int = 0, fractions: Fractions = FRACTIONS) -> Split:
    """Shuffled molecules; validation and test are rounded and hold one molecule at least.

    Test holds none where its fraction is 0.
    """
    train, valid, _ = _sizes(n, fractions)
    order = _generator(seed).permutation(n)
    return Split(order[:train], order[train : train + valid], order[train + valid :])


def paper(n: int, seed: int = 777) -> Split:
    """The split of the GraphSAM paper's released script: a tenth tests, as many validate.

    scikit-learn's `train_test_split` twice with one seed. The script uses seed 777 throughout.
    """
    from sklearn.model_selection import train_test_split

    _sizes(n, FRACTIONS)
    rest, test = train_test_split(np.arange(n), test_size=0.1, random_state=seed)
    train, valid = train_test_split(rest, test_size=len(test), random_state=seed)
    return Split(np.asarray(train), np.asarray(valid), np.asarray(test))


def scaffold(scaffolds: Sequence[str], fractions: Fractions = FRACTIONS) -> Split:
    """Whole scaffolds, the largest first, into train, then valid, then test. No seed.

    The protocol of DeepChem and GEM: of two scaffolds of one size, the one whose first molecule
    comes later goes first, and train and valid share the room up to the sum of their fractions.
    Acyclic molecules, with scaffold "", count as one scaffold.

    scaffolds: a Bemis-Murcko SMILES per molecule.
    """
    n = len(scaffolds)
    _sizes(n, fractions)
    groups = sorted(_groups(scaffolds), key=lambda group: (len(group), group[0]), reverse=True)
    held = _room(n, fractions[0] + fractions[1])
    split = _fill(groups, _room(n, fractions[0]), lambda in_train: held - in_train)
    if fractions[2] and not len(split.test):  # train took the rest after valid had its share
        raise _empty({part: len(rows) for part, rows in split.to_dict().items()})
    return split


def balanced_scaffold(
    scaffolds: Sequence[str], seed: int = 0, fractions: Fractions = FRACTIONS
) -> Split:
    """Whole scaffolds in random order, into train, then valid, then test.

    The protocol of chemprop: scaffolds larger than half of the valid or test part come first, so
    that they land in train. An easier test than `scaffold`; the two must not share a table.

    scaffolds: a Bemis-Murcko SMILES per molecule.
    """
    n = len(scaffolds)
    _sizes(n, fractions)
    train, valid, test = (_room(n, fraction) for fraction in fractions)
    generator = _generator(seed)
    groups = _groups(scaffolds)
    shuffled = [groups[i] for i in generator.permutation(len(groups))]
    ordered = sorted(shuffled, key=lambda group: len(group) <= min(valid, test or valid) / 2)
    return _fill(ordered, train, lambda in_train: valid if test else n - in_train)


def stratified(y: np.ndarray, seed: int = 0, fractions: Fractions = FRACTIONS) -> Split:
    """Molecules sorted by label, cut into blocks, each block dealt at random to the three parts.

    MoleculeNet's rule: with fractions .8, .1, .1 a block holds ten neighbours, of which one
    validates and one tests. So every part spans the range of a regression target, and every class
    of at least two blocks' rows is in every part. With many tasks molecules are sorted by their
    mean z-score over their known labels, to which a rare label adds most; rows without a label, or
    with constant ones, form the end.

    y: (N,) or (N, T), NaN where missing.
    """
    n = len(y)
    sizes = _sizes(n, fractions)
    generator = _generator(seed)
    order = generator.permutation(n)
    order = order[np.argsort(_level(y)[order], kind="stable")]
    blocks = min(filter(None, sizes))
    bounds = np.outer(np.arange(blocks + 1), sizes) // blocks
    hands = [generator.permutation(np.repeat(PARTS, counts)) for counts in np.diff(bounds, axis=0)]
    part = np.concatenate(hands)
    return Split(*(order[part == name] for name in PARTS))


def from_column(column: Iterable[object]) -> Split:
    """A split given by the words train, valid (val, validation) and test, in any case."""
    parts = defaultdict(list)
    for position, word in enumerate(column):
        part = WORDS.get(str(word).strip().lower())
        if part is None:
            raise SplitError(
                f"row {position + 1} of the split column says {word!r}; "
                "use train, valid (or val, validation) and test"
            )
        parts[part].append(position)
    return Split(*(np.array(parts[part], dtype=np.int64) for part in PARTS))


def from_json(source: str | Path | Mapping[str, Sequence[int]]) -> Split:
    """A split from a JSON file, or from the dict it holds: 0-based positions under three keys."""
    if isinstance(source, Mapping):
        return Split.from_dict(source)
    try:
        parts = json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SplitError(f"{source} is not JSON ({error}); write it with Split.to_dict") from None
    if not isinstance(parts, dict):
        raise SplitError(f"{source} holds no lists under 'train', 'valid' and 'test'")
    return Split.from_dict(parts)


def k_fold(n: int, k: int, seed: int = 0) -> list[Split]:
    """`k` splits of shuffled molecules: fold i tests, fold i + 1 validates, the rest train."""
    if not 3 <= k <= n:
        raise SplitError(f"{n} molecules cannot make {k} folds; use from 3 to {n} folds")
    folds = np.array_split(_generator(seed).permutation(n), k)
    around = [folds[i:] + folds[:i] for i in range(k)]
    return [Split(np.concatenate(rest), valid, test) for test, valid, *rest in around]


SPLITS: dict[str, Callable[..., Split]] = {
    "random": random,
    "paper": paper,
    "scaffold": scaffold,
    "balanced_scaffold": balanced_scaffold,
    "stratified": stratified,
    "column": from_column,
}


def make(
    name: str,
    *,
    n: int,
    y: np.ndarray | None = None,
    scaffolds: Sequence[str] | None = None,
    column: Sequence[object] | None = None,
    seed: int | None = None,
    fractions: Fractions | None = None,
) -> Split:
    """The split called `name` in `SPLITS`, of `n` molecules.

    The function gets what its parameters name. What is None keeps the function's default (seed 0,
    the paper's 777; fractions .8, .1, .1); without a default it must be given.

    Raises:
        SplitError: an unknown name, an argument that is missing or not `n` long, or a split that
            this data does not allow.
    """
    if name not in SPLITS:
        raise SplitError(f"no split is called {name!r}; choose from {', '.join(SPLITS)}")
    given = {"n": n, "y": y, "scaffolds": scaffolds, "column": column}
    given |= {"seed": seed, "fractions": fractions}
    taken = signature(SPLITS[name]).parameters
    for key, parameter in taken.items():
        if given[key] is None and parameter.default is Parameter.empty:
            raise SplitError(f"the split {name!r} needs {key}; give it, or choose another split")
        if key in ("y", "scaffolds", "column") and len(given[key]) != n:
            raise SplitError(f"{key} has {len(given[key])} entries for {n} molecules; give {n}")
    return SPLITS[name](**{key: given[key] for key in taken if given[key] is not None})


def _empty(counts: Mapping[str, int]) -> SplitError:
    return SplitError(
        f"a split of {sum(counts.values())} molecules leaves a part empty "
        f"({', '.join(f'{part} {count}' for part, count in counts.items())}); "
        "give more molecules, other fractions or another kind of split"
    )


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _positions(part: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0):
        raise SplitError(f"{part!r} must list whole numbers from 0, the positions of its molecules")
    return np.sort(array.astype(np.int64).ravel())


def _sizes(n: int, fractions: Fractions) -> tuple[int, int, int]:
    """Molecules in train, valid and test: n in all, one at least in each of a fraction above 0."""
    if not are_fractions(fractions):
        raise SplitError(
            f"fractions {tuple(fractions)} must be three that sum to 1, above 0 but for the last"
        )
    valid, test = (max(1, round(n * fraction)) if fraction else 0 for fraction in fractions[1:])
    if n < valid + test + 1:
        raise SplitError(
            f"{n} molecules leave none to train beside {valid} to validate and {test} to test; "
            "give at least three, and train a larger fraction"
        )
    return n - valid - test, valid, test


def are_fractions(fractions: Sequence[float]) -> bool:
    """Whether these are shares of a table to train, to validate and, may be none, to test."""
    if len(fractions) != 3:
        return False
    *learnt, test = fractions
    return min(learnt) > 0 and test >= 0 and abs(sum(fractions) - 1) <= 1e-6


def _room(n: int, fraction: float) -> float:
    """Molecules a part may hold; rounding hides .7 + .1 < .8."""
    return round(n * fraction, 6)


def _groups(scaffolds: Iterable[str]) -> list[list[int]]:
    groups = defaultdict(list)
    for position, name in enumerate(scaffolds):
        groups[name].append(position)
    return list(groups.values())


def _fill(
    groups: Iterable[list[int]], train_room: float, valid_room: Callable[[int], float]
) -> Split:
    """Groups into the first part that has room; `valid_room` is told how many train by then."""
    train, valid, test = [], [], []
    for group in groups:
        if len(train) + len(group) <= train_room:
            train += group
        elif len(valid) + len(group) <= valid_room(len(train)):
            valid += group
        else:
            test += group
    return Split(*(np.array(part, dtype=np.int64) for part in (train, valid, test)))


def _level(y: np.ndarray) -> np.ndarray:
    """Mean z-score of every row over its known labels; infinite where there is none."""
    known = np.ma.masked_invalid(np.asarray(y, dtype=np.float64).reshape(len(y), -1))
    level = ((known - known.mean(axis=0)) / known.std(axis=0)).mean(axis=1)
    return level.round(9).filled(np.inf)  # rounded, so that equal rows tie on every machine
