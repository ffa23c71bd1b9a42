"""Relevance through layers of attention: known answers, matrices in float64 with d score / dP by autodiff, a decoy."""

from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.contribution.flow import Step
from avjax.diagnostics.contribution.relevance import (
    Flow,
    Traced,
    chefer_bimodal,
    chefer_joint,
    dense_relevance,
    gradient_mass,
    modality_share,
    rollout,
    rollout_shares,
    stages,
    total_gradient_mass,
)
from avjax.diagnostics.measured import Undefined
from avjax.nn import attention as door
from avjax.nn.attention import attend, cross_mask, self_mask, towers_mask
from avjax.nn.statistics import tapped
from avjax.nn.transformer import Size
from avjax.training.step import split_model
from kernels.attention import Layout
from tests.levels import in_part
from tests.models import tiny

# Of matrices that are made in another order, in float64.
CLOSE = {"rtol": 1e-9, "atol": 1e-13}


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Float64, and programs that compile fast."""
    monkeypatch.setattr(jax, "jit", tiny.jit)
    with jax.enable_x64(True):
        yield


@dataclasses.dataclass
class Explained:
    traced: Traced
    chefer: dict
    rollout: dict
    names: tuple
    shares: dict
    mass: dict
    dense: list


def explained(score, *arguments, flow=None):
    """Everything, in one program."""
    flow = flow or Flow.of(score, *arguments)
    names = []

    @tiny.jit
    def run(*arguments):
        traced = Traced.of(flow, score, *arguments)
        columns, shares = rollout_shares(traced)
        names.extend(columns)
        mass = total_gradient_mass(traced.calls)
        return traced, chefer_joint(traced), rollout(traced), shares, mass, [dense_relevance(c) for c in traced.calls]

    traced, chefer, rolled, shares, mass, dense_ones = run(*arguments)
    return Explained(traced, chefer, rolled, tuple(names), shares, mass, dense_ones)


def weighted(x, weights, layout=None):
    """x + P x with weights P [N, N] that are written down."""
    bias = jnp.where(jnp.asarray(weights) > 0, jnp.log(jnp.maximum(jnp.asarray(weights, float), 1e-300)), -1e4)
    mask = None if layout is None else self_mask(jnp.ones(x.shape[:2], bool), layout)
    return x + attend(x[:, :, None], jnp.zeros_like(x)[:, :, None], x[:, :, None], mask, bias=bias[None, None])[:, :, 0]


# ---------------------------------------------------------------------------------------------- rollout


@pytest.mark.parametrize(("read", "row"), [(0, [0.75, 0.25]), (1, [0.1875, 0.8125])])
def test_rollout_of_two_layers(read, row, rng):
    """KA: A1 = [[.5, .5], [0, 1]], A2 = [[1, 0], [.5, .5]]: R = [[.75, .25], [.1875, .8125]]."""

    def score(x):
        x = weighted(weighted(x, [[0.5, 0.5], [0, 1]]), [[1, 0], [0.5, 0.5]])
        return x[:, read].sum(-1)

    found = explained(score, jnp.asarray(rng.normal(size=(3, 2, 4))))
    np.testing.assert_allclose(found.rollout["tokens"], [row] * 3, rtol=1e-14)
    assert found.names == ("tokens",)
    assert list(found.shares) == [("tokens", 1)]
    np.testing.assert_allclose(found.shares["tokens", 1], 1, rtol=1e-14)


def test_rollout_of_identity_attention(rng):
    """KA: identity attention: R = I."""

    def score(x):
        return weighted(weighted(x, np.eye(5)), np.eye(5))[:, 3].sum(-1)

    found = explained(score, jnp.asarray(rng.normal(size=(2, 5, 4))))
    np.testing.assert_allclose(found.rollout["tokens"], [np.eye(5)[3]] * 2, atol=1e-15)


@pytest.mark.slow
def test_rollout_of_isolated_towers(rng):
    """KA: two isolated towers: U is 0 or 1."""
    layouts = [Layout.of(audio=3), Layout.of(video=4)]

    def score(x):
        for _ in range(2):
            mask = towers_mask(layouts, [jnp.ones((2, 3), bool), jnp.ones((2, 4), bool)])
            x = x + attend(x[:, :, None], x[:, :, None], x[:, :, None], mask)[:, :, 0]
        return jnp.square(x).sum((1, 2))

    found = explained(score, jnp.asarray(rng.normal(size=(2, 7, 4))))
    assert found.names == ("audio", "video")
    np.testing.assert_allclose(found.shares["audio", 1], np.broadcast_to([1, 0], (2, 3, 2)), atol=1e-14)
    np.testing.assert_allclose(found.shares["video", 1], np.broadcast_to([0, 1], (2, 4, 2)), atol=1e-14)


# ---------------------------------------------------------------------------------------------- Chefer


def visible(mask):
    """Which keys queries see, [B or 1, 1, Nq, Nk]."""
    names = [np.repeat(layout.names, layout.lengths) for layout in (mask.queries, mask.keys)]
    pairs = None if mask.sees is None else set(mask.sees)
    table = np.array([[pairs is None or (q, k) in pairs for k in names[1]] for q in names[0]])[None, None]
    return jnp.asarray(table) if mask.key_valid is None else table & mask.key_valid[:, None, None, :]


def through_weights(score, *arguments):
    """P and d score / dP [B, H, Nq, Nk] of every call, with attention written out and P a variable."""

    def run(added, kept):
        def attention(query, key, value, *, mask, bias, statistics):
            scores = jnp.einsum("bihd,bjhd->bhij", query, key) / math.sqrt(query.shape[-1])
            seen = visible(mask)
            scores = jnp.where(seen, scores + (0 if bias is None else bias), -jnp.inf)
            weights = jnp.where(seen, jax.nn.softmax(jnp.where(seen.any(-1, keepdims=True), scores, 0)), 0)
            number = len(kept)
            kept.append(weights)
            weights = weights + (added[number] if added else 0)
            return door.Attended(jnp.einsum("bhij,bjhd->bihd", weights, value), {})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(door, "attention", attention)
            return score(*arguments).sum()

    weights = tiny.jit(lambda: (kept := [], run(None, kept))[0])()
    slopes = tiny.jit(jax.grad(lambda added: run(added, [])))([jnp.zeros_like(w) for w in weights])
    return [np.asarray(w) for w in weights], [np.asarray(s) for s in slopes]


CONFIGS = {
    "bottleneck": {"fusion_layer": 1},
    "in turn": {"fusion_layer": 1, "update": "sequential"},
    "cross": {"fusion_layer": 1, "fusion": "cross"},
    "merged": {"fusion_layer": 1, "fusion": "merged", "pool": "gap"},
}
BOTTLENECKS = 2


def system(name, rng):
    """A small MBT in float64, and a batch with invalid steps, a row without sound and one without pictures."""
    config = tiny.config(size=Size(8, 3, 2), bottlenecks=BOTTLENECKS, **CONFIGS[name])
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = nnx.as_pure(tiny.randomise(params, rng))
    params, rest, given = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.asarray(x),
        (params, rest, tiny.batch(rng, rows=3)),
    )
    valid = {m: np.array(stream.valid) for m, stream in given.streams.items()}
    valid["video"][0, -2:] = valid["audio"][1] = valid["video"][2] = False
    given = given.replace(streams={m: s.replace(valid=jnp.asarray(valid[m])) for m, s in given.streams.items()})

    def score(params, batch):
        model = nnx.view(nnx.merge(graph, params, *rest, copy=True), deterministic=True, raise_if_not_found=False)
        return model(batch).logits["emotion"][:, 1]

    return config, score, params, given, {m: v.any(1) for m, v in valid.items()}


def by_matrices(name, attentions, lengths, there, identity):
    """R of one row over [video, audio, bottleneck], by what the layers of each system do, one after the other.

    Args:
      attentions: of every call, [Nq, Nk].
      identity: what a query keeps of itself; the attention is added to it.
    """
    video, audio = np.arange(lengths["video"]), lengths["video"] + np.arange(lengths["audio"])
    z = len(video) + len(audio) + np.arange(BOTTLENECKS)
    tokens = {"video": video, "audio": audio}
    relevance = np.eye(len(video) + len(audio) + len(z))

    def update(asking, asked, weights, of):
        alive = weights.sum(1, keepdims=True) != 0 if identity != 1 else 1
        kept = np.where(alive, identity, 1.0)
        return kept * of[asking] + weights @ of[asked]

    attentions = iter(attentions)
    for m in ("video", "audio"):
        relevance[tokens[m]] = update(tokens[m], tokens[m], next(attentions), relevance)
    for _ in range(2):
        old = relevance.copy()
        if name == "bottleneck":
            weights = next(attentions)
            order = np.concatenate([video, z, audio, z])
            found = update(order, order, weights, old)
            cut = np.cumsum([len(video), len(z), len(audio)])
            relevance[video], of_video, relevance[audio], of_audio = np.split(found, cut)
            present = [part for m, part in (("video", of_video), ("audio", of_audio)) if there[m]]
            relevance[z] = np.mean(present, axis=0)
        elif name == "in turn":
            for m in ("video", "audio"):
                order = np.concatenate([tokens[m], z])
                found = update(order, order, next(attentions), relevance)
                relevance[tokens[m]] = found[: len(tokens[m])]
                if there[m]:
                    relevance[z] = found[len(tokens[m]) :]
        elif name == "cross":
            every = np.concatenate([video, audio])
            for m in ("video", "audio"):
                relevance[tokens[m]] = update(tokens[m], every, next(attentions), old)
        else:
            every = np.concatenate([video, audio])
            relevance[every] = update(every, every, next(attentions), old)
    return relevance


@pytest.mark.slow
@pytest.mark.parametrize("name", in_part(tuple(CONFIGS), one_of=4))
def test_recursions_in_memory_of_tokens_are_matrices(name, rng):
    """Chefer's relevance, rollout and its shares of four systems against R over the union of all tokens."""
    config, score, params, given, there = system(name, rng)
    whole = jax.tree.map(lambda x: x[:1], given)
    flow = Flow.of(score, params, whole)
    found = explained(score, params, given, flow=flow)
    weights, slopes = through_weights(score, params, given)
    lengths = dict(flow.lengths)
    relevant, rolled, names, shares = found.chefer, found.rollout, found.names, found.shares
    assert set(relevant) == {"video", "audio", *(["bottleneck"] if name in ("bottleneck", "in turn") else [])}
    for row in range(3):
        # The logit is the mean of those of the class tokens, which come last, or of the mean over all valid tokens.
        read = {}
        for m in ("video", "audio"):
            valid = np.array(given.streams[m].valid[row])
            read[m] = np.zeros(lengths[m])
            if config.pool == "cls":
                read[m][-1] = there[m][row]
            else:
                patches = {"video": (tiny.VIDEO, 2), "audio": (tiny.AUDIO, 2)}[m]
                steps = valid.reshape(-1, patches[1]).any(1)
                read[m][:] = np.repeat(steps, lengths[m] // len(steps))
        start = np.concatenate([read["video"], read["audio"], np.zeros(BOTTLENECKS)])
        start /= start.sum()
        abar = [np.maximum(w[row] * s[row], 0).mean(0) for w, s in zip(weights, slopes, strict=True)]
        here = {m: bool(there[m][row]) for m in there}
        expected = start @ (by_matrices(name, abar, lengths, here, 1.0) - np.eye(len(start)))
        half = [w[row].mean(0) / 2 for w in weights]
        matrix = by_matrices(name, half, lengths, here, 0.5)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-12)
        ends = np.cumsum([lengths["video"], lengths["audio"]])
        for m, of_relevance, of_rollout in zip(
            ("video", "audio", "bottleneck"), np.split(expected, ends), np.split(start @ matrix, ends), strict=True
        ):
            if m in relevant:
                np.testing.assert_allclose(relevant[m][row], of_relevance, err_msg=m, **CLOSE)
                np.testing.assert_allclose(rolled[m][row], of_rollout, err_msg=m, **CLOSE)
        columns = [part.sum(1) for part in np.split(matrix, ends, axis=1)]
        for (m, _), part in shares.items():
            rows = np.split(np.arange(len(start)), ends)[("video", "audio", "bottleneck").index(m)]
            of = np.stack([columns[("video", "audio", "bottleneck").index(n)][rows] for n in names], axis=1)
            np.testing.assert_allclose(part[row], of, **CLOSE)
    assert max(float(part.max()) for part in relevant.values()) > 0


