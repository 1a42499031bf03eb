"""A model of one layer as a graph of engine operators, for tests of what runs models."""

from __future__ import annotations

import numpy as np

from engine.graph import BLOCKS, Graph, Node, Value

CHANNELS, HEADS, INNER = 64, 2, 128


def sparse(random: np.random.Generator, outputs: int, inputs: int, pattern: str) -> np.ndarray:
    """Every fourth block is there."""
    weight = random.normal(size=(outputs, inputs)).astype(np.float32)
    block = BLOCKS.get(pattern, (1, 1))
    keep = random.random((outputs // block[0], inputs // block[1])) < 0.25
    if pattern == "dense":
        keep[:] = True
    return weight * np.kron(keep, np.ones(block, np.float32))


def tiny_graph(pattern: str = "4x1") -> Graph:
    """Embedding, key, attention, one Linear, LayerNorm, the first token, logits; float32."""
    random = np.random.default_rng(0)
    table = random.normal(size=(200, CHANNELS)).astype(np.float32)
    ones, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    constants = {
        "words": table, "positions": table[:64], "types": table[:2], "one": ones, "zero": zeros,
        "wide": sparse(random, INNER, CHANNELS, pattern),
        "back": sparse(random, CHANNELS, INNER, pattern),
        "head": random.normal(size=(2, CHANNELS)).astype(np.float32),
    }  # fmt: skip
    linear = {"pattern": pattern, "precision": "float32"}
    attention = {"heads": HEADS, "scale": (CHANNELS // HEADS) ** -0.5}

    tokens = "input_ids token_type_ids"

    def node(op: str, inputs: str, output: str, **attributes: object) -> Node:
        names = tuple("" if name == "-" else name for name in inputs.split())
        return Node(op, names, (output,), attributes, f"{output}_{op}", "engine")

    nodes = (
        node("Embedding", f"{tokens} words positions types one zero", "x", epsilon=1e-6),
        node("Attention", "x x x attention_mask", "a", **attention),
        node("Linear", "a wide - -", "h", activation="gelu", **linear),
        node("Linear", "h back - -", "y", **linear),
        node("LayerNorm", "y x - one zero", "z", epsilon=1e-6),
        node("Select", "z", "first", index=0),
        node("Linear", "first head - -", "logits", precision="float32"),
    )  # fmt: skip
    ids = ("input_ids", "attention_mask", "token_type_ids")
    inputs = tuple(Value(name, "int64", ("batch", "sequence")) for name in ids)
    outputs = (Value("logits", "float32", ("batch", 1, 2)),)
    return Graph("tiny", inputs, outputs, nodes, constants)


def feeds(lengths: list[int], length: int) -> dict[str, np.ndarray]:
    """Sentences of these lengths, padded and masked."""
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(1).integers(0, 100, mask.shape)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": 0 * mask}
