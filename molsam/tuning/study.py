"""`tune(recipe, data) -> Study`: trials of a recipe's fields, shared by any number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict

from .. import epochs, preparation, reading, training
from ..datasets import Kind, MoleculeTable
from ..files import fitting, read_model, to_csv, write_atomic, write_json
from ..metrics import METRICS
from ..recipes import Recipe
from ..spaces import Space
from . import best
from .objective import Objective, TrialError, failures
from .storage import GRPC, TuningError, answering, open_storage, quiet, redacted
from .workers import Worker, claim, live, queue_again, retry_dead

if TYPE_CHECKING:
    import pandas as pd

RECORD, BEST, TRIALS = "tune.json", "best.toml", "trials.csv"
# Worse than the best trial on each of two splits has p = 1/4, and is enough.
PRUNE_BELOW = 0.3
# Each more would cost a trial as much again, and a Gaussian process would hide what differs.
ONE_MODEL = {"training.members": 1, "training.gaussian_process": False}
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class Request(BaseModel):
    """`tune.json`: what a study is about. All its workers ask for the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    digest: str
    kind: Kind
    metric: str
    recipe: dict[str, Any]
    space: dict[str, Any]
    repeats: int
    seed: int
    storage: str


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial stands: split `repeat` of `repeats`, and how far its training is."""

    trial: int
    repeat: int
    repeats: int
    training: epochs.Progress


@dataclass(frozen=True)
class Study:
    """A study that is there: `study.best` is a `Recipe`, `study.table()` a DataFrame of trials.

    `study.optuna` is Optuna's own study, for its plots and whatever else it can do.
    """

    folder: Path
    request: Request
    optuna: optuna.Study

    @classmethod
    def load(cls, folder: str | Path, *, storage: str | BaseStorage | None = None) -> Study:
        """The study of `folder`; `storage` where it was given to `tune`.

        Raises:
            ValueError: there is none, or it lies in another storage.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise TuningError(f"there is no study in {folder}; molsam tune makes one")
        request = read_model(folder / RECORD, Request)
        with fitting(folder / RECORD):
            Space.model_validate(request.space).recipe(Recipe.parse(request.recipe))
        if request.storage != redacted(storage):
            raise _elsewhere(folder, request)
        with quiet():
            try:
                study = optuna.load_study(
                    study_name=request.name, storage=open_storage(storage, folder)
                )
            except KeyError as error:
                raise TuningError(
                    f"{folder} has lost its study {request.name}; the molsam tune that made it "
                    "begins it anew"
                ) from error
        return cls(folder, request, study)

    @cached_property
    def space(self) -> Space:
        return Space.model_validate(self.request.space)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, without those that were interrupted and are tried again."""
        return live(self.optuna)

    @property
    def best_trial(self) -> FrozenTrial:
        """The complete trial with the best mean score."""
        try:
            return self.optuna.best_trial
        except ValueError as error:
            found = dict.fromkeys(reason for _, reason in self.failures())
            why = f" ({'; '.join(found)})" if found else ""
            raise TuningError(f"no trial of {self.folder} is complete yet{why}") from error

    @property
    def best_fields(self) -> dict[str, Any]:
        """What the best trial chose, by `section.field`."""
        return self.best_trial.user_attrs["fields"]

    @property
    def best(self) -> Recipe:
        """The recipe of the best trial."""
        return Recipe.parse(self.request.recipe).change(self.best_fields)

    @property
    def first(self) -> dict[int, float] | None:
        """Scores of the recipe that the study started from, if that trial is complete."""
        own = self.space.inside(Recipe.parse(self.request.recipe))
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.params == {name: own.get(name) for name in trial.params}:
                return self.scores(trial)
        return None

    def state(self, trial: FrozenTrial) -> str:
        """complete, pruned, failed, running or waiting."""
        return STATES[trial.state]

    def ranking(self) -> list[FrozenTrial]:
        """The complete trials, the best first."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        greater = self.optuna.direction == StudyDirection.MAXIMIZE
        return sorted(complete, key=lambda trial: trial.value or 0.0, reverse=greater)

    def failures(self) -> list[tuple[FrozenTrial, str]]:
        """The trials that failed, and why."""
        return [(trial, why) for trial in self.trials if (why := reason_of(trial))]

    def scores(self, trial: FrozenTrial) -> dict[int, float]:
        """Score of a trial on each split that it was tried on."""
        return dict(sorted(trial.intermediate_values.items()))

    def counts(self) -> dict[str, int]:
        """How many trials are complete, pruned, failed, running and waiting."""
        states = [trial.state for trial in self.trials]
        return {name: states.count(state) for state, name in STATES.items()}

    def importances(self) -> dict[str, float]:
        """Share of each field in what sets good trials apart (PED-ANOVA), the largest first."""
        if len({trial.value for trial in self.ranking()}) < 2:
            return {}
        with quiet():
            return optuna.importance.get_param_importances(self.optuna)

    def table(self) -> pd.DataFrame:
        """One row a trial: number, state, score, one score a split, fields, seconds, reason.

        The columns are the same from the first trial to the last: every split, and every field that
        is searched. A cell is empty where a trial had no such split or field.
        """
        import pandas as pd

        splits = [f"split {repeat}" for repeat in range(self.request.repeats)]
        columns = ["trial", "state", "score", *splits, *self.space.ranges, "seconds", "reason"]
        rows = [
            {
                "trial": trial.number,
                "state": self.state(trial),
                "score": trial.value if trial.state == TrialState.COMPLETE else np.nan,
                **{f"split {repeat}": score for repeat, score in self.scores(trial).items()},
                **trial.user_attrs.get("fields", {}),
                "seconds": trial.duration.total_seconds() if trial.duration else np.nan,
                "reason": reason_of(trial),
            }
            for trial in self.trials
        ]
        return pd.DataFrame(rows, columns=columns)


