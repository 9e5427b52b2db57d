"""Shared fixtures: development data outside the repository, where it is at hand, and studies."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from molsam import Recipe
    from molsam.tuning import Study

# Tests run side by side, one process a core: threads that wait for each other only slow them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("molsam", deadline=None)
settings.load_profile("molsam")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests work out is kept apart from the user's cache."""
    os.environ["MOLSAM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Runs without pictures, in a whole file: `pytestmark = pytest.mark.usefixtures("undrawn")`."""
    import tiny  # and with it torch, which reads the number of threads set above

    with tiny.undrawn():
        yield


@pytest.fixture(scope="session")
def moleculenet() -> Path:
    """Folder of MoleculeNet tables: `$MOLSAM_DATA`, else `../shared/moleculenet`."""
    folder = Path(os.environ.get("MOLSAM_DATA", SHARED / "moleculenet"))
    if not (folder / "esol.csv").is_file():
        pytest.skip(f"no MoleculeNet tables in {folder}; set MOLSAM_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of numeric fixtures made with the published CoMPT implementation."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures in {folder}")
    return folder


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Studies without pictures and TensorBoard, in a whole file."""
    import studied

    with studied.quick():
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that nothing interrupts."""
    import kill_tunes
    import studied

    with studied.quick():
        return kill_tunes.tune(tmp_path_factory.mktemp("whole") / "tune-tiny")


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials without training: scores are a function of learning rate, width and split."""
    from molsam.tuning import Objective

    def score(self: Objective, recipe: Recipe, repeat: int, *_: Any) -> float:
        lr = math.log10(recipe.optimizer.lr) + 3 + (recipe.model.width == 8)
        return lr**2 + (0.0, 0.1, 0.05)[repeat]

    monkeypatch.setattr(Objective, "score", score)


@pytest.fixture
def polite_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray tells nobody of its use, and what SIGTERM does is the same afterwards.

    Its workers have the priority of all else: at Ray's own, 15, other work leaves them minutes.
    """
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def rdkit_logs() -> Iterator[None]:
    """RDKit tells its errors afterwards: dgllife, imported by itself, turns them off."""
    from rdkit.rdBase import EnableLog

    yield
    EnableLog("rdApp.warning")
    EnableLog("rdApp.error")
