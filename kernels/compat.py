"""What differs between the JAX releases that are supported. Version checks stand here and nowhere else.

The kernels use only what jax 0.10 and 0.12 have in common, so all that is left is the floor.
"""

from __future__ import annotations

import jax

FLOOR = (0, 10, 0)


def check_version(version: tuple[int, ...] = jax.__version_info__, floor: tuple[int, ...] = FLOOR) -> None:
    """Raises ImportError where the JAX that is installed is older than the floor."""
    if tuple(version[: len(floor)]) < floor:
        found, wanted = (".".join(map(str, v)) for v in (version, floor))
        raise ImportError(
            f"kernels needs jax {wanted} or newer, found jax {found}. Remedy: pip install 'jax>={wanted}'."
        )
