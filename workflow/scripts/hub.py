"""Files of the Hugging Face hub at a pinned commit; its HF_* variables are honoured."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from workflow.scripts.writing import StepError

ATTEMPTS = 3
FIRST_PAUSE_S = 1.0
WITHOUT_HUB = "config/config.yaml needs no hub"

Result = TypeVar("Result")


def download_model(repository: str, revision: str) -> Path:
    """A folder of the local cache with the model; safetensors if the repository has them."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "vocab.txt", "merges.txt", "*.model", "*.safetensors"]
    folder = _tried(
        f"{repository} at {revision}",
        lambda: Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)),
    )
    if not list(folder.glob("*.safetensors")):
        folder = _tried(
            f"{repository} at {revision}",
            lambda: Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=[*patterns, "pytorch_model.bin"]
                )
            ),
        )
    return folder


def download_data_file(repository: str, revision: str, filename: str) -> Path:
    from huggingface_hub import hf_hub_download

    return _tried(
        f"{filename} of data set {repository} at {revision}",
        lambda: Path(hf_hub_download(repository, filename, revision=revision, repo_type="dataset")),
    )


def _tried(what: str, download: Callable[[], Result]) -> Result:
    """The download, tried again where that can help; the error says what was tried."""
    from huggingface_hub.utils import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from requests import RequestException

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    where = f"{what} from {endpoint}"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return download()
        except LocalEntryNotFoundError as error:
            fault = _first_line(error)
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
            raise StepError(f"{where}: {_first_line(error)}") from error
        except (HfHubHTTPError, RequestException, OSError) as error:
            fault = _first_line(error)
        if attempt < ATTEMPTS:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise StepError(f"{where}: tried {ATTEMPTS} times, last: {fault}. {WITHOUT_HUB}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