@pytest.mark.slow
def test_gradient_mass_adds_up(rng):
    """Gm_ig = sum_{j in g} P_ij dP_ij, and its sum over groups is <dO_i, O_i>."""
    _, score, params, given, _ = system("bottleneck", rng)
    calls, masses = tiny.jit(
        lambda *arguments: (calls := tapped(score, *arguments)[1], [gradient_mass(call) for call in calls])
    )(params, given)
    weights, slopes = through_weights(score, params, given)
    total = dict.fromkeys(("video", "audio", "bottleneck"), 0.0)
    for call, found, w, s in zip(calls, masses, weights, slopes, strict=True):
        for column, (name, (begin, end)) in enumerate(zip(call.mask.keys.names, call.mask.keys.ranges, strict=True)):
            expected = (w * s)[..., begin:end].sum(-1)
            np.testing.assert_allclose(found[..., column], expected, **CLOSE)
            total[name.split("_")[0]] += expected.sum((1, 2))
        whole = np.einsum("bnhd,bnhd->bhn", call.gradient, call.output)
        np.testing.assert_allclose(found.sum(-1), whole, **CLOSE)
    for name, found in tiny.jit(total_gradient_mass)(calls).items():
        np.testing.assert_allclose(found, total[name], **CLOSE)


def test_one_layer_and_one_head(rng):
    """KA: R = I + relu(P (.) dP)."""
    mix = jnp.asarray(rng.normal(size=(4, 4)))

    def score(x):
        return ((x + attend(x[:, :, None], x[:, :, None], x[:, :, None])[:, :, 0])[:, 2] @ mix).sum(-1)

    x = jnp.asarray(rng.normal(size=(2, 5, 4)))
    (weights,), (slopes,) = through_weights(score, x)
    found = explained(score, x)
    expected = np.maximum(weights * slopes, 0)[:, 0]
    np.testing.assert_allclose(found.chefer["tokens"], expected[:, 2], **CLOSE)
    np.testing.assert_allclose(found.dense[0], expected, **CLOSE)
    gradient = np.asarray(found.traced.calls[0].gradient)[:, :, 0]
    np.testing.assert_allclose(slopes[:, 0], np.einsum("bid,bjd->bij", gradient, x), **CLOSE)


