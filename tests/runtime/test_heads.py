"""What people put behind an encoder: wholly in kernels, and ONNX Runtime's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.passes import exported  # noqa: E402

functional = torch.nn.functional
Feeds = dict[str, np.ndarray]
OF_TOKENS = ("start", "end", "tags", "labels")


class Embedder(torch.nn.Module):
    """Rows of sentences as sentence-transformers makes them."""

    names = ("mean", "first", "greatest", "both", "last", "side_by_side")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = exported.bert("BertModel")

    def forward(self, input_ids, attention_mask, token_type_ids):
        out = self.encoder(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
        hidden, states = out[0], out[2]
        spread = attention_mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
        mean = (hidden * spread).sum(1) / torch.clamp(spread.sum(1), min=1e-9)
        greatest = torch.max(hidden.masked_fill(spread == 0, -1e9), 1)[0]
        first = functional.normalize(hidden[:, 0], p=2, dim=1)
        lengths = attention_mask.sum(1, keepdim=True).to(hidden.dtype)
        both = (hidden * attention_mask[:, :, None]).sum(dim=1) / lengths
        both = both / both.norm(dim=-1, keepdim=True)
        ends = attention_mask.shape[1] - 1 - attention_mask.to(torch.int32).flip(1).max(1)[1]
        ends = ends[:, None, None].expand(-1, 1, hidden.shape[-1])
        last = torch.gather(hidden * spread, 1, ends)[:, 0]
        of_two = ((states[0] + states[-1]) / 2 * spread).sum(1) / torch.sqrt(lengths)
        rows = torch.cat([of_two, states[-2][:, 0], greatest], 1)
        return functional.normalize(mean), first, greatest, both, last, rows


class Reader(torch.nn.Module):
    """What question answerers, taggers, classifiers, rerankers and SPLADE make of tokens."""

    names = (
        "start", "end", "tags", "labels", "classes", "probabilities", "second", "score", "best",
        "words", "logarithms",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.encoder = exported.bert("BertModel")
        self.spans, self.tagger = torch.nn.Linear(32, 2), torch.nn.Linear(32, 5)
        self.classifier, self.scorer = torch.nn.Linear(32, 3), torch.nn.Linear(32, 1)
        self.decoder = torch.nn.Linear(32, 90)
        exported.seeded(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        hidden, pooled = self.encoder(input_ids, attention_mask, token_type_ids)[:2]
        start, end = self.spans(hidden).split(1, dim=-1)
        tags, classes = self.tagger(hidden), self.classifier(pooled)
        weights = torch.log(1 + torch.relu(self.decoder(hidden))) * attention_mask.unsqueeze(-1)
        probabilities = torch.softmax(classes, dim=1)
        return (
            start.squeeze(-1).contiguous(), end.squeeze(-1).contiguous(),
            torch.softmax(tags, dim=-1), torch.argmax(tags, dim=-1),
            torch.sigmoid(classes), probabilities, probabilities[:, 1],
            torch.sigmoid(self.scorer(pooled)).squeeze(-1), classes.argmax(-1, keepdim=True),
            weights.max(dim=1)[0], torch.log_softmax(classes, -1),
        )  # fmt: skip


MODELS = {"embedder": Embedder, "reader": Reader}


@pytest.fixture(scope="module", params=["legacy", "dynamo"])
def file_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a model -> its file, made once."""
    folder, dynamo = tmp_path_factory.mktemp("heads"), request.param == "dynamo"

    def path(name: str) -> Path:
        model, file = MODELS[name], folder / f"{name}.onnx"
        if not file.exists():
            opset = 18 if dynamo else 14
            exported.export(model(), file, outputs=model.names, opset=opset, dynamo=dynamo)
        return file

    return path


def sentences(lengths: tuple[int, ...], tokens: int) -> Feeds:
    """The first has holes in its mask."""
    random, mask = np.random.default_rng(tokens), np.arange(tokens) < np.array(lengths)[:, None]
    mask[0, 2:5:2] = tokens < 4
    ids, types = (random.integers(low, most, mask.shape) for low, most in ((2, 90), (0, 2)))
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}


def like_onnx_runtime(path: Path, session: engine.Session, feeds: Feeds) -> None:
    """Where tokens are not masked."""
    made, real = session.run(feeds), feeds["attention_mask"] != 0
    for name, wanted in exported.runtime(path, feeds).items():
        got = made[name]
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), name
        if name in OF_TOKENS:
            got, wanted = got[real], wanted[real]
        np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_kernels(file_of: Any, name: str) -> None:
    session = engine.load(file_of(name))
    assert session.plan is not None and session.plan.fallback is None and not session.plan.mixes
    for lengths, tokens in (((1,), 1), ((31,), 31), ((37, 2, 20), 37), ((40,), 40)):
        like_onnx_runtime(file_of(name), session, sentences(lengths, tokens))
    odd = sentences((9, 12, 5), 12)
    odd["attention_mask"][2, 0] = 0  # the first is masked: the reference makes this one
    like_onnx_runtime(file_of(name), session, odd)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_company_changes_nothing(file_of: Any, name: str, threads: int) -> None:
    feeds = sentences((12, 40, 1, 16, 33, 7, 40, 5), 40)
    session = engine.load(file_of(name), threads=threads)
    together = session.run(feeds)
    for row in range(8):
        alone = session.run({key: array[row : row + 1] for key, array in feeds.items()})
        for key, array in alone.items():
            np.testing.assert_array_equal(array[0], together[key][row], err_msg=key)
