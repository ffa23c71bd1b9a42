"""Matching by choice among two; the embeddings' losses are held where they stand (test_contrastive.py)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from avjax.objectives.matching import Matching
from avjax.streams import Batch, Output, Stream


def test_choice_counts_rows_that_have_all(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(4, 2)).astype(np.float32)
    logits[1:3] = np.nan
    target = np.eye(2, dtype=np.float32)[[0, 1, 1, 1]]
    # Row 1 has no second face, row 2 is filler.
    valid = np.array([[True], [False], [True], [True]])
    zeros = jnp.zeros(4)
    tokens = {"voice": Stream(zeros, jnp.ones((4, 1), bool), zeros, 1.0), "face_b": Stream(zeros, valid, zeros, 1.0)}
    weight = jnp.array([1.0, 1.0, 0.0, 2.0])
    scores = {"voice_to_face": jnp.asarray(rng.normal(size=(4, 4))), "face_to_voice": jnp.zeros((4, 4))}
    output = Output({"match": jnp.asarray(logits)}, tokens, aux={"scores": scores})
    loss, parts = Matching("choice")(output, Batch({}, {"match": jnp.asarray(target)}, weight, jnp.arange(4)))
    each = {row: np.log(np.exp(logits[row]).sum()) - logits[row, target[row].argmax()] for row in (0, 3)}
    np.testing.assert_allclose(loss, (each[0] + 2 * each[3]) / 3, rtol=1e-5)
    assert set(parts) == {"loss/match"}
    found = Matching("choice").predictions(output)
    assert set(found) == {"identity/voice_to_face", "identity/face_to_voice"}
    np.testing.assert_array_equal(found["identity/voice_to_face"], scores["voice_to_face"])
