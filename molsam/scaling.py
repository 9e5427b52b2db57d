"""Numbers that a data set's training rows decide: target and descriptor scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CLIP = 10.0
ROUNDING = 1e-12  # relative: the mean of equal numbers is not quite their value


@dataclass(frozen=True)
class Standardizer:
    """`z = (x - center) / scale`, column by column.

    Attributes
    ----------
    center, scale : (T,) float64. `scale` is never 0: a constant column has scale 1.
    """

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> Standardizer:
        """Mean and standard deviation of each column of `x` (N, T), NaN left out."""
        x = np.asarray(x, dtype=np.float64)
        return cls.of(np.asarray(np.nanmean(x, axis=0)), np.asarray(np.nanstd(x, axis=0)))

    @classmethod
    def identity(cls, columns: int) -> Standardizer:
        """The scale that changes nothing."""
        return cls(np.zeros(columns), np.ones(columns))

    @classmethod
    def of(cls, center: np.ndarray, scale: np.ndarray) -> Standardizer:
        """From a center and a scale that may be 0, unknown, or no more than rounding."""
        usable = np.isfinite(scale) & (scale > ROUNDING * np.abs(center))
        return cls(np.nan_to_num(center), np.where(usable, scale, 1.0))

    def transform(self, x: np.ndarray) -> np.ndarray:
        """User units to model space, (N, T)."""
        return (x - self.center) / self.scale

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Model space to user units, (N, T)."""
        return z * self.scale + self.center

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"center": self.center.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Standardizer:
        """What `to_dict` gave."""
        return cls(np.array(data["center"], float), np.array(data["scale"], float))


def fit_descriptors(x: np.ndarray) -> Standardizer:
    """Median and interquartile spread of each descriptor over the training rows `x` (N, P).

    RDKit's descriptors hold NaN, infinities and tails of 1e40, which a mean would follow; a
    count that is 0 in most molecules has no interquartile range and takes its standard deviation.
    """
    finite = np.where(np.isfinite(x) & (np.abs(x) < 1e12), x, np.nan)
    finite[:, np.isnan(finite).all(axis=0)] = 0.0
    low, center, high = np.nanpercentile(finite, [25, 50, 75], axis=0)
    spread = (high - low) / 1.349
    return Standardizer.of(center, np.where(spread > 0, spread, np.nanstd(finite, axis=0)))


def scale_descriptors(scaler: Standardizer, x: np.ndarray) -> np.ndarray:
    """(N, P) float32 within +-`CLIP`; a descriptor that could not be computed is 0, its median."""
    with np.errstate(over="ignore"):
        z = np.clip(scaler.transform(x), -CLIP, CLIP)
    return np.nan_to_num(z).astype(np.float32)