def tune(
    recipe: Recipe | str | Path,
    data: MoleculeTable | str | Path,
    *,
    trials: int = 50,
    repeats: int = 3,
    seed: int = 0,
    space: Space | str | Path | None = None,
    out: str | Path | None = None,
    storage: str | BaseStorage | None = None,
    timeout: float | None = None,
    device: str = "auto",
    processes: int | None = None,
    progress: Callable[[TrialProgress], None] | None = None,
    on_trial: Callable[[Study, FrozenTrial], None] | None = None,
    on_read: reading.Progress | None = None,
    command: str = "molsam.tune",
) -> Study:
    """Search the fields of `recipe` for the best mean validation score on `data`.

    value(trial) = 1/R sum_r s(recipe, r), with s the validation score of `fit` with the seed
    1000 + r; no test row is looked at. A trial trains one model, unless `training.members` is
    searched; `study.best` has as many as `recipe`.

    Called again with the same choices it goes on, and in several processes at once they share the
    trials. A trial that was interrupted is tried again.

    Parameters
    ----------
    recipe : what the study starts from; its own values are the first trial. Its `data.split` is
        the kind of the splits.
    data : a `MoleculeTable`, the name of a MoleculeNet task, or a file.
    trials : how many the study is to hold in the end, over all processes; pruned and failed ones
        count.
    repeats : R, splits that each trial is tried on. Two where it was worse than the best trial are
        enough to give it up.
    seed : of the sampler. One process alone makes the same trials of it.
    space : a `Space`, or a TOML file that says where it differs from the default one.
    out : the study's folder; `runs/tune-<name>` if not given.
    storage : a journal file, a database URL, `grpc://host:port` of Optuna's proxy server, or an
        Optuna storage; a file in `out` if not given.
    timeout : seconds after which no trial is started.
    device, processes, on_read : as in `fit`.
    progress : called after every step of training.
    on_trial : called with the study and each trial that this process has finished.
    command : how `best.toml` says it was made.

    Raises
    ------
    ValueError : bad data, recipe or space, or a study of something else in `out`; in one sentence.
    """
    end = None if timeout is None else time.monotonic() + timeout
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    space = space if isinstance(space, Space) else Space.load(space) if space else Space()
    recipe = space.recipe(recipe)
    table = data if isinstance(data, MoleculeTable) else preparation.load_table(recipe, data)
    folder = study_folder(out, table.source)
    objective = Objective(
        table, recipe, searched=space.ranges, device=device, processes=processes, on_read=on_read
    )
    record = folder / RECORD
    request = Request(
        name=read_model(record, Request).name if record.is_file() else folder.resolve().name,
        source=training.origin(table),
        digest=table.digest(),
        kind=table.kind,
        metric=objective.metric,
        recipe=recipe.model_dump(mode="json", exclude_none=True),
        space=space.model_dump(mode="json"),
        repeats=repeats,
        seed=seed,
        storage=redacted(storage),
    )
    refuse_other(folder, request)
    objective.check(recipe, repeats)
    with quiet(), answering(storage):
        study = join(folder, request, storage)
        with Worker(folder) as worker:
            loop = Loop(study, objective, worker, progress, command)
            while end is None or time.monotonic() < end:
                done = loop.try_next(trials)
                if done is None:
                    break
                if on_trial is not None:
                    on_trial(study, done)
            loop.write_evidence()  # which counts all trials
    return study


