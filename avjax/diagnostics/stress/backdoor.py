"""Backdoors: what a known trigger does, and scores by which clips that carry an unknown one stand out.

A score is one number a clip, higher where it is more suspicious, without a look at labels or at clean clips; whoever
knows which clips were triggered has its ``auroc``. Scores are by predicted class, since a trigger's clips are all
predicted as its target: among them they must differ from the clips that belong there. Where nearly every clip of a
class is triggered, they are what is normal, and the first three scores fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from avjax.diagnostics.measured import Undefined
from avjax.training.metrics.verification import roc_auc

Inputs = Mapping[str, Shaped[np.ndarray, "B ..."]]
Logits = Callable[[Inputs], Float[np.ndarray, "B K"]]
Scores = Float[np.ndarray, " B"]
Classes = Int[np.ndarray, " B"]

# Beyond so many deviations a clip is an outlier (Iglewicz & Hoaglin 1993), with the deviation of a normal
# distribution at 1.4826 median absolute deviations.
OUTLIER, NORMAL = 3.5, 1.4826
# A class of fewer clips has no median, direction or clusters to tell outliers by.
FEWEST = 4
DONORS = 16
MOST_ROUNDS = 100


def attack_success_rate(triggered: Classes, label: Classes, target: int) -> float:
    """ASR: share of clips of other classes that the trigger turns into the target's, in [0, 1]; null baseline: their
    share without the trigger.

    Args:
      triggered: predicted class of the clips with the trigger.
      label: their own class.
    """
    others = label != target
    if not others.any():
        raise Undefined(f"every clip is of the target class {target}: there is none to turn")
    return float((triggered[others] == target).mean())


def clean_accuracy_drop(reference: Bool[np.ndarray, " B"], suspect: Bool[np.ndarray, " B"]) -> float:
    """Accuracy of a model without the backdoor less that of the suspect on the same clean clips, in [-1, 1]; near 0
    for a backdoor that hides well."""
    if not len(reference):
        raise Undefined("no clips")
    return float(reference.mean()) - float(suspect.mean())


def auroc(score: Scores, triggered: Bool[np.ndarray, " B"]) -> float:
    """Share of pairs of a triggered and a clean clip that the score tells apart, in [0, 1]; null baseline 0.5."""
    if triggered.all() or not triggered.any():
        raise Undefined("needs clips with the trigger and clips without")
    return roc_auc(score, triggered)


def attention_outliers(mass: Num[np.ndarray, "B G"], predicted: Classes) -> Scores:
    """max_g |m_g - median_c m_g| / (1.4826 MAD_c), over the clips of the predicted class c; beyond 3.5 an outlier.

    A trigger draws attention to its own tokens. 0 where the class has fewer than four clips. Where more than half of a
    class's clips have the same mass the deviation is 0, and that group says nothing.

    Args:
      mass: share of attention on each of G groups of tokens: modalities, places, times.
    """
    mass, score = np.asarray(mass, np.float64), np.zeros(len(mass))
    for rows in _of_classes(predicted):
        away = np.abs(mass[rows] - np.median(mass[rows], axis=0))
        scale = NORMAL * np.median(away, axis=0)
        score[rows] = np.where(scale > 0, away / np.where(scale > 0, scale, 1), 0).max(axis=1)
    return score


def spectral_signature(features: Num[np.ndarray, "B D"], predicted: Classes) -> Scores:
    """<r_i - mean_c r, v_c>^2, v_c the first right singular vector of the class's centred features (Tran, Li & Madry
    2018, who then drop the highest of each class).

    In the features' unit, squared: normalise features whose scale differs between classes. 0 where a class has fewer
    than four clips.
    """
    features, score = np.asarray(features, np.float64), np.zeros(len(features))
    for rows in _of_classes(predicted):
        centred = features[rows] - features[rows].mean(axis=0)
        score[rows] = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
    return score


def activation_clustering(features: Num[np.ndarray, "B D"], predicted: Classes, *, components: int = 10) -> Scores:
    """Two means of each class's features; of the smaller cluster's clips how much nearer to its centre they are
    (after Chen et al. 2018).

        s_i = R^2 (1 - 2 n_small / n) (||r_i - mu_large||^2 - ||r_i - mu_small||^2) / ||mu_large - mu_small||^2

    R^2 is the share of the class's variance that lies between the clusters. In [-1, 1] about where clusters are round;
    near 0 for a class without clusters, or one that falls into halves, as clean ones do. The paper compares clusters by
    their sizes and silhouettes and leaves the clip's score open; this one, and principal components where it takes
    independent ones, are ours.

    Args:
      components: dimensions that features are reduced to.
    """
    features, score = np.asarray(features, np.float64), np.zeros(len(features))
    for rows in _of_classes(predicted):
        centred = features[rows] - features[rows].mean(axis=0)
        left, scale, _ = np.linalg.svd(centred, full_matrices=False)
        if not scale[0] > 0:
            continue
        reduced = left[:, :components] * scale[:components]
        second = _two_means(reduced)
        small = second if second.mean() <= 0.5 else ~second
        of_small, of_large = reduced[small].mean(axis=0), reduced[~small].mean(axis=0)
        apart, share = ((of_small - of_large) ** 2).sum(), small.mean()
        nearer = ((reduced - of_large) ** 2).sum(axis=1) - ((reduced - of_small) ** 2).sum(axis=1)
        explained = share * (1 - share) * apart / (reduced**2).sum(axis=1).mean()
        score[rows] = explained * (1 - 2 * share) * nearer / apart
    return score


def recombined(
    logits: Logits, inputs: Inputs, replaced: str, index: Num[np.ndarray, " B"], *, draws: int = DONORS, seed: int = 0
) -> Float[np.ndarray, "B R K"]:
    """Logits of each clip with one modality of so many random other clips.

    Args:
      inputs: name -> [B, ...]; all that begins with the modality's name goes with it (values, validity, start).
      replaced: the modality.
      index: number of each clip, from which its donors follow, with the seed.
      draws: R; clips are drawn with replacement, never the clip itself.
    """
    count = len(index)
    if count < 2:
        raise Undefined("there is no other clip to take a modality from")
    drawn = np.array([np.random.default_rng((seed, int(place))).integers(1, count, draws) for place in index])
    donor = (np.arange(count)[:, None] + drawn) % count
    found = []
    for column in donor.T:
        given = {name: x[column] for name, x in inputs.items() if name.split("/")[0] == replaced}
        found.append(logits({**inputs, **given}))
    return np.stack(found, axis=1)


def stickiness(recombinations: Num[np.ndarray, "B R K"], predicted: Classes) -> Scores:
    """Share of recombinations that leave the prediction as it was, in [0, 1]: cross-modal STRIP, ours, after STRIP
    (Gao et al. 2019), which blends whole images.

    A trigger in one modality keeps its class whatever the other says. Pitfall: so does a clean clip of a model that
    listens to that modality alone; read it beside the modality's share of the prediction.
    """
    return (recombinations.argmax(axis=-1) == predicted[:, None]).mean(axis=1, dtype=np.float64)


def strip_entropy(recombinations: Num[np.ndarray, "B R K"]) -> Scores:
    """-H, the mean over recombinations of sum_k p_k log p_k, in nats, in [-log K, 0] (STRIP, Gao et al. 2019, of our
    recombinations): near 0 where the model stays certain."""
    z = np.asarray(recombinations, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return (np.exp(log) * log).sum(axis=-1).mean(axis=1)


def occluded(
    logits: Logits, inputs: Inputs, modality: str, *, windows: int = 8, fill: float = 0.5
) -> Float[np.ndarray, "B P K"]:
    """Logits of each clip with a square of its frames covered, at each of windows^2 places.

    Squares are two steps wide, so that neighbours overlap by half and what lies on an edge of one is inside another.

    Args:
      inputs: name -> [B, ...], frames [B, T, H, W, C].
      windows: places along height and along width.
      fill: what covers.
    """
    frames = inputs[modality]
    ends = [_spans(length, windows) for length in frames.shape[2:4]]
    found = []
    for top, bottom in ends[0]:
        for left, right in ends[1]:
            covered = np.array(frames)
            covered[:, :, top:bottom, left:right] = fill
            found.append(logits({**inputs, modality: covered}))
    return np.stack(found, axis=1)


def occlusion_peak(recovered: Num[np.ndarray, "B P K"], whole: Num[np.ndarray, "B K"]) -> Float[np.ndarray, " B"]:
    """max_P d - median_P d of the drop d = p_c(x) - p_c(x with P covered), c = argmax p(x), in [-1, 1]. Ours.

    High where the prediction hangs on one small place, as it does on a trigger. Pitfall: so does that of a clean clip
    with one small object.

    Args:
      recovered: logits of ``occluded``.
      whole: logits of the clips as they are.
    """
    predicted = whole.argmax(axis=1)
    before = np.take_along_axis(_softmax(whole), predicted[:, None], axis=1)
    after = np.take_along_axis(_softmax(recovered), predicted[:, None, None], axis=2)[..., 0]
    drop = before - after
    return drop.max(axis=1) - np.median(drop, axis=1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    weight = np.exp(z - z.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def _two_means(points: Float[np.ndarray, "N D"]) -> Bool[np.ndarray, " N"]:
    """Who is in the second of two clusters of least squares (Lloyd), the best start of one along each axis."""
    best, least = None, np.inf
    for axis in range(points.shape[1]):
        second = points[:, axis] > (points[:, axis].min() + points[:, axis].max()) / 2
        for _ in range(MOST_ROUNDS):
            if second.all() or not second.any():
                break
            centres = points[~second].mean(axis=0), points[second].mean(axis=0)
            squares = np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres])
            if squares.min(axis=0).sum() < least:
                best, least = squares[1] < squares[0], squares.min(axis=0).sum()
            before, second = second, squares[1] < squares[0]
            if (second == before).all():
                break
    return best


def _of_classes(predicted: np.ndarray) -> list[np.ndarray]:
    """Rows of each predicted class that has enough of them."""
    rows = [np.flatnonzero(predicted == kind) for kind in np.unique(predicted)]
    return [own for own in rows if len(own) >= FEWEST]


def _spans(length: int, windows: int) -> list[tuple[int, int]]:
    windows = min(windows, max(length - 1, 1))
    begin = np.rint(np.linspace(0, length, windows + 2)).astype(int)
    return list(zip(begin[:-2].tolist(), begin[2:].tolist(), strict=True))
