"""How the programs of a diagnosis are compiled.

A diagnosis compiles some dozens of programs and runs each a few times, so that on a CPU compiling is half of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# Of LLVM, which compiles what lies between products and convolutions: it takes two thirds of the time of the default
# level, and the programs run as fast (experiments/benchmarks/diagnostics.py).
ON_CPU = {"xla_backend_optimization_level": 1}


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit`` for a program that runs a few times; it must not be called while another is traced.

    Args:
      options: of ``jax.jit``.
    """
    return jax.jit(function, compiler_options=ON_CPU if jax.default_backend() == "cpu" else None, **options)