def test_a_decoy(rng):
    """T5: attention is on video, whose values are 0: mass says video, relevance and gradient mass say audio."""
    layout = Layout.of(audio=5, video=5)
    mask = cross_mask(Layout.of(query=1), layout, jnp.ones((4, 10), bool))
    values = rng.normal(size=(4, 10, 1, 3))
    # Something that raises the score, in every row: Chefer's rule sees nothing else.
    values[:, 0] = np.abs(values[:, 0])
    values[:, 5:] = 0
    key = np.broadcast_to((np.arange(10) >= 5)[None, :, None, None] * 3.0, (4, 10, 1, 1))

    def score(values):
        found = attend(jnp.ones((4, 1, 1, 1)), jnp.asarray(key), values, mask, site="decision")[:, 0, 0]
        return jnp.tanh(found.sum(-1))

    found = explained(score, jnp.asarray(values))
    shares = modality_share({m: np.asarray(x) for m, x in found.chefer.items()}, {"audio": 5, "video": 5})
    np.testing.assert_allclose(shares, [[1, 0]] * 4, atol=1e-15)
    rolled = modality_share({m: np.asarray(x) for m, x in found.rollout.items()}, {"audio": 5, "video": 5})
    assert (rolled[:, 1] > 0.9).all()
    assert not np.asarray(found.mass["video"]).any()
    assert np.abs(found.mass["audio"]).min() > 0
    with pytest.raises(Undefined, match=r"names tokens of \['touch'\]"):
        modality_share({"audio": np.ones((1, 2))}, {"audio": 2, "touch": 1})
    # Behind a modality's own tokens lies its class token.
    ones = {"audio": np.ones((1, 4)), "video": np.ones((1, 3))}
    np.testing.assert_allclose(modality_share(ones, {"audio": 3, "video": 3}), [[0.5, 0.5]])


