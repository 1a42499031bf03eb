"""Small random encoders with rotary positions, which transformers 4.34 does not have: ModernBERT,
nomic-bert and GTE (Alibaba's `new` implementation), with the spellings of their own sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.passes.exported import seeded

LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Sizes:
    """Two heads; every layer but the first of three sees `window` tokens, half to either side."""

    hidden: int = 64
    heads: int = 2
    inner: int = 96
    layers: int = 2
    vocabulary: int = 100
    positions: int = 256
    window: int = 16

    @property
    def depth(self) -> int:
        return self.hidden // self.heads


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def angles(depth: int, theta: float) -> Tensor:
    """Of a position: [depth / 2]."""
    return 1.0 / theta ** (torch.arange(0, depth, 2, dtype=torch.float32) / depth)


def lowered(mask: Tensor) -> Tensor:
    """[batch, 1, 1, keys]: the lowest number where a token is masked."""
    return (1.0 - mask[:, None, None, :].float()) * LOWEST


def softmax_of(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    return functional.softmax(scores + mask, dim=-1)


# --- ModernBERT ---
class Turns(nn.Module):
    """cos and sin [batch, tokens, depth] of numbered tokens, made at run time."""

    def __init__(self, depth: int, theta: float) -> None:
        super().__init__()
        self.register_buffer("inv_freq", angles(depth, theta))

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        expanded = self.inv_freq[None, :, None].float().expand(places.shape[0], -1, 1)
        freqs = (expanded @ places[:, None, :].float()).transpose(1, 2)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()


class ModernBertLayer(nn.Module):
    def __init__(self, sizes: Sizes, number: int) -> None:
        super().__init__()
        self.heads, self.local = sizes.heads, number % 3 != 0
        self.turns = Turns(sizes.depth, 10000.0 if self.local else 160000.0)
        self.attn_norm = nn.LayerNorm(sizes.hidden, bias=False) if number else nn.Identity()
        self.Wqkv = nn.Linear(sizes.hidden, 3 * sizes.hidden, bias=False)
        self.Wo = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.mlp_norm = nn.LayerNorm(sizes.hidden, bias=False)
        self.Wi = nn.Linear(sizes.hidden, 2 * sizes.inner, bias=False)
        self.mlp = nn.Linear(sizes.inner, sizes.hidden, bias=False)

    def attention(self, x: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        batch, _, channels = x.shape
        qkv = self.Wqkv(x).view(batch, -1, 3, self.heads, channels // self.heads)
        cos, sin = (each.unsqueeze(1) for each in self.turns(places))
        query, key, value = qkv.transpose(3, 1).unbind(dim=2)
        query = query * cos + rotate_half(query) * sin
        key = key * cos + rotate_half(key) * sin
        scores = torch.matmul(query, key.transpose(2, 3)) * (channels // self.heads) ** -0.5
        weights = functional.softmax(scores + mask, dim=-1)
        context = torch.matmul(weights, value).transpose(1, 2).contiguous()
        return self.Wo(context.view(batch, -1, channels))

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor], places: Tensor) -> Tensor:
        x = x + self.attention(self.attn_norm(x), masks[self.local], places)
        inner, gate = self.Wi(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.mlp(functional.gelu(inner) * gate)


class ModernBert(nn.Module):
    """No token types, no table of positions, no biases; norms come first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.window = sizes.window
        self.words = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden, bias=False)
        self.layers = nn.ModuleList(ModernBertLayer(sizes, n) for n in range(sizes.layers))
        self.final_norm = nn.LayerNorm(sizes.hidden, bias=False)

    def masks(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """For layers that see everything, and for those that see a window."""
        batch, tokens = mask.shape
        wide = 1.0 - mask[:, None, None, :].expand(batch, 1, tokens, tokens).float()
        wide = wide.masked_fill(wide.bool(), LOWEST)
        rows = torch.arange(wide.shape[2], device=mask.device).unsqueeze(0)
        near = (torch.abs(rows - rows.T) <= self.window // 2)[None, None]
        return wide, wide.masked_fill(near.logical_not(), LOWEST)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        x, masks = self.norm(self.words(input_ids)), self.masks(attention_mask)
        for layer in self.layers:
            x = layer(x, masks, places)
        return self.final_norm(x)


# --- nomic-bert ---
class NomicLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.register_buffer("inv_freq", angles(sizes.depth, 1000.0))
        self.Wqkv = nn.Linear(sizes.hidden, 3 * sizes.hidden, bias=False)
        self.out = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.fc11, self.fc12 = (nn.Linear(sizes.hidden, sizes.inner, bias=False) for _ in range(2))
        self.fc2 = nn.Linear(sizes.inner, sizes.hidden, bias=False)
        self.norm1, self.norm2 = (nn.LayerNorm(sizes.hidden) for _ in range(2))

    def rotated(self, qkv: Tensor) -> Tensor:
        times = torch.arange(qkv.shape[1], device=qkv.device, dtype=torch.float32)
        freqs = torch.outer(times, self.inv_freq)
        cos, sin = (torch.cat((f, f), -1)[:, None] for f in (freqs.cos(), freqs.sin()))
        depth, turned = cos.shape[-1], []
        for x in (qkv[:, :, 0], qkv[:, :, 1]):
            near, far = x[..., :depth], x[..., depth:]
            first, second = near.chunk(2, dim=-1)
            half = torch.cat((-second, first), dim=-1)
            turned.append(torch.cat([near * cos + half * sin, far], dim=-1))
        return torch.stack((*turned, qkv[:, :, 2]), dim=2)

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        qkv = self.Wqkv(x).reshape(batch, tokens, 3, self.heads, channels // self.heads)
        qkv = self.rotated(qkv)
        query, key, value = (qkv[:, :, n].permute(0, 2, 1, 3) for n in range(3))
        context = torch.matmul(softmax_of(query, key, mask), value).permute(0, 2, 1, 3)
        return self.out(context.reshape(batch, tokens, channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(self.attention(x, mask) + x)
        gated = self.fc11(x) * functional.silu(self.fc12(x))
        return self.norm2(self.fc2(gated) + x)


class Nomic(nn.Module):
    """Token types, no table of positions; norms come last."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.types = nn.Embedding(2, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden)
        self.layers = nn.ModuleList(NomicLayer(sizes) for _ in range(sizes.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        x = self.norm(self.words(input_ids) + self.types(token_type_ids))
        mask = lowered(attention_mask)
        for layer in self.layers:
            x = layer(x, mask)
        return x


# --- GTE ---
class GteLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv_proj = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.o_proj = nn.Linear(sizes.hidden, sizes.hidden)
        self.up_gate_proj = nn.Linear(sizes.hidden, 2 * sizes.inner, bias=False)
        self.down_proj = nn.Linear(sizes.inner, sizes.hidden)
        self.attn_norm, self.mlp_norm = (nn.LayerNorm(sizes.hidden) for _ in range(2))

    def attention(self, x: Tensor, mask: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        (cos, sin), channels = turns, x.shape[-1]
        shape = (*x.shape[:-1], self.heads, channels // self.heads)
        parts = self.qkv_proj(x).split(channels, dim=-1)
        query, key, value = (part.view(shape) for part in parts)
        query = query * cos + rotate_half(query) * sin
        key = key * cos + rotate_half(key) * sin
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        context = torch.matmul(softmax_of(query, key, mask), value)
        context = context.permute(0, 2, 1, 3).contiguous()
        return self.o_proj(context.view(*context.shape[:-2], channels))

    def forward(self, x: Tensor, mask: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        x = self.attn_norm(x + self.attention(x, mask, turns))
        up, gate = torch.split(self.up_gate_proj(x), self.down_proj.in_features, dim=-1)
        return self.mlp_norm(x + self.down_proj(functional.gelu(gate) * up))


class Gte(nn.Module):
    """cos and sin from a table, by position; token types where there are any."""

    def __init__(self, sizes: Sizes, *, types: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.types = nn.Embedding(2, sizes.hidden) if types else None
        self.norm = nn.LayerNorm(sizes.hidden)
        self.layers = nn.ModuleList(GteLayer(sizes) for _ in range(sizes.layers))
        places = torch.arange(sizes.positions, dtype=torch.float32)
        freqs = torch.outer(places, angles(sizes.depth, 500000.0) / 2 ** (2 / sizes.depth))  # NTK
        emb = torch.cat((freqs, freqs), dim=-1)
        self.register_buffer("cos_cached", emb.cos())
        self.register_buffer("sin_cached", emb.sin())
        self.register_buffer("position_ids", torch.arange(sizes.positions))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        length = input_ids.shape[1]
        places = self.position_ids[:length].unsqueeze(0).expand_as(input_ids)
        x = self.words(input_ids)
        turns = [table[:length] for table in (self.cos_cached, self.sin_cached)]
        cos, sin = (table[places].unsqueeze(2) for table in turns)
        if self.types is not None:
            x = x + self.types(places.mul(0) if token_type_ids is None else token_type_ids)
        x, mask = self.norm(x), lowered(attention_mask)
        for layer in self.layers:
            x = layer(x, mask, (cos, sin))
        return x


NAMES = ("input_ids", "attention_mask")
MODELS: dict[str, tuple[type[nn.Module], tuple[str, ...], dict[str, Any]]] = {
    "modernbert": (ModernBert, NAMES, {}),  # the class, its inputs, its options
    "nomic": (Nomic, (*NAMES, "token_type_ids"), {}),
    "gte": (Gte, NAMES, {}),
    "gte_same_types": (Gte, NAMES, {"types": True}),
    "gte_types": (Gte, (*NAMES, "token_type_ids"), {"types": True}),
}


def encoder(name: str, **sizes: int) -> nn.Module:
    """The model of a row of MODELS; `export` takes its inputs' names."""
    made, _, options = MODELS[name]
    layers = {"layers": 3} if name == "modernbert" else {}
    return seeded(made(Sizes(**{**layers, **sizes}), **options))
