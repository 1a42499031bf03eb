"""The few calls of `conda` that Snakemake makes, on py-rattler: a real solver, a real installer.

Packages come from a channel in a folder, written here: for every pin of envs/ one of that version,
with decoys beside it. They hold nothing but a `python` that is given. What conda-forge really has,
this cannot show.
"""

import asyncio
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import yaml

PLATFORM = "linux-64"
BOUNDS = {  # what these packages really ask for
    "transformers": ["huggingface_hub >=0.16.4,<1.0", "tokenizers >=0.14,<0.15"],
    "tokenizers": ["huggingface_hub >=0.16.4,<0.18"],
    "datasets": ["pyarrow >=8.0.0", "huggingface_hub >=0.14.0,<1.0.0"],
}
PULLED_IN = {"tokenizers": "0.14.1", "huggingface_hub": "0.17.3", "pip": "23.2.1"}
DECOYS = {"python": "3.13.1", "jemalloc": "5.3.0", "numpy": "2.4.6", "huggingface_hub": "2.4.0"}
ACTIVATE = 'export CONDA_PREFIX="$1"\nexport PATH="$1/bin:$PATH"\n'


def specifications(environment: Path) -> list[str]:
    """What an environment asks of conda; its part for pip is left out."""
    entries = yaml.safe_load(environment.read_text())["dependencies"]
    return [entry for entry in entries if isinstance(entry, str)]


def install(folder: Path, environments: list[Path], python: str) -> None:
    """bin/conda and bin/activate below the folder, and a channel whose `python` is this script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/activate").write_text(ACTIVATE)
    conda = folder / "bin/conda"
    conda.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "{folder}" "$@"\n')
    conda.chmod(0o755)
    pins = {tuple(s.split(" =")) for each in environments for s in specifications(each) if "=" in s}
    packages = sorted({*pins, *PULLED_IN.items(), *DECOYS.items()})
    records = dict(_package(folder / "channel" / PLATFORM, *each, python) for each in packages)
    for subdir in (PLATFORM, "noarch"):
        found = records if subdir == PLATFORM else {}
        content = {"info": {"subdir": subdir}, "packages": found, "packages.conda": {}}
        path = folder / "channel" / subdir / "repodata.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def _package(folder: Path, name: str, version: str, python: str) -> tuple[str, dict]:
    version = f"{version}.7" if (name, version) == ("python", "3.11") else version
    path = folder / f"{name}-{version}-0.tar.bz2"
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"share/{name}-{version}": b""}
    if name == "python":
        files = {"bin/python": python.encode()}
    about = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": PLATFORM}
    about["depends"] = BOUNDS.get(name, []) if version != DECOYS.get(name) else []
    entries = [
        {"_path": each, "path_type": "hardlink", "sha256": hashlib.sha256(content).hexdigest()}
        | {"size_in_bytes": len(content)}
        for each, content in files.items()
    ]
    info = {"info/index.json": json.dumps(about), "info/files": "\n".join(files)}
    info["info/paths.json"] = json.dumps({"paths_version": 1, "paths": entries})
    with tarfile.open(path, "w:bz2") as archive:
        for each, content in {**{k: v.encode() for k, v in info.items()}, **files}.items():
            member = tarfile.TarInfo(each)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    sums = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
    return path.name, {**about, **sums, "size": len(content)}


# --- what `conda` is asked ---


async def solved(folder: Path, specs: list[str]) -> list:
    """Records of the packages that satisfy the specifications; raises if none do."""
    from rattler import Platform, VirtualPackage, solve

    platforms = [Platform(PLATFORM), Platform("noarch")]
    return await solve(
        sources=[(folder / "channel").as_uri()],
        specs=specs,
        platforms=platforms,
        virtual_packages=VirtualPackage.detect(),
    )


async def create(folder: Path, environment: Path, prefix: str) -> None:
    from rattler import install as install_packages

    records = await solved(folder, specifications(environment))
    await install_packages(records=records, target_prefix=prefix)


def main(folder: Path, *words: str) -> None:
    if words[0] == "--version":
        print("conda 24.11.0")
    elif words[0] == "info":
        print(json.dumps({"conda_prefix": str(folder), "platform": PLATFORM, "envs_dirs": []}))
    elif words[:2] == ("config", "--get"):
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif words[:2] == ("env", "create"):
        options = dict(zip(words, words[1:], strict=False))
        asyncio.run(create(folder, Path(options["--file"]), options["--prefix"]))
        sys.stdout.flush()
        os._exit(0)  # threads of the installer may outlive a proper end
    elif words[0] != "clean":
        sys.exit(f"conda stand-in: no {' '.join(words)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