# ---------------------------------------------------------------------------------------------- two streams


def co_attention(rng):
    """Self-attention of both, each asking the other's old tokens, self-attention of audio; read at audio's first."""
    audio, video = Layout.of(audio=3), Layout.of(video=4)
    there = {"audio": jnp.ones((2, 3), bool), "video": jnp.ones((2, 4), bool)}
    mix = jnp.asarray(rng.normal(size=(5, 4, 4)))

    def ask(x, y, queries, keys, number):
        value = (y @ mix[number])[:, :, None]
        mask = cross_mask(queries, keys, there[keys.names[0]])
        return x + attend(x[:, :, None], y[:, :, None], value, mask)[:, :, 0]

    def score(a, v):
        a, v = ask(a, a, audio, audio, 0), ask(v, v, video, video, 1)
        a, v = ask(a, v, audio, video, 2), ask(v, a, video, audio, 3)
        return jnp.tanh(ask(a, a, audio, audio, 4)[:, 0]).sum(-1) + 0 * v.sum((1, 2))

    return score, jnp.asarray(rng.normal(size=(2, 3, 4))), jnp.asarray(rng.normal(size=(2, 4, 4)))


@pytest.mark.slow
def test_bimodal_rules(rng):
    """Against the equations, a row of a matrix at a time."""
    score, *given = co_attention(rng)
    found = explained(score, *given)
    weights, slopes = through_weights(score, *given)
    steps = stages(found.traced)
    pairs = [("audio", "audio"), ("video", "video"), ("audio", "video"), ("video", "audio"), ("audio", "audio")]
    assert [list(step) for step in steps] == [pairs[:2], pairs[2:4], pairs[4:]]
    result = chefer_bimodal(steps, {"audio": 3, "video": 4})
    for row in range(2):
        abar = [np.maximum(w[row] * s[row], 0).mean(0) for w, s in zip(weights, slopes, strict=True)]
        aa, vv, av, va = np.eye(3), np.eye(4), np.zeros((3, 4)), np.zeros((4, 3))
        aa, av = aa + abar[0] @ aa, av + abar[0] @ av
        vv, va = vv + abar[1] @ vv, va + abar[1] @ va
        bar = []
        for matrix in (aa, vv):
            less = matrix - np.eye(len(matrix))
            for i in range(len(less)):
                if less[i].sum() > 0:
                    less[i] = less[i] / less[i].sum()
            bar.append(less + np.eye(len(matrix)))
        more_av, more_aa = bar[0].T @ abar[2] @ bar[1], abar[2] @ va
        more_va, more_vv = bar[1].T @ abar[3] @ bar[0], abar[3] @ av
        aa, av, va, vv = aa + more_aa, av + more_av, va + more_va, vv + more_vv
        aa, av = aa + abar[4] @ aa, av + abar[4] @ av
        for pair, expected in ((pairs[0], aa), (pairs[2], av), (pairs[3], va), (pairs[1], vv)):
            np.testing.assert_allclose(result[pair][row], expected, err_msg=str(pair), **CLOSE)


