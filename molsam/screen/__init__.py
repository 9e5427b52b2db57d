"""What the terminal shows: tables, bars and sentences. Answers on stdout, the rest on stderr."""

from .bars import counting_bar, progress_bar, study_bar
from .benches import (
    say_featurizers,
    say_models,
    say_optimizers,
    say_prediction,
    say_round,
    say_scale,
    say_training,
)
from .console import count_of, err, out, say
from .contests import say_comparison, say_fit, say_study
from .tables import (
    ROWS,
    row_text,
    say_bad_rows,
    say_check,
    say_scores,
    say_summary,
    say_table,
    score_table,
    show_frame,
)

__all__ = [
    "ROWS",
    "count_of",
    "counting_bar",
    "err",
    "out",
    "progress_bar",
    "row_text",
    "say",
    "say_bad_rows",
    "say_check",
    "say_comparison",
    "say_featurizers",
    "say_fit",
    "say_models",
    "say_optimizers",
    "say_prediction",
    "say_round",
    "say_scale",
    "say_scores",
    "say_study",
    "say_summary",
    "say_table",
    "say_training",
    "score_table",
    "show_frame",
    "study_bar",
]
