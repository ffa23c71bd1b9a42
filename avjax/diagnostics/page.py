"""What every page of the diagnostics shares: its templates, how it is written, and the machine that wrote it.

A page needs no network, no JavaScript and no file beside it; every value in it is data and is escaped.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
import jinja2
from markupsafe import Markup

import avjax
from avjax.diagnostics.comparison import duration, metric_text, percent, plain


def write_page(template: str, values: dict[str, Any], out: Path) -> Path:
    """Renders a template of this folder into one file, which is there whole or not at all; its folder is made."""
    page = environment().get_template(template).render(values)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, out)
    return out


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of this folder."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": percent, "plain": plain, "duration": duration, "breakable": breakable}
    found.filters |= {"metric": metric_text, "inside": lambda value: min(max(value, 0.0), 1.0)}
    return found


def breakable(name: str) -> Markup:
    """A name, escaped, that may go on in the next line behind _, - and /."""
    parts = re.split(r"(?<=[_/-])", name)
    return Markup("<wbr>").join(parts)


def machine() -> list[tuple[str, str]]:
    """Versions and hardware of this process."""
    versions = [f"avjax {avjax.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax")]
    try:
        devices = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    except RuntimeError as error:
        devices = [f"unknown ({error})"]
    counts = [f"{devices.count(kind)} × {kind}" for kind in dict.fromkeys(devices)]
    return [
        ("Versions", ", ".join([*versions, f"Python {platform.python_version()}"])),
        ("Processor", f"{_cores()} × {_processor()}"),
        ("Accelerators", ", ".join(counts) or "none"),
        ("System", f"{platform.system()} {platform.machine()}"),
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")
