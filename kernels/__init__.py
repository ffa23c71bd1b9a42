"""Fused attention kernels for audio-visual models. Imports jax and nothing of avjax.

PyPI has an unrelated package that is also called ``kernels``. Installed into the same folder the two
overwrite each other file by file and Python says nothing, so the mixture is refused here.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Iterable

from kernels.compat import check_version

# kernels.attention looks for this mark: in a mixture this very file may be the other package's.
OWNER = "avjax"


def check_unmixed(folder: pathlib.Path, path: Iterable[str] | None = None) -> None:
    """Raises ImportError where the unrelated distribution ``kernels`` has files in our own folder.

    Args:
      folder: where this package lies.
      path: directories to search for installed distributions; default ``sys.path``.
    """
    where = {} if path is None else {"path": list(path)}
    for distribution in importlib.metadata.distributions(name="kernels", **where):
        files = [pathlib.Path(distribution.locate_file(file)) for file in distribution.files or ()]
        mixed = sorted(file.name for file in files if folder.resolve() in file.resolve().parents)
        if mixed:
            raise ImportError(
                f"The package 'kernels' {distribution.version} from PyPI, which is unrelated to avjax, has "
                f"{len(mixed)} files ({', '.join(mixed[:3])}, ...) inside avjax's own package at {folder}: the two "
                "overwrite each other. Remedy: pip uninstall kernels, then pip install --force-reinstall --no-deps "
                "avjax; use separate environments where both are needed."
            )


check_version()
check_unmixed(pathlib.Path(__file__).parent)
