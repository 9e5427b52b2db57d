"""Reading in several processes and from the cache gives what reading in one process gives."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from molsam import cache, datasets, fit, molecules, preparation, reading
from molsam.batches import PackedMolecules
from molsam.reading import Reading, read
from molsam.survival import WorkerError

BAD = {0: "xyz", 5: None, 30: "C[N](C)(C)(C)C", 59: ""}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 25)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "made"


@contextmanager
def never_made() -> Iterator[None]:
    """Nothing can be made anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_work", lambda *_, **__: pytest.fail("made again"))
        yield


def texts() -> list[object]:
    smiles = datasets.load("bundled").smiles[:60]
    return [BAD.get(i, text) for i, text in enumerate(smiles)]


def assert_same_reading(a: Reading, b: Reading) -> None:
    np.testing.assert_array_equal(a.index, b.index)
    assert list(map(str, a.errors)) == list(map(str, b.errors))
    assert a.scaffolds == b.scaffolds
    for name in ("descriptors", "fingerprints"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.tobytes() == theirs.tobytes()
    assert_same_pack(a.packed, b.packed)


def assert_same_pack(a: PackedMolecules | None, b: PackedMolecules | None) -> None:
    assert a is not None
    assert b is not None
    for field in fields(PackedMolecules):
        left, right = getattr(a, field.name), getattr(b, field.name)
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        assert same, field.name
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None)


# Several processes


@pytest.mark.parametrize("name", ["canonical", "compt", "weave"])
def test_chunks_put_together_are_the_whole(name):
    smiles = texts()
    found = read(smiles, name, scaffolds=True, processes=1)
    parsed = molecules.parse_many(smiles)
    np.testing.assert_array_equal(found.index, parsed.index)
    assert list(map(str, found.errors)) == list(map(str, parsed.errors))
    assert [error.smiles for error in found.errors] == list(BAD.values())
    assert_same_pack(found.packed, PackedMolecules.from_mols(parsed.mols, name))
    assert found.scaffolds == [molecules.scaffold(mol) for mol in parsed.mols]
    assert found.descriptors is None
    assert found.fingerprints is None


def test_fingerprints_are_morgan_counts():
    smiles = ["CCO", "xyz", "C" * 300]
    found = read(smiles, "compt", fingerprints=True).fingerprints
    counts = np.stack([molecules.morgan_counts(molecules.parse(s)) for s in ("CCO", "C" * 300)])
    assert found is not None
    assert (found.dtype, counts.max()) == (np.uint16, 298)
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_number_of_processes_changes_nothing(processes):
    given = {"descriptors": True, "fingerprints": True, "scaffolds": True}
    one = read(texts(), "compt", processes=1, **given)
    assert_same_reading(read(texts(), "compt", processes=processes, **given), one)


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_every_text(processes):
    seen: list[tuple[int, int]] = []
    read(texts(), "canonical", processes=processes, progress=lambda *at: seen.append(at))
    assert seen == [(25, 60), (50, 60), (60, 60)]


def test_policies_reach_the_molecules():
    smiles = ["CC(=O)[O-].[Na+]"] * 60
    kept = read(smiles, "canonical", processes=2)
    cleaned = read(smiles, "canonical", processes=2, salts="largest", charges="neutralize")
    refused = read(smiles, "canonical", processes=2, salts="refuse")
    assert kept.packed is not None
    assert cleaned.packed is not None
    assert (int(kept.packed.sizes[0]), int(cleaned.packed.sizes[0])) == (5, 4)
    assert refused.packed is None
    assert len(refused.errors) == 60


@pytest.mark.parametrize("smiles", [[], ["xyz"], ["xyz"] * 60])
def test_nothing_that_can_be_read(smiles, own_cache):
    for _ in range(2):
        found = read(smiles, "compt", fingerprints=True, scaffolds=True, processes=1, keep=True)
        assert (len(found.index), len(found.errors)) == (0, len(smiles))
        assert (found.packed, found.fingerprints, found.scaffolds) == (None, None, None)


