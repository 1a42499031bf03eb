"""Random encoders of each family that transformers has, and the heads that people put on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import nn

from tests.passes import rotary_models

__all__ = ["ARCHITECTURES", "HEADS", "Architecture", "Size", "model_of"]

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"


@dataclass(frozen=True)
class Size:
    """Of a model; positions are as many as `most_tokens`."""

    channels: int = 64
    layers: int = 2
    heads: int = 2
    inner: int = 128
    vocabulary: int = 90
    most_tokens: int = 48

    @property
    def common(self) -> dict[str, Any]:
        """As most configurations of transformers name it."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.channels,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.most_tokens,
        }


@dataclass(frozen=True)
class Architecture:
    """config: of a size; auto: whether heads are those of transformers' Auto classes."""

    config: Callable[[Size], Any]
    inputs: tuple[str, ...] = (IDS, MASK)
    encoder: Callable[[Any], nn.Module] = transformers.AutoModel.from_config
    auto: bool = True


def of(name: str, *inputs: str, **changes: Any) -> Architecture:
    """A family whose configuration has the common names."""

    def config(size: Size) -> Any:
        given = {key: value(size) if callable(value) else value for key, value in changes.items()}
        return getattr(transformers, name)(**{**size.common, **given})

    return Architecture(config, (IDS, MASK, *inputs))


def distilbert(size: Size) -> Any:
    return transformers.DistilBertConfig(
        dim=size.channels,
        n_layers=size.layers,
        n_heads=size.heads,
        hidden_dim=size.inner,
        vocab_size=size.vocabulary,
        max_position_embeddings=size.most_tokens,
    )


def t5(projection: str) -> Architecture:
    def config(size: Size) -> Any:
        return transformers.T5Config(
            d_model=size.channels,
            d_kv=size.channels // size.heads,
            d_ff=size.inner,
            num_layers=size.layers,
            num_heads=size.heads,
            vocab_size=size.vocabulary,
            feed_forward_proj=projection,
        )

    return Architecture(config, encoder=transformers.T5EncoderModel, auto=False)


class Own(nn.Module):
    """A model of this project, called as those of transformers are."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__()
        model, _, options = rotary_models.MODELS[name]
        sizes = rotary_models.Sizes(
            size.channels, size.heads, size.inner, size.layers, size.vocabulary, size.most_tokens
        )
        self.model = model(sizes, **options)

    def forward(self, input_ids: Any, attention_mask: Any, return_dict: bool, **types: Any) -> Any:
        return (self.model(input_ids, attention_mask, *types.values()),)


def own(name: str) -> Architecture:
    inputs = rotary_models.MODELS[name][1]
    return Architecture(
        lambda size: SimpleNamespace(size=size), inputs, partial(built, name), auto=False
    )


def built(name: str, config: Any) -> nn.Module:
    return Own(name, config.size)


def rows_behind_padding(size: Size) -> int:
    """RoBERTa's positions begin behind the padding's id."""
    return size.most_tokens + 2


LIKE_ROBERTA: dict[str, Any] = {
    "type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": rows_behind_padding,
}  # fmt: skip
ARCHITECTURES: Mapping[str, Architecture] = {
    "BERT, MiniLM, ELECTRA": of("BertConfig", TYPES),
    "DistilBERT": Architecture(distilbert),
    "RoBERTa, XLM-R, CamemBERT": of("XLMRobertaConfig", **LIKE_ROBERTA),
    "ELECTRA small": of("ElectraConfig", TYPES, embedding_size=lambda size: size.channels // 2),
    "ALBERT": of("AlbertConfig", TYPES, embedding_size=lambda size: size.channels // 2),
    "MPNet": of(
        "MPNetConfig", pad_token_id=1, max_position_embeddings=rows_behind_padding
    ),
    "T5 encoder": t5("relu"),
    "T5 v1.1 encoder": t5("gated-gelu"),
    "ModernBERT": own("modernbert"),
    "nomic-bert": own("nomic"),
    "GTE": own("gte_types"),
    "DeBERTa-v3": of(
        "DebertaV2Config", type_vocab_size=0, relative_attention=True, position_buckets=16,
        pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False, max_relative_positions=-1,
    ),
    "MobileBERT": of(
        "MobileBertConfig", TYPES, embedding_size=lambda size: size.channels // 2,
        intra_bottleneck_size=lambda size: size.channels // 2,
        true_hidden_size=lambda size: size.channels // 2, num_feedforward_networks=2,
    ),
    "SqueezeBERT": of("SqueezeBertConfig", TYPES, embedding_size=lambda size: size.channels),
}  # fmt: skip


def seeded(model: nn.Module) -> nn.Module:
    """Weights large enough for attention and activations to matter, every norm different."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.1 * noise)
            else:
                parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
    return model.eval()


