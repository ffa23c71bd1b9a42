"""The worst clips, as the page shows them: most confident where they are wrong, then least confident."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.diagnosis.result import ShownClip
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Study
from avjax.diagnostics.protocol.time_drift import spans, way
from avjax.streams import Stream

COUNT = 20
PIECES, FRAMES, CELLS = 200, 4, 8


def worst(study: Study, count: int = COUNT) -> tuple[ShownClip, ...]:
    """With the saliency of the class that was predicted where the model can be differentiated."""
    said = study.clean
    # Wrong ones by falling confidence, then right ones by rising.
    order = np.lexsort((np.where(said.right, said.confidence, -said.confidence), said.right))[:count]
    clips = study.clips.take(order)
    predicted = said.predicted[order]
    saliency: dict[str, np.ndarray] = {}
    if isinstance(study.probe, ModelProbe):
        saliency = study.probe.saliency(clips, predicted)[0]
    return tuple(
        _shown(study, clips, row, int(predicted[row]), float(said.confidence[place]), saliency)
        for row, place in enumerate(order)
    )


def _shown(
    study: Study, clips: Clips, row: int, predicted: int, confidence: float, saliency: dict[str, np.ndarray]
) -> ShownClip:
    classes, parts = study.probe.classes, {}
    seconds = max(float(s.valid[row].sum()) / s.rate for s in clips.streams.values())
    for modality, stream in clips.streams.items():
        if not stream.valid[row].any():
            continue
        mass = saliency.get(modality)
        if stream.values.ndim == 2:
            parts["envelope"] = _envelope(stream, row)
            if mass is not None:
                parts["heard"] = mass[row].sum(axis=1)
        elif stream.values.ndim == 5:
            there = np.flatnonzero(stream.valid[row])
            chosen = there[np.linspace(0, len(there) - 1, min(FRAMES, len(there))).round().astype(int)]
            parts["frames"] = np.rint(255 * stream.values[row, chosen]).clip(0, 255).astype(np.uint8)
            if mass is not None:
                parts["seen"] = _cells(mass[row, chosen])
    if saliency:
        parts |= _over_time(study, clips, row, saliency)
    source = clips.source[row]
    return ShownClip(
        source, classes[int(clips.label[row])], classes[predicted], min(max(confidence, 0.0), 1.0), seconds, **parts
    )


def _over_time(study: Study, clips: Clips, row: int, saliency: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where saliency lay in each window, and how far it moved to the next; nothing where a window has none."""
    try:
        own = way(clips, row, saliency, study.modalities)
    except Undefined:
        return {}
    begin = min(begin for begin, _ in spans(clips, row).values())
    return {
        "middles": own.edges.mean(axis=1) - begin,
        "allocation": own.masses(study.modalities),
        "drift": np.asarray(own.steps(study.modalities).total),
    }


def _envelope(stream: Stream, row: int) -> np.ndarray:
    """Lowest and highest sample of each piece."""
    pieces = np.array_split(stream.values[row][stream.valid[row]], PIECES)
    return np.array([(piece.min(), piece.max()) for piece in pieces if len(piece)], np.float32)


def _cells(mass: np.ndarray) -> np.ndarray:
    """[S, H, W] to at most 8 by 8 sums."""
    rows, columns = (np.array_split(np.arange(extent), min(CELLS, extent)) for extent in mass.shape[1:])
    return np.array([[[one[np.ix_(r, c)].sum() for c in columns] for r in rows] for one in mass], np.float32)