class Loop:
    """One process at a study: takes a trial, trains it, tells its score."""

    def __init__(
        self,
        study: Study,
        objective: Objective,
        worker: Worker,
        progress: Callable[[TrialProgress], None] | None,
        command: str,
    ) -> None:
        self.study, self.objective, self.worker = study, objective, worker
        self.progress, self.command = progress, command
        self.recipe = Recipe.parse(study.request.recipe)
        self.number = -1

    def try_next(self, wanted: int) -> FrozenTrial | None:
        """Finish one more trial, or None if `wanted` have been started."""
        study, taken = self.study, claim(self.study.folder)
        taken.acquire()
        try:
            retry_dead(study.optuna, study.folder, shared=bool(study.request.storage))
            started = [t for t in study.trials if t.state != TrialState.WAITING]
            if len(started) >= wanted:
                return None
            # A function of seed and place: a study that was stopped goes on as if it were not.
            place = epochs.derive_seed(study.request.seed, len(started)) % 2**32
            study.optuna.sampler = TPESampler(multivariate=True, group=True, seed=place)
            study.optuna.optimize(partial(self._try, taken), n_trials=1, catch=TrialError)
        finally:
            taken.release(force=True)
        return self._finished()

    def _try(self, taken: FileLock, trial: Trial) -> float:
        """The mean score of a trial; once its values are chosen, others may take theirs."""
        self.number = trial.number
        try:
            trial.set_user_attr("worker", self.worker.name)
            chosen = self.study.space.suggest(trial, self.recipe)
            trial.set_user_attr("fields", chosen)
            taken.release()
            return self._mean_score(trial, chosen)
        except TrialError as error:
            trial.set_user_attr("reason", str(error))
            raise
        except optuna.TrialPruned:
            raise
        except BaseException:
            queue_again(self.study.optuna, self.study.optuna.trials[trial.number], Retry())
            raise

    def _mean_score(self, trial: Trial, chosen: dict[str, Any]) -> float:
        repeats, scores = self.study.request.repeats, []
        with failures():
            recipe = self.recipe.change(ONE_MODEL | chosen)
        for repeat in range(repeats):
            listener = self._listener(trial.number, repeat)
            score = self.objective.score(recipe, repeat, self.worker.scratch, listener)
            trial.report(score, repeat)
            scores.append(score)
            if len(scores) < repeats and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(scores))

    def _finished(self) -> FrozenTrial:
        done = self.study.optuna.trials[self.number]
        if done.state == TrialState.COMPLETE and self.study.best_trial.number == done.number:
            self.write_evidence()
        return done

    def write_evidence(self) -> None:
        """`best.toml`, if a trial is complete, and `trials.csv`, if they are not as of now.

        The table comes last: where it is as of now, so is the recipe.
        """
        study, path = self.study, self.study.folder / TRIALS
        with claim(study.folder):
            table = to_csv(study.table())
            if path.is_file() and path.read_bytes() == table:
                return
            if study.ranking():
                write_atomic(study.folder / BEST, best.to_toml(study, self.command).encode())
            write_atomic(path, table)

    def _listener(self, trial: int, repeat: int) -> epochs.Listener | None:
        tell, repeats = self.progress, self.study.request.repeats
        if tell is None:
            return None
        return lambda training: tell(TrialProgress(trial, repeat, repeats, training))


def study_folder(out: str | Path | None, source: str) -> Path:
    """The folder asked for, or `runs/tune-<name>`."""
    stem = Path(source).name.split(".")[0] or "study"
    return training.open_folder(out or Path("runs") / f"tune-{stem}", source, resume=True)


def join(folder: Path, request: Request, storage: str | BaseStorage | None) -> Study:
    """The study of `folder`, made if there is none yet; its first trial is the recipe itself."""
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    if redacted(storage).startswith(GRPC):  # its server may let us wait: not under the lock
        storage = open_storage(storage, folder)
    with claim(folder):
        refuse_other(folder, request)
        greater = METRICS[request.metric].greater_is_better
        study = optuna.create_study(
            storage=open_storage(storage, folder),
            pruner=WilcoxonPruner(p_threshold=PRUNE_BELOW),
            study_name=request.name,
            direction="maximize" if greater else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("request")
        if known is not None:
            _refuse_difference(folder, Request.model_validate(known), request)
        if not study.get_trials(deepcopy=False):
            own = Space.model_validate(request.space).inside(Recipe.parse(request.recipe))
            study.enqueue_trial(own)
        study.set_user_attr("request", request.model_dump(mode="json"))
        write_json(folder / RECORD, request.model_dump(mode="json"))
    return Study(folder, request, study)


def refuse_other(folder: Path, request: Request) -> None:
    """Refuse to join a study of something else."""
    if (folder / RECORD).is_file():
        _refuse_difference(folder, read_model(folder / RECORD, Request), request)


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial has failed; empty of any other."""
    if trial.state != TrialState.FAIL:
        return ""
    return trial.user_attrs.get("reason", "its process was killed again and again")


def _refuse_difference(folder: Path, known: Request, request: Request) -> None:
    if known.storage != request.storage:
        raise _elsewhere(folder, known)
    named = {"digest": "data", "source": "", "kind": ""}
    changed = [k for k, v in known.model_dump().items() if v != getattr(request, k)]
    other = " and ".join(word for key in changed if (word := named.get(key, key)))
    if other:
        raise TuningError(f"{folder} holds a study with another {other}; name another folder (out)")


def _elsewhere(folder: Path, known: Request) -> TuningError:
    where = known.storage or f"{folder / 'study.db'} (no --storage)"
    return TuningError(f"the study of {folder} lies in {where}; give the same --storage")