def test_a_killed_worker_is_one_error_and_the_next_call_works(monkeypatch):
    def dies(smiles: list[object], **_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_work", dies)
        with pytest.raises(WorkerError, match=r"was killed.*fewer processes"):
            read(texts(), "canonical", processes=2)
    again = read(texts(), "canonical", processes=2)
    assert_same_reading(again, read(texts(), "canonical", processes=1))


def test_few_molecules_start_no_process(monkeypatch):
    monkeypatch.setattr(reading.joblib, "Parallel", lambda **_: pytest.fail("started"))
    assert len(read(texts(), "canonical").index) == 56


def test_predictions_do_not_depend_on_the_number_of_processes(tmp_path):
    with tiny.undrawn():
        run = fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "run")
    smiles = texts()
    one, two = (run.predict(smiles, processes=n) for n in (1, 2))  # type: ignore[arg-type]
    assert one.equals(two)
    assert one["error"].ne("").to_numpy().nonzero()[0].tolist() == list(BAD)


# The cache


def test_what_was_made_is_found_again_bit_for_bit(own_cache):
    given = {"descriptors": True, "fingerprints": True, "scaffolds": True, "keep": True}
    made = read(texts(), "compt", **given)
    assert len(list(own_cache.iterdir())) == 4
    with never_made():
        assert_same_reading(read(texts(), "compt", **given), made)
        assert read(texts(), "compt", keep=True).scaffolds is None


def test_a_part_that_is_there_is_not_made_again(own_cache, monkeypatch):
    made = read(texts(), "compt", descriptors=True, keep=True)
    monkeypatch.delattr(molecules, "descriptors")
    other = read(texts(), "canonical", descriptors=True, scaffolds=True, keep=True)
    assert made.descriptors is not None
    assert other.descriptors is not None
    assert other.descriptors.tobytes() == made.descriptors.tobytes()
    assert_same_pack(other.packed, read(texts(), "canonical").packed)


@pytest.mark.parametrize(
    "change",
    [
        {"featurizer": "canonical"},
        {"salts": "largest"},
        {"charges": "neutralize"},
        {"smiles": texts()[::-1]},
        {"smiles": [*texts()[:-1], None]},
        {"version": "another RDKit"},
        {"smiles": [*texts()[:-1], np.float32(7)], "before": [*texts()[:-1], np.float32("nan")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_is_made_anew(own_cache, monkeypatch, change):
    smiles = change.pop("before", texts())
    read(smiles, "compt", keep=True)
    calls = []
    work = reading._work
    monkeypatch.setattr(
        reading, "_work", lambda *given, **how: calls.append(1) or work(*given, **how)
    )
    if version := change.pop("version", None):
        changed = molecules.FEATURIZERS["compt"].__class__(
            **{**vars(molecules.FEATURIZERS["compt"]), "version": version}
        )
        monkeypatch.setitem(molecules.FEATURIZERS, "compt", changed)
    read(**{"smiles": smiles, "featurizer": "compt", "keep": True, **change})
    assert calls


@pytest.mark.parametrize("damage", ["empty", "short", "altered", "other"])
def test_a_damaged_entry_is_made_anew(own_cache, damage):
    made = read(texts(), "compt", keep=True)
    (path,) = own_cache.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "empty": b"",
            "short": whole[:middle],
            "altered": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "other": b"something else\n" * 100,
        }[damage]
    )
    assert_same_reading(read(texts(), "compt", keep=True), made)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"index": np.arange(3)},
        {"index": np.arange(57), "reasons": np.frombuffer(b"[]", np.uint8)},
        {"index": np.arange(56), "reasons": np.frombuffer(b'["a","b","c","d"]', np.uint8)},
    ],
)
def test_an_entry_of_something_else_is_made_anew(own_cache, arrays):
    made = read(texts(), "compt", keep=True)
    (path,) = own_cache.iterdir()
    cache.save(path.name, arrays)
    assert_same_reading(read(texts(), "compt", keep=True), made)
    path.write_bytes(hashlib.sha256(b"").digest())
    assert_same_reading(read(texts(), "compt", keep=True), made)


