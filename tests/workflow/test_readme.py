"""What README.md shows is what there is."""

import re
from pathlib import Path

import pytest

from workflow.rulebook.rulegraph import BEGIN, as_flowchart, replaced

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_picture_is_current(clone):
    shown = PAGE[PAGE.index(BEGIN) + len(BEGIN) :].split("```")[0]
    text = clone.snakemake("--rulegraph", "mermaid-js", "--quiet", "all").stdout
    assert shown == as_flowchart(text)


def test_the_picture_is_replaced_in_its_place():
    assert replaced(f"a\n{BEGIN}old\n```\nb", "new\n") == f"a\n{BEGIN}new\n```\nb"


def test_files_that_are_named_exist():
    named = re.findall(r"`((?:config|workflow|engine|envs|tests|docs)/[\w./-]*)`", PAGE)
    assert not [name for name in named if name.startswith("docs/")], "pages are links"
    for name in named + re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / name).exists(), name
