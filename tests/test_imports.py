"""Imports point one way; who may import whom is the table below, held by reading every file's syntax tree."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What anything of avjax may use, what a model is made of, and what training and the commands share.
BASE = {"avjax", "avjax.streams", "avjax.progress", "avjax.watchdog"}
MODEL = BASE | {"avjax.nn", "avjax.models", "avjax.objectives", "kernels"}
RUN = MODEL | {"avjax.data", "avjax.training", "avjax.experiment", "avjax.run"}

# Layer -> layers it may import besides itself. A file's layer is the longest prefix that matches its module name.
MAY_IMPORT = {
    "kernels": set(),
    "avjax": set(),
    "avjax.streams": {"avjax"},
    "avjax.progress": {"avjax"},
    "avjax.watchdog": {"avjax"},
    # Starts processes and listens to them; what they run is theirs.
    "avjax.launch": {"avjax", "avjax.watchdog"},
    "avjax.data": BASE,
    "avjax.nn": BASE | {"kernels"},
    # A model reports terms of its loss that no objective could know by itself.
    "avjax.models": BASE | {"avjax.nn", "avjax.objectives", "kernels"},
    "avjax.objectives": BASE | {"avjax.nn", "kernels"},
    "avjax.pretrained": BASE | {"avjax.nn", "avjax.models"},
    # The type of an experiment names its parts; a run directory holds one.
    "avjax.experiment": BASE | {"avjax.data", "avjax.nn", "avjax.objectives", "avjax.training"},
    "avjax.run": BASE | {"avjax.experiment"},
    "avjax.training": RUN | {"avjax.launch"},
    "avjax.diagnostics": RUN,
    # Trains and measures many runs, and shows them as the report does.
    "avjax.comparison": RUN | {"avjax.diagnostics"},
    "avjax.commands": RUN | {"kernels"} | {"avjax.pretrained", "avjax.diagnostics", "avjax.comparison", "avjax.launch"},
    "avjax.cli": {"avjax", "avjax.commands"},
    "experiments": RUN | {"avjax.pretrained", "avjax.diagnostics", "avjax.cli"},
}

# These run in the preparing processes, where importing jax would cost seconds and a device.
WITHOUT_JAX = ("avjax.data.media", "avjax.data.records", "avjax.data.prepare", "avjax.data.corpora")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files() -> list[Path]:
    folders = (ROOT / name for name in ("avjax", "kernels", "experiments"))
    return sorted(itertools.chain.from_iterable(folder.rglob("*.py") for folder in folders))


MODULES = {module_name(path) for path in files()}


def imports(source: str, module: str, is_package: bool = False) -> list[tuple[int, str]]:
    """Every module that the source imports, wherever it stands: (line, absolute name)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            # `from avjax import streams` imports avjax.streams; `from avjax.streams import Stream` only the module.
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.append((node.lineno, name if name in MODULES else base))
    return found


def layer(module: str) -> str | None:
    """The layer that a module belongs to; None for other people's packages."""
    if module.split(".")[0] not in ("avjax", "kernels", "experiments"):
        return None
    prefixes = [name for name in MAY_IMPORT if module == name or (module.startswith(f"{name}.") and name != "avjax")]
    if not prefixes:
        raise AssertionError(
            f"{module} belongs to no layer: add it to MAY_IMPORT in tests/test_imports.py, as DESIGN has it"
        )
    return max(prefixes, key=len)


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    own = layer(module)
    return [
        f"line {line}: {module} ({own}) imports {name}"
        for line, name in imports(source, module, is_package)
        if (other := layer(name)) is not None and other != own and other not in MAY_IMPORT[own]
    ]


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    assert not wrong_imports(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.attention.api", "from avjax.streams import Stream"),
        ("avjax.data.media", "from avjax.nn import attention"),
        ("avjax.nn.attention", "def later():\n    import avjax.models.mbt"),
        ("avjax.models.mbt", "from ..training import loop"),
        ("avjax.training.loop", "from avjax import cli"),
        ("avjax.objectives.contrastive", "import avjax.models.mbt"),
        ("avjax.streams", "import kernels.attention"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "MODULES", {*MODULES, "avjax.cli", "avjax.training", "avjax.training.loop"})
    assert wrong_imports(source, module)


def test_the_layers_have_no_cycle() -> None:
    """Between any two layers at most one imports the other; the type of an experiment is the one agreed exception."""
    known = {("avjax.experiment", "avjax.training"), ("avjax.training", "avjax.experiment")}
    mutual = {(a, b) for a, seen in MAY_IMPORT.items() for b in seen if a != b and a in MAY_IMPORT[b]}
    assert mutual <= known


def closure(module: str) -> set[str]:
    """Everything that importing the module imports at once, of ours and one step into other people's packages."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in MODULES:
            continue
        path = ROOT.joinpath(*name.split("."))
        path, package = (path / "__init__.py", True) if path.is_dir() else (path.with_suffix(".py"), False)
        # A package's __init__ runs before any module inside it.
        waiting += [".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 1)]
        waiting += [found for _, found in imports(path.read_text(encoding="utf-8"), name, package)]
    return seen


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(WITHOUT_JAX)))
def test_preparing_data_never_imports_jax(module: str) -> None:
    heavy = {name for name in closure(module) if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax")}
    assert not heavy
