"""docs/add-a-model.md, followed literally in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import argv, commands

PAGE = Path("docs/add-a-model.md")
BLOCK = re.compile(r"^```python title=(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_makes_a_model_that_trains(root, tmp_path):
    text = (root / PAGE).read_text()
    copy = tmp_path / "checkout"
    for folder in ("avjax", "kernels", "experiments", "tests"):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(root / name, copy / name)
    blocks = BLOCK.findall(text)
    assert [name for name, _ in blocks] == ["avjax/models/gated_mean.py", "experiments/demo_gated_mean.py"]
    for name, content in blocks:
        assert not (copy / name).exists()
        (copy / name).write_text(content)
    environment = os.environ | {"PYTHONPATH": str(copy)}

    def run(words: list[str]) -> str:
        ended = subprocess.run(words, cwd=copy, env=environment, text=True, capture_output=True, check=False)
        assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout

    prepare = "avjax prepare demo --data data/demo --out records/demo --corpus.clips-per-actor 4"
    run(argv(prepare))
    test, train = (command.text for command in commands(text, str(PAGE)))
    assert " passed" in run([sys.executable, *argv(test)[1:]])
    run([*argv(train), "--training.steps", "3", "--training.evaluate-every", "0", "--quiet"])
    assert (copy / "runs" / "demo_gated_mean" / "results.json").exists()
    ruff = [sys.executable, "-m", "ruff"]
    for name, _ in blocks:
        run([*ruff, "check", name])
        run([*ruff, "format", "--check", name])