@pytest.mark.parametrize(
    "place",
    [
        "a file",
        pytest.param(
            "read-only",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes"),
        ),
    ],
)
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, place):
    folder = tmp_path / "cache"
    if place == "a file":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        folder.chmod(0o500)
    monkeypatch.setenv("MOLSAM_CACHE", str(folder))
    found = read(texts(), "compt", keep=True)
    assert_same_reading(read(texts(), "compt", keep=True), found)
    folder.chmod(0o700)


def keep_many(seed: int, barrier) -> None:
    barrier.wait(timeout=60)
    for i in range(200):
        cache.save("shared", {"x": np.full(10_000, seed)})
        cache.save(f"own-{i % 5}-{seed}", {"x": np.arange(i % 5)})
        x = (cache.load("shared") or {})["x"]
        assert x.shape == (10_000,)
        assert (x == x[0]).all()


def umask() -> int:
    os.umask(before := os.umask(0))
    return before


def test_processes_write_at_once(own_cache):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    writers = [context.Process(target=keep_many, args=(seed, barrier)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert {path.stat().st_mode & 0o777 for path in own_cache.iterdir()} == {0o666 & ~umask()}
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(list(own_cache.iterdir())) == 16
    assert cache.size()[0] == 16
    cache.clear()
    assert cache.size() == (0, 0)


def remove_often(folder: Path, done) -> None:
    while not done.is_set():
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cache_that_vanishes_again_and_again_changes_nothing(own_cache):
    smiles = texts()[:20]
    expected = read(smiles, "compt", fingerprints=True, processes=1)
    context = multiprocessing.get_context("fork")
    done = context.Event()
    remover = context.Process(target=remove_often, args=(own_cache, done))
    remover.start()
    try:
        for _ in range(20):
            found = read(smiles, "compt", fingerprints=True, processes=1, keep=True)
            assert_same_reading(found, expected)
            assert cache.size()[0] <= 2
            if own_cache.exists():
                cache.clear()
    finally:
        done.set()
        remover.join(timeout=60)
    assert remover.exitcode == 0
    assert_same_reading(read(smiles, "compt", fingerprints=True, keep=True), expected)
    assert cache.size()[0] == 2


def test_a_second_training_reads_the_cache_and_is_the_same_run(own_cache, tmp_path):
    recipe = tiny.recipe(epochs=2, **{"data.descriptors": True, "data.split": "scaffold"})
    with tiny.undrawn():
        first = fit(recipe, tiny.regression(), out=tmp_path / "first")
        count, size = cache.size()
        assert count == 4  # features, descriptors, fingerprints, scaffolds
        assert size == sum(path.stat().st_size for path in own_cache.iterdir())
        with never_made():
            again = fit(recipe, tiny.regression(), out=tmp_path / "again")
    tiny.assert_same_run(first, again)


def test_training_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    recipe = tiny.recipe(epochs=1, **{"data.descriptors": True})
    runs = []
    for n in (1, 2):
        monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / f"cache-{n}"))
        with tiny.undrawn():
            runs.append(fit(recipe, tiny.regression(), out=tmp_path / str(n), processes=n))
    tiny.assert_same_run(*runs)


def test_training_shows_how_far_reading_is(own_cache):
    seen = []
    preparation.prepare(
        tiny.regression(), tiny.recipe().data, 0, progress=lambda *at: seen.append(at)
    )
    assert seen[-1] == (60, 60)


def test_morgan_counts_are_a_part_like_descriptors(own_cache):
    smiles = texts()
    one = read(smiles, None, descriptors=True, fingerprints=True, processes=1, keep=True)
    assert one.packed is None
    assert one.fingerprints is not None
    expected = [molecules.morgan_counts(mol) for mol in molecules.parse_many(smiles).mols]
    np.testing.assert_array_equal(one.fingerprints, np.stack(expected))
    two = read(smiles, "compt", fingerprints=True, processes=2)
    assert two.fingerprints is not None
    assert two.fingerprints.tobytes() == one.fingerprints.tobytes()
    with never_made():
        again = read(smiles, None, descriptors=True, fingerprints=True, keep=True)
    assert again.fingerprints is not None
    assert again.fingerprints.tobytes() == one.fingerprints.tobytes()
    assert again.fingerprints.dtype == np.uint16
    assert read([], None, fingerprints=True).fingerprints is None
