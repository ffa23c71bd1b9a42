"""What every test shares: eight host devices, shape checks on every annotated function, fixtures.

This file runs before jax is imported, which is the only time at which the platform and the device count can be chosen.
"""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
# LLVM's work on programs that run for a moment is most of what it takes to compile them.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("MPLBACKEND", "agg")
# Most of a test's time is XLA's. Programs are kept from run to run and shared with other workers and with commands that
# tests start; their keys hold everything that they were made from.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"avjax-programs-{os.getuid()}"))
# Commands that tests start in a scratch folder import this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Every jaxtyping annotation of the product is checked at every call, in tests only.
jaxtyping.install_import_hook(["avjax", "kernels"], "beartype.beartype")

# A first call compiles, so a deadline would measure XLA.
hypothesis.settings.register_profile("test", deadline=None, print_blob=True, max_examples=20)
hypothesis.settings.register_profile("few", deadline=None, print_blob=True, max_examples=5)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-case", action="store_true", help="of each parametrised test, run the first case alone")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After marks have chosen, so that every test keeps a case."""
    if config.getoption("one_case"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        kept = set(first.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


# Linux gives a process 65530 maps of memory; a compiled program takes a score of them, and XLA crashes without.
MOST_MAPS = 20_000
done = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Lets compiled programs go where they have become many. To count them takes as long as a short test."""
    maps = Path("/proc/self/maps")
    if next(done) % 10 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real media and corpora, which is no part of the repository."""
    folder = os.environ.get("AVJAX_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set AVJAX_TEST_DATA to the folder that holds fsdd/ and media/")
    if not Path(folder).is_dir():
        pytest.fail(f"AVJAX_TEST_DATA is {folder!r}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh random numbers; the seed is printed, and AVJAX_TEST_SEED repeats a failure."""
    seed = int(os.environ.get("AVJAX_TEST_SEED") or secrets.randbits(32))
    print(f"AVJAX_TEST_SEED={seed}")
    return np.random.default_rng(seed)
