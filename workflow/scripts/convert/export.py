"""A Transformer's folder to fp32 ONNX by torch's exporter, batch and length dynamic; or the ONNX
file that the folder has in place of torch's weights, as it is.
"""

import argparse
import inspect
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.rulebook.names import KINDS
from workflow.rulebook.writing import StepError, run_main, whole
from workflow.scripts.convert.heads import HEADS, TOKENS, Pooling, embedder, load_model, pooling_of

ONNX = "model.onnx"
QUANTIZED = re.compile("uantize|^QLinear|Integer|NBits")  # operators
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def inputs_taken(model: Any, inputs: Sequence[str]) -> list[str]:
    """Of `inputs` those that the model takes, in the order in which it takes them: the exporter
    gives out names in that order, whatever it is called with.  Token types of one kind say nothing.
    """
    one_kind = getattr(model.config, "type_vocab_size", 2) < 2
    return [
        name
        for name in inspect.signature(model.forward).parameters
        if name in inputs and not (name == "token_type_ids" and one_kind)
    ]


def export(
    model: Any,
    out: Path,
    opset: int,
    inputs: Sequence[str] = INPUTS[:3],
    *,
    kind: str = "text-classification",
    pooling: Pooling | None = None,
) -> None:
    """Write the ONNX file of a model that `load_model` has read; with pooling, of its embedding."""
    import torch

    taken, outputs = inputs_taken(model, inputs), HEADS[kind].outputs
    ids = torch.tensor([[101, 7592, 2088, 102], [101, 2204, 102, 0]]) % model.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    positions = torch.arange(ids.shape[1]).expand_as(ids).contiguous()
    sample = dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids), positions), strict=True))
    model.config.return_dict = False
    given: Any = ({name: sample[name] for name in taken},)
    if pooling:
        model = embedder(model, pooling, taken)
        given = tuple(sample[name] for name in taken)
    with torch.no_grad():
        torch.onnx.export(
            model,
            given,
            str(out),
            input_names=taken,
            output_names=list(outputs),
            dynamic_axes={**dict.fromkeys(taken, TOKENS), **outputs},
            opset_version=opset,
            dynamo=False,
        )


def whole_fp32(path: Path) -> Path:
    """Raises StepError: an ONNX file that is not all there is of a model, or that is quantised."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf: whatever it meets in a file
        raise StepError(f"{path}: not an ONNX file ({error!r:.80})") from error
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        raise StepError(f"{path}: weights in another file; expected all in one")
    quantized = sorted({n.op_type for n in model.graph.node if QUANTIZED.search(n.op_type)})
    if quantized:
        raise StepError(
            f"{path}: has {', '.join(quantized)}; expected a file that is not quantised"
        )
    return path


def main(arguments: argparse.Namespace) -> None:
    folder, kind = arguments.model, arguments.kind
    with whole(arguments.config) as partial:
        shutil.copyfile(folder / "config.json", partial)
    with whole(arguments.out) as partial:
        if (folder / ONNX).exists():
            shutil.copyfile(whole_fp32(folder / ONNX), partial)
        else:
            model = load_model(folder, kind)
            pooling = pooling_of(folder) if kind == "sentence-similarity" else None
            export(model, partial, arguments.opset, arguments.inputs, kind=kind, pooling=pooling)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--opset", type=int, required=True)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=INPUTS[:3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True, help="beside the ONNX, for Optimum")
    run_main(main, parser)
