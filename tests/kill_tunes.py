"""Studies of tiny recipes; and processes at them that die: `python kill_tunes.py FOLDER CASE...`.

Each stage of a case is a child of a process that has imported all and computed nothing.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import tiny
from kill_runs import die

from molsam import histories, tuning
from molsam.spaces import Space
from molsam.tuning import Study, TrialProgress, best

TRIALS = 5
SPACE = Space().change(
    {
        "*": {},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "optimizer.gamma": [1.0, 0.5],
        "optimizer.rho_epochs": {"low": 1, "high": 4},
        "model.width": [8, 16],
    }
)


def tune(folder: Path, **choices: Any) -> Study:
    """The study that all tests are about, of five trials on two splits, unless `choices` differ."""
    defaults = {"trials": TRIALS, "repeats": 2, "space": SPACE, "out": folder}
    recipe, table = tiny.recipe(epochs=1), tiny.regression()
    return tuning.tune(
        choices.pop("recipe", recipe), choices.pop("table", table), **(defaults | choices)
    )


def outcome(study: Study) -> list[tuple[Any, ...]]:
    """What every trial chose and scored, in order."""
    return [
        (study.state(trial), trial.params, trial.user_attrs["fields"], study.scores(trial))
        for trial in study.trials
    ]


def in_training(trial: int) -> Callable[[TrialProgress], None]:
    """Die in the training of a trial, on its second split."""

    def listen(p: TrialProgress) -> None:
        if (p.trial, p.repeat) >= (trial, 1):
            die()

    return listen


def at_name() -> None:
    """Die in a trial that has just been taken and belongs to nobody yet."""
    set_user_attr = optuna.trial.Trial.set_user_attr

    def setting(trial: Any, key: str, value: Any) -> None:
        if trial.number == 2 and key == "worker":
            die()
        set_user_attr(trial, key, value)

    optuna.trial.Trial.set_user_attr = setting  # type: ignore[method-assign]


def at_choice() -> None:
    """Die with half of a trial's values chosen."""
    suggest_float = optuna.trial.Trial.suggest_float

    def suggesting(trial: Any, *how: Any, **where: Any) -> float:
        return die() if trial.number == 2 else suggest_float(trial, *how, **where)

    optuna.trial.Trial.suggest_float = suggesting  # type: ignore[method-assign]


def at_best() -> None:
    """Die once a trial is told, and before the best recipe is written."""
    best.to_toml = die


def at_failing() -> None:
    """Die half-way from the trial of a dead worker to the one that is queued in its place."""
    done = []

    def second(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*how: Any, **where: Any) -> Any:
            done.append(call)
            return die() if len(done) == 2 else call(*how, **where)

        return calling

    for name in ("tell", "add_trial"):
        setattr(optuna.Study, name, second(getattr(optuna.Study, name)))


Stage = tuple[Callable[[], None], Callable[[TrialProgress], None] | None]


def nothing() -> None:
    pass


CASES: dict[str, list[Stage]] = {
    "in-training-twice": [(nothing, in_training(2)), (nothing, in_training(3))],
    "at-name": [(at_name, None)],
    "at-choice": [(at_choice, None)],
    "at-best": [(at_best, None)],
    "at-failing": [(nothing, in_training(2)), (at_failing, None)],
}


STORAGES = {
    "own": "",
    "journal": "{folder}/journal.log",
    "database": "sqlite:///{folder}/all.db",
    "grpc": "grpc://localhost:{port}",
}
WORKERS, SHARED_TRIALS = 4, 6
PAGE = Path(__file__).resolve().parents[1] / "docs/tuning.md"


def main(folder: Path, names: list[str]) -> None:
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401

    from molsam import molecules

    histories.find_spec = lambda name: None  # no files for TensorBoard, slower than training here
    molecules.featurize(molecules.parse("CCO"), "compt")
    tiny.regression()
    for name in names:
        if name == "shared":
            with proxy(folder) as port:
                for where, storage in STORAGES.items():
                    share(folder / where, storage.format(folder=folder, port=port))
            continue
        for stage, (prepare, progress) in enumerate(CASES[name]):
            if ended(start(prepare, folder / name, progress=progress)) != signal.SIGKILL:
                sys.exit(f"{name}, stage {stage}, was not killed")


@contextmanager
def proxy(folder: Path) -> Iterator[int]:
    """The port of Optuna's server, which the command in the documents has started in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", server_code().replace("13000", str(port))], cwd=folder
    )
    try:
        yield port
    finally:
        server.kill()
        server.wait()


def server_code() -> str:
    """What the documents give to `python -c`."""
    (code,) = re.findall(r'^python -c "(.*?)"$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return code.replace("\\\n", "")


def share(folder: Path, storage: str) -> None:
    """Four processes at a study, each with a trial: one dies in its own, the others end it."""
    together = get_context("fork").Barrier(WORKERS)

    def at_work(dying: bool) -> Callable[[TrialProgress], None]:
        waiting = [together]

        def listen(p: TrialProgress) -> None:
            if waiting:
                waiting.pop().wait(60)
            if dying and p.repeat:
                die()

        return listen

    choices = {"trials": SHARED_TRIALS, "storage": storage or None}
    children = [
        start(nothing, folder, progress=at_work(worker == 0), **choices)
        for worker in range(WORKERS)
    ]
    ends = [ended(child) for child in children]
    if ends != [signal.SIGKILL, *[0] * (WORKERS - 1)]:
        sys.exit(f"{folder.name} ended by {ends}")


def start(prepare: Callable[[], None], folder: Path, **choices: Any) -> int:
    """A child at a study."""
    child = os.fork()
    if not child:
        try:
            prepare()
            tune(folder, **choices)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return child


def ended(child: int) -> int:
    """The signal that ended a child, 0 if none did, or -1 if it ended with an error."""
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
