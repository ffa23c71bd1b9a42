"""The command line: avjax prepare | train | eval | predict | diagnose | compare | launch | plan | bench.

Each command is one function in one file of ``commands``; ``main`` finds it, and turns errors that a user can mend
into one line. Results go to standard output (as JSON with --json), everything else to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from avjax.commands import UsageError, Words, nearest
from avjax.commands.bench import bench
from avjax.commands.compare import compare
from avjax.commands.diagnose import diagnose
from avjax.commands.evaluate import evaluate
from avjax.commands.launch import launch
from avjax.commands.plan import plan
from avjax.commands.predict import predict
from avjax.commands.prepare import prepare
from avjax.commands.train import train

COMMANDS: dict[str, Callable[[Words], int]] = {
    "prepare": prepare,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "diagnose": diagnose,
    "compare": compare,
    "launch": launch,
    "plan": plan,
    "bench": bench,
}


def main(words: Words | None = None) -> int:
    """Runs one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("avjax").setLevel(logging.INFO)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from avjax import __version__

        print(f"avjax {__version__}")
        return 0
    command, *rest = words
    # Compiled programs are kept from run to run; a library that only imports avjax decides for itself.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avjax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        status = _carry_out(command, rest)
    except BaseException:
        if (distributed := sys.modules.get("avjax.training.distributed")) and distributed.is_joined():
            traceback.print_exc()
            distributed.abandon(1)
        raise
    if status and (distributed := sys.modules.get("avjax.training.distributed")):
        distributed.abandon(status)
    return status


def _carry_out(command: str, words: Words) -> int:
    try:
        if command not in COMMANDS:
            raise UsageError(f"there is no command {command!r}{nearest(command, list(COMMANDS))}")
        return COMMANDS[command](words)
    except KeyboardInterrupt:
        print("avjax: interrupted; the same command goes on from what was written last", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("AVJAX_TRACEBACK") or not _mendable(error):
            raise
        # In one piece, whatever other threads have to say.
        sys.stderr.write(f"avjax: {error}\n")
        return 2


def _mendable(error: Exception) -> bool:
    """Errors whose message tells a user what to do; anything else is a fault of ours and keeps its traceback."""
    own = type(error).__module__.partition(".")[0] == "avjax"
    return own or isinstance(error, (OSError, ValueError, ImportError))


def _overview() -> str:
    lines = ["avjax: audio-visual fusion with attention", ""]
    lines += [f"  avjax {name:8} {command.__doc__}" for name, command in COMMANDS.items()]
    lines += ["", "avjax COMMAND --help tells the options of a command. AVJAX_TRACEBACK=1 shows where an error arose."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
