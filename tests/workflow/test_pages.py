"""Pages that are made are those that are there, and the site of all pages is whole."""

import subprocess
import sys

import pytest
import yaml

from workflow.rulebook import reference

from .conftest import ROOT


@pytest.mark.parametrize("name", reference.PAGES, ids=str)
def test_made_pages_are_current(name):
    assert (ROOT / name).read_text() == reference.PAGES[name](), f"{name}: make pages"


def test_a_comment_is_of_the_key_below_it():
    text = "# Head.\n\n# --- a ---\n# of a\na:\n  # of b,\n  # more\n  b: 1\n  # of c\n"
    text += "  # c: {d: 1}\n"
    assert reference._comments(text) == {"a": "of a", "a.b": "of b, more", "a.c": "of c"}


def test_every_page_is_in_the_site():
    found = set(_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert found == {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}


def _pages(nav):
    for entry in nav:
        for name in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [name] if isinstance(name, str) else _pages(name)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="requirements-docs.txt is not installed (make docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run(
        [*command, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "InferenceSession" in (tmp_path / "python.html").read_text()
