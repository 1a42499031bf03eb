"""ONNX Runtime's call on our session: a program that runs models with it changes one line.

session = engine.InferenceSession("int8.onnx")  # was onnxruntime.InferenceSession
logits = session.run(["logits"], {"input_ids": ids, ...})[0]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from numpy.typing import NDArray

from ..errors import FOREIGN, EngineError, InputError, ResourceError, SettingError
from ..graph import ModelMetadata, Value
from . import load
from .io_binding import IOBinding, NodeArg, OrtValue, as_array, known, tensor_type

__all__ = ["InferenceSession", "NodeArg", "SessionOptions"]

Array = NDArray[Any]
PROVIDER = "CPUExecutionProvider"
# Comes with ONNX Runtime's packages for CPUs, and first in their list, which sentence-transformers
# takes; it has operators of its own, and leaves all others to the CPU.
ON_CPU = {PROVIDER, "AzureExecutionProvider"}
Providers = Sequence[str | tuple[str, Mapping[str, Any]]]
Callback = Callable[[list[Array], Any, str], None]


@dataclass
class SessionOptions:
    """What counts here of ONNX Runtime's options."""

    intra_op_num_threads: int


class InferenceSession:
    """A model ready to run; also takes an IR folder.  Only what has a meaning here is accepted.

    Pickled, it is its path, or, where it came as bytes, the graph that it runs.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: Any = None,
        providers: Providers | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """sess_options: its intra_op_num_threads is the number of cores, 0 the default.

        Raises:
            SettingError: another provider than the CPU is wanted; InputError: neither a path nor
            bytes.  ModelError: see `engine.load`.
        """
        del options  # about ONNX Runtime's own optimiser
        if not isinstance(path_or_bytes, str | os.PathLike | bytes):
            kind = type(path_or_bytes).__name__
            raise InputError(f"a model as {kind}: expected the path of an ONNX file or its bytes")
        self.set_providers(providers, provider_options)
        threads = int(getattr(sess_options, "intra_op_num_threads", 0)) or None
        source = path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._session = load(source, threads=threads)
        self._options = sess_options or SessionOptions(self._session.threads)
        self._model_path = source if isinstance(source, str) else None  # Optimum reads it

    # --- calls
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Array]:
        """The outputs asked for, in that order; all of them for None.  Inputs are arrays, OrtValues
        or lists.

        Raises:
            InputError: an input or output that the model does not have; inputs as `Session.run`.
        """
        del run_options
        outputs = [value.name for value in self._session.graph.outputs]
        wanted = [known(name, "output", outputs) for name in output_names or outputs]
        made = self._session.run(self._arrays(input_feed))
        return [made[name] for name in wanted]

    def _arrays(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        types = {value.name: value.dtype for value in self._session.graph.inputs}
        names = list(types)
        return {
            name: as_array(value, name, types[known(name, "input", names)])
            for name, value in feed.items()
        }

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[OrtValue]:
        """`run`, whose results are OrtValues."""
        made = self.run(output_names, input_dict_ort_values, run_options)
        return [OrtValue(array) for array in made]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callback,
        user_data: Any,
        run_options: Any = None,
    ) -> None:
        """`run` in a thread of its own, then callback(results, user_data, error) there: error is ""
        or, where there are no results, what `run` would have raised.

        Raises:
            InputError: an input is missing; ResourceError: there are too many threads.
        """
        missing = [x.name for x in self._session.graph.inputs if x.name not in input_feed]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing: got {', '.join(input_feed)}")

        def work() -> None:
            results, failure = _outcome(lambda: self.run(output_names, input_feed, run_options))
            callback(results, user_data, failure)

        try:
            Thread(target=work).start()
        except RuntimeError as error:
            raise ResourceError(f"a thread for run_async: {error}") from error

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        """Reads what is bound, and leaves results there.

        Raises:
            InputError: the binding is another session's, or has no outputs; as `run`.
        """
        if not isinstance(iobinding, IOBinding) or iobinding.session is not self:
            raise InputError("a binding of another session: expected one of this one's io_binding")
        if not iobinding.outputs:
            raise InputError("no output is bound: expected one or more")
        iobinding.receive(self.run(list(iobinding.outputs), iobinding.inputs, run_options))

    # --- what it is
    def get_inputs(self) -> list[NodeArg]:
        return [_node_arg(value) for value in self._session.graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [_node_arg(value) for value in self._session.graph.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: a constant that stands among the inputs is one all the same, and packed."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the ONNX file says of itself; an IR has a name only."""
        graph = self._session.graph
        return graph.metadata or ModelMetadata(graph.name)

    def get_session_options(self) -> Any:
        """Those that were given, or the number of threads."""
        return self._options

    def describe(self) -> list[dict[str, Any]]:
        """See `Session.describe`."""
        return self._session.describe()

    # --- providers
    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {PROVIDER: {}}

    def set_providers(
        self,
        providers: Providers | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Only says whether the CPU would run the model with them.

        Raises:
            SettingError: it would not.
        """
        del provider_options
        wanted = [x[0] if isinstance(x, tuple) else str(x) for x in providers or [PROVIDER]]
        if not ON_CPU.intersection(wanted):
            raise SettingError(f"providers {', '.join(wanted)}: this engine is {PROVIDER}")

    def enable_fallback(self) -> None:
        """There is no other provider to fall back to."""

    def disable_fallback(self) -> None:
        """There is no other provider to fall back to."""

    # --- how it travels
    def __getstate__(self) -> dict[str, Any]:
        path = self._model_path
        model = self._session if path is None else os.path.abspath(path)
        return {"model": model, "threads": self._session.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model, threads = state["model"], state["threads"]
        is_path = isinstance(model, str)
        self._session = load(model, threads=threads) if is_path else model
        self._options = SessionOptions(threads)
        self._model_path = model if is_path else None


def _outcome(run: Callable[[], list[Array]]) -> tuple[list[Array], str]:
    """Results and no error, or the reverse."""
    try:
        return run(), ""
    except (EngineError, *FOREIGN) as error:
        return [], str(error) or type(error).__name__


def _node_arg(value: Value) -> NodeArg:
    return NodeArg(value.name, tensor_type(value.dtype), list(value.shape))
