"""The sparse student as a small Hugging Face folder: fp16 weights, tokenizer with vocab.txt.

`from_pretrained` computes in fp32 all the same: config.json says torch_dtype float32, and
transformers converts fp16 weights to the type of the model it builds.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from workflow.rulebook.writing import StepError, run_main, whole, write_json
from workflow.scripts.sparsify.blocks import BLOCKS, encoder_linears, zero_share
from workflow.scripts.sparsify.teacher import save_model


def ship(source: Path, folder: Path, *, pattern: str, sparsity: float, longest: int) -> None:
    """Write `folder`; StepError names a Linear that fell short of the sparsity."""
    model = AutoModelForSequenceClassification.from_pretrained(source)
    for name, module in encoder_linears(model):
        share = zero_share(module.weight, pattern)
        if share < sparsity:
            raise StepError(f"{source}, {name}: {share:.4f} of {pattern} blocks are zero")
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=longest)
    with whole(folder) as partial:
        save_model(model.half(), tokenizer, partial)
        config = json.loads((partial / "config.json").read_text())
        config.pop("_name_or_path", None)  # a path of the machine it was made on
        write_json(partial / "config.json", config | {"torch_dtype": "float32"})
        tidy_tokenizer(partial)


def tidy_tokenizer(folder: Path) -> None:
    """No truncation or padding inside tokenizer.json: whoever calls it decides."""
    path = folder / "tokenizer.json"
    write_json(path, json.loads(path.read_text()) | {"truncation": None, "padding": None})


def main(a: argparse.Namespace) -> None:
    torch.manual_seed(0)
    ship(a.model, a.output, pattern=a.pattern, sparsity=a.sparsity, longest=a.longest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pattern", choices=BLOCKS, default="4x1")
    parser.add_argument("--sparsity", type=float, default=0.9, help="least share of zero blocks")
    parser.add_argument("--longest", type=int, default=512, help="tokens the tokenizer cuts at")
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, OSError, ValueError)
