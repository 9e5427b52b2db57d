"""Where a study lies: a file in its folder, a journal, any database that Optuna knows, a proxy."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.storages.journal import JournalFileBackend

GRPC = "grpc://"
HEARTBEAT, GRACE = 60, 600  # seconds between signs of life, and without one until a trial is dead
PATIENCE = 20  # seconds for a proxy's server to answer: it may have been started just now
DEATHS = 5  # what kills its process this often is not tried again


class TuningError(ValueError):
    """A study that cannot be joined or read: says which, and what to try."""


def open_storage(storage: str | BaseStorage | None, folder: Path) -> BaseStorage:
    """Optuna's storage: `study.db` in `folder`, a journal file by its path, a database by its URL.

    A database is kept alive by heartbeats, so that machines that share no folder see who died.
    `grpc://host:port` is a server of `optuna.storages.run_grpc_proxy_server`, which has none.
    """
    if isinstance(storage, BaseStorage):
        return storage
    try:
        if storage is None:
            path = (folder / "study.db").absolute()
            return RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})
        if "://" not in storage:
            return JournalStorage(JournalFileBackend(storage))
        if storage.startswith(GRPC):
            return open_proxy(storage)
        return RDBStorage(
            storage,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=Retry(DEATHS),
        )
    except TuningError:
        raise
    except Exception as error:  # SQLAlchemy's and every driver's own
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TuningError(
            f"storage {redacted(storage)} cannot be opened: {reason}; give the path of a journal "
            "file, or a URL such as sqlite:///study.db or postgresql+psycopg://user@host/name"
        ) from error


def open_proxy(address: str) -> GrpcStorageProxy:
    """The storage behind Optuna's gRPC server at `grpc://host:port`, once it answers."""
    host, _, port = address.removeprefix(GRPC).rpartition(":")
    if not host or not port.isdecimal():
        raise TuningError(f"storage {address} names no server; write grpc://host:port")
    try:
        import google.protobuf  # noqa: F401
        import grpc  # noqa: F401
    except ImportError:
        raise TuningError(
            f"storage {address} needs grpcio and protobuf: pip install 'molsam[grpc]'"
        ) from None
    proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=PATIENCE)
    except ConnectionError:
        raise TuningError(
            f"no server has answered at {address} for {PATIENCE:g} seconds; start Optuna's there, "
            "run_grpc_proxy_server"
        ) from None
    return proxy


@contextmanager
def answering(storage: str | BaseStorage | None) -> Iterator[None]:
    """A database or a server that gives no answer any more, as a `TuningError`."""
    try:
        yield
    except _silences() as error:
        raise TuningError(
            f"the storage {redacted(storage) or 'of the study'} answers no more; once it does, "
            "the same command goes on"
        ) from error


def _silences() -> tuple[type[Exception], ...]:
    grpc = sys.modules.get("grpc")
    return (StorageInternalError, grpc.RpcError) if grpc else (StorageInternalError,)


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
