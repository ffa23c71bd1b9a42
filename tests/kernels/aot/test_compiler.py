"""Compiling for TPUs that are not there: what fits, what it costs beside splash, and what it cost before."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest

from kernels.aot import tuning
from kernels.aot.baseline import JOBS, compared, stored
from kernels.aot.compiler import CannotCompile, Compiler, libtpu
from kernels.aot.jobs import Job, executed, mask_at
from kernels.attention import STATISTICS
from kernels.attention.mosaic_tpu.target import TARGETS
from kernels.attention.specs import TABLE
from tests.levels import in_part, in_short

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(libtpu() is None, reason="needs libtpu: pip install 'avjax[tpu]'"),
]


@pytest.fixture(scope="module")
def compilers():
    """One compiling process a target, started where it is needed."""
    made: dict[str, Compiler] = {}

    def of(target: str) -> Compiler:
        return made.setdefault(target, Compiler(target))

    yield of
    for compiler in made.values():
        compiler.close()


@pytest.mark.parametrize(("name", "target"), in_part(tuple(TABLE), tuple(TARGETS), one_of=8))
def test_every_shape_compiles_forward_and_backward_with_every_statistic(target, name, compilers):
    """It fits the fast memory, or the compiler would refuse it."""
    figures = compilers(target).compile(
        Job(target, name, batch=1, direction="both", statistics=STATISTICS, dynamic=True)
    )
    assert set(figures.kernels) == {"forward", "of_queries", "of_keys", "received", "found"}
    for kernel, bodies in figures.kernels.items():
        assert set(bodies) == {"whole", "masked"}, kernel
    assert set(executed(figures.job)) == set(figures.kernels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", in_short(("mbt_audioset", "mult", "gqa"), ("gqa",)))
def test_plain_and_with_a_full_bias_in_either_dtype(name, dtype, compilers):
    plain = Job("v5e", name, batch=1, dtype=dtype, direction="both")
    assert "of_bias" not in compilers("v5e").compile(plain).kernels
    assert "of_bias" in compilers("v5e").compile(dataclasses.replace(plain, bias=True)).kernels


@pytest.mark.parametrize("target", in_short(TARGETS, ("v5e",)))
def test_a_block_costs_no_more_than_splash_s(target, compilers):
    """At equal blocks of 256: at most 1.05 of its bundles, 1.20 with lse, mass and entropy."""
    compiler, size = compilers(target), 256
    splash = compiler.compile(Job(target, "square", "splash", direction="both", sizes=(size,) * 4))
    for statistics, most in (((), 1.05), (("lse", "mass", "entropy"), 1.20)):
        job = Job(target, "square", direction="both", statistics=statistics, sizes=(size, size, 256, 128))
        ours = compiler.compile(job)
        for kernel in splash.kernels:
            assert ours.bundles(kernel) <= most * splash.bundles(kernel), (kernel, statistics)


@pytest.mark.long
def test_a_missing_modality_costs_less_than_splash_s_padding(compilers):
    """MBT, half of the samples without video: bundles times executed steps at most 0.7 of splash's, whose blocks of
    512 are the cheaper of its blocks."""
    compiler = compilers("v5e")
    job = Job("v5e", "mbt_audioset", direction="both", dynamic=True)
    mask = mask_at(job.shape(), job.batch, {"video": 0.5}, 1.0)
    ours = compiler.compile(job).cycles(mask)
    splash = compiler.compile(dataclasses.replace(job, implementation="splash", sizes=(512,) * 4)).cycles()
    assert ours["forward"] <= 0.7 * splash["forward"]
    assert sum(ours.values()) <= 0.7 * sum(splash.values())


def test_dense_attention_costs_many_times_more_by_libtpu_s_own_estimate(compilers):
    job = Job("v5p", "mbt_audioset", dynamic=True)
    ours = compilers("v5p").compile(job)
    dense = compilers("v5p").compile(dataclasses.replace(job, implementation="reference"))
    assert sum(ours.cycles().values()) + ours.xla_cycles < 0.7 * dense.xla_cycles
    assert ours.memory["temporary"] < dense.memory["temporary"] / 3


@pytest.mark.parametrize("target", in_short(TARGETS, ("v6e",)))
def test_schedules_are_no_longer_than_they_were(target, compilers):
    """Bundles against the stored baseline of this libtpu: at most 5 % more. Another libtpu is reported, not judged."""
    found = {job.name: compilers(target).compile(job) for job in JOBS if job.target == target}
    lines, worse = compared(found)
    print("\n".join(lines))
    if stored() is None:
        warnings.warn(f"no baseline for libtpu {libtpu()}: nothing is judged", stacklevel=1)
    assert not worse, "\n".join(worse)


def test_what_cannot_be_compiled_says_why(compilers):
    with pytest.raises(CannotCompile, match="splash has no bias"):
        compilers("v5e").compile(Job("v5e", "square", "splash", bias=True))
    # A block of scores of 16 MiB in float32 does not fit the fast memory.
    with pytest.raises(CannotCompile, match=r"(?i)vmem"):
        compilers("v5e").compile(Job("v5e", "mbt_merged", batch=1, sizes=(2048, 2048, 2048, 128)))


def test_a_job_that_takes_too_long_is_ended_and_the_next_one_served():
    with Compiler("v5e", seconds=0.05) as compiler:
        with pytest.raises(CannotCompile, match="took more than 0 s"):
            compiler.compile(Job("v5e", "square", batch=1))
        compiler.seconds = 200
        assert compiler.compile(Job("v5e", "square", batch=1)).bundles("forward") > 0


def test_sizes_are_searched_and_kept(tmp_path, monkeypatch, compilers):
    monkeypatch.setattr(tuning, "candidates", lambda: iter([(128, 128, 128, 128), (256, 256, 128, 128)]))
    job = Job("v5e", "square", batch=1)
    best = tuning.search(compilers("v5e"), job)
    assert set(best) == set(tuning.KERNELS)
    entries = [tuning.entry(kernel, job, sizes) for kernel, (_, sizes) in best.items()]
    file = tuning.keep("v5e", entries, tmp_path)
    again = json.loads(tuning.keep("v5e", entries, tmp_path).read_text())
    assert file.name == "v5e.json"
    assert again["sizes"] == [
        {"direction": kernel, "dtype": "bfloat16", "width": 64, "tokens": 1024, "sizes": list(best[kernel][1])}
        for kernel in tuning.KERNELS
    ]
    assert again["libtpu"] == libtpu()
