"""Raw clips on the host: what every stress and every explanation starts from, before the front end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from avjax.data.pipeline import Crop, Data
from avjax.data.record import Record, label_classes
from avjax.data.records import Records
from avjax.data.sampling import AudioSampling
from avjax.data.truth import Region, regions
from avjax.run import RunError
from avjax.streams import Stream


@dataclasses.dataclass(frozen=True)
class Clips:
    """Some clips of one split, in floats.

    Attributes:
      streams: modality -> Stream in NumPy: sound float32 [B, S] on [-1, 1], frames float32 [B, T, H, W, C] on [0, 1],
        features float32 [B, T, D].
      label: class of the head that is diagnosed.
      source: source video of each clip: clips of one are alike, and a bootstrap draws them together.
      index: number of the record in its split. What is random follows from (seed, index), never from the row.
      truth: of each clip, modality -> where in it what tells its label is, as far as the records know; empty where
        nobody asked them.
    """

    streams: Mapping[str, Stream]
    label: Int[np.ndarray, " B"]
    source: tuple[str, ...]
    index: Int[np.ndarray, " B"]
    truth: tuple[Mapping[str, Region], ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    @property
    def complete(self) -> Int[np.ndarray, " R"]:
        """Places of those that have every modality."""
        there = [np.asarray(stream.valid).any(axis=1) for stream in self.streams.values()]
        return np.flatnonzero(np.all(there, axis=0))

    def take(self, rows: Sequence[int] | Int[np.ndarray, " R"]) -> Clips:
        """Some of the clips, by their places, which may repeat; of all in their order, these."""
        rows = np.asarray(rows, np.intp)
        if np.array_equal(rows, np.arange(len(self))):
            return self
        return Clips(
            {name: _rows(stream, rows) for name, stream in self.streams.items()},
            self.label[rows],
            tuple(self.source[row] for row in rows),
            self.index[rows],
            tuple(self.truth[row] for row in rows) if self.truth else (),
        )

    def replace(self, streams: Mapping[str, Stream]) -> Clips:
        """The same clips with some streams changed."""
        return dataclasses.replace(self, streams={**self.streams, **streams})

    def without(self, modality: str) -> Clips:
        """The same clips with a modality that is valid nowhere."""
        stream = self.streams[modality]
        gone = stream.replace(values=np.zeros_like(stream.values), valid=np.zeros_like(stream.valid))
        return self.replace({modality: gone})


def _rows(stream: Stream, rows: np.ndarray) -> Stream:
    return stream.replace(
        values=np.asarray(stream.values)[rows],
        valid=np.asarray(stream.valid)[rows],
        start=np.asarray(stream.start)[rows],
    )


@dataclasses.dataclass(frozen=True)
class LateAudio(AudioSampling):
    """The sound of ``late`` seconds before: what the clip has of it, nothing where it has not begun or is over.

    ``late`` above 0: the sound comes after its pictures. Nothing is made up at the edges.
    """

    late: float = 0.0

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        begin = round(start * self.rate) - round(self.late * self.rate)
        before = min(max(-begin, 0), self.samples)
        values[:before] = 0
        super().read(record, max(begin, 0) / self.rate, values[before:], valid[before:])


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """Reads clips of a split as an experiment samples them, the window in the middle of each.

    Attributes:
      data: of the experiment.
      split: train, validation or test.
      head: of classes.
    """

    data: Data
    split: str
    head: str

    def choose(self, number: int | None, *, seed: int = 0) -> Int[np.ndarray, " N"]:
        """Record numbers in order: all, or ``number`` of them, as many of each class as there are to have."""
        records = Records(self.data.records).split(self.split)
        label = np.array([self._label(records[place]) for place in range(len(records))])
        return stratified(label, number, seed=seed)

    def read(self, index: Int[np.ndarray, " N"], *, audio_late: float = 0.0) -> Clips:
        """The clips of these record numbers.

        Args:
          audio_late: seconds by which the sound comes after the pictures; before them where negative.
        """
        data = self.data
        if audio_late:
            if data.audio is None:
                raise ValueError("the experiment takes no sound: there is nothing to misalign")
            data = dataclasses.replace(data, audio=LateAudio(data.audio.samples, data.audio.rate, audio_late))
        whole = Records(data.records)
        records, crop = whole.split(self.split), Crop(data, whole.description)
        batch, label, source, truth = crop.empty(len(index)), [], [], []
        for row, place in enumerate(index):
            record = records[int(place)]
            crop.fill(batch, row, record, int(place), 0.5)
            label.append(self._label(record))
            known = regions(record, self.head)
            # Sound that comes later brings what is heard in it along.
            truth.append({m: one.later(audio_late) if m == "audio" else one for m, one in known.items()})
            origin = record.provenance.get("video") or record.provenance.get("audio") or {}
            # An array is no file that clips could share.
            file = origin.get("source", "array")
            source.append(record.name if file == "array" else file)
        streams = {name: _floats(stream) for name, stream in batch.streams.items()}
        return Clips(streams, np.array(label), tuple(source), np.asarray(index), tuple(truth))

    def _label(self, record: Record) -> int:
        classes = label_classes(record.labels[self.head])
        if len(classes) != 1:
            raise RunError(
                f"{record.name} has {len(classes)} classes of {self.head!r}; a diagnosis is of heads with one"
            )
        return classes[0]


def stratified(label: Int[np.ndarray, " N"], number: int | None, *, seed: int = 0) -> Int[np.ndarray, " R"]:
    """Places in order: all, or ``number`` of them, as many of each class as there are to have.

    More of them by the same seed have the fewer among them.
    """
    if number is None or number >= len(label):
        return np.arange(len(label))
    shuffled = np.random.default_rng(seed).permutation(len(label))
    # The k-th of every class comes before the (k + 1)-th of any.
    turn = np.empty(len(label), int)
    for kind in np.unique(label):
        own = shuffled[label[shuffled] == kind]
        turn[own] = np.arange(len(own))
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:number])


def _floats(stream: Stream) -> Stream:
    if stream.values.dtype == np.int16:
        return stream.replace(values=stream.values.astype(np.float32) / 32768)
    if stream.values.dtype == np.uint8:
        return stream.replace(values=stream.values.astype(np.float32) / 255)
    return stream.replace(values=np.asarray(stream.values, np.float32))
