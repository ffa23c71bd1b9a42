"""From records to batches, with Grain.

    position -> record (shuffled anew every epoch) -> crop (drawn by position) -> this process's rows -> batch

A batch is a function of (seed, step) alone: the position in the data *is* the step, and there is no iterator state
to save. A process reads the rows that lie on its devices (the p-th part of P, mostly), so that the global batch is the
same array, row for row, for any number of processes and workers.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from avjax.data.cache import Cache
from avjax.data.order import Order
from avjax.data.record import Record, label_classes
from avjax.data.records import Description, Records, Split
from avjax.data.sampling import AudioSampling, SeriesSampling, SeriesWindow, VideoSampling
from avjax.streams import Batch, Stream
from avjax.watchdog import doing

__all__ = [
    "VALUES", "AudioSampling", "Crop", "Data", "SeriesSampling", "VideoSampling", "evaluation_batches",
    "training_batches",
]  # fmt: skip

# The head of numbers that ``Data.values`` names.
VALUES = "values"


@dataclasses.dataclass(frozen=True)
class Data:
    """What an experiment reads.

    Attributes:
      records: a folder made by ``avjax prepare``.
      batch: rows of a global batch.
      audio, video: how each modality is sampled; None leaves it out.
      features: modality -> how a series of features is sampled that is its stream.
      values: cues of the clips, such as arousal, that are to be predicted as numbers: the target of a head ``values``.
      targets: head -> how a series of labels is sampled over the same window: its target [B, T, ...], 0 where the
        clip has no label; ``head/valid`` [B, T] is 1 where it has one. It stands in for classes of the head's name.
      sequences: head -> room for its tokens: its target [B, room], 0 behind the last.
      test_clips: crops of a test clip, evenly spaced; their probabilities are averaged.
      workers: processes that read ahead; 0 reads in a thread of this one.
      prefetch: batches read ahead.
      cache: megabytes of records and decoded frames that each reading process keeps in memory; 0 for none.
    """

    records: str
    batch: int
    audio: AudioSampling | None = None
    video: VideoSampling | None = None
    features: Mapping[str, SeriesSampling] = dataclasses.field(default_factory=dict)
    values: tuple[str, ...] = ()
    targets: Mapping[str, SeriesSampling] = dataclasses.field(default_factory=dict)
    sequences: Mapping[str, int] = dataclasses.field(default_factory=dict)
    test_clips: int = 1
    workers: int = 0
    prefetch: int = 4
    cache: int = 1024

    def __post_init__(self) -> None:
        for name in ("audio", "video"):
            if name in self.features and getattr(self, name) is not None:
                raise ValueError(f"data.features and data.{name} both make the stream {name!r}; leave one out")
        if twice := self.targets.keys() & self.sequences.keys():
            raise ValueError(f"data.targets and data.sequences both make the target of {', '.join(sorted(twice))}")
        if self.sequences and self.test_clips > 1:
            raise ValueError(
                f"a sequence of tokens belongs to a whole clip, and cannot be averaged over data.test_clips ="
                f" {self.test_clips} crops; set it to 1"
            )

    @property
    def sampling(self) -> dict[str, AudioSampling | VideoSampling | SeriesSampling]:
        """Every modality's, with the name of its series."""
        own = {name: way for name, way in (("audio", self.audio), ("video", self.video)) if way is not None}
        return own | _named(self.features)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Puts a batch together, row by row in place: a record's streams from one moment on."""

    data: Data
    description: Description

    @functools.cached_property
    def streams(self) -> dict[str, AudioSampling | VideoSampling | SeriesWindow]:
        """How each modality is read."""
        ways = self.data.sampling
        return {n: w.window(self.description) if isinstance(w, SeriesSampling) else w for n, w in ways.items()}

    @functools.cached_property
    def targets(self) -> dict[str, SeriesWindow]:
        """How the target of each head that has one at every step is read."""
        return {name: way.window(self.description) for name, way in _named(self.data.targets).items()}

    @functools.cached_property
    def classes(self) -> dict[str, Sequence[str]]:
        """The heads whose target is the clip's label."""
        own = self.description.classes.items()
        return {h: names for h, names in own if h not in self.data.targets and h not in self.data.sequences}

    def empty(self, rows: int) -> Batch:
        """A batch to be filled row by row; every row must be, be it with nothing."""
        streams = {
            name: Stream(*way.empty(rows, self.description), np.zeros(rows, np.float32), float(way.rate))
            for name, way in self.streams.items()
        }
        target = {head: np.zeros((rows, len(names)), np.float32) for head, names in self.classes.items()}
        if self.data.values:
            target[VALUES] = np.zeros((rows, len(self.data.values)), np.float32)
        for head, way in self.targets.items():
            target[head] = np.zeros((rows, way.length, *way.shape), np.float32)
            target[f"{head}/valid"] = np.zeros((rows, way.length), np.float32)
        target |= {head: np.zeros((rows, room), np.int32) for head, room in self.data.sequences.items()}
        return Batch(streams, target, np.zeros(rows, np.float32), np.full(rows, -1, np.int32))

    def fill(self, batch: Batch, row: int, record: Record, index: int, place: float) -> None:
        """Writes a row: the record's streams, for each head its classes (one-hot, multi-hot, or none), its values, its
        labels over time and its tokens.

        ``place`` in [0, 1] says where in the clip each modality's window lies: 0 at its start, 1 at its end. So windows
        of different lengths lie inside one another, and a short one reaches every moment of the clip. Labels over time
        lie as a modality of their length would.
        """
        # What is not looked at does not stretch the window.
        duration = max((way.end(record) for way in self.streams.values()), default=0.0)
        for name, way in self.streams.items():
            stream = batch.streams[name]
            stream.start[row] = start = place * max(duration - way.seconds, 0.0)
            if way.of(record) is not None:
                way.read(record, start, stream.values[row], stream.valid[row])
            else:
                stream.values[row] = 0
        for head in self.classes:
            batch.target[head][row, list(label_classes(record.labels[head]))] = 1
        if self.data.values:
            batch.target[VALUES][row] = [self._value(record, name) for name in self.data.values]
        for head, way in self.targets.items():
            if way.of(record) is None:
                raise ValueError(
                    f"{record.name}: no series {way.series!r} to predict as {head!r} (data.targets); it has"
                    f" {', '.join(record.series) or 'none'}"
                )
            start = place * max(duration - way.seconds, 0.0)
            way.read(record, start, batch.target[head][row], batch.target[f"{head}/valid"][row])
        for head, room in self.data.sequences.items():
            tokens = self._tokens(record, head, room)
            batch.target[head][row, : len(tokens)] = tokens
        batch.weight[row], batch.index[row] = 1, index

    def _value(self, record: Record, name: str) -> float:
        if name not in record.cues:
            raise ValueError(
                f"{record.name}: no cue {name!r} to predict; set --data.values to some of"
                f" {', '.join(record.cues) or 'none, as the corpus has no cues'}"
            )
        return record.cues[name]

    def _tokens(self, record: Record, head: str, room: int) -> Sequence[int]:
        if head not in record.sequences:
            raise ValueError(
                f"{record.name}: no sequence {head!r} to predict (data.sequences); it has"
                f" {', '.join(record.sequences) or 'none'}"
            )
        tokens = record.sequences[head]
        if len(tokens) > room:
            raise ValueError(
                f"{record.name}: the sequence {head!r} has {len(tokens)} tokens, and room for {room}; set"
                f" --data.sequences.{head} {len(tokens)} or more"
            )
        return tokens

    def fill_with_nothing(self, batch: Batch, row: int) -> None:
        """Leaves a row that counts nowhere: every modality absent, weight 0."""
        for stream in batch.streams.values():
            stream.values[row] = 0


