"""Fused attention that reports on itself: one function, several implementations, one contract (see api.py)."""

from __future__ import annotations

import kernels

if getattr(kernels, "OWNER", None) != "avjax":
    raise ImportError(
        f"'kernels' was imported from {kernels.__file__}, which belongs to the unrelated PyPI package 'kernels', not "
        "to avjax: the two overwrote each other. Remedy: pip uninstall kernels, then pip install --force-reinstall "
        "--no-deps avjax; use separate environments where both are needed."
    )

from kernels.attention.api import FALLBACK, Attended, attention, using
from kernels.attention.dropout import dropout_seeds
from kernels.attention.mask import Layout, Mask
from kernels.attention.statistics import NAMES as STATISTICS

__all__ = ["FALLBACK", "STATISTICS", "Attended", "Layout", "Mask", "attention", "dropout_seeds", "using"]
