"""DeepSparse, from the environment that PEERS_HOME holds."""

from typing import Any

import deepsparse
import numpy as np

Feed = dict[str, np.ndarray]


def prepare(model: str, threads: int, feed: Feed) -> Any:
    shapes = [list(array.shape) for array in feed.values()]
    session = deepsparse.Engine(
        model, batch_size=shapes[0][0], num_cores=threads, input_shapes=shapes
    )
    names = getattr(session, "input_names", list(feed))
    return session, [np.ascontiguousarray(feed[name]) for name in names]


def run(prepared: Any) -> np.ndarray:
    session, arrays = prepared
    return session.run(arrays)[0]


def facts(prepared: Any) -> dict[str, Any]:
    return {"version": deepsparse.__version__}