def test_nothing_is_divided_by_nothing(rng):
    """Rows that no self-attention has touched: Rbar = I, so that a first cross-attention gives Abar itself."""
    weight = rng.random((2, 3, 4))
    result = chefer_bimodal([{("audio", "video"): weight}], {"audio": 3, "video": 4})
    np.testing.assert_allclose(result["audio", "video"], weight, rtol=1e-15)
    np.testing.assert_allclose(result["audio", "audio"], np.broadcast_to(np.eye(3), (2, 3, 3)))
    with pytest.raises(Undefined, match="two streams that ask one at a time"):
        stages(
            explained(lambda x: weighted(x, np.eye(3))[:, 0].sum(-1), jnp.asarray(rng.normal(size=(1, 3, 4)))).traced
        )


def test_old_and_new_tokens_are_told_apart(rng):
    """Joint rule: who asks after the other's update sees it, who asks at the same time does not."""
    score, *given = co_attention(rng)
    steps = Flow.of(score, *given).steps
    assert [(*step.queries, *step.keys) for step in steps] == [
        (("audio", -1), ("audio", -1)),
        (("video", -1), ("video", -1)),
        (("audio", 0), ("video", 1)),
        (("video", 1), ("audio", 0)),
        (("audio", 2), ("audio", 2)),
    ]


