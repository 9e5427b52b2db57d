"""Runs that were cut short: what they leave is whole, and they end as if nothing had happened."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import kill_runs
import numpy as np
import pytest
import tiny

from molsam import Run, epochs, files, fit, fit_repeats
from molsam.files import RunError
from molsam.recipes import RecipeError
from molsam.runs import CHECKPOINT, WEIGHTS


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with tiny.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "CHECKPOINT_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run a case of `kill_runs`, each dead where the case says."""
    folder = tmp_path_factory.mktemp("killed")
    driver = [sys.executable, kill_runs.__file__, str(folder)]
    done = subprocess.run(driver, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`whole(fields)`: the uninterrupted run of a recipe, trained once."""
    folder, done = tmp_path_factory.mktemp("whole"), {}

    def run(fields: dict[str, Any], seed: int = 0) -> Run:
        key = f"{fields} {seed}"
        if key not in done:
            out = folder / str(len(done))
            done[key] = fit(tiny.recipe(**fields), tiny.regression(), out=out, seed=seed)
        return done[key]

    return run


# Killed


def last_checkpoint(folder: Path) -> int:
    """Epochs that the checkpoint of member 0 has behind it, 0 without one."""
    path = folder / "member-0" / CHECKPOINT
    return files.load_state(path)["epoch"] if path.is_file() else 0


@pytest.mark.parametrize("name", [n for n, case in kill_runs.CASES.items() if case.repeats == 1])
def test_a_killed_run_ends_as_if_nothing_had_happened(name, killed, whole, tmp_path):
    fields = kill_runs.CASES[name].recipe
    folder = shutil.copytree(killed / name, tmp_path / "run")
    assert not files.sealed(folder)
    run = fit(tiny.recipe(**fields), tiny.regression(), out=folder, resume=True)
    assert run.finished
    tiny.assert_same_run(run, whole(fields))
    assert not list(folder.rglob(CHECKPOINT))
    assert not list(folder.rglob("*.partial"))


def test_the_kills_struck_where_they_should(killed):
    behind = {name: last_checkpoint(killed / name) for name in kill_runs.CASES if name != "repeats"}
    assert behind == {
        **{f"{name}-mid": 1 for name in kill_runs.OPTIMIZERS},
        **{f"{name}-between": 2 for name in kill_runs.OPTIMIZERS},
        "first-epoch": 0,
        "rare-checkpoints": 1,
        "gru": 1,
        "ensemble": 0,  # the first member is done
        "average": 1,
        "bfloat16": 1,
        "in-checkpoint": 2,
        "before-weights": 2,
        "before-scores": 0,
    }
    assert len(list(killed.glob(f"in-checkpoint/member-0/.{CHECKPOINT}.*.partial"))) == 1
    assert len(list(killed.glob("ensemble/member-*/" + WEIGHTS))) == 2


@pytest.mark.parametrize("name", ["graphsam-mid", "ensemble", "in-checkpoint", "before-scores"])
def test_a_killed_run_with_a_checkpoint_predicts(name, killed):
    run = Run.load(killed / name)
    assert not run.finished
    assert np.isfinite(run.predict(tiny.PROBES)["activity"]).all()


def test_a_run_killed_in_its_first_epoch_says_that_it_has_no_model(killed):
    with pytest.raises(RunError, match="no trained model yet; go on with its training"):
        Run.load(killed / "first-epoch").predict(tiny.PROBES)


def test_killed_repeats_go_on_with_the_run_that_was_killed(killed, whole, tmp_path):
    folder = shutil.copytree(killed / "repeats", tmp_path / "many")
    first = folder / "seed-0" / "run.json"
    before = first.stat().st_mtime_ns
    runs = fit_repeats(tiny.recipe(), tiny.regression(), 2, out=folder)
    assert first.stat().st_mtime_ns == before
    for seed, run in enumerate(runs):
        tiny.assert_same_run(run, whole({}, seed))


# Resumed more than once, or when done


class Stop(Exception):
    """What a test ends training with."""


def stop_at(epochs_done: float) -> epochs.Listener:
    def listen(p: epochs.Progress) -> None:
        if p.epochs_done == epochs_done:
            raise Stop

    return listen


def test_a_run_stopped_in_every_epoch_ends_as_if_nothing_had_happened(whole, tmp_path):
    for epochs_done in (0.5, 1, 1.5, 2, 2.5, 3):
        with pytest.raises(Stop):
            fit(
                tiny.recipe(batch_size=24), tiny.regression(), out=tmp_path / "run",
                resume=True, progress=stop_at(epochs_done),
            )  # fmt: skip
    run = fit(tiny.recipe(batch_size=24), tiny.regression(), out=tmp_path / "run", resume=True)
    tiny.assert_same_run(run, whole({"batch_size": 24}))


def test_patience_is_remembered(whole, tmp_path):
    fields = {"epochs": 200, "patience": 3, "optimizer.lr": 0.05}
    end = len(tiny.history(whole(fields)))
    assert end < 200
    with pytest.raises(Stop):
        fit(
            tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run",
            progress=stop_at(end - 1),
        )  # fmt: skip
    run = fit(tiny.recipe(**fields), tiny.regression(), out=tmp_path / "run", resume=True)
    tiny.assert_same_run(run, whole(fields))


def test_a_finished_run_is_returned_as_it_is(whole):
    done = whole({})
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*") if path.is_file()}
    again = fit(tiny.recipe(), tiny.regression(), out=done.folder, resume=True)
    assert again.info == done.info
    assert before == {p: p.stat().st_mtime_ns for p in done.folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "labels"}, "started with another data"),
        ({"data": "rows"}, "started with another data"),
        ({"seed": 1}, "started with another seed"),
        ({"recipe": {"optimizer.lr": 0.01}}, "started with another recipe"),
        ({"seed": 1, "recipe": {"epochs": 9}}, "another seed and recipe"),
    ],
    ids=str,
)
@pytest.mark.parametrize("status", ["training", "finished"])
def test_another_run_is_not_gone_on_with(status, change, words, killed, whole, tmp_path):
    source = killed / "graphsam-mid" if status == "training" else whole({}).folder
    fields = kill_runs.OPTIMIZERS["graphsam"] if status == "training" else {}
    folder = shutil.copytree(source, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    table = {
        "labels": replace(tiny.regression(), y=tiny.regression().y + 1),
        "rows": tiny.regression(59),
        None: tiny.regression(),
    }[change.get("data")]
    recipe = tiny.recipe(**fields).change(change.get("recipe", {}))
    with pytest.raises(RunError, match=words):
        fit(recipe, table, out=folder, seed=change.get("seed", 0), resume=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"repeats": 3}, {"recipe": {"optimizer.lr": 0.01}}], ids=str
)
def test_other_repeats_are_not_gone_on_with(change, killed, tmp_path):
    folder = shutil.copytree(killed / "repeats", tmp_path / "many")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    recipe = tiny.recipe().change(change.get("recipe", {}))
    with pytest.raises(RunError, match=r"name another folder \(out\)"):
        fit_repeats(
            recipe, tiny.regression(), change.get("repeats", 2), out=folder,
            seed=change.get("seed", 0),
        )  # fmt: skip
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", ["cut", "pickle", "empty"])
def test_a_damaged_checkpoint_is_refused_by_name(damage, killed, tmp_path):
    folder = shutil.copytree(killed / "graphsam-mid", tmp_path / "run")
    path = folder / "member-0" / CHECKPOINT
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "pickle": b"\x80\x04N.", "empty": b""}[damage])
    with pytest.raises(RunError, match=rf"{CHECKPOINT} is damaged"):
        fit(
            tiny.recipe(**kill_runs.OPTIMIZERS["graphsam"]), tiny.regression(), out=folder,
            resume=True,
        )  # fmt: skip


# Disks that are full or may not be written to


ENOUGH = 1000


class FullDisk:
    """`os.replace` of molsam that fails from its `room`-th call on, as on a disk that is full."""

    def __init__(self, room: int) -> None:
        self.room, self.calls = room, 0

    def __call__(self, partial: Path, path: Path) -> None:
        self.calls += 1
        if self.calls > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
        os.rename(partial, path)


def writes(recipe, folder: Path, room: int) -> FullDisk:
    """The disk after a run in `folder` that it may have had room for."""
    disk = FullDisk(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "replace", disk)
        words = "cannot write .*: No space left on device; what was finished stays usable"
        outcome = pytest.raises(OSError, match=words) if room < ENOUGH else nullcontext()
        with outcome:
            fit(recipe, tiny.regression(), out=folder, resume=True)
    return disk


def test_wherever_the_disk_fills_up_the_run_stays_usable_and_goes_on(whole, tmp_path):
    fields = {"epochs": 2}
    recipe = tiny.recipe(**fields)
    count = writes(recipe, tmp_path / "whole", room=ENOUGH).calls
    assert count >= 13
    for room in range(count):
        folder = tmp_path / str(room)
        writes(recipe, folder, room)
        assert not list(folder.rglob("*.partial"))
        if list(folder.glob(f"member-0/{WEIGHTS}")):
            assert np.isfinite(Run.load(folder).predict(tiny.PROBES)["activity"]).all()
        run = fit(recipe, tiny.regression(), out=folder, resume=True)
        tiny.assert_same_run(run, whole(fields))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds less than a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "molsam", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_run_goes_on_once_a_full_disk_has_room(small_disk, whole):
    with pytest.raises(OSError, match=r"cannot write .*: No space left on device; what was"):
        fit(tiny.recipe(), tiny.regression(), out=small_disk / "run")
    remount(small_disk, "size=8m")
    run = fit(tiny.recipe(), tiny.regression(), out=small_disk / "run", resume=True)
    tiny.assert_same_run(run, whole({}))


def test_a_run_goes_on_once_a_disk_that_became_read_only_may_be_written_to(whole, tmp_path):
    def refuse(path: Path, *_: Any) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with pytest.MonkeyPatch.context() as patch:  # no disk in use may be remounted so

        def make_read_only(p: epochs.Progress) -> None:
            if p.epochs_done == 2:
                patch.setattr(files, "open", refuse, raising=False)

        with pytest.raises(OSError, match=r"cannot write .*: Read-only file system; what was"):
            fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run", progress=make_read_only)
    assert np.isfinite(Run.load(tmp_path / "run").predict(tiny.PROBES)["activity"]).all()
    run = fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run", resume=True)
    tiny.assert_same_run(run, whole({}))


HOLDER = """
import sys
from pathlib import Path
from molsam.files import working_on

with working_on(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_run_that_another_process_trains_is_left_alone_until_that_ends(killed, tmp_path):
    folder = shutil.copytree(killed / "graphsam-mid", tmp_path / "run")
    recipe = tiny.recipe(**kill_runs.OPTIMIZERS["graphsam"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=r"another process works on .*: wait for its end, or"):
            fit(recipe, tiny.regression(), out=folder, resume=True)
        assert before == {path: path.read_bytes() for path in before}
        holder.kill()
    assert fit(recipe, tiny.regression(), out=folder, resume=True).finished


@pytest.mark.parametrize("method", ["add_scalar", "close"])
def test_tensorboard_that_cannot_write_stops_nothing(method, whole, tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_: Any) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system", "events")

    monkeypatch.setattr(SummaryWriter, method, fail)
    run = fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run")
    tiny.assert_same_run(run, whole({}))


def test_an_interrupt_does_not_wait_for_tensorboard(tmp_path, monkeypatch):
    """Its queue stays locked if the interrupt strikes inside it; what was added is on disk."""
    from torch.utils.tensorboard import SummaryWriter

    closed = []
    monkeypatch.setattr(SummaryWriter, "close", lambda writer: closed.append(writer))

    def interrupt(p: epochs.Progress) -> None:
        if p.epochs_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run", progress=interrupt)
    assert not closed
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    assert b"valid_loss" in events.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "other", progress=lambda p: 1 / 0)
    assert len(closed) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        fit(tiny.recipe(), tiny.regression(), out=tmp_path / "run")


def test_a_recipe_cut_short_in_an_unfinished_run_is_refused_by_name(killed, tmp_path):
    folder = shutil.copytree(killed / "graphsam-mid", tmp_path / "run")
    (folder / "recipe.toml").write_text("[model")
    with pytest.raises(RecipeError, match=r"recipe\.toml is not valid TOML"):
        Run.load(folder)
