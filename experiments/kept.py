"""Results of the programs of this folder that are made once and read from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def kept_arrays(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a file, which ``make`` makes where it is not there; it is there whole or not at all."""
    if not path.is_file():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found)
        partial.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
