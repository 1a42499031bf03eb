"""In place of `python` in the rules' commands: makes what a command names and is not there yet.

Archiving is quick and needs nothing but files, so that is really done.
"""

import hashlib
import os
import re
import sys
from pathlib import Path

if "workflow.scripts.measure.archive" in sys.argv:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])

content = hashlib.sha256(" ".join(sys.argv[1:]).encode()).hexdigest()
for word in sys.argv[1:]:
    path = Path(word)
    if not re.match(r"(\.snakemake/storage/s3/\w+/)?results/", word) or path.is_file():
        continue
    if path.is_dir() and any(path.iterdir()):
        continue
    files = [path]
    if path.name.startswith("ir_"):
        files = [path / "conf.yaml", path / "model.bin"]
    elif not path.suffix:
        files = [path / "source.json"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
