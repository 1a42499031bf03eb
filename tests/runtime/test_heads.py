"""What people put behind an encoder: wholly in kernels, and ONNX Runtime's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.passes import exported  # noqa: E402

functional = torch.nn.functional
Feeds = dict[str, np.ndarray]


class Embedder(torch.nn.Module):
    """Rows of sentences as sentence-transformers makes them."""

    names = ("mean", "first", "greatest", "both")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = exported.bert("BertModel")

    def forward(self, input_ids, attention_mask, token_type_ids):
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)[0]
        spread = attention_mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
        mean = (hidden * spread).sum(1) / torch.clamp(spread.sum(1), min=1e-9)
        greatest = torch.max(hidden.masked_fill(spread == 0, -1e9), 1)[0]
        first = functional.normalize(hidden[:, 0], p=2, dim=1)
        lengths = attention_mask.sum(1, keepdim=True).to(hidden.dtype)
        both = (hidden * attention_mask[:, :, None]).sum(dim=1) / lengths
        return functional.normalize(mean), first, greatest, both / both.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module", params=["legacy", "dynamo"])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "embedder.onnx"
    dynamo = request.param == "dynamo"
    return exported.export(
        Embedder(), path, outputs=Embedder.names, opset=18 if dynamo else 14, dynamo=dynamo
    )


def sentences(lengths: tuple[int, ...], tokens: int) -> Feeds:
    """The first has holes in its mask."""
    random, mask = np.random.default_rng(tokens), np.arange(tokens) < np.array(lengths)[:, None]
    mask[0, 2:5:2] = tokens < 4
    ids, types = (random.integers(low, most, mask.shape) for low, most in ((2, 90), (0, 2)))
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}


def like_onnx_runtime(path: Path, session: engine.Session, feeds: Feeds) -> None:
    made = session.run(feeds)
    for name, wanted in exported.runtime(path, feeds).items():
        assert (made[name].shape, made[name].dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(made[name], wanted, atol=1e-4, err_msg=name)


def test_rows_of_sentences(embedder: Path) -> None:
    session = engine.load(embedder)
    assert session.plan is not None and session.plan.fallback is None and not session.plan.mixes
    for lengths, tokens in (((1,), 1), ((31,), 31), ((37, 2, 20), 37), ((40,), 40)):
        like_onnx_runtime(embedder, session, sentences(lengths, tokens))
    odd = sentences((9, 12, 5), 12)
    odd["attention_mask"][2, 0] = 0  # the first is masked: the reference makes this one
    like_onnx_runtime(embedder, session, odd)


@pytest.mark.parametrize("threads", [1, 2])
def test_company_changes_nothing(embedder: Path, threads: int) -> None:
    feeds = sentences((12, 40, 1, 16, 33, 7, 40, 5), 40)
    session = engine.load(embedder, threads=threads)
    together = session.run(feeds)
    for row in range(8):
        alone = session.run({name: array[row : row + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][row], err_msg=name)
