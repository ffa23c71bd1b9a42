"""The report of a preparation: what was kept, what was not and why, as text and JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.data.record import label_classes

_KINDS = {"audio": "sound", "video": "pictures"}
# Clips that the text lists of each kind of fault; a corpus may have thousands.
_SHOWN = 50


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``prepare`` did.

    Attributes:
      name: of the corpus.
      out: the prepared folder.
      synthetic: whether the corpus was generated.
      counts: split -> clips kept.
      classes: head -> class name -> split -> clips kept.
      seconds: split -> {"audio", "video"} -> duration of all clips.
      bad: {"name", "split", "file", "reason"} of every clip left out.
      strangers: {"file", "reason"} of every media file that is no clip of the corpus (another name, a duplicate), and
        of files whose content is not what their names say.
      missing: "audio", "video", "series/NAME" -> names of the clips kept without it.
      series: name -> "shape" of an element, "rate" (the commonest of both), "dtype" that holds all, "clips" that have
        it, how many of them are "odd", of another shape, and the "longest" in elements.
      sequences: head -> "clips" that have one, and the "longest" of them in tokens.
      warnings: {"name", "warning"} of every clip that decoded, but not as its file promised.
      sizes: "HEIGHTxWIDTHxCHANNELS" -> clips.
      bytes: of all shards.
      cpu_seconds: "decode" (demuxing, decoding, scaling to RGB, resampling), "encode" (to the records' codecs, hashing)
        and "write" (records to disk), summed over workers and earlier runs.
      wall_seconds: of this run.
      shards_written: by this run; the others were there.
    """

    name: str
    out: str
    synthetic: bool
    counts: Mapping[str, int]
    classes: Mapping[str, Mapping[str, Mapping[str, int]]]
    seconds: Mapping[str, Mapping[str, float]]
    bad: Sequence[Mapping[str, str]]
    strangers: Sequence[Mapping[str, str]]
    missing: Mapping[str, Sequence[str]]
    series: Mapping[str, Mapping[str, Any]]
    sequences: Mapping[str, Mapping[str, int]]
    warnings: Sequence[Mapping[str, str]]
    sizes: Mapping[str, int]
    bytes: int
    cpu_seconds: Mapping[str, float]
    wall_seconds: float
    shards_written: int

    @classmethod
    def of(
        cls,
        corpus: Any,
        synthetic: bool,
        sidecars: Sequence[Mapping[str, Any]],
        strangers: Sequence[Mapping[str, str]],
        out: str,
        wall_seconds: float,
        written: int,
    ) -> Report:
        """From the sidecars of all shards, in order."""
        splits = list(dict.fromkeys(sidecar["file"].split("-")[0] for sidecar in sidecars))
        records = [record for sidecar in sidecars for record in sidecar["records"]]
        counts = Counter(record["split"] for record in records)
        labels = Counter(
            (head, number, record["split"])
            for record in records
            for head, label in record["labels"].items()
            for number in label_classes(label)
        )
        sizes = Counter("x".join(map(str, record["video"]["size"])) for record in records if record["video"])
        seconds = {split: {"audio": 0.0, "video": 0.0} for split in splits}
        for record in records:
            for kind in ("audio", "video"):
                seconds[record["split"]][kind] += record[kind]["seconds"] if record[kind] else 0.0
        names = dict.fromkeys(name for record in records for name in record["series"])
        series = {name: _series([r["series"][name] for r in records if name in r["series"]]) for name in names}
        return cls(
            name=corpus.name,
            out=out,
            synthetic=synthetic,
            counts={split: counts[split] for split in splits},
            classes={
                head: {
                    name: {split: labels[head, label, split] for split in splits} for label, name in enumerate(names)
                }
                for head, names in corpus.classes.items()
            },
            seconds=seconds,
            bad=[entry for sidecar in sidecars for entry in sidecar["bad"]],
            strangers=strangers,
            missing={
                kind: [record["name"] for record in records if record[kind] is None] for kind in ("audio", "video")
            }
            | {
                f"series/{name}": [record["name"] for record in records if name not in record["series"]]
                for name in series
            },
            series=series,
            sequences={
                head: {"clips": len(lengths), "longest": max(lengths)}
                for head in dict.fromkeys(head for record in records for head in record["sequences"])
                if (lengths := [record["sequences"][head] for record in records if head in record["sequences"]])
            },
            warnings=[{"name": record["name"], "warning": text} for record in records for text in record["warnings"]],
            sizes=dict(sizes.most_common()),
            bytes=sum(sidecar["bytes"] for sidecar in sidecars),
            cpu_seconds={
                what: sum(sidecar["cpu_seconds"][what] for sidecar in sidecars)
                for what in ("decode", "encode", "write")
            },
            wall_seconds=wall_seconds,
            shards_written=written,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The report for reading: tables, then every bad file, warning and missing modality."""
        synthetic = " (SYNTHETIC: generated, not recorded)" if self.synthetic else ""
        kept = sum(self.counts.values())
        lines = [f"{self.name}{synthetic}: {kept} clips in {self.out}, {self.bytes / 1e6:.1f} MB", ""]
        splits = list(self.counts)
        rows = [["", *splits], ["clips", *(str(self.counts[split]) for split in splits)]]
        shown = {kind: what for kind, what in _KINDS.items() if len(self.missing[kind]) < kept}
        for kind, what in shown.items():
            rows.append([f"{what}, minutes", *(f"{self.seconds[split][kind] / 60:.2f}" for split in splits)])
        for head, names in self.classes.items():
            rows.append([f"{head}:", *("" for _ in splits)])
            rows += [[f"  {name}", *(str(counts[split]) for split in splits)] for name, counts in names.items()]
        lines += _table(rows)
        if len(self.sizes) > 1:
            sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.items())
            lines += ["", f"Frames differ in size: {sizes}. Batches need one: prepare with a size."]
        for name, facts in self.series.items():
            shape = " x ".join(map(str, facts["shape"])) or "1"
            lines.append(
                f"Series {name}: {shape} numbers ({facts['dtype']}) at {facts['rate']:g} a second, in {facts['clips']}"
                f" clips, {facts['longest']} elements at most."
            )
            if facts["odd"]:
                lines.append(f"  {facts['odd']} clips have elements of another shape, and cannot share a batch.")
        for head, facts in self.sequences.items():
            lines.append(f"Sequence {head}: in {facts['clips']} clips, {facts['longest']} tokens at most.")
        cpu = self.cpu_seconds
        lines += [
            "",
            f"CPU seconds: {cpu['decode']:.1f} decoding, {cpu['encode']:.1f} encoding records, "
            f"{cpu['write']:.1f} writing them.",
            f"This run wrote {self.shards_written} shards in {self.wall_seconds:.1f} s.",
        ]
        sections = {
            "Bad files, left out": [f"{entry['file']} ({entry['name']}): {entry['reason']}" for entry in self.bad],
            "No clips of this corpus, or at odds with what their names say": [
                f"{entry['file']}: {entry['reason']}" for entry in self.strangers
            ],
            "Decoded in part": [f"{entry['name']}: {entry['warning']}" for entry in self.warnings],
        }
        named = shown | {f"series/{name}": f"series {name}" for name in self.series}
        sections |= {f"Without {what}": list(self.missing[kind]) for kind, what in named.items()}
        for title, entries in sections.items():
            lines += ["", f"{title}: {len(entries) or 'none'}", *(f"  {entry}" for entry in entries[:_SHOWN])]
            if len(entries) > _SHOWN:
                lines.append(f"  and {len(entries) - _SHOWN} more, in report.json")
        return "\n".join(lines) + "\n"


def _series(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What clips have in common, from what each has."""
    shapes, rates = Counter(tuple(each["shape"]) for each in facts), Counter(each["rate"] for each in facts)
    # Of the commonest the smallest, so that the order of clips does not matter.
    shape = min(shape for shape, times in shapes.items() if times == max(shapes.values()))
    rate = min(rate for rate, times in rates.items() if times == max(rates.values()))
    widest = np.result_type(*{each["dtype"] for each in facts}).name
    return {
        "shape": list(shape),
        "rate": rate,
        "dtype": "float32" if widest == "float64" else widest,
        "clips": len(facts),
        "odd": len(facts) - shapes[shape],
        "longest": max(each["length"] for each in facts),
    }


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
