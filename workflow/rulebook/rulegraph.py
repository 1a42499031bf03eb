"""The picture of the workflow in README.md: rules as boxes, from `snakemake --rulegraph`."""

import argparse
import re
import subprocess
from pathlib import Path

from workflow.rulebook.writing import StepError, run_main, whole

BEGIN = "<!-- rulegraph: make graph -->\n```mermaid\n"
END = "```\n"


def rulegraph() -> str:
    """A mermaid flowchart from left to right, one edge a line, sorted."""
    command = ["snakemake", "--rulegraph", "mermaid-js", "--quiet", "all"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return as_flowchart(done.stdout)


def as_flowchart(text: str) -> str:
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", text, re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)", text, re.MULTILINE)
    lines = sorted(f"    {names[a]} --> {names[b]}" for a, b in edges)
    return "\n".join(["flowchart LR", *lines]) + "\n"


def replaced(page: str, graph: str) -> str:
    start = page.find(BEGIN)
    if start < 0:
        raise StepError(f"README.md: no line {BEGIN.splitlines()[0]}")
    start += len(BEGIN)
    return page[:start] + graph + page[page.index(END, start) :]


def main(arguments: argparse.Namespace) -> None:
    page = arguments.page.read_text(encoding="utf-8")
    with whole(arguments.page) as partial:
        partial.write_text(replaced(page, rulegraph()), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("README.md"))
    run_main(main, parser)
