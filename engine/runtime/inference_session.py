"""ONNX Runtime's call on our session: a program that runs models with it changes one line.

session = engine.InferenceSession("int8.onnx")  # was onnxruntime.InferenceSession
logits = session.run(["logits"], {"input_ids": ids, ...})[0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, SettingError
from ..graph import Value
from . import load

__all__ = ["InferenceSession", "ModelMetadata", "NodeArg"]

Array = NDArray[Any]
PROVIDER = "CPUExecutionProvider"
TYPES = {"float32": "float", "float64": "double"}  # theirs, where they differ from NumPy's


@dataclass(frozen=True)
class NodeArg:
    """An input or output: type as "tensor(int64)", free dimensions by name."""

    name: str
    type: str
    shape: list[int | str]


@dataclass(frozen=True)
class ModelMetadata:
    """What a model says of itself."""

    graph_name: str
    producer_name: str = "engine"
    description: str = ""
    graph_description: str = ""
    domain: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


class InferenceSession:
    """A model ready to run; also takes an IR folder.  Only what has a meaning here is accepted."""

    def __init__(
        self,
        path_or_bytes: str | Path,
        sess_options: Any = None,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """sess_options: its intra_op_num_threads is the number of cores, 0 the default.

        Raises:
            SettingError: another provider than the CPU is wanted; InputError: the model as bytes.
            ModelError: see `engine.load`.
        """
        del provider_options, options  # of other providers, or about ONNX Runtime's own optimiser
        if isinstance(path_or_bytes, bytes):
            raise InputError("a model as bytes: expected the path of an ONNX file or an IR folder")
        wanted = [each if isinstance(each, str) else each[0] for each in providers or [PROVIDER]]
        if PROVIDER not in wanted:
            raise SettingError(f"providers {', '.join(wanted)}: this engine is {PROVIDER}")
        threads = int(getattr(sess_options, "intra_op_num_threads", 0)) or None
        self._session = load(path_or_bytes, threads=threads)
        self._options = sess_options
        self._model_path = str(path_or_bytes)  # Optimum reads it

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        run_options: Any = None,
    ) -> list[Array]:
        """The outputs asked for, in that order; all of them for None.

        Raises:
            InputError: an output that the model does not have; inputs as `Session.run`.
        """
        del run_options
        graph = self._session.graph
        known = [value.name for value in graph.outputs]
        for name in output_names or ():
            if name not in known:
                raise InputError(f"output '{name}': the model has {', '.join(known)}")
        made = self._session.run({name: np.asarray(array) for name, array in input_feed.items()})
        return [made[name] for name in output_names or known]

    def get_inputs(self) -> list[NodeArg]:
        return [_node_arg(value) for value in self._session.graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [_node_arg(value) for value in self._session.graph.outputs]

    def get_modelmeta(self) -> ModelMetadata:
        return ModelMetadata(self._session.graph.name)

    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {PROVIDER: {}}

    def get_session_options(self) -> Any:
        return self._options

    def describe(self) -> list[dict[str, Any]]:
        """See `Session.describe`."""
        return self._session.describe()


def _node_arg(value: Value) -> NodeArg:
    return NodeArg(value.name, f"tensor({TYPES.get(value.dtype, value.dtype)})", list(value.shape))
