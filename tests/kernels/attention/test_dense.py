"""The NumPy computation that everything is held to: its gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.attention import STATISTICS, Layout, Mask
from tests.kernels.attention import dense
from tests.kernels.attention.cases import cotangents_like

VALUES = ("output", *STATISTICS)


@pytest.mark.parametrize("name", VALUES)
def test_gradients_are_finite_differences(name, rng):
    layout = Layout.of(audio=3, video=4)
    mask = Mask(
        layout, layout, key_valid=rng.random((2, 7)) < 0.8, query_valid=np.arange(7)[None] < np.array([[7], [6]])
    )
    arrays = {
        "query": rng.normal(size=(2, 7, 4, 3)),
        "key": rng.normal(size=(2, 7, 2, 3)),
        "value": rng.normal(size=(2, 7, 2, 5)),
        "bias": rng.normal(size=(1, 4, 7, 1)) + rng.normal(size=(1, 4, 1, 1)),
        "received_weights": rng.normal(size=(2, 7, 2)),
    }
    arrays["bias"] = np.broadcast_to(arrays["bias"], (1, 4, 7, 1)).copy()
    seen = dense.visible(mask, 2)
    options = {"scale": 0.7, "softcap": 2.0, "keep": (rng.random((2, 4, 7, 7)) < 0.8) / 0.8}
    values, _, _ = dense.attend(arrays, seen, layout.ranges, None, **options)
    cotangents = {name: cotangents_like(values, rng)[name]}
    _, gradients, _ = dense.attend(arrays, seen, layout.ranges, cotangents, **options)

    def loss(changed):
        found, _, _ = dense.attend(changed, seen, layout.ranges, None, **options)
        return np.sum(np.where(np.isfinite(found[name]), found[name], 0) * cotangents[name])

    for argument, array in arrays.items():
        direction, step = rng.normal(size=array.shape), 1e-6
        ahead, behind = (loss({**arrays, argument: array + sign * step * direction}) for sign in (1, -1))
        expected = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(np.sum(gradients[argument] * direction), expected, rtol=1e-5, atol=1e-7)