def _named(ways: Mapping[str, SeriesSampling]) -> dict[str, SeriesSampling]:
    """Each with the name of its series."""
    return {name: dataclasses.replace(way, series=way.series or name) for name, way in ways.items()}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of each global batch a process reads.

    Attributes:
      batch: rows of the global batch.
      own: places in it of those that this process reads, ascending.
    """

    batch: int
    own: tuple[int, ...]

    @classmethod
    def of(cls, batch: int, process: int, processes: int, own: Sequence[int] | None) -> Rows:
        """The rows named, or where none are an equal part: the p-th of P."""
        if own is not None:
            return cls(batch, tuple(own))
        if batch % processes:
            raise ValueError(f"a batch of {batch} rows cannot be divided among {processes} processes")
        count = batch // processes
        return cls(batch, tuple(range(process * count, (process + 1) * count)))

    def positions(self, step: int) -> list[int]:
        """Positions, among the samples of all processes, of the rows that this process reads of a step's batch."""
        return [int(step) * self.batch + row for row in self.own]


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """Number of a step to this process's rows; an object rather than a closure, so that workers can be sent it.

    A whole batch at once, in one thread: threads that make a row each would spend more time waiting for one another
    than reading.
    """

    rows: Rows
    records: Cache
    crop: Crop
    order: Order
    seed: int

    def __call__(self, step: int) -> Batch:
        batch = self.crop.empty(len(self.rows.own))
        for row, position in enumerate(self.rows.positions(step)):
            place = np.random.Generator(np.random.Philox(key=[self.seed, position])).random()
            index = self.order[position]
            with doing(f"reading record {index} of train"):
                self.crop.fill(batch, row, self.records[index], index, place)
        return batch


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """The same for evaluation: every crop of every clip in order, then filler."""

    rows: Rows
    name: str
    split: Split
    crop: Crop
    total: int

    def __call__(self, step: int) -> Batch:
        batch, clips = self.crop.empty(len(self.rows.own)), self.crop.data.test_clips
        for row, position in enumerate(self.rows.positions(step)):
            if position < self.total:
                index, clip = divmod(position, clips)
                with doing(f"reading record {index} of {self.name}"):
                    self.crop.fill(batch, row, self.split[index], index, (clip + 0.5) / clips)
            else:
                self.crop.fill_with_nothing(batch, row)
        return batch


