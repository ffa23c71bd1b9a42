"""What stands in for a missing modality in COM, and who plays against whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion import present
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import batch, forward, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_reconstruction_is_the_error_of_the_generators(rng):
    """From the vectors of complete rows, in float64."""
    config, model = small("com")
    made = without(batch(config, rng, 5), [1], "audio")
    output = forward("com")(made)
    z = {m: np.asarray(x, np.float64) for m, x in output.aux["vectors"].items()}
    params, total = tiny.plain(nnx.state(model.generate, nnx.Param)), 0.0
    for source, target in (("audio", "video"), ("video", "audio")):
        p = params[f"{source}_to_{target}"]
        for row in (0, 2, 3, 4):
            hidden = np.maximum(z[source][row] @ p["up"]["kernel"] + p["up"]["bias"], 0)
            guess = hidden @ p["down"]["kernel"] + p["down"]["bias"]
            total += ((guess - z[target][row]) ** 2).sum()
    assert float(output.aux["losses"]["reconstruction"].value) == pytest.approx(total / 8, rel=1e-4)


def test_generators_raise_what_encoders_lower(rng):
    """The gradient of the contrastive term by central differences, turned round for the generators alone."""
    config, model = small("com")
    made = jax.tree.map(jnp.asarray, without(batch(config, rng, 6), [1, 3], "audio"))
    graph, params, buffers, constants = split_model(model)

    def term(params):
        model = nnx.merge(graph, params, buffers, constants, copy=True)
        model = nnx.view(model, deterministic=True, raise_if_not_found=False)
        output = model.fuse(model.encode(made))
        return model._terms(output.aux["vectors"], present(output.tokens), made.weight)["contrastive"].value

    gradient = nnx.to_pure_dict(tiny.jit(jax.grad(term))(params))
    flat, measure = nnx.to_pure_dict(params), tiny.jit(term)
    for part, sign in (("generate", -1), ("project", 1)):
        square = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient[part]))
        assert square > 0
        # So far that float32 tells the two apart, and so near that the term is a line between them, steep or flat.
        reach, moved = 2e-3 / max(np.sqrt(square), square), []
        for step in (reach, -reach):
            shifted = dict(flat)
            shifted[part] = jax.tree.map(lambda x, d, step=step: x + step * d, flat[part], gradient[part])
            state = jax.tree.map(jnp.asarray, params)
            nnx.replace_by_pure_dict(state, shifted)
            moved.append(float(measure(state)))
        assert (moved[0] - moved[1]) / (2 * reach) == pytest.approx(sign * square, rel=0.02)


def test_a_missing_modality_is_one_token(rng):
    """The learned token reaches the logits of the rows that miss its modality, and no others."""
    config, model = small("com")
    made = jax.tree.map(jnp.asarray, without(batch(config, rng, 3), [1], "audio"))
    graph, state = nnx.split(nnx.view(model, deterministic=True, raise_if_not_found=False))

    @tiny.jit
    def logits(token):
        merged = nnx.merge(graph, state, copy=True)
        merged.absent["audio"][...] = token
        return merged(made).logits["emotion"]

    one, two = logits(jnp.zeros((1, config.size.width))), logits(jnp.ones((1, config.size.width)).at[0, 0].set(-3.0))
    changed = np.abs(np.asarray(one - two)).max(axis=1)
    assert changed[1] > 1e-3
    assert (changed[[0, 2]] == 0).all()
