"""From which commit a run is."""

from __future__ import annotations

import subprocess

import avjax
from avjax.training.tracking import commit


def test_the_commit_is_that_of_the_checkout_around_the_package(tmp_path, monkeypatch):
    package = tmp_path / "avjax" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(avjax, "__file__", str(package))
    assert commit() is None

    def git(*words: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "a package")
    git("tag", "v1")
    assert commit() == git("rev-parse", "HEAD").strip()
    package.write_text("changed")
    assert commit() == git("rev-parse", "HEAD").strip() + "-dirty"
    # A program without git is installed all the same.
    monkeypatch.setenv("PATH", "")
    assert commit() is None
