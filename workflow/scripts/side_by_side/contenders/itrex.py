"""ITREX's Neural Engine, from the environment in PEERS_HOME: an IR folder, or ONNX to compile.

Its package's `transformers` needs torch, its engine does not: an empty module stands in for it.
"""

import logging
import sys
import tempfile
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

import intel_extension_for_transformers as package
import numpy as np

Feed = dict[str, np.ndarray]

logging.disable(logging.INFO)
shell = types.ModuleType("intel_extension_for_transformers.transformers")
shell.__path__ = [f"{package.__path__[0]}/transformers"]
sys.modules[shell.__name__] = shell

from intel_extension_for_transformers.transformers.runtime.compile import (  # noqa: E402
    autocast,
    compile,
)
from intel_extension_for_transformers.transformers.runtime.compile.graph import (  # noqa: E402
    Graph,
)

FOLDER = tempfile.TemporaryDirectory()  # the engine reads its IR at the first run


def _sparse(path: str, folder: str) -> Any:
    """Its sparse form: [channels, tokens], which its fused attention does not know."""
    with autocast("native"):
        compile(path, {"pattern_switch": {"MultiHeadAttention": False}}).save(f"{folder}/plain")
        graph = Graph()
        graph.graph_init(f"{folder}/plain/conf.yaml", f"{folder}/plain/model.bin", load_weight=True)
        graph.transpose_mode_int8()
        graph.save(f"{folder}/sparse")
        return compile(f"{folder}/sparse")


@lru_cache(maxsize=1)
def _graph(path: str) -> Any:
    if Path(path).is_dir():
        with autocast("native"):
            return compile(path)
    return _sparse(path, FOLDER.name)


def prepare(model: str, threads: int, feed: Feed) -> Any:
    graph = _graph(model)
    names = [tensor.name.split(":")[0] for tensor in graph.nodes[0].output_tensors]
    return graph, [feed[name].astype(np.int32) for name in names if name in feed]


def run(prepared: Any) -> np.ndarray:
    graph, arrays = prepared
    return list(graph.inference(arrays).values())[0]


def facts(prepared: Any) -> dict[str, Any]:
    return {"version": package.__version__}
