"""Lists of SMILES to all that is made of molecules alone: in several processes, and made once.

`read` parses, packs and describes; chunk by chunk, in worker processes where there is enough to
do, and from the cache where it was done before. The result is the same bit for bit whatever the
number of processes. `begin` lets the workers start and does not wait for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
import torch

from . import cache, molecules
from .batches import PackedMolecules
from .molecules import Charges, InvalidMolecule, Salts, is_demanding
from .survival import alone, together

if TYPE_CHECKING:
    from rdkit.Chem import Mol

CHUNK = 128
WORTH = {True: 1000, False: 8000}  # molecules, with descriptors or not, that repay a start
Arrays = dict[str, np.ndarray]
Progress = Callable[[int, int], object]
_VERSION = f"1+rdkit{version('rdkit')}"


class Chunk(NamedTuple):
    """Of some SMILES: how many, which could be read, why others could not, and what was made."""

    count: int
    index: np.ndarray
    reasons: list[str]
    made: dict[str, Arrays]


@dataclass(frozen=True)
class Reading:
    """What a list of SMILES gave.

    index -> (N,) positions that could be read, in order;  errors -> the others, `row` counted from
    1;  packed -> the molecules, without labels, None if N is 0;  descriptors -> (N, P) float64,
    unscaled;  fingerprints -> (N, 2048) uint16 Morgan counts;  scaffolds -> N texts. What was not
    asked for is None.
    """

    index: np.ndarray
    errors: list[InvalidMolecule]
    packed: PackedMolecules | None
    descriptors: np.ndarray | None
    fingerprints: np.ndarray | None
    scaffolds: list[str] | None


def read(smiles: Iterable[object], featurizer: str | None, **how: Any) -> Reading:
    """`begin`, and wait for it."""
    return begin(smiles, featurizer, **how)()


def begin(
    smiles: Iterable[object],
    featurizer: str | None,
    *,
    salts: Salts = "keep",
    charges: Charges = "keep",
    descriptors: bool = False,
    fingerprints: bool = False,
    scaffolds: bool = False,
    processes: int | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> Callable[[], Reading]:
    """Parse every text; pack what can be read, and describe it where asked to.

    Worker processes are at it when this returns; what is returned waits for them. Without any,
    the work is done then.

    Parameters
    ----------
    smiles, salts, charges : as in `molecules.parse_many`.
    featurizer : names the features of `packed`; None packs nothing.
    descriptors, fingerprints, scaffolds : make these too.
    processes : how many work. If not given, one a core where there is enough to do, else one.
    keep : look in the cache first, and leave there what was made.
    progress : called with the molecules done and in all.

    Raises
    ------
    WorkerError : a process was killed, most likely for want of memory.
    """
    smiles = list(smiles)
    asked = {"descriptors": descriptors, "fingerprints": fingerprints, "scaffolds": scaffolds}
    wanted = [*filter(None, [featurizer]), *(part for part, whether in asked.items() if whether)]
    keys = {part: _key(part, salts, charges, smiles) for part in wanted} if keep else {}
    kept = {part: _kept(part, key, smiles) for part, key in keys.items()}
    found = {part: arrays for part, arrays in kept.items() if arrays is not None}
    missing = [part for part in wanted if part not in found]
    work = partial(_work, parts=missing, salts=salts, charges=charges)
    many = processes or worthwhile(len(smiles), descriptors="descriptors" in missing)
    chunks = _mapped(work, _cut(smiles) if missing else [], many)

    def finish() -> Reading:
        made = _joined(_counted(chunks, len(smiles), progress), missing) if missing else {}
        for part, key in keys.items():
            if part in made:
                cache.save(key, made[part])
        return _reading(found | made, smiles, featurizer)

    return finish


def worthwhile(count: int, *, descriptors: bool) -> int:
    """Processes that reading so many molecules pays for: one a core, or one."""
    return joblib.cpu_count() if count > WORTH[descriptors] else 1


def descriptor_matrix(mols: Iterable[Mol]) -> np.ndarray:
    """(N, P) float64 RDKit descriptors, unscaled."""
    return np.stack([molecules.descriptors(mol) for mol in mols])


def fingerprint_matrix(mols: Iterable[Mol]) -> np.ndarray:
    """(N, 2048) uint16 Morgan counts."""
    return np.stack([molecules.morgan_counts(mol).astype(np.uint16) for mol in mols])


def _key(part: str, salts: Salts, charges: Charges, smiles: Sequence[object]) -> str:
    made_by = molecules.FEATURIZERS[part].version if part in molecules.FEATURIZERS else _VERSION
    return cache.key([part, made_by, molecules.DESCRIPTORS, salts, charges, smiles])


def _kept(part: str, key: str, smiles: Sequence[object]) -> Arrays | None:
    """An entry of the cache, where it holds that part of so many texts."""
    arrays, featurizer = cache.load(key), part if part in molecules.FEATURIZERS else None
    with suppress(LookupError, TypeError, ValueError):
        if arrays is not None:
            _reading({part: arrays}, smiles, featurizer)
            return arrays
    return None


def _cut(smiles: Iterable[object]) -> list[list[object]]:
    """Chunks in order; a demanding text has one for itself."""
    chunks: list[list[object]] = []
    for demanding, texts in groupby(smiles, is_demanding):
        run, size = list(texts), 1 if demanding else CHUNK
        chunks += [run[start : start + size] for start in range(0, len(run), size)]
    return chunks


def _counted(chunks: Iterable[Chunk], total: int, progress: Progress | None) -> Iterator[Chunk]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += chunk.count
        if progress is not None:
            progress(done, total)


def _mapped(
    work: Callable[[Sequence[object]], Chunk], chunks: Sequence[list[object]], processes: int
) -> Iterator[Chunk]:
    """What `work` makes of the chunks, in order; if by processes, these are at it already."""
    if processes > 1 and len(chunks) > 1:
        return together(work, chunks, processes, _refused)
    return (
        alone(work, chunk[0], _refused) if is_demanding(chunk[0]) else work(chunk)
        for chunk in chunks
    )


def _refused(reason: str) -> Chunk:
    return Chunk(1, np.zeros(0, dtype=np.int64), [reason], {})


def _work(
    smiles: Sequence[object], *, parts: Sequence[str], salts: Salts, charges: Charges
) -> Chunk:
    parsed = molecules.parse_many(smiles, salts=salts, charges=charges)
    reasons = [error.reason for error in parsed.errors]
    made = {part: _make(part, parsed.mols) for part in parts if parsed.mols}
    return Chunk(len(smiles), parsed.index, reasons, made)


def _make(part: str, mols: Sequence[Mol]) -> Arrays:
    if part == "descriptors":
        return {part: descriptor_matrix(mols)}
    if part == "fingerprints":
        return {part: fingerprint_matrix(mols)}
    if part == "scaffolds":
        return {part: _array([molecules.scaffold(mol) for mol in mols])}
    return _arrays(PackedMolecules.from_mols(mols, part))


def _joined(chunks: Iterable[Chunk], parts: Sequence[str]) -> dict[str, Arrays]:
    """Each part over all chunks, beside the positions that it is about."""
    chunks = list(chunks)
    starts = np.cumsum([0, *(chunk.count for chunk in chunks)])
    index = [chunk.index + start for chunk, start in zip(chunks, starts, strict=False)]
    read = {
        "index": np.concatenate([np.zeros(0, dtype=np.int64), *index]),
        "reasons": _array([reason for chunk in chunks for reason in chunk.reasons]),
    }
    made = [chunk.made for chunk in chunks if chunk.made]
    return {part: read | _join(part, [each[part] for each in made]) for part in parts}


def _join(part: str, made: Sequence[Arrays]) -> Arrays:
    if not made:
        return {}
    if part in ("descriptors", "fingerprints"):
        return {part: np.concatenate([each[part] for each in made])}
    if part == "scaffolds":
        return {part: _array([text for each in made for text in _texts(each[part])])}
    return _arrays(PackedMolecules.concat([_packed(each, part) for each in made]))


def _reading(parts: dict[str, Arrays], smiles: Sequence[object], featurizer: str | None) -> Reading:
    found = {name: array for arrays in parts.values() for name, array in arrays.items()}
    others = np.setdiff1d(np.arange(len(smiles)), found["index"]).tolist()
    faults = zip(others, _texts(found["reasons"]), strict=True)
    return Reading(
        index=found["index"],
        errors=[InvalidMolecule(smiles[i], i + 1, reason) for i, reason in faults],
        packed=_packed(found, featurizer) if featurizer and len(found["index"]) else None,
        descriptors=found.get("descriptors"),
        fingerprints=found.get("fingerprints"),
        scaffolds=_texts(found["scaffolds"]) if "scaffolds" in found else None,
    )


def _arrays(packed: PackedMolecules) -> Arrays:
    return {f"packed.{name}": tensor.numpy() for name, tensor in packed.tensors().items()}


def _packed(arrays: Arrays, featurizer: str) -> PackedMolecules:
    tensors = {
        name.removeprefix("packed."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("packed.")
    }
    return PackedMolecules(featurizer=featurizer, **tensors)


def _array(texts: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)


def _texts(array: np.ndarray) -> list[str]:
    return json.loads(array.tobytes())
