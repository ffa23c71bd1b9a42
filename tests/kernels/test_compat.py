"""The floor of JAX versions."""

from __future__ import annotations

import jax
import pytest

from kernels import compat


def test_older_than_the_floor_is_refused():
    with pytest.raises(
        ImportError, match=r"needs jax 0\.10\.0 or newer, found jax 0\.9\.2.*pip install 'jax>=0\.10\.0'"
    ):
        compat.check_version((0, 9, 2))


@pytest.mark.parametrize("version", [(0, 10, 0), (0, 10, 2), (0, 12, 0), (1, 0, 0), jax.__version_info__])
def test_the_floor_and_above_pass(version):
    compat.check_version(version)
