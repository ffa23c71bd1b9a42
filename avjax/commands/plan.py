"""avjax plan: what would run on machines that are not here, from the compilers alone."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from avjax.commands import UsageError, Words

USAGE = "usage: avjax plan kernels [--target v5e ...] [--specs mbt_audioset ...] [--tune]"
LABEL = "static estimate, not measured"


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """Compiles attention for TPUs without one, and says what the compiler makes of it: a static estimate, not measured.

    Attributes:
      target: TPUs to compile for.
      specs: shapes, by the names of kernels/attention/specs.py.
      implementations: of attention; "splash" is JAX's own fused kernel, "jax.nn" its dense computation.
      batch: samples of a call.
      dtypes: of query, key and value.
      directions: the forward pass, or forward and backward.
      statistics: that are returned, and with "both" differentiated.
      bias: adds one over heads, queries and keys.
      presence: GROUP=SHARE, the share of samples in which a modality is there; 1 where it is not named.
      valid: the share of every group's keys that are no padding.
      sizes: of all blocks, in place of those on file: rows, columns, row chunk, column chunk.
      tune: searches for sizes by these figures and writes them to kernels/tuned; minutes for each target and dtype.
      tuned: the folder that --tune writes to, in place of kernels/tuned.
      timeout: seconds for one program.
      out: folder for kernels.json.
      json: the figures on standard output, in place of the table.
    """

    target: tuple[Literal["v5e", "v5p", "v6e", "tpu7x"], ...] = ("v5e",)
    specs: tuple[str, ...] = ("square", "mbt_audioset", "mbt_merged", "cav_mae")
    implementations: tuple[Literal["mosaic_tpu", "blockwise", "reference", "splash", "jax.nn"], ...] = ("mosaic_tpu",)
    batch: int = 8
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("bfloat16",)
    directions: tuple[Literal["forward", "both"], ...] = ("forward",)
    statistics: tuple[str, ...] = ()
    bias: bool = False
    presence: tuple[str, ...] = ()
    valid: float = 1.0
    sizes: tuple[int, int, int, int] | None = None
    tune: bool = False
    tuned: Path | None = None
    timeout: float = 300.0
    out: Path | None = None
    json: bool = False


def plan(words: Words) -> int:
    """kernels [--target v5e ...] [--tune]    attention compiled for TPUs that are not here: schedules, steps, memory"""
    words = ["kernels", *words] if words and words[0] in ("-h", "--help") else list(words)
    if not words or words[0] != "kernels":
        raise UsageError(f"there is one plan, kernels. {USAGE}")
    options = tyro.cli(KernelPlan, prog="avjax plan kernels", args=words[1:])
    # What is compiled for is named; a TPU that may be here is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    found = _tuned(options) if options.tune else figures(options)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernels.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    elif options.tune:
        _show_sizes(found)
    else:
        _show(found)
    return 0 if any("error" not in program for program in found["programs"]) else 1


def figures(options: KernelPlan) -> dict[str, Any]:
    """Every program that is asked for, with its figures or the reason why there are none."""
    from avjax.progress import progress
    from kernels.aot import jobs
    from kernels.aot.compiler import CannotCompile, Compiler, libtpu

    shares = _shares(options.presence)
    if not 0 < options.valid <= 1:
        raise UsageError(
            f"--valid: the share of keys that are no padding is {options.valid}, and must be above 0, up to 1"
        )
    all_jobs = list(_jobs(options, dynamic=bool(shares) or options.valid < 1))
    for job in all_jobs:
        if unknown := set(shares) - set(job.shape().keys.names):
            names = ", ".join(job.shape().keys.names)
            raise UsageError(f"--presence: {job.spec} has no group {sorted(unknown)[0]!r}; it has {names}")
    results = []
    with progress("compile", len(all_jobs), quiet=options.json) as advance:
        for target in options.target:
            with _compiler(Compiler, CannotCompile, target, options.timeout) as compiler:
                for job in (job for job in all_jobs if job.target == target):
                    program: dict[str, Any] = {"name": job.name, **dataclasses.asdict(job)}
                    try:
                        mask = jobs.mask_at(job.shape(), job.batch, shares, options.valid) if job.dynamic else None
                        program |= _plain(compiler.compile(job), jobs, mask)
                    except CannotCompile as refusal:
                        program["error"] = str(refusal)
                    except ValueError as error:
                        raise UsageError(str(error)) from None
                    results.append(program)
                    advance(len(results))
    return {
        "schema": 1, "basis": LABEL, "libtpu": libtpu(), "presence": shares, "valid": options.valid,
        "programs": results,
    }  # fmt: skip


def _compiler(make: Any, refusal: type[Exception], target: str, seconds: float) -> Any:
    try:
        return make(target, seconds)
    except refusal as error:
        raise UsageError(str(error)) from None


def _jobs(options: KernelPlan, *, dynamic: bool) -> Any:
    from kernels.aot.jobs import Job
    from kernels.attention.specs import NAMED
    from kernels.attention.statistics import check_names

    try:
        check_names(options.statistics)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if options.sizes is not None and any(size < 128 or size % 128 for size in options.sizes):
        raise UsageError(f"--sizes: each is a multiple of 128, got {' '.join(map(str, options.sizes))}")
    if unknown := [name for name in options.specs if name not in NAMED]:
        raise UsageError(f"--specs: there is no {unknown[0]!r}; there are {', '.join(NAMED)}")
    for target in options.target:
        for spec in options.specs:
            for dtype in options.dtypes:
                for direction in options.directions:
                    for implementation in options.implementations:
                        yield Job(
                            target, spec, implementation, options.batch, dtype, direction, options.statistics,
                            options.bias, dynamic, options.sizes,
                        )  # fmt: skip


def _shares(presence: tuple[str, ...]) -> dict[str, float]:
    result = {}
    for part in presence:
        name, _, share = part.partition("=")
        try:
            result[name] = float(share)
        except ValueError:
            raise UsageError(f"--presence: got {part!r}; write GROUP=SHARE, for example audio=0.5") from None
        if not 0 <= result[name] <= 1:
            raise UsageError(f"--presence: the share of {name} is {share}, and must be from 0 to 1")
    return result


def _plain(found: Any, jobs: Any, mask: Any) -> dict[str, Any]:
    steps = jobs.executed(found.job, mask) if found.kernels else {}
    cycles = found.cycles(mask)
    return {
        "kernels": {
            name: {"bodies": bodies, "steps": steps[name], "cycles": cycles[name]}
            for name, bodies in found.kernels.items()
        },
        "memory": found.memory, "xla_cycles": found.xla_cycles, "seconds": found.seconds,
    }  # fmt: skip


def _tuned(options: KernelPlan) -> dict[str, Any]:
    """The cheapest sizes for every kernel, kept where the kernels look for them."""
    from avjax.progress import progress
    from kernels.aot import tuning
    from kernels.aot.compiler import CannotCompile, Compiler, libtpu

    if options.implementations != ("mosaic_tpu",):
        raise UsageError("--tune: only mosaic_tpu has sizes to search for")
    if options.presence or options.valid < 1 or options.sizes or options.bias:
        raise UsageError("--tune searches where nothing is missing: leave out --presence, --valid, --sizes and --bias")
    # Of shapes of one width and length class, the last that is named decides.
    jobs = [dataclasses.replace(job, direction="both", sizes=None) for job in _jobs(options, dynamic=False)]
    jobs = list(dict.fromkeys(jobs))
    total = len(list(tuning.candidates()))
    results = []
    with progress("tune", len(jobs) * total, quiet=options.json) as advance:
        for number, job in enumerate(jobs):
            program: dict[str, Any] = {"name": job.name}
            with _compiler(Compiler, CannotCompile, job.target, options.timeout) as compiler:
                try:
                    best = tuning.search(compiler, job, lambda done, _, number=number: advance(number * total + done))
                except CannotCompile as refusal:
                    program["error"] = str(refusal)
                else:
                    entries = [tuning.entry(kernel, job, sizes) for kernel, (_, sizes) in best.items()]
                    file = tuning.keep(job.target, entries, options.tuned or tuning.TUNED)
                    program["sizes"] = {kernel: list(sizes) for kernel, (_, sizes) in best.items()}
                    program["file"] = str(file)
            results.append(program)
    return {"schema": 1, "basis": LABEL, "libtpu": libtpu(), "programs": results}


def _show(found: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    print(f"{LABEL.capitalize()}: bundles are cycles of a core that never waits for memory; libtpu {found['libtpu']}.")
    print("A step is one block of scores of one sample and head; plain ones need no mask. Cycles are bundles x steps.")
    for program in found["programs"]:
        if "error" in program:
            print(f"{program['name']}: {program['error']}", file=sys.stderr)
            continue
        table = Table(title=program["name"], title_justify="left")
        for column in ("kernel", "plain", "spills", "steps", "masked", "spills", "steps", "k cycles"):
            table.add_column(column, justify="left" if column == "kernel" else "right", no_wrap=True)
        for name, kernel in program["kernels"].items():
            cells = []
            for body in ("whole", "masked"):
                one = kernel["bodies"].get(body)
                steps = str(kernel["steps"][body])
                cells += ["", "", steps] if one is None else [str(one["bundles"]), str(one["spills"]), steps]
            table.add_row(name, *cells, f"{kernel['cycles'] / 1e3:.0f}")
        if program["xla_cycles"]:
            table.add_row("XLA's part", *[""] * 6, f"{program['xla_cycles'] / 1e3:.0f}")
        memory = program["memory"]
        table.caption = (
            f"temporary memory {memory['temporary'] / 2**20:.0f} MiB; compiled in {program['seconds']:.1f} s"
        )
        console.print(table)


def _show_sizes(found: dict[str, Any]) -> None:
    for program in found["programs"]:
        if "error" in program:
            print(f"{program['name']}: {program['error']}", file=sys.stderr)
            continue
        print(f"{program['name']} -> {program['file']} ({LABEL})")
        for kernel, sizes in program["sizes"].items():
            print(f"  {kernel:12} blocks of {sizes[0]} x {sizes[1]}, chunks of {sizes[2]} x {sizes[3]}")
