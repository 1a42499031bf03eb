"""A Transformer's folder to fp32 ONNX by torch's exporter, batch and length dynamic."""

import argparse
import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.rulebook.writing import StepError, run_main, whole

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
AXES = {0: "batch", 1: "length"}


def load_model(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of safetensors, torch, transformers: whatever they meet in a file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(f"{folder}: not a model that can be read ({reason})") from error
    return model.eval()


def export(model: Any, out: Path, opset: int, inputs: Sequence[str] = INPUTS[:3]) -> None:
    """Write the ONNX file; of `inputs` those that the model's forward takes, in the order in which
    it takes them: the exporter gives out names in that order, whatever it is called with.
    """
    import torch

    taken = [name for name in inspect.signature(model.forward).parameters if name in inputs]
    ids = torch.tensor([[101, 7592, 2088, 102], [101, 2204, 102, 0]]) % model.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    positions = torch.arange(ids.shape[1]).expand_as(ids).contiguous()
    sample = dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids), positions), strict=True))
    model.config.return_dict = False
    with torch.no_grad():
        torch.onnx.export(
            model,
            ({name: sample[name] for name in taken},),
            str(out),
            input_names=taken,
            output_names=["logits"],
            dynamic_axes={**dict.fromkeys(taken, AXES), "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )


def main(arguments: argparse.Namespace) -> None:
    model = load_model(arguments.model)
    with whole(arguments.config) as partial:
        shutil.copyfile(arguments.model / "config.json", partial)
    with whole(arguments.out) as partial:
        export(model, partial, arguments.opset, arguments.inputs)
    print(f"{arguments.out}: opset {arguments.opset}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--opset", type=int, required=True)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=INPUTS[:3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True, help="beside the ONNX, for Optimum")
    run_main(main, parser)