# --- heads ---
class Head(nn.Module):
    """The encoder's hidden states, and what is made of them and of the mask."""

    def __init__(self, model: nn.Module, made: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.model, self.made = model, made

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> Any:
        more = {TYPES: token_type_ids, "position_ids": position_ids}
        given = {name: tensor for name, tensor in more.items() if tensor is not None}
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        result = self.model(input_ids, attention_mask=mask, **given, return_dict=False)
        return self.made(result, mask)


def mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """sentence-transformers' pooling."""
    kept = mask.unsqueeze(-1).expand(hidden.size()).float()
    return (hidden * kept).sum(1) / torch.clamp(kept.sum(1), min=1e-9)


def greatest(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -1e9).max(1)[0]


def last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """That of the last token, as decoders are pooled."""
    return hidden[torch.arange(hidden.shape[0]), mask.sum(1) - 1]


def splade(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (torch.log1p(torch.relu(logits)) * mask.unsqueeze(-1)).amax(1)


def normalised(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(x, p=2, dim=1)


# name -> (transformers' Auto class, labels, what is made of its results and the mask)
HEADS: Mapping[str, tuple[str, int, Callable[[Any, torch.Tensor], Any]]] = {
    "hidden states": ("AutoModel", 2, lambda y, mask: y[0]),
    "classifier": ("AutoModelForSequenceClassification", 3, lambda y, mask: y[0]),
    "tagger": ("AutoModelForTokenClassification", 5, lambda y, mask: y[0]),
    "question answering": ("AutoModelForQuestionAnswering", 2, lambda y, mask: tuple(y[:2])),
    "masked words": ("AutoModelForMaskedLM", 2, lambda y, mask: y[0]),
    "mean, L2": ("AutoModel", 2, lambda y, mask: normalised(mean(y[0], mask))),
    "mean and hidden": ("AutoModel", 2, lambda y, mask: (y[0], normalised(mean(y[0], mask)))),
    "CLS, L2": ("AutoModel", 2, lambda y, mask: normalised(y[0][:, 0])),
    "max": ("AutoModel", 2, lambda y, mask: greatest(y[0], mask)),
    "last token": ("AutoModel", 2, lambda y, mask: last(y[0], mask)),
    "reranker, sigmoid": (
        "AutoModelForSequenceClassification", 1, lambda y, mask: y[0].sigmoid(),
    ),
    "classifier, softmax": (
        "AutoModelForSequenceClassification", 3, lambda y, mask: y[0].softmax(-1),
    ),
    "tagger, softmax": ("AutoModelForTokenClassification", 5, lambda y, mask: y[0].softmax(-1)),
    "tagger, argmax": ("AutoModelForTokenClassification", 5, lambda y, mask: y[0].argmax(-1)),
    "SPLADE": ("AutoModelForMaskedLM", 2, lambda y, mask: splade(y[0], mask)),
    "every layer": ("AutoModel", 2, lambda y, mask: tuple(y[-1])),
    "attention probabilities": ("AutoModel", 2, lambda y, mask: (y[0], *y[-1])),
}  # fmt: skip
ASKED = {"every layer": "output_hidden_states", "attention probabilities": "output_attentions"}


def model_of(architecture: str, head: str, size: Size) -> nn.Module:
    """A seeded model that takes the architecture's inputs by position."""
    row, (auto, labels, made) = ARCHITECTURES[architecture], HEADS[head]
    config = row.config(size)
    config.num_labels = labels
    if head in ASKED:
        setattr(config, ASKED[head], True)
    make = row.encoder if auto == "AutoModel" else getattr(transformers, auto).from_config
    return Head(seeded(make(config)), made).eval()
