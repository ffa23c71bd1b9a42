"""The unrelated PyPI package of the same name: a mixture is refused, and the message says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from kernels import check_unmixed


def install_foreign(site, *, files=("kernels/layer.py", "kernels/utils.py")):
    """What pip leaves of a distribution: its files, METADATA and RECORD."""
    info = site / "kernels-0.11.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.11.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).write_text("")


def run(site, code):
    """Runs code where only ``site`` comes before the installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=site, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def site(tmp_path, root):
    """A folder of installed packages that holds a copy of ours."""
    shutil.copytree(root / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_mixture_is_refused_at_import(site):
    install_foreign(site)
    result = run(site, "import kernels")
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: The package 'kernels' 0.11.0 from PyPI")
    assert f"2 files (layer.py, utils.py, ...) inside avjax's own package at {site / 'kernels'}" in message
    assert "Remedy: pip uninstall kernels, then pip install --force-reinstall --no-deps avjax" in message


def test_overwritten_package_file_is_refused(site):
    """The other's __init__.py won, so ours cannot speak: the attention package does."""
    install_foreign(site, files=("kernels/__init__.py",))
    result = run(site, "import kernels.attention")
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert f"'kernels' was imported from {site / 'kernels' / '__init__.py'}" in message
    assert "Remedy: pip uninstall kernels" in message


def test_alone_or_elsewhere_it_is_no_mixture(site, tmp_path_factory):
    check_unmixed(site / "kernels", [str(site)])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    install_foreign(elsewhere)
    check_unmixed(site / "kernels", [str(site), str(elsewhere)])
    with pytest.raises(ImportError, match="unrelated to avjax"):
        check_unmixed(elsewhere / "kernels", [str(elsewhere)])


def test_a_namesake_that_comes_first_is_told_by_avjax(tmp_path, root):
    install_foreign(tmp_path, files=("kernels/__init__.py", "kernels/layer.py"))
    result = run(tmp_path, f"import sys; sys.path.append({str(root)!r}); import avjax")
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert f"Python finds ['{tmp_path / 'kernels'}']" in message
    assert "pip uninstall kernels" in message
