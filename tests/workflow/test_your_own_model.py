"""docs/your-own-model.md: what it tells one to write and to run, in its order."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import tiny_models
from .conftest import Clone

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs/your-own-model.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def walked(tmp_path_factory, forked):
    """The folder, and what each block printed."""
    clone = Clone(tmp_path_factory.mktemp("own"), forked)
    tiny_models.write_model(clone.folder / "my-model", "distil")
    tiny_models.write_examples(clone.folder / "my-examples", "text-classification")
    return clone, [done(clone, *block) for block in BLOCKS]


def done(clone, language, text):
    if language == "yaml":
        (clone.folder / re.search("^# (.*)$", text, re.MULTILINE)[1]).write_text(text)
        return ""
    command = {"sh": ["bash", "-euc", text], "python": [sys.executable, "-c", text]}[language]
    found = subprocess.run(
        command,
        cwd=clone.folder,
        env=clone.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


def test_every_block_was_run_and_said_something(walked):
    _, said = walked
    assert len(said) == len(BLOCKS) == 7
    text = "\n".join(said)
    for words in ("accuracy  0.", "Latency\n", "Linear", "[[", "Accuracy ", "from-onnx  int8"):
        assert words in text


def test_the_file_and_the_folder_it_is_from_are_measured_alike(walked):
    clone, _ = walked
    mine, other = (
        json.loads((clone.folder / f"results/{name}_int8_accuracy.json").read_text())
        for name in ("mine", "from-onnx")
    )
    assert mine["confusion"] == other["confusion"]
    assert mine["value_fp32"] == other["value_fp32"]


def test_messages_are_those_that_the_code_has(walked):
    """Their words that are no values."""
    sources = [p.read_text() for part in ("workflow", "engine") for p in Path(part).rglob("*.py")]
    code = re.sub(r'"\s*f?"', "", " ".join(" ".join(text.split()) for text in sources))
    for words in ("no weights ", "its labels are ", "pooled embeddings", "left to NumPy"):
        assert words in PAGE and words in code
