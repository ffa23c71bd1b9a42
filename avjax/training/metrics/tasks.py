"""What is measured of each task: from what evaluation keeps of a model's output to metrics.

    classes      one class a clip               [N, K], target [N, K]
    labels       any number of classes a clip   [N, K], target [N, K]
    values       numbers of a clip              [N, D], target [N, D]
    sentiment    one number from -3 to 3        [N, 1], target [N, 1]
    series       numbers of every step          [N, T, D], target [N, T, D] or [N, T]
    segments     the class of every segment     [N, T, K], target [N, T, K]; or both heads of an event: its class
                                                [N, K] and whether it is there [N, T, 1], targets alike
    moments      when something is there        [N, T, 1], target [N, T, 1]; whether it is: [N, 2], target [N, 2]
    transcripts  tokens                         probabilities [N, T, K], blank first; target [N, L], 0 behind
    matching     who belongs together           ``head/modality`` [N, C] of two modalities; target [N, ...], alike
                                                where the identity is; or ``head/FIRST_to_SECOND`` [N, M], scores
                                                of a gallery with the own one first

``head/modality`` is what one modality says by itself, scored on the clips that have it. ``head/valid`` [N, T] says
which steps count, of predictions and of targets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from avjax.data.records import Description
from avjax.objectives.decoding import Tokens, greedy, prefix_beam_search
from avjax.objectives.rows import VALID, require_steps
from avjax.training.metrics.classification import class_measures, label_measures
from avjax.training.metrics.estimate import Estimate, Measure, estimates
from avjax.training.metrics.events import moment_measures, segment_measures
from avjax.training.metrics.matching import matching_measures, score_measures
from avjax.training.metrics.regression import sentiment_measures, series_measures, value_measures
from avjax.training.metrics.transcription import transcription_measures

Arrays = Mapping[str, np.ndarray]
# Prefixes that the search for transcripts keeps, and the probability below which it takes a token for impossible.
BEAM, LEAST = 10, 1e-3
# First words of metrics of which less is better.
_LESS = ("rmse", "mae", "wer", "cer", "eer")


# From predicted, target, present and description to "HEAD/METRIC" -> the metric as a function of clips.
Measures = Callable[[Arrays, Arrays, Arrays, Description], dict[str, Measure]]


@dataclasses.dataclass(frozen=True)
class Task:
    """How the predictions of a task are scored.

    Attributes:
      measures: its metrics.
      primary: the one by which checkpoints are chosen and runs compared, of the first head that has it.
    """

    measures: Measures
    primary: str

    def __call__(
        self, predicted: Arrays, target: Arrays, present: Arrays, description: Description, *, samples: int = 1000
    ) -> dict[str, Estimate]:
        """ "HEAD/METRIC" -> its value with an interval over resampled clips.

        Args:
          predicted: head, ``head/modality`` and ``head/valid`` -> [N, ...].
          target: head and ``head/valid`` -> [N, ...].
          present: modality -> [N] bool, whether a clip has it.
          description: of the records, for names.
          samples: draws an interval is made of.
        """
        return estimates(self.measures(predicted, target, present, description), samples)

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.primary)


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric, such as emotion/accuracy, or of a part of the loss is better."""
    return not metric.startswith("loss") and metric.rpartition("/")[2].split("_")[0] not in _LESS


def first_with(metric: str, names: Iterable[str]) -> str:
    """Of HEAD/METRIC the first with this metric, that of a whole head before that of a modality; "" for none."""
    found = [name for name in names if name.rpartition("/")[2] == metric]
    return min(found, key=lambda name: name.count("/"), default="")


class Scored(NamedTuple):
    """A head, or a head by one modality alone, on the clips that can say something.

    Attributes:
      name: ``head`` or ``head/modality``.
      values: predictions of the clips.
      target: of the head.
      valid: steps that count, [N, T], where the predictions have steps.
    """

    name: str
    values: np.ndarray
    target: np.ndarray
    valid: np.ndarray


def scored(predicted: Arrays, target: Arrays, present: Arrays) -> Iterator[Scored]:
    """Every head that has a target; a modality's unless no clip has it.

    Raises:
      ValueError: where predictions and target have another number of steps.
    """
    for name, values in predicted.items():
        head, _, part = name.partition("/")
        if part == VALID or head not in target:
            continue
        rows = np.asarray(present.get(part, np.ones(len(values), bool)))
        valid = np.ones(values.shape[:2], bool)
        for source in (predicted, target):
            if values.ndim == 3 and f"{head}/{VALID}" in source:
                there = np.asarray(source[f"{head}/{VALID}"])
                require_steps(head, values.shape[1], there.shape[1])
                valid &= there > 0
        if rows.any():
            yield Scored(name, values[rows], target[head][rows], valid[rows])


def _named(name: str, measures: Mapping[str, Measure]) -> dict[str, Measure]:
    return {f"{name}/{metric}": measure for metric, measure in measures.items()}


