"""The habits of the house that a machine can check: file lengths, openings, words that never belong, wheels."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    "avjax", "kernels", "experiments", "tests", "docs", ".ci", "setup.py", "pyproject.toml", "Makefile", "README.md",
    "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", ".gitignore",
}  # fmt: skip
MOST_LINES = 500

# What betrays one machine, one registry or how a text came about. Written in pieces so that this file passes itself.
FORBIDDEN = {
    "a folder of one machine": r"/(?:work|root|opt|home)/[a-z]",
    "a package registry's address": r"(?:pypi\.org|python" + r"hosted|registry\.npmjs|deb\.debian)",
    "a bookkeeping tag": r"\[(?:" + "M|P" + r")\](?!\()",
    "an unfinished thing": r"\b(?:" + "TO" + "DO|FIX" + r"ME|XX" + r"X)\b|\bNotImplementedError\b",
    "a reading of pickles": r"allow_pickle=" + "True",
}
# A finding that is right, with its reason: (path, text of the finding).
ALLOWED: dict[tuple[str, str], str] = {}


def tracked() -> list[Path]:
    """Every file of the repository, and those that would be added to it."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout: there is no list of the repository's files")
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def texts() -> list[tuple[str, str]]:
    """(path, content) of every file that is text."""
    found = []
    for path in tracked():
        try:
            found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def opening_faults(source: str, package: bool = False) -> list[str]:
    tree = ast.parse(source)
    faults = []
    if package and not tree.body:
        return faults
    if not ast.get_docstring(tree):
        faults.append("no docstring at the top")
    statements = [node for node in tree.body if not is_constant(node)]
    future = statements and isinstance(statements[0], ast.ImportFrom) and statements[0].module == "__future__"
    # The __init__ of a package may hold a docstring and a version, with no annotation to postpone.
    defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AnnAssign) for node in statements)
    if (defines or (statements and not package)) and not future:
        faults.append("`from __future__ import annotations` does not come first")
    return faults


def is_constant(statement: ast.stmt) -> bool:
    """Whether it is a docstring or `...`."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def body_faults(source: str) -> list[str]:
    """Functions that do nothing: a stub promises what does not exist."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = [part for part in node.body if not is_constant(part)]
            # `def f(self): ...` is how a Protocol says what others have.
            declared = len(node.body) == 1 and is_constant(node.body[0]) and node.body[0].value.value is ...
            if not declared and all(isinstance(part, ast.Pass) for part in statements):
                faults.append(f"line {node.lineno}: {node.name} has no body")
    return faults


def test_the_top_level_is_the_designs() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert names <= TOP_LEVEL, f"at the top level, and not of the layout: {sorted(names - TOP_LEVEL)}"


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


def test_every_file_opens_the_same_way() -> None:
    faults = {
        str(path.relative_to(ROOT)): opening_faults(path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for path in sources()
    }
    assert not {name: fault for name, fault in faults.items() if fault}


def test_no_function_is_a_stub() -> None:
    faults = {str(path.relative_to(ROOT)): body_faults(path.read_text(encoding="utf-8")) for path in sources()}
    assert not {name: fault for name, fault in faults.items() if fault}


def findings(name: str, text: str) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match.group()!r}"
        for what, pattern in FORBIDDEN.items()
        for match in re.finditer(pattern, text)
        if (name, match.group()) not in ALLOWED
    ]


def test_no_word_that_does_not_belong() -> None:
    assert not [finding for name, text in texts() for finding in findings(name, text)]


@pytest.mark.parametrize(
    "text",
    [
        "see /wo" + "rk/main",
        "at /ho" + "me/someone",
        "py" + "pi.org",
        "0.52 [" + "M]",
        "# TO" + "DO later",
        "raise NotImpl" + "ementedError",
    ],
)
def test_such_a_word_is_found(text: str) -> None:
    assert findings("file", text)


def test_faults_are_found() -> None:
    assert len(opening_faults("import os\n")) == 2
    assert not opening_faults('"""A docstring."""\n')
    assert body_faults('def f():\n    """Later."""\n') == ["line 1: f has no body"]
    assert body_faults("def f():\n    pass\n")
    assert not body_faults("class P(Protocol):\n    def f(self): ...\n")


def test_every_test_has_its_target() -> None:
    """Whatever its marks, one of `make test`, `make check` and `make long` runs it, once."""
    expressions = re.findall(r'pytest[^&\n]* -m "([^"]+)"', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(expressions) == 5
    for slow, long, alone in itertools.product((False, True), repeat=3):
        marks = {"slow": slow, "long": long, "alone": alone}
        assert sum(eval(expression, {}, marks) for expression in expressions) == 1, marks


def test_nothing_is_unpickled() -> None:
    """The modules that unpickle are imported nowhere in the product; a writer of synthetic files may take ``dump``."""
    for path in sources():
        name = str(path.relative_to(ROOT))
        if not name.startswith(("avjax/", "kernels/", "experiments/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not {alias.name for alias in node.names} <= {"dump"}:
                modules.append(node.module)
            assert not {"pickle", "dill", "cloudpickle", "joblib"} & set(modules), f"{name}:{node.lineno}"


def test_annotations_are_checked_in_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import hook of conftest.py is at work: a wrong shape raises. Without it every shape check passes unseen."""
    import numpy as np

    from avjax import streams

    finder = next(finder for finder in sys.meta_path if type(finder).__name__ == "_JaxtypingFinder")
    spec = finder.find_spec("avjax.streams", [str(ROOT / "avjax")])
    assert "jaxtyping" in type(spec.loader).__module__
    assert "jaxtyping" in type(importlib.util.find_spec(streams.__name__).loader).__module__

    (tmp_path / "kernels").mkdir()
    code = 'import numpy as np\nfrom jaxtyping import Float\ndef f(x: Float[np.ndarray, "B B"]): return x\n'
    (tmp_path / "kernels" / "wrong.py").write_text(code)
    spec = finder.find_spec("kernels.wrong", [str(tmp_path / "kernels")])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.f(np.zeros((2, 2)))
    with pytest.raises(Exception, match="Type-check error"):
        module.f(np.zeros((2, 3)))


@pytest.mark.slow
def test_a_wheel_ships_the_packages_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for path in tracked():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    words = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(copy)]
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"avjax", "kernels"}
    assert "avjax = avjax.cli:main" in entry_points
    assert any(name.endswith("licenses/LICENSE") for name in names)
    # Every source file and every data file of the two packages travels.
    package = {
        str(path.relative_to(ROOT)) for path in tracked() if path.relative_to(ROOT).parts[0] in ("avjax", "kernels")
    }
    assert sorted(package - set(names)) == [], "not in the wheel: add their endings to package_data in setup.py"
