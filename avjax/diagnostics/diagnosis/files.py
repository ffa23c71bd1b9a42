"""A diagnosis on disk: report.json, samples.npz and report.html in one folder."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avjax.diagnostics.diagnosis.page import page
from avjax.diagnostics.diagnosis.result import Diagnosis, ShownClip
from avjax.diagnostics.diagnosis.schema import SchemaError, report_schema, validate
from avjax.diagnostics.diagnosis.versus import Versus
from avjax.diagnostics.measured import Condition, Measured
from avjax.diagnostics.page import write_page

SCHEMA_VERSION = 1
_SHOWN = "shown"


class ReportError(Exception):
    """A folder that holds no diagnosis, or a damaged one; says what is wrong."""


def write(diagnosis: Diagnosis, out: Path, *, versus: Versus | None = None) -> None:
    """Writes the three files; each is there whole or not at all, report.html last.

    Args:
      out: folder, which is made.
      versus: comparison with another diagnosis, which the page shows.
    """
    report = plain(diagnosis) | ({} if versus is None else {"versus": versus.plain()})
    validate(report, report_schema())
    arrays = {name: _storable(name, array) for name, array in diagnosis.arrays.items()}
    for place, clip in enumerate(diagnosis.clips):
        arrays |= {f"{_SHOWN}/{place}/{name}": _storable(name, array) for name, array in clip.pictures.items()}
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    out.mkdir(parents=True, exist_ok=True)
    _write_whole(out / "report.json", f"{text}\n".encode())
    _write_whole(out / "samples.npz", packed.getvalue())
    write_page("diagnosis/report.html.j2", page(diagnosis, versus), out / "report.html")


def plain(diagnosis: Diagnosis) -> dict[str, Any]:
    """What report.json holds."""
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: dict(diagnosis.about[name]) for name in ("model", "data", "env", "protocol")},
        "metrics": [line.plain() for line in diagnosis.measured],
        "clips": [
            {name: getattr(clip, name) for name in ("name", "label", "predicted", "confidence", "seconds")}
            for clip in diagnosis.clips
        ],
    }


def read(path: Path) -> Diagnosis:
    """The diagnosis in a folder, or whose report.json the path is.

    Raises:
      ReportError: where there is none, or it is not what the schema says.
    """
    folder = path if path.is_dir() else path.parent
    report, samples = folder / "report.json", folder / "samples.npz"
    try:
        found = json.loads(report.read_text(encoding="utf-8"), parse_constant=_no_number)
        validate(found, report_schema())
        # Opened here: np.load leaves a damaged file open.
        with samples.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        measured = tuple(_line(line) for line in found["metrics"])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ReportError(f"{folder} holds no diagnosis that can be read: {error}") from error
    shown = {name: array for name, array in arrays.items() if name.startswith(f"{_SHOWN}/")}
    clips = [ShownClip(**clip, **_pictures(shown, place)) for place, clip in enumerate(found.get("clips", []))]
    about = {name: found[name] for name in ("model", "data", "env", "protocol")}
    return Diagnosis(measured, about, {name: a for name, a in arrays.items() if name not in shown}, tuple(clips))


def _pictures(shown: Mapping[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
    begin = f"{_SHOWN}/{place}/"
    return {name.removeprefix(begin): array for name, array in shown.items() if name.startswith(begin)}


def _line(line: dict[str, Any]) -> Measured:
    condition = line["condition"]
    return Measured(**{**line, "condition": None if condition is None else Condition(**condition)})


def _no_number(word: str) -> float:
    raise SchemaError(f"{word} is no number of JSON")


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Floats in 32 bits; whole numbers, booleans and text as they are."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind not in "iubU":
        raise TypeError(f"array {name!r} is of {array.dtype}, which samples.npz does not take")
    return array


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
