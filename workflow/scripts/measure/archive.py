"""Results and the configuration as one .tar.gz, which depends on names and contents alone."""

import argparse
import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.place import named
from workflow.rulebook.writing import StepError, run_main, whole

SUMS, CONFIG = "SHA256SUMS", "config.json"
BESIDE = (".raw.csv.gz", ".run.json")  # what a table of timings comes with


def with_companions(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths, and beside each table its raw times and its run record."""
    for path in paths:
        yield path
        if path.suffix == ".csv":
            others = (path.with_suffix(suffix) for suffix in BESIDE)
            yield from (other for other in others if other.exists())


def pack(paths: Iterable[Path], config: str, out: Path, top: str) -> None:
    """Write the files below a folder `top`; owners, times and order of the paths do not count."""
    files = {named(path): path for path in sorted(set(paths))}
    for name, path in files.items():
        if not path.is_file() or name.is_absolute():
            raise StepError(f"{path}: not a file of this folder")
    sums = "".join(f"{sha256(path)}  {name}\n" for name, path in files.items())
    with (
        whole(out) as partial,
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        _add(archive, f"{top}/{CONFIG}", f"{config}\n".encode())
        _add(archive, f"{top}/{SUMS}", sums.encode())
        for name, path in files.items():
            _add(archive, f"{top}/{name}", path.read_bytes())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def main(arguments: argparse.Namespace) -> None:
    out = arguments.out
    pack(with_companions(arguments.files), arguments.config, out, out.name.split(".")[0])
    print(f"{out}: {out.stat().st_size} bytes, sha256 {sha256(out)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--config", required=True, help="what the results were made with")
    parser.add_argument("--out", type=Path, required=True)
    run_main(main, parser)
