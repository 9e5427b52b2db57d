"""Numbers that a data set's training rows decide: target and descriptor scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri

ScaleName = Literal["robust", "ranked"]
VIEWS: dict[ScaleName, int] = {"robust": 1, "ranked": 2}  # columns of each descriptor
CLIP = 10.0  # spreads from the median
FARTHEST = 3.0  # standard deviations of a normal variable
QUANTILES = 51
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


@dataclass(frozen=True)
class DescriptorScaler:
    """Descriptors as a model reads them, by the training rows.

    robust -> z = clip((x - m) / s, -10, 10), m and s their median and interquartile spread
    ranked -> asinh(z), and beside it clip(Phi^-1(F(x)), -3, 3), F the share of training rows
    below x, of equal ones half: 0 at the lowest, 1 at the highest, so that a group which most
    molecules lack stands far from its absence

    A descriptor that could not be computed is 0, as one that is the same in all training rows.

    Attributes
    ----------
    spread : m and s of P descriptors.
    quantiles : (Q, P) float64 at equal steps from the lowest to the highest; None if robust.
    """

    spread: Standardizer
    quantiles: np.ndarray | None

    @classmethod
    def fit(cls, x: np.ndarray, scale: ScaleName) -> DescriptorScaler:
        """From the training rows `x` (N, P).

        RDKit's descriptors hold NaN, infinities and tails of 1e40, which a mean would follow; a
        count that is 0 in most molecules has no interquartile range and takes its standard
        deviation.
        """
        finite = np.where(np.isfinite(x) & (np.abs(x) < 1e12), x, np.nan)
        finite[:, np.isnan(finite).all(axis=0)] = 0.0
        low, center, high = np.nanpercentile(finite, [25, 50, 75], axis=0)
        spread = (high - low) / 1.349
        fitted = Standardizer.of(center, np.where(spread > 0, spread, np.nanstd(finite, axis=0)))
        if scale == "robust":
            return cls(fitted, None)
        return cls(fitted, np.nanpercentile(finite, np.linspace(0, 100, QUANTILES), axis=0))

    def transform(self, x: np.ndarray) -> np.ndarray:
        """(N, P) -> (N, V P) float32, one `VIEWS` of all descriptors after the other."""
        with np.errstate(over="ignore"):
            z = np.nan_to_num(np.clip(self.spread.transform(x), -CLIP, CLIP))
        if self.quantiles is None:
            return z.astype(np.float32)
        share = np.stack([*map(_share_below, x.T, self.quantiles.T)], axis=1)
        rank = np.clip(ndtri(share), -FARTHEST, FARTHEST)
        return np.hstack([np.arcsinh(z), rank]).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ranks = {} if self.quantiles is None else {"quantiles": self.quantiles.tolist()}
        return self.spread.to_dict() | ranks

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DescriptorScaler:
        """What `to_dict` gave."""
        quantiles = np.array(data["quantiles"], float) if "quantiles" in data else None
        return cls(Standardizer.from_dict(data), quantiles)


def _share_below(x: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """F(x) of one descriptor, (N,); 1/2 where x is not known or nothing can be told by it."""
    share = np.full(len(x), 0.5)
    lowest, highest = quantiles[[0, -1]]
    if lowest == highest:
        return share
    known = ~np.isnan(x)
    v, steps = x[known], np.linspace(0, 1, len(quantiles))
    above = np.interp(-v, -quantiles[::-1], steps)
    found = (np.interp(v, quantiles, steps) + 1 - above) / 2
    found[v <= lowest], found[v >= highest] = 0.0, 1.0
    share[known] = found
    return share
