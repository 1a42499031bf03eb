"""A Hugging Face hub on loopback: models and data sets of a folder, and the faults of a network.

    <folder>/<owner>/<name>/...             a model        <folder>/datasets/<owner>/<name>/...
Large files (LARGE and more) are served as the hub does: by a redirect to another server, with their
sha256 as ETag; small ones have git's sha1. `faults` is used up one by one:

    cut N       sends N bytes of a large file, then closes     silent N    waits N seconds
    wrong       sends other bytes of the same length           503, 401 …  answers with this status
    whole       ignores Range and sends the whole file
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000
LISTING = r"api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(\w+))?"
CODES = {401: "RepoNotFound", 403: "", 404: "RepoNotFound"}


class Hub:
    """Two servers: the hub, and the one that it sends large files from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[tuple[str, int]] = []
        self.etags: dict[str, str] = {}  # of files, in place of their checksums
        self.names: list[str] = []  # listed besides the files
        self.commit = COMMIT  # that it says it has
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # (method, path, headers)
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server in self.servers:
            server.hub = self
        self.address, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self.servers)

    def fault(self, kind: str, number: int = 0) -> None:
        self.faults.append((kind, number))

    def asked(self, word: str) -> list[dict[str, str]]:
        """Headers of the GET requests whose path has this word."""
        return [head for method, path, head in self.requests if method == "GET" and word in path]

    def next_fault(self, method: str, path: str) -> tuple[str, int]:
        """Faults of contents wait for a large file to be sent; the others take the next request."""
        if not self.faults:
            return "", 0
        of_content = self.faults[0][0] in ("cut", "wrong", "whole")
        if of_content and not (method == "GET" and path.startswith("storage/")):
            return "", 0
        return self.faults.pop(0)


class Handler(BaseHTTPRequestHandler):
    """Answers of both servers."""

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, dict(self.headers)))
        kind, number = self.hub.next_fault(self.command, path)
        if kind.isdigit():
            self.answer(int(kind), {"X-Error-Code": CODES.get(int(kind), "")})
            return
        if kind == "silent":
            time.sleep(number)
        if path.startswith("api/"):
            self.listing(path)
        elif path.startswith("storage/"):
            self.content(self.hub.folder / path.removeprefix("storage/"), kind, number)
        else:
            self.file(path)

    def listing(self, path: str) -> None:
        match = re.fullmatch(LISTING, path)
        assert match, path
        kind, name, revision = match.groups()
        folder = self.hub.folder / ("datasets" if kind == "datasets" else "") / name
        if not folder.is_dir():
            self.answer(401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, COMMIT):
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            names = [str(file.relative_to(folder)) for file in files] + self.hub.names
            listed = [{"rfilename": name} for name in names]
            about = {"id": name, "modelId": name, "sha": self.hub.commit, "siblings": listed}
            body = json.dumps({**about, "private": False, "tags": []}).encode()
            self.answer(200, {"Content-Type": "application/json"}, body)

    def file(self, path: str) -> None:
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.hub.folder / repository / name
        tag = self.hub.etags.get(name) or (etag(file) if file.is_file() else "")
        if revision != COMMIT:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif not file.is_file():
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif file.stat().st_size >= LARGE:
            head = {"X-Linked-Size": str(file.stat().st_size), "X-Repo-Commit": COMMIT}
            head["X-Linked-Etag"] = f'"{tag}"'
            self.answer(
                302, {**head, "Location": f"{self.hub.storage}/storage/{repository}/{name}"}
            )
        else:
            head = {"ETag": f'"{tag}"', "X-Repo-Commit": self.hub.commit}
            self.answer(200, head, file.read_bytes())

    def content(self, file: Path, kind: str, number: int) -> None:
        body = file.read_bytes()
        if kind == "wrong":
            body = bytes(len(body))
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not match or kind == "whole":
            self.answer(200, {}, body, cut=number if kind == "cut" else None)
        elif int(match[1]) >= len(body):
            self.answer(416, {})
        else:
            self.answer(206, {}, body[int(match[1]) :])

    def answer(
        self, status: int, head: dict[str, str], body: bytes = b"", cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])


def etag(file: Path) -> str:
    content = file.read_bytes()
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def served(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    for server in hub.servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in hub.servers:
            server.shutdown()
            server.server_close()
