"""Names of layers: the module's path in the framework it came from, for people to read."""

from __future__ import annotations

from collections.abc import Iterable

from ..graph import Node

__all__ = ["layer_name", "path_of"]

PARAMETERS = (".weight", ".bias", ".gamma", ".beta", ".weight_quantized", ".bias_quantized")


def layer_name(nodes: Iterable[Node], constants: Iterable[str] = ()) -> str:
    """From a parameter's name ("bert.pooler.dense.weight"), else from a node's path."""
    for name in constants:
        for ending in PARAMETERS:
            if name.endswith(ending) and "::" not in name:
                return name.removesuffix(ending)
    names = [node.name for node in nodes if node.name]
    paths = [path for path in map(path_of, names) if path]
    return paths[0] if paths else names[0] if names else ""


def path_of(name: str) -> str:
    """bert.pooler.dense of "/bert/pooler/dense/MatMul"; "" where there is no path."""
    if "/" not in name.strip("/"):
        return ""
    return name.strip("/").rsplit("/", 1)[0].replace("/", ".")
