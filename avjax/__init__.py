"""avjax: audio-visual fusion with attention, in JAX and Flax."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__version__ = "0.1.0"


def _require_own_kernels() -> None:
    """PyPI has an unrelated package called ``kernels``; where it comes first, ours cannot say so itself."""
    found = importlib.util.find_spec("kernels")
    places = list(found.submodule_search_locations or ()) if found else []
    if not any((Path(place) / "attention" / "api.py").is_file() for place in places):
        raise ImportError(
            f"avjax needs its own package 'kernels', but Python finds {places or 'none'}. If that is the unrelated"
            " package of PyPI: pip uninstall kernels, then pip install --force-reinstall --no-deps avjax; use separate"
            " environments where both are needed."
        )


_require_own_kernels()
