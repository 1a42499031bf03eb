"""Files of the Hugging Face hub at a pinned commit, verified against the hub's own checksums.

What has no checksum is refused, and so is whatever would lead out of the cache: huggingface_hub
makes paths of ETags, of names and of the commit that a server sends.

A cut connection goes on where it stopped; what may pass by itself is tried again, after 1, 2, 4 s.
Honoured: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT (in seconds).
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

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

from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.writing import StepError

NO_CHECKSUM = "neither a sha256 nor git's sha1: nothing to verify the content by"
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
SILENCE_S = 30.0
WITHOUT_HUB = "config/config.yaml needs no hub"
DESCRIPTIONS = ["*.json", "vocab.txt", "merges.txt", "*.model"]
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
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
    if folder.name != revision:
        raise StepError(f"{repository}: the hub answers with commit {folder.name}, not {revision}")
    for file in folder.rglob("*"):
        if file.is_symlink() and file.is_dir():
            raise StepError(f"{file}: a link to a folder, which the hub does not have")
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
    if revision not in file.parts:
        raise StepError(f"{filename} of {repository}: the hub has no such commit as {revision}")
    verify(file)
    return file


def verify(file: Path) -> None:
    """The cache calls a blob as the hub does: by its sha256, or as git does if it is small."""
    blob = file.resolve()
    if blob.parent.name != "blobs" or blob.parents[1] not in file.parent.resolve().parents:
        raise StepError(f"{file}: is {blob}; expected a link to the blobs of the same repository")
    if not CHECKSUM.fullmatch(blob.name):
        raise StepError(f"{file}: called {blob.name}, which is {NO_CHECKSUM}")
    kind, digest = ("sha256", sha256) if len(blob.name) == 64 else ("git's sha1", git_sha1)
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
    """Gives up a request after some seconds of silence; huggingface_hub alone waits for ever.

    Raises:
        ValueError: what the answer says of a file is not to become a path.
    """

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        silence = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", SILENCE_S))
        answer = super().request(*arguments, **{**options, "timeout": silence})
        commit = answer.headers.get("X-Repo-Commit")
        if commit is not None and not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError(f"the hub says commit {commit!r}, expected 40 hexadecimal digits")
        if answer.request.method == "HEAD" and answer.status_code < 400:
            _expect_checksum(answer)
        return answer


def _expect_checksum(answer: requests.Response) -> None:
    """A relative redirect is followed; what it says of a file is not used."""
    if answer.is_redirect and not urlsplit(answer.headers["Location"]).netloc:
        return
    tag = answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag") or ""
    if not CHECKSUM.fullmatch(tag.removeprefix("W/").strip('"')):
        where = urlsplit(answer.url).path
        raise ValueError(f"{where}: the hub says ETag {tag}, {NO_CHECKSUM}")


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
        except (ValueError, OSError, LookupError, TypeError, AssertionError) as error:
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
