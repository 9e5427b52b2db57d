"""What the parts of molsam cost on this machine, side by side with their plain form.

Every bench makes its own molecules and needs no download. What is compared races in one process:
turn by turn, in an order drawn anew for each, with ratios round by round.
"""

from __future__ import annotations

from .featurizing import compare_featurizers
from .models import compare_models
from .optimizers import compare_optimizers
from .predicting import measure_prediction, measure_scale
from .training import measure_training

__all__ = [
    "compare_featurizers",
    "compare_models",
    "compare_optimizers",
    "measure_prediction",
    "measure_scale",
    "measure_training",
]