def training_batches(
    data: Data,
    *,
    seed: int,
    start: int,
    steps: int,
    process: int = 0,
    processes: int = 1,
    own: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """This process's part of the global batches ``start`` to ``steps`` - 1.

    Args:
      own: places in the global batch of the rows to read, where they are not the ``process``-th part of ``processes``.

    Raises:
      ValueError: if the batch cannot be divided among the processes, or the split has no clip.
    """
    records = Records(data.records)
    split, crop = records.split("train"), Crop(data, records.description)
    if not len(split):
        raise ValueError(f"{data.records}: the split 'train' has no clip; see report.txt beside the records")
    rows = Rows.of(data.batch, process, processes, own)
    read = TrainingBatch(rows, Cache(split, data.cache * 2**20), crop, Order(len(split), seed), seed)
    return iter(_read_ahead(grain.MapDataset.range(start, steps).map(read), data))


def evaluation_batches(
    data: Data, split: str, *, process: int = 0, processes: int = 1, own: Sequence[int] | None = None
) -> tuple[int, Iterator[Batch]]:
    """Number of global batches, and this process's part of them (see ``training_batches``): every clip in order.

    Each clip gives ``data.test_clips`` rows. Rows of weight 0 fill the last batch.
    """
    records = Records(data.records)
    source, crop = records.split(split), Crop(data, records.description)
    total = len(source) * data.test_clips
    count = -(-total // data.batch)
    rows = Rows.of(data.batch, process, processes, own)
    read = EvaluationBatch(rows, split, source, crop, total)
    return count, iter(_read_ahead(grain.MapDataset.range(count).map(read), data))


def _read_ahead(dataset: grain.MapDataset, data: Data) -> grain.IterDataset:
    if not data.workers:
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=data.prefetch))
    _initialise_flags()
    # Without threads of its own each worker process reads one batch after the other.
    options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=data.prefetch)
    alone = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return alone.mp_prefetch(options, worker_init_fn=_leave_signals)


def _leave_signals(worker: int, workers: int) -> None:
    """A signal to the whole group is for the process that trains; it ends its workers when it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def _initialise_flags() -> None:
    """Grain's worker processes read absl flags, which nothing has parsed where no absl app runs."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["avjax"], known_only=True)
