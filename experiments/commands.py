"""How the programs of this folder call avjax: in their own process, and no further where it fails."""

from __future__ import annotations

from avjax.cli import main


def avjax(*words: str) -> None:
    """``avjax WORDS``, said before it starts; ends the program where the command fails."""
    print(f"\navjax {' '.join(words)}", flush=True)
    if status := main(words):
        raise SystemExit(status)
