"""Files of the Hugging Face hub at a pinned commit, verified against the hub's own checksums.

A cut connection goes on where it stopped; what may pass by itself is tried again, after 1, 2, 4 s.
Honoured: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT (in seconds).
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
from huggingface_hub import configure_http_backend, constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from workflow.scripts.fingerprint import sha256
from workflow.scripts.writing import StepError

ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
SILENCE_S = 30.0
WITHOUT_HUB = "config/config.yaml needs no hub"
DESCRIPTIONS = ["*.json", "vocab.txt", "merges.txt", "*.model"]
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"  # weights: the second if there is no first

Result = TypeVar("Result")


def download_model(repository: str, revision: str) -> Path:
    """A folder of the local cache with the model; safetensors if the repository has them."""
    folder = download(repository, revision, [*DESCRIPTIONS, SAFE])
    if not (folder / SAFE).exists():
        folder = download(repository, revision, [PICKLED])
    return folder


def download(repository: str, revision: str, patterns: list[str]) -> Path:
    """A folder of the local cache with all files that match a pattern, each verified."""
    folder = _tried(
        f"{repository} at {revision}",
        lambda: Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=patterns,
                local_files_only=constants.HF_HUB_OFFLINE,
                **_options(),
            )
        ),
    )
    for file in folder.rglob("*"):
        if file.is_file() and any(file.relative_to(folder).match(each) for each in patterns):
            verify(file)
    return folder


def download_data_file(repository: str, revision: str, filename: str) -> Path:
    file = _tried(
        f"{filename} of data set {repository} at {revision}",
        lambda: Path(
            hf_hub_download(
                repository,
                filename,
                revision=revision,
                repo_type="dataset",
                local_files_only=constants.HF_HUB_OFFLINE,
                **_options(),
            )
        ),
    )
    verify(file)
    return file


def verify(file: Path) -> None:
    """The cache calls a blob as the hub does: by its sha256, or as git does if it is small."""
    blob = file.resolve()
    kinds = {64: ("sha256", sha256), 40: ("git's sha1", git_sha1)}
    if len(blob.name) not in kinds:
        return
    kind, digest = kinds[len(blob.name)]
    found = digest(blob)
    if found != blob.name:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise StepError(
            f"{file.name}: {kind} is {found}, the hub says {blob.name}; the file was deleted"
        )


def git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- requests that do not hang, and are repeated ---


class _Session(requests.Session):
    """Gives up a request after some seconds of silence; huggingface_hub alone waits for ever."""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        silence = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", SILENCE_S))
        return super().request(*arguments, **{**options, "timeout": silence})


def _options() -> dict[str, Any]:
    configure_http_backend(_Session)
    return {"resume_download": True, "token": os.environ.get("HF_TOKEN") or None}


def _tried(what: str, download: Callable[[], Result]) -> Result:
    """The download, tried again where that can help; the error says what was tried."""
    where = f"{what} from {constants.ENDPOINT}"
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            return download()
        except (ValueError, OSError) as error:
            if reason := _hopeless(error):
                raise StepError(f"{where}: {reason}") from error
            fault = _first_line(error)
            _forget_what_does_not_fit(error)
    raise StepError(f"{where}: tried {ATTEMPTS} times, last: {fault}. {WITHOUT_HUB}.")


def _hopeless(error: Exception) -> str:
    """Why it is no use to try again; "" if it is."""
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set and {constants.HUGGINGFACE_HUB_CACHE} does not have it"
    reasons: list[tuple[type[Exception], str]] = [
        (GatedRepoError, "its terms have to be accepted on its page, and HF_TOKEN set"),
        (RepositoryNotFoundError, "no such repository, or a private one that needs HF_TOKEN"),
        (RevisionNotFoundError, "no such commit"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    if isinstance(error, LocalEntryNotFoundError):  # online: the hub could not be asked
        return ""
    if isinstance(error, EntryNotFoundError) or not isinstance(error, OSError):
        return _first_line(error)
    status = _status(error)
    if status == 403:
        return "forbidden (403): HF_TOKEN does not give access"
    return _first_line(error) if 400 <= status < 500 and status not in (408, 416, 429) else ""


def _forget_what_does_not_fit(error: Exception) -> None:
    """Parts that cannot be gone on with: the server answered with the whole, or has less."""
    if "Consistency check failed" in str(error) or _status(error) == 416:
        for part in Path(constants.HUGGINGFACE_HUB_CACHE).glob("*/blobs/*.incomplete"):
            part.unlink(missing_ok=True)


def _status(error: Exception) -> int:
    answer = error.response if isinstance(error, (HfHubHTTPError, requests.HTTPError)) else None
    return answer.status_code if answer is not None else 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