# ---------------------------------------------------------------------------------------------- where there is none


def test_models_through_which_relevance_cannot_be_carried(rng):
    def layer(x, **groups):
        return x + attend(*[x[:, :, None]] * 3, self_mask(jnp.ones(x.shape[:2], bool), Layout.of(**groups)))[:, :, 0]

    x = jnp.asarray(rng.normal(size=(2, 6, 4)))
    cases = {
        "no call of attention": lambda x: x.sum((1, 2)),
        "'audio' is 6 tokens at one call of attention and 3": lambda x: layer(
            layer(x, audio=6).reshape(2, 3, 2, 4).mean(2), audio=3
        ).sum((1, 2)),
        r"those of \['audio'\] at 'audio' are made of several": lambda x: layer(
            jnp.cumsum(layer(x, audio=6), axis=1), audio=6
        ).sum((1, 2)),
        r"those of \['joint'\] at 'joint' are made of several of 'audio'": lambda x: layer(
            layer(x, audio=6), joint=6
        ).sum((1, 2)),
        "as if they were clips": lambda x: layer(x.reshape(4, 3, 4), audio=3).reshape(2, -1).sum(1),
        "does not depend on any token": lambda x: 0 * layer(x, audio=6).sum((1, 2)),
    }  # fmt: skip
    for reason, score in cases.items():
        with pytest.raises(Undefined, match=reason):
            Flow.of(score, x)


@pytest.mark.slow
def test_no_matrix_of_all_tokens_is_made():
    """4,096 tokens, four layers: no array of the compiled program comes near N x N."""
    tokens = 4096
    layout = Layout.of(audio=1024, video=3072)

    def score(x):
        for _ in range(4):
            x = x + attend(*[x[:, :, None]] * 3, self_mask(jnp.ones(x.shape[:2], bool), layout))[:, :, 0]
        return jnp.square(x).mean((1, 2))

    x = jnp.ones((1, tokens, 16), jnp.float32)
    step = lambda number: Step(*[(("audio", number), ("video", number))] * 2)  # noqa: E731
    flow = Flow(tuple(step(number) for number in range(-1, 3)), (("audio", 1024), ("video", 3072)))

    def every(x):
        found = Traced.of(flow, score, x)
        return chefer_joint(found), rollout(found), rollout_shares(found)[1], total_gradient_mass(found.calls)

    text = tiny.jit(every).lower(x).compile().as_text()
    sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"(?:f32|pred|s32|u32)\[([\d,]+)\]", text)]
    assert len(sizes) > 10
    assert max(sizes) < tokens * tokens / 6