def _each(measures: Callable[[np.ndarray, np.ndarray], dict[str, Measure]]) -> Measures:
    """Measures of [N, K] against [N, K], of every head by itself."""

    def of(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
        found = {}
        for name, values, true, _ in scored(predicted, target, present):
            found |= _named(name, measures(values, true))
        return found

    return of


def _series(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
    found = {}
    for name, values, true, valid in scored(predicted, target, present):
        true = true[..., None] if true.ndim == 2 else true
        require_steps(name, values.shape[1], true.shape[1])
        width = values.shape[2]
        known = list(description.vocabulary.get(name.partition("/")[0], ()))
        names = known if len(known) == width else [str(place) for place in range(width)]
        found |= _named(name, series_measures(values, true, valid, names if width > 1 else ()))
    return found


def _segments(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
    heads = list(scored(predicted, target, present))
    events = [each for each in heads if each.target.ndim == 3 and each.target.shape[2] == 1 and "/" not in each.name]
    found = {}
    for each in heads:
        name, values, true, valid = each
        if true.ndim == 3 and true.shape[2] == 1:
            continue
        if true.ndim == 2 and values.ndim == 2:
            found |= _named(name, {"accuracy": class_measures(values, true)["accuracy"]})
        if true.ndim == 2:
            if not events:
                raise ValueError(
                    f"the target of {name!r} is of clips, and no other says in which segments the event is"
                )
            # Where the event is, its class; elsewhere the background: the head's last class if it is named so, or none.
            rows = np.asarray(present.get(name.partition("/")[2], np.ones(len(events[0].values), bool)))
            seen, there, valid = (x[rows] for x in (events[0].values, events[0].target, events[0].valid))
            require_steps(events[0].name, seen.shape[1], there.shape[1])
            seen, there = seen[..., 0] > 0.5, there[..., 0] > 0.5
            chosen = values.argmax(axis=-1) if values.ndim == 3 else values.argmax(axis=-1)[:, None]
            names = description.classes.get(name.partition("/")[0], [""])
            background = values.shape[-1] - (names[-1] == "background")
            said = np.where(seen, chosen, background)
            true_classes = np.where(there, true.argmax(axis=-1)[:, None], background)
        else:
            require_steps(name, values.shape[1], true.shape[1])
            said, true_classes = values.argmax(axis=-1), true.argmax(axis=-1)
        found |= _named(name, segment_measures(said, true_classes, valid))
    return found


def _moments(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
    heads = list(scored(predicted, target, present))
    clips = [each for each in heads if each.target.ndim == 2 and "/" not in each.name]
    found = {}
    for name, values, true, valid in heads:
        if true.ndim == 3:
            require_steps(name, values.shape[1], true.shape[1])
            whole = clips[0].values[:, -1] if clips and "/" not in name else None
            found |= _named(name, moment_measures(values[..., 0], true[..., 0] > 0.5, valid, whole))
    return found


def _transcripts(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
    found = {}
    for name, values, true, valid in scored(predicted, target, present):
        vocabulary = description.vocabulary.get(name.partition("/")[0], ())
        texts = [text(tuple(row[row > 0].tolist()), vocabulary) for row in np.asarray(true).astype(np.int64)]

        @functools.cache
        def by_greedy(values=values, valid=valid, vocabulary=vocabulary) -> list[str]:
            return [text(tokens, vocabulary) for tokens in greedy(values, valid)]

        @functools.cache
        def by_beam(values=values, valid=valid, vocabulary=vocabulary) -> list[str]:
            return [text(search(row[there]), vocabulary) for row, there in zip(values, valid, strict=True)]

        found |= _named(name, transcription_measures(by_greedy, texts))
        beam = transcription_measures(by_beam, texts)
        found |= _named(name, {f"{metric}_beam": measure for metric, measure in beam.items()})
    return found


def search(probabilities: np.ndarray) -> Tokens:
    """The best transcript that a prefix beam search finds in the valid steps [T, K] of one clip."""
    possible = np.where(probabilities < LEAST, 0, probabilities)
    found = prefix_beam_search(possible, beam=BEAM)
    return found[0].tokens if found else ()


def text(tokens: Sequence[int], vocabulary: Sequence[str]) -> str:
    """Tokens as a sentence: characters side by side, anything longer with spaces between; numbers without names."""
    if not len(vocabulary):
        return " ".join(map(str, tokens))
    between = "" if all(len(name) <= 1 for name in vocabulary) else " "
    return between.join(vocabulary[token] for token in tokens)


def _matching(predicted: Arrays, target: Arrays, present: Arrays, description: Description) -> dict[str, Measure]:
    found = {}
    for head in [head for head in target if "/" not in head]:
        for name in predicted:
            if name.startswith(f"{head}/") and "_to_" in name:
                found |= _named(name, score_measures(predicted[name]))
        modalities = [
            name.removeprefix(f"{head}/") for name in predicted if name.startswith(f"{head}/") and "_to_" not in name
        ]
        if len(modalities) != 2:
            continue
        first, second = (predicted[f"{head}/{modality}"] for modality in modalities)
        rows = np.logical_and(*(np.asarray(present.get(m, np.ones(len(first), bool))) for m in modalities))
        if rows.any():
            flat = np.asarray(target[head])[rows].reshape(int(rows.sum()), -1)
            identity = np.unique(flat, axis=0, return_inverse=True)[1].reshape(-1)
            found |= _named(head, matching_measures(first[rows], second[rows], identity))
    return found


TASKS: dict[str, Task] = {
    "classes": Task(_each(class_measures), "accuracy"),
    "labels": Task(_each(label_measures), "map"),
    "values": Task(_each(value_measures), "ccc"),
    "sentiment": Task(_each(lambda p, y: sentiment_measures(p[:, 0], y[:, 0])), "mae"),
    "series": Task(_series, "ccc"),
    "segments": Task(_segments, "segment_accuracy"),
    "moments": Task(_moments, "ap_50"),
    "transcripts": Task(_transcripts, "wer"),
    "matching": Task(_matching, "eer"),
}
