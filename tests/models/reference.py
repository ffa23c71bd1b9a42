"""MBT in NumPy and float64, one example at a time, written from the paper's equations.

It knows no mask: a token that is hidden or missing is taken out of its sequence, a modality without tokens out of the
model. So it shares neither code nor method with avjax/models/mbt.py.
"""

from __future__ import annotations

import itertools

import numpy as np


def layer_norm(x, p):
    """LN over the last axis."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    """Hendrycks and Gimpel 2016, the tanh form that ViT's JAX code uses."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, y, p, heads):
    """MHA(x, y) for x [N, C] and y [M, C]."""
    query, key, value = dense(x, p["query"]), dense(y, p["key"]), dense(y, p["value"])
    width = x.shape[1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / np.sqrt(width)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        outputs.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
    return dense(np.concatenate(outputs, 1), p["out"])


def block(x, y, p, heads):
    """x <- x + MHA(LN x, LN y); x <- x + W2 gelu(W1 LN x), for x [N, C] and y [M, C]."""
    x = x + attention(layer_norm(x, p["norm_attention"]), layer_norm(y, p["norm_attention"]), p, heads)
    hidden = gelu(dense(layer_norm(x, p["norm_feed_forward"]), p["feed_forward"]["up"]))
    return x + dense(hidden, p["feed_forward"]["down"])


def cut(values, patch):
    """Patches of one example, [N, P], by an explicit loop over the grid."""
    grid = [range(0, extent, step) for extent, step in zip(values.shape, patch, strict=False)]
    return np.stack(
        [
            values[tuple(slice(b, b + step) for b, step in zip(begin, patch, strict=True))].ravel()
            for begin in itertools.product(*grid)
        ]
    )


def mbt(params, config, values, valid, keep_encode=None, keep_fuse=None):
    """Logits of one example: {"head": [K], "head/modality": [K] for each modality that it has}.

    Args:
      params: nested dict of float64 arrays, as the model names them.
      values, valid: modality -> [T, ...] and [T].
      keep_encode, keep_fuse: modality -> [N] bool over patches, hidden from every layer, or from the fusion layers.
    """
    heads = config.size.heads
    # What is not valid is 0.
    seen = {m: np.where(valid[m].reshape(-1, *[1] * (x.ndim - 1)), x, 0) for m, x in values.items()}
    tokens = {}
    for patches in config.modalities:
        m = patches.modality
        x = dense(cut(seen[m], patches.patch), params["encoders"][m]["embed"]) + params["encoders"][m]["positions"]
        # A patch is there if any of its time steps is.
        per_step = len(x) // (len(valid[m]) // patches.patch[0])
        there = np.array(
            [
                any(valid[m][(n // per_step) * patches.patch[0] + t] for t in range(patches.patch[0]))
                for n in range(len(x))
            ]
        )
        if keep_encode is not None:
            there = there & keep_encode[m]
        if there.any():
            tokens[m] = (x[there], np.flatnonzero(there))
    cls = config.pool == "cls"
    if cls:
        tokens = {m: (np.concatenate([x, params["class_token"][m]]), n) for m, (x, n) in tokens.items()}

    for layer in range(config.fusion_layer):
        tokens = {
            m: (block(x, x, weights(params["unimodal"][layer], m, config), heads), n) for m, (x, n) in tokens.items()
        }

    if keep_fuse is not None:
        seen = {}
        for m, (x, n) in tokens.items():
            chosen = keep_fuse[m][n]
            if chosen.any():
                seen[m] = x[np.append(chosen, True)] if cls else x[chosen]
        tokens = seen
    else:
        tokens = {m: x for m, (x, _) in tokens.items()}

    z = params.get("bottleneck")
    for layer in range(config.size.depth - config.fusion_layer):
        p = params["fusion"][layer]
        if config.fusion == "bottleneck":
            z, tokens = bottleneck_layer(tokens, z, p, config)
        elif config.fusion == "cross" and tokens:
            union = np.concatenate(list(tokens.values()))
            tokens = {m: block(x, union, weights(p, m, config), heads) for m, x in tokens.items()}
        elif tokens:
            union = np.concatenate(list(tokens.values()))
            ends = np.cumsum([len(x) for x in tokens.values()])[:-1]
            tokens = dict(zip(tokens, np.split(block(union, union, p["block"], heads), ends), strict=True))

    tokens = {m: layer_norm(x, params["norm"]) for m, x in tokens.items()}
    logits = {}
    for head, classifier in params["classify"]["heads"].items():
        if cls:
            own = {f"{head}/{m}": dense(x[-1], classifier) for m, x in tokens.items()}
            logits |= own | {head: np.mean(list(own.values()), 0) if own else np.zeros(classifier["bias"].shape)}
        else:
            pooled = np.concatenate(list(tokens.values())).mean(0) if tokens else np.zeros(config.size.width)
            logits[head] = dense(pooled, classifier)
    return logits


def bottleneck_layer(tokens, z, p, config):
    """[X_m | Z_m] <- Block_m([X_m | Z]); Z <- the mean of Z_m, or each from the last one's."""
    updates, fused = [], {}
    for m, x in tokens.items():
        start = updates[-1] if config.update == "sequential" and updates else z
        joined = np.concatenate([x, start])
        joined = block(joined, joined, weights(p, m, config), config.size.heads)
        fused[m] = joined[: len(x)]
        updates.append(joined[len(x) :])
    if updates:
        z = updates[-1] if config.update == "sequential" else np.mean(updates, 0)
    return z, fused


def weights(layer, modality, config):
    """The block of a modality; with a shared encoder there is one, stored under the first name."""
    blocks = layer["blocks"]
    return blocks[min(blocks)] if config.shared_encoder else blocks[modality]
