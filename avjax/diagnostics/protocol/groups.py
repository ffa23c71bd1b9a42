"""Parts of the clips: whom the model serves worst (5.8), by class and by whatever else the records know of a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from avjax.data.record import label_classes
from avjax.data.records import Records
from avjax.diagnostics.clips import ClipReader
from avjax.diagnostics.consistency import calibration, robustness
from avjax.diagnostics.consistency.groups import SMALLEST, by_group, gap, rate_by_group, worst_group
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import RIGHT, ROWS, SHARE
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.protocol.study import Found, Study, joined
from avjax.diagnostics.stress.corruption import SUITE

CLASS = "class"
MOST_VALUES = 8
"""A number with more values than these is cut at its median."""
PERMUTATIONS = 200
"""Draws of what a gap comes to where groups are drawn by chance."""

Codes = Int[np.ndarray, " N"]
OfCodes = Callable[[Codes, Int[np.ndarray, " R"]], float]
"""A number of some rows with these groups."""


def attributes(reader: ClipReader, index: Int[np.ndarray, " N"]) -> dict[str, Shaped[np.ndarray, " N"]]:
    """Name -> what the records say of each clip: its group (speaker, actor or source), classes of other heads, which
    modalities it has, and cues, in numbers. What not every clip has is left out.
    """
    whole = Records(reader.data.records)
    records = whole.split(reader.split)
    heads, rows = whole.description.classes, []
    for place in index:
        record = records[int(place)]
        has = [name for name, track in (("audio", record.audio), ("video", record.video)) if track is not None]
        row = {"group": record.group, "modalities": joined([*has, *sorted(record.series)]), **record.cues}
        for head, label in record.labels.items():
            if head != reader.head and len(classes := label_classes(label)) == 1:
                row[head] = heads[head][classes[0]]
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row[name] for row in rows]) for name in names if all(name in row for row in rows)}


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """Clips by one attribute.

    Attributes:
      name: of the attribute.
      groups: names of its values.
      code: place among them, of each clip.
    """

    name: str
    groups: tuple[str, ...]
    code: Codes

    def large(self, rows: Int[np.ndarray, " R"] | None = None) -> list[int]:
        """Groups with clips enough, of some rows or of all."""
        code = self.code if rows is None else self.code[rows]
        return np.flatnonzero(np.bincount(code, minlength=len(self.groups)) >= SMALLEST).tolist()

    def title(self, group: int) -> str:
        """As a line names it."""
        return self.groups[group] if self.name == CLASS else f"{self.name}: {self.groups[group]}"


def partitions(study: Study) -> list[Partition]:
    """By class, source video and every attribute that sets clips apart, each way of doing so once."""
    clips = study.clips
    ways = {CLASS: np.array(study.probe.classes)[clips.label], **study.attributes, "source": np.array(clips.source)}
    found, seen = [], set()
    for name, values in ways.items():
        code, groups = _coded(values)
        # Numbered by first appearance, so that two attributes that say the same are the same.
        _, first, again = np.unique(code, return_index=True, return_inverse=True)
        key = np.argsort(np.argsort(first))[again.ravel()].tobytes()
        # Sources with a clip each are no groups.
        if 1 < len(groups) < len(values) and key not in seen:
            seen.add(key)
            found.append(Partition(name, groups, code))
    return found


def _coded(values: Shaped[np.ndarray, " N"]) -> tuple[Codes, tuple[str, ...]]:
    distinct, code = np.unique(values, return_inverse=True)
    if values.dtype.kind in "US":
        return code.ravel(), tuple(str(value) for value in distinct)
    if len(distinct) <= MOST_VALUES:
        return code.ravel(), tuple(f"{value:g}" for value in distinct)
    middle = float(np.median(values))
    return (values >= middle).astype(int), (f"below {middle:.3g}", f"{middle:.3g} or more")


def groups(study: Study) -> Found:
    """Accuracy, calibration and fairness of the groups of every partition."""
    found = Found()
    for one in partitions(study):
        found.lines += _partition_lines(study, one)
    return found


def _partition_lines(study: Study, one: Partition) -> list[Measured]:
    clean, clips, large = study.clean, study.clips, one.large()
    fields = {"estimator": f"by {one.name}, {SMALLEST} clips or more"}
    if len(large) < 2:
        reason = f"{len(large)} of {len(one.groups)} values of {one.name} have {SMALLEST} clips or more"
        return [skipped("stress/worst_group_accuracy", reason, n=len(clips), group=one.name, **fields)]
    names, lines = np.array([one.title(k) for k in range(len(one.groups))])[one.code], []
    for name, rate in rate_by_group(clean.right, names, smallest=SMALLEST).items():
        ends = {"ci_lo": rate.low, "ci_hi": rate.high}
        lines.append(
            number("stress/group_accuracy", lambda rate=rate: rate.value, n=rate.count, group=name, **ends, **fields)
        )
    errors = by_group(
        lambda own: calibration.expected_calibration_error(clean.confidence[own], clean.right[own]), names,
        smallest=SMALLEST,
    )  # fmt: skip
    for name, error in errors.items():
        count = int((names == name).sum())
        lines.append(number("stress/group_ece", lambda error=error: error, n=count, group=name, **fields))

    def accuracies(code: Codes, rows: np.ndarray) -> dict[str, float]:
        return means(clean.right, code, rows, large, one.groups)

    fair = Fairness(clean.predicted, clips.label, len(study.probe.classes), one.code, tuple(large))
    fields["group"] = one.name
    lines.append(
        study.line("stress/worst_group_accuracy", lambda rows: worst_group(accuracies(one.code, rows))[1], clips,
                   **fields)
    )  # fmt: skip
    chance = by_chance(lambda code, rows: gap(accuracies(code, rows)), one.code, study)
    lines.append(
        study.line("stress/group_gap", lambda rows: gap(accuracies(one.code, rows)), clips, null_baseline=chance,
                   **fields)
    )  # fmt: skip
    # The greatest of many classes' gaps grows in a resample, so that an interval would lie beside the value.
    fields["estimator"] += ", worst class"
    everyone = np.arange(len(clips))
    for name, of in (("demographic_parity", fair.parity), ("equalised_odds", fair.odds)):
        lines.append(
            number(f"stress/{name}_difference", lambda of=of: of(one.code, everyone), n=len(clips),
                   null_baseline=by_chance(of, one.code, study), **fields)
        )  # fmt: skip
    return lines


def means(
    values: Shaped[np.ndarray, " N"],
    code: Codes,
    rows: Int[np.ndarray, " R"],
    large: Sequence[int],
    names: Sequence[str],
) -> dict[str, float]:
    """Group -> mean of its rows, of the groups that are large among all clips and have any of these."""
    count = np.bincount(code[rows], minlength=len(names))
    total = np.bincount(code[rows], weights=values[rows], minlength=len(names))
    return {names[k]: float(total[k] / count[k]) for k in large if count[k]}


def by_chance(of: OfCodes, code: Codes, study: Study) -> float | None:
    """What the number comes to in the mean where clips are put into groups of these sizes by chance.

    A gap is never below 0, so of small groups it is well above; None where it is undefined.
    """
    random, everyone = np.random.default_rng(study.seed), np.arange(len(code))
    try:
        return float(np.mean([of(random.permutation(code), everyone) for _ in range(PERMUTATIONS)]))
    except Undefined:
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Fairness:
    """Rates of every class among groups at once, of one class against the rest, and the class with the greatest gap.

    Attributes:
      classes: K.
      code: groups as they are: which have clips enough is told by them, of resampled clips and of permuted groups too.
      large: groups with clips enough.
    """

    predicted: Int[np.ndarray, " N"]
    label: Int[np.ndarray, " N"]
    classes: int
    code: Codes
    large: tuple[int, ...]

    def parity(self, code: Codes, rows: Int[np.ndarray, " R"]) -> float:
        """Greatest ``demographic_parity_difference`` of a class."""
        own = code[rows]
        count = np.bincount(own, minlength=self._groups)[:, None]
        told = self._table(own, self.predicted[rows])
        return self._greatest(told, np.broadcast_to(count, told.shape), self._enough(None))

    def odds(self, code: Codes, rows: Int[np.ndarray, " R"]) -> float:
        """Greatest ``equalised_odds_difference`` of a class: of the label's clips, and of all others."""
        own, label, told = code[rows], self.label[rows], self.predicted[rows]
        of_class, every = self._table(own, label), np.bincount(own, minlength=self._groups)[:, None]
        hits = self._table(own[label == told], label[label == told])
        alarms = self._table(own, told) - hits
        # A class counts where both its own clips and the others are of two groups at least.
        both = [self._enough(True), self._enough(False)]
        whole = np.logical_and(*((enough.sum(axis=0) > 1) for enough in both))
        gaps = []
        for yes, count, enough in ((hits, of_class, both[0]), (alarms, every - of_class, both[1])):
            gaps.append(self._greatest(yes, count, enough & whole))
        return max(gaps)

    @property
    def _groups(self) -> int:
        return int(self.code.max()) + 1

    def _table(self, own: np.ndarray, which: np.ndarray) -> Int[np.ndarray, "G K"]:
        """Clips by group and class."""
        flat = np.bincount(own * self.classes + which, minlength=self._groups * self.classes)
        return flat.reshape(self._groups, self.classes)

    def _enough(self, label: bool | None) -> Bool[np.ndarray, "G K"]:
        """Groups to show for each class: of all clips, or of those with the label, or of those without."""
        of_class = self._table(self.code, self.label)
        every = np.broadcast_to(np.bincount(self.code, minlength=self._groups)[:, None], of_class.shape)
        return {None: every, True: of_class, False: every - of_class}[label] >= SMALLEST

    def _greatest(
        self, yes: Int[np.ndarray, "G K"], count: Int[np.ndarray, "G K"], shown: Bool[np.ndarray, "G K"]
    ) -> float:
        shown = shown & (count > 0)
        rate: Float[np.ndarray, "G K"] = yes / np.maximum(count, 1)
        two = shown.sum(axis=0) > 1
        if not two.any():
            raise Undefined(f"no class has {SMALLEST} clips in each of two groups")
        high, low = np.where(shown, rate, -np.inf).max(axis=0), np.where(shown, rate, np.inf).min(axis=0)
        return float((high - low)[two].max())


