"""In place of `python` in the rules' commands: a fork of a process that has the large packages.

Importing torch, transformers and the like is most of what a step of a tiny model takes. Steps run
as they do otherwise: `python -m module arguments`, in their folder, with their environment and
output. Nothing of this repository is imported before the fork.

    python forked_python.py serve SOCKET        answers until it is ended
    python forked_python.py SOCKET -m module ...  is `python -m module ...`
"""

import json
import os
import signal
import socket
import sys

PACKAGES = (
    *("torch", "torch.onnx", "transformers", "tokenizers", "onnx", "onnxruntime", "pandas"),
    *("onnxruntime.quantization", "sklearn.metrics", "scipy.stats", "seqeval.metrics", "numba"),
    *("transformers.onnx", "pyarrow.parquet", "huggingface_hub"),
)


def ask(path: str, arguments: list[str]) -> int:
    about = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        message = json.dumps(about).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(message)
        answer = connection.recv(1)
    return answer[0] if answer else 1  # it was killed


def serve(path: str) -> None:
    import importlib

    for name in PACKAGES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Run what is asked for, in this process; does not return."""
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    message = b""
    while len(message) < int.from_bytes(size, "big"):
        message += connection.recv(1 << 16)
    about = json.loads(message)
    for place, file in enumerate(files):
        os.dup2(file, place)
    os.chdir(about["folder"])
    os.environ.clear()
    os.environ.update(about["environment"])
    code = run(about["arguments"], about["folder"])
    connection.sendall(bytes([code & 0xFF]))
    os._exit(code)


def run(arguments: list[str], folder: str) -> int:
    import runpy
    import traceback

    option, module, *rest = arguments
    assert option == "-m", arguments
    sys.argv[:] = [module, *rest]
    sys.orig_argv[:] = [sys.executable, *arguments]
    sys.path[:1] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
