"""MM-SHAP as the stage tells it: share, error and net effect, above its noise, and what is kept of each clip."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.protocol import explanation
from avjax.diagnostics.protocol.study import Study
from avjax.diagnostics.protocol.tiers import SMOKE
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_for, study_of
from tests.diagnostics.ranges import out_of_range
from tests.models.planted import CASES, Planted, cue


def noisy(tokens):
    """Pictures count by themselves; steps of sound in company alone, in a pattern without a plan."""
    there = jnp.concatenate([tokens[m].valid for m in ("audio", "video")], axis=1).astype(jnp.float32)
    # What a coalition is worth besides: a number of no order, different for each set of players.
    chaos = jnp.sin(1e3 * (there @ jnp.sqrt(jnp.arange(2.0, 2.0 + there.shape[1]))))
    return 4 * cue(tokens)["video"] + 0.3 * chaos


def predicted(found):
    """Lines of dropped tokens, of the class that is predicted: that of what is kept."""
    return [line for line in found.lines if (line.fill, line.target) == ("drop", "predicted")]


def test_what_is_kept_gives_the_lines(rng):
    clips = clips_of(CASES["T2 additive"].batch(rng, 24))
    study = Study(probe_for(Planted(noisy)), clips, TIER, resamples=20)
    found = explanation.shapley_values(study)
    assert out_of_range(found.lines) == []
    phi, net, groups = (found.arrays[f"shapley/mm_shap/{name}"] for name in ("phi", "net", "groups"))
    assert phi.shape == (16, 16)
    assert groups.tolist() == ["audio"] * 8 + ["video"] * 8
    own = groups == "audio"
    np.testing.assert_allclose(net, np.stack([phi[:, own].sum(1), phi[:, ~own].sum(1)], 1), atol=1e-5)
    size = np.stack([np.abs(phi[:, own]).sum(1), np.abs(phi[:, ~own]).sum(1)], 1)
    share = (size / size.sum(1, keepdims=True)).mean(0)
    lines = {(line.id.split("/")[1], line.group): line for line in predicted(found)}
    for place, group in enumerate(("audio", "video")):
        assert lines["mm_shap", group].value == pytest.approx(share[place], abs=1e-5)
        assert lines["mm_shap_net", group].value == pytest.approx(net[:, place].mean(), abs=1e-5)
        assert lines["mm_shap_corrected", group].estimator.endswith("floor by split halves")
    # Sound has noise alone, part of which goes with the floor.
    assert lines["mm_shap_corrected", "audio"].value < lines["mm_shap", "audio"].value


def test_where_sampling_adds_nothing_nothing_is_taken_off(rng):
    found = explanation.shapley_values(study_of("T2 additive", rng, 24))
    lines = {(line.id.split("/")[1], line.group): line.value for line in predicted(found)}
    for group in ("audio", "video"):
        assert lines["mm_shap_corrected", group] == pytest.approx(lines["mm_shap", group], abs=1e-5)


def test_fills_that_shapley_values_do_not_have_are_refused():
    with pytest.raises(ValueError, match=r"smoke: shapley_fills zero: .* give 'drop' or 'mean'"):
        dataclasses.replace(SMOKE, shapley_fills=("drop", "zero"))