def gaps(study: Study, arrays: Mapping[str, np.ndarray]) -> Found:
    """Whether groups differ in what the model listens to, and in how it stands corruption, from what stages kept."""
    found, share = Found(), f"{SHARE}mm_shap"
    if share in arrays:
        of = arrays[share][:, 0].astype(np.float64)
        found.lines += _gaps(
            study, "stress/group_share_gap", arrays[ROWS + share],
            lambda rows, code, large, names: gap(means(of, code, rows, large, names)),
            f"MM-SHAP share of {study.modalities[0]}",
        )  # fmt: skip
    under = [name for name in arrays if name.startswith(RIGHT) and name[len(RIGHT) :].rsplit(" ", 1)[0] in SUITE]
    if under:
        rows = arrays[ROWS + under[0]]
        # Corruptions that do not apply to some of the clips are left out.
        right = np.mean([arrays[name] for name in under if np.array_equal(arrays[ROWS + name], rows)], axis=0)
        clean = study.clean.right[rows]

        def difference(chosen: np.ndarray, code: Codes, large: Sequence[int], names: Sequence[str]) -> float:
            before, after = (means(each, code, chosen, large, names) for each in (clean, right))
            return gap({name: robustness.retention(before[name], after[name]) for name in before})

        found.lines += _gaps(
            study, "stress/group_retention_gap", rows, difference, f"retention, mean of {len(under)} conditions"
        )
    return found


def _gaps(
    study: Study, id: str, rows: Int[np.ndarray, " n"],
    difference: Callable[[np.ndarray, Codes, Sequence[int], Sequence[str]], float], estimator: str,
) -> list[Measured]:  # fmt: skip
    """A line of each partition with two groups of clips enough among these rows; one that says so where none has."""
    lines, clips = [], study.clips.take(rows)
    for one in partitions(study):
        large, code = one.large(rows), one.code[rows]
        if len(large) < 2:
            continue

        def of(code: Codes, chosen: np.ndarray, large: list[int] = large, one: Partition = one) -> float:
            return difference(chosen, code, large, one.groups)

        lines.append(
            study.line(id, lambda chosen, of=of, code=code: of(code, chosen), clips, group=one.name,
                       estimator=f"{estimator}; by {one.name}, {SMALLEST} clips or more",
                       null_baseline=by_chance(of, code, study))
        )  # fmt: skip
    if not lines:
        reason = f"of {len(rows)} clips no attribute has two groups of {SMALLEST} or more"
        lines.append(skipped(id, reason, n=len(rows), estimator=estimator))
    return lines
