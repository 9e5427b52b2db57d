"""The processes at one study: who is alive, and what becomes of the trials of the dead.

A worker holds a file lock while it lives. The system drops it however the process ends, so that
the next worker knows at once, and does not mistake a slow one for a dead one.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.trial import FrozenTrial, TrialState

from .storage import DEATHS


class Worker:
    """This process at the study in `folder`: a name, a lock, and a scratch folder."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.scratch = folder / "workers" / self.name
        self._lock = FileLock(_lock_path(folder, self.name))

    def __enter__(self) -> Worker:
        self.scratch.mkdir(parents=True)
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def claim(folder: Path) -> FileLock:
    """The lock under which workers of a folder take trials, one at a time."""
    return FileLock(folder / "workers" / "claim.lock")


def retry_dead(study: optuna.Study, folder: Path, *, shared: bool) -> None:
    """Queue the running trials of dead workers again, then mark them failed.

    shared -> whether other folders may take part in the study: of a trial whose worker has no lock
    here, only the storage's heartbeats can then tell.

    Under `claim`. In this order a worker that dies here too loses no trial, and doubles none.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if _is_lost(folder, trial.user_attrs.get("worker"), shared):
            queue_again(study, trial, Retry(DEATHS))
            study.tell(trial.number, state=TrialState.FAIL)
    for path in (folder / "workers").glob("*.lock"):
        if path.stem != "claim" and _is_dead(folder, path.stem):
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)


def queue_again(study: optuna.Study, trial: FrozenTrial, retry: Retry) -> None:
    """Let the next worker try the same values, unless one has been asked to.

    One whose values were not all chosen is chosen anew: from the same seed come the same values.
    """
    if trial.number in superseded(study.get_trials(deepcopy=False)):
        return
    if "fields" not in trial.user_attrs:
        trial.params, trial.distributions = {}, {}
    retry(study, trial)


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of the trials that were interrupted, and that a later trial stands for."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}


def live(study: optuna.Study) -> list[FrozenTrial]:
    """The trials but for those that others stand for."""
    trials = study.get_trials(deepcopy=False)
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone]


def _is_lost(folder: Path, worker: str | None, shared: bool) -> bool:
    """Whether the worker of a running trial is dead, as far as this folder can tell.

    One without a name died between taking the trial and saying so.
    """
    if shared and (worker is None or not _lock_path(folder, worker).exists()):
        return False
    return worker is None or _is_dead(folder, worker)


def _is_dead(folder: Path, name: str) -> bool:
    try:
        with FileLock(_lock_path(folder, name), timeout=0):
            return True
    except Timeout:
        return False


def _lock_path(folder: Path, name: str) -> Path:
    return folder / "workers" / f"{name}.lock"
