"""Numbers over time: features that a network made, or labels that change along a clip; and where they are read from.

A corpus names a series of a clip either as a ``Series`` or as a ``Source``, which the preparing process reads: listing
a corpus then opens no file.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

DTYPES = ("float16", "float32", "int16", "int32", "uint8")
# What files hold besides, and what it becomes.
_NARROWED = {"float64": "float32", "int64": "int32", "uint16": "int32", "uint32": "int32", "int8": "int16"}
_NARROWED |= {"bool": "uint8", "uint64": "int32"}


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Numbers over time.

    Attributes:
      values: [T, ...] of one of ``DTYPES``, all finite.
      rate: elements a second. Features that are aligned with words have a word an element, and rate 1.
      start: seconds from the clip's start to the first element.
      valid: [T] bool, False where there is no number (a frame without a label, say); None where all are there.
      replaced: how many numbers were not finite and are 0 now; for the report, not kept in records.
    """

    values: np.ndarray
    rate: float
    start: float = 0.0
    valid: np.ndarray | None = None
    replaced: int = 0

    def __post_init__(self) -> None:
        values, valid = self.values, self.valid
        if not isinstance(values, np.ndarray) or values.dtype.name not in DTYPES:
            kind = values.dtype.name if isinstance(values, np.ndarray) else type(values).__name__
            raise ValueError(f"a series is an array of {', '.join(DTYPES)}, not {kind}; Series.of converts")
        if values.ndim < 1 or 0 in values.shape:
            raise ValueError(f"a series has elements along its first axis, and is not empty; shape {values.shape}")
        if not (0 < self.rate < np.inf and np.isfinite(self.start)):
            raise ValueError(f"a series needs a rate above 0 and a start; rate {self.rate}, start {self.start}")
        if valid is not None and (valid.dtype != bool or valid.shape != values.shape[:1]):
            raise ValueError(f"valid is bool {values.shape[:1]}, not {valid.dtype} {valid.shape}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("a series holds numbers that are not finite; Series.of puts 0 in their place")

    @classmethod
    def of(cls, values: Any, rate: float, start: float = 0.0, valid: np.ndarray | None = None) -> Series:
        """From any numbers: wider types become those of records, and what is not finite becomes 0, counted.

        Raises:
          ValueError: for what are no numbers, or integers beyond 32 bits.
        """
        values = np.asarray(values)
        target = _NARROWED.get(values.dtype.name, values.dtype.name)
        if target not in DTYPES:
            raise ValueError(f"an array of {values.dtype} is no series of numbers")
        replaced = 0
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                values = values.astype(target, copy=False)
            finite = np.isfinite(values)
            replaced = int(finite.size - finite.sum())
            values = np.where(finite, values, 0).astype(target, copy=False) if replaced else values
        elif target != values.dtype.name:
            limits = np.iinfo(target)
            if values.size and (values.min() < limits.min or values.max() > limits.max):
                raise ValueError(f"numbers of a series go beyond {target}")
            values = values.astype(target)
        return cls(np.ascontiguousarray(values), float(rate), float(start), valid, replaced)

    def read(self) -> Series:
        """A series is its own source."""
        return self

    def __len__(self) -> int:
        return len(self.values)

    @property
    def end(self) -> float:
        """Seconds from the clip's start to the end of the last element."""
        return self.start + len(self) / self.rate

    def write(self, start: float, rate: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes the elements of a window: at each of its times, ``start + k / rate``, the element that is current.

        Element n is current from ``start + n / rate`` of its own on, as a frame is on the screen. Where there is none,
        ``values`` [L, ...] become 0 and ``valid`` [L] stays as it is.
        """
        # Times may miss the moment of an element by rounding alone.
        first = (start - self.start + 1e-6) * self.rate
        ratio = self.rate / rate
        steps = np.arange(len(values))
        places = int(np.floor(first)) + steps if ratio == 1 else np.floor(first + steps * ratio).astype(int)
        there = (places >= 0) & (places < len(self))
        if self.valid is not None:
            there[there] = self.valid[places[there]]
        values[there], values[~there] = self.values[places[there]], 0
        valid[there] = True


@runtime_checkable
class Source(Protocol):
    """Where a series is read from, in the process that prepares its clip: a dataclass that pickles."""

    def read(self) -> Series: ...


@dataclasses.dataclass(frozen=True)
class NpyFile:
    """The array of a .npy file."""

    path: Path
    rate: float
    start: float = 0.0

    def read(self) -> Series:
        values = np.load(self.path, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            raise ValueError("it holds several arrays, not one: NpyFile reads .npy files")
        return Series.of(values, self.rate, self.start)


@dataclasses.dataclass(frozen=True)
class H5Row:
    """A data set of an HDF5 file, or one row of it.

    Attributes:
      key: name of the data set in the file.
      row: which row [T, ...] of it is the series; None where the whole is.
    """

    path: Path
    key: str
    row: int | None
    rate: float
    start: float = 0.0

    def read(self) -> Series:
        file = _open_h5(os.fspath(self.path))
        found = file.get(self.key)
        if not hasattr(found, "shape"):
            raise ValueError(f"it has no data set {self.key!r}; it has {', '.join(file) or 'none'}")
        if self.row is None:
            return Series.of(found[()], self.rate, self.start)
        if not 0 <= self.row < len(found):
            raise ValueError(f"its data set {self.key!r} has {len(found)} rows, and no row {self.row}")
        return Series.of(found[self.row], self.rate, self.start)


def open_h5(path: str | os.PathLike[str]) -> Any:
    """An open ``h5py.File``, for readers of corpora.

    Raises:
      ImportError: says how to install h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("this corpus has HDF5 files; install h5py: pip install 'avjax[corpora]'") from error
    return h5py.File(path, "r")


# A process goes through a corpus in order; opening a large file anew for every clip would take most of its time.
_open_h5 = functools.lru_cache(maxsize=8)(open_h5)


def series_fields(series: Series) -> dict[str, Any]:
    """What a record keeps of a series: bytes, dtype and shape; little-endian."""
    values = np.ascontiguousarray(series.values)
    return {
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "data": values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(),
        "rate": float(series.rate),
        "start": float(series.start),
        "valid": None if series.valid is None else np.packbits(series.valid).tobytes(),
    }


def series_from(fields: Mapping[str, Any]) -> Series:
    """The series that ``series_fields`` describes, checked. Raises ValueError, KeyError or TypeError."""
    shape, data, valid = tuple(fields["shape"]), fields["data"], fields["valid"]
    if fields["dtype"] not in DTYPES or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"dtype {fields['dtype']!r}, shape {shape}")
    count, dtype = int(np.prod(shape, dtype=object)), np.dtype(fields["dtype"])
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers of {dtype}")
    if valid is not None:
        if len(valid) != -(-shape[0] // 8):
            raise ValueError(f"{len(valid)} bytes say which of {shape[0]} elements are there")
        valid = np.unpackbits(np.frombuffer(valid, np.uint8), count=shape[0]).astype(bool)
    values = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)
    return Series(values, float(fields["rate"]), float(fields["start"]), valid)
