"""Studies: one thing changes, everything else is held, several seeds; tables that can be quoted.

    runs/study-optimizers/
      rows.csv                    a row for each finished run in the folder
      <task>/<variant>/seed-<s>   the runs themselves
      equal_loss.csv, sharpness.png         where sharpness is followed through training
      gains.csv, costs.csv, gains.png       where variants are scored beside a reference

`plans` names the studies, `running` trains them and writes the tables, `rows` reads runs,
`sharpness` and `pairing` say what they mean.
"""

from .pairing import costs, draw_gains, gains, pair, verdicts
from .plans import STUDIES, Contest, Study, StudyError, find
from .rows import history, row_of, summarize, write_rows
from .running import Conclusion, conclude, finished_runs, run_folder, run_study
from .sharpness import at_equal_loss, compare_sharpness, draw_sharpness

__all__ = [
    "STUDIES",
    "Conclusion",
    "Contest",
    "Study",
    "StudyError",
    "at_equal_loss",
    "compare_sharpness",
    "conclude",
    "costs",
    "draw_gains",
    "draw_sharpness",
    "find",
    "finished_runs",
    "gains",
    "history",
    "pair",
    "row_of",
    "run_folder",
    "run_study",
    "summarize",
    "verdicts",
    "write_rows",
]
