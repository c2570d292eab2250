"""Medians and quantiles that pass over what is not known, fast: the most frequent thing that the analysis computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def median(values: npt.NDArray[np.float64], axis: int | None = None) -> Any:
    """Median that passes over NaN; NaN where there is nothing else. To part is many times faster than numpy's nanmedian."""
    if axis is None:
        known = values[~np.isnan(values)]
        return _middle(known, 0) if known.size else np.nan
    if values.shape[axis] == 0:
        return np.full(np.delete(values.shape, axis), np.nan)
    unknown = np.isnan(values)
    if not unknown.any():
        return _middle(values, axis)
    ordered = np.sort(values, axis=axis)  # NaN last
    count = values.shape[axis] - np.sum(unknown, axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[axis] - 1), axis=axis)
    return ((low + high) / 2).squeeze(axis)[()]


def _middle(values: npt.NDArray[np.float64], axis: int) -> Any:
    """Median of known values."""
    low, high = (values.shape[axis] - 1) // 2, values.shape[axis] // 2
    parted = np.partition(values, (low, high) if low < high else low, axis=axis)
    before: list[slice | int] = [slice(None)] * values.ndim
    after = before.copy()
    before[axis], after[axis] = low, high
    return ((parted[tuple(before)] + parted[tuple(after)]) / 2)[()]


def quantile(values: npt.NDArray[np.float64], share: float, axis: int) -> Any:
    """Quantile by linear interpolation that passes over NaN, as numpy's nanquantile gives it; at least one value along `axis`."""
    ordered = np.sort(values, axis=axis)  # NaN last
    last = np.maximum(np.sum(~np.isnan(values), axis=axis, keepdims=True) - 1, 0)
    place = share * last
    low = np.floor(place).astype(np.int64)
    below = np.take_along_axis(ordered, low, axis=axis)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=axis)
    part, apart = place - low, above - below
    return np.where(part < 0.5, below + apart * part, above - apart * (1 - part)).squeeze(axis)[()]
