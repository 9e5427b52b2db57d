"""Tuning: Optuna studies over a recipe's own fields.

    runs/tune-esol/
      tune.json      what the study is about: recipe, space, data, repeats, seed
      study.db       Optuna's storage, unless another is asked for
      best.toml      the best trial so far as a recipe, with its evidence
      trials.csv     every trial: its scores, what it chose, how long it took
      workers/       a lock and a scratch folder for each process at work

`objective` says what a recipe is worth, `workers` keeps the trials of processes that died, `study`
is the loop, `best` writes the recipe and the table. The only door to Optuna.
"""

from .objective import FIRST_SEED, Objective, TrialError
from .storage import TuningError
from .study import Study, TrialProgress, tune

__all__ = [
    "FIRST_SEED",
    "Objective",
    "Study",
    "TrialError",
    "TrialProgress",
    "TuningError",
    "tune",
]
