"""Where a study lies: a file in its folder, a journal, or any database that Optuna knows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.storages.journal import JournalFileBackend

HEARTBEAT, GRACE = 60, 600  # seconds between signs of life, and without one until a trial is dead
DEATHS = 5  # what kills its process this often is not tried again


class TuningError(ValueError):
    """A study that cannot be joined or read: says which, and what to try."""


def open_storage(storage: str | BaseStorage | None, folder: Path) -> BaseStorage:
    """Optuna's storage: `study.db` in `folder`, a journal file by its path, a database by its URL.

    A database is kept alive by heartbeats, so that machines that share no folder see who died.
    """
    if isinstance(storage, BaseStorage):
        return storage
    try:
        if storage is None:
            path = (folder / "study.db").absolute()
            return RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})
        if "://" not in storage:
            return JournalStorage(JournalFileBackend(storage))
        return RDBStorage(
            storage,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=Retry(DEATHS),
        )
    except Exception as error:  # SQLAlchemy's and every driver's own
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TuningError(
            f"storage {redacted(storage)} cannot be opened: {reason}; give the path of a journal "
            "file, or a URL such as sqlite:///study.db or postgresql+psycopg://user@host/name"
        ) from error


def redacted(storage: str | BaseStorage | None) -> str:
    """How a record names a storage: without a password; empty for the one in the folder."""
    if isinstance(storage, BaseStorage):
        return type(storage).__name__
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage or "")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without log lines, notes on what is experimental, and advice."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
