"""Embeddings: up to three gathers, (word + type) + position as BERT adds them up, or (word +
position) + type, LayerNorm along the row, then a transposition into tiles with tokens in lanes.
Where `rounding` is not 0 the first sum is rounded to a byte.

The variance is that of deviations from the mean of SOME channels, the first, as in normalize.py.
A trigram's row has the words of three neighbours (MobileBERT): those that stand beside a token in
the caller's batch, as a masked neighbour's row counts, too.

A unit is a tile of 64 tokens.
params: EMBEDDING, TRIGRAM.  Scratch: one row of float32, 64 rows of results, two blocks of 64 x 64
bytes.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    MAGIC,
    add,
    fma,
    load_f32,
    load_i64,
    load_int,
    loads,
    loads_unaligned,
    pack_in_order,
    prefetch,
    splats,
    square_root,
    store,
    store_lanes,
    sub,
    total,
    zip_high,
    zip_low,
)
from .buffers import tile_of
from .context import CONTEXT, TILE
from .params import EMBEDDING, TRIGRAM
from .rounding import rounding

f32 = nb.float32
CHUNK, SOME = 64, 8  # floats at a time, and to find a number near the mean
AHEAD = 16  # tokens
load_bytes = loads("u8", TILE)
load_row, load_kept = loads_unaligned("f32", CHUNK), loads("f32", CHUNK)
load_line, load_some = loads("f32", 16), loads_unaligned("f32", SOME)
load_sixteen, no_sixteen = loads_unaligned("f32", 16), splats("f32", 16)
splat = splats("f32", CHUNK)


def transposition(load, element_bytes, lanes, rounds):
    """A lanes x lanes block, rows `stride` apart, to rows `out_stride` apart: rounds of
    interleaving row i with row i + lanes / 2.
    """
    line = element_bytes * lanes

    def transpose(x, stride, y, out_stride, scratch):
        for step in range(rounds):
            source, apart = (
                (x, stride) if step == 0 else (scratch + line * lanes * (step & 1), line)
            )
            target, out = (
                (y, out_stride)
                if step == rounds - 1
                else (scratch + line * lanes * (1 - (step & 1)), line)
            )
            for i in range(lanes // 2):
                p, q = load(source + apart * i), load(source + apart * (i + lanes // 2))
                store(target + 2 * out * i, zip_low(p, q))
                store(target + 2 * out * i + out, zip_high(p, q))

    return routine(transpose)


def _store_row(output):
    def bytes_(to, v):
        store(to, pack_in_order(add(v, splat(f32(MAGIC)))))

    def floats(to, v):
        store(to, v)

    return routine(bytes_ if output == "u8" else floats)


def _near_mean(word, position, kind):
    some = load_some(word)
    if kind:
        some = add(some, load_some(kind))
    if position:
        some = add(some, load_some(position))
    return total(some) * f32(1 / SOME)


def _gathered(normalised):
    """A routine: rows of the tables (position and kind may be 0) -> their sum in `kept`, to be
    normalised less a number near its mean; sums of that and of its squares.  `ahead` is fetched for
    a later token.
    """
    near_mean, (_, rounded) = routine(_near_mean), rounding(CHUNK)

    def gather(word, position, kind, ahead, kept, of_row):
        row_bytes, last, how, swapped = of_row
        if swapped:
            position, kind = kind, position
        near = near_mean(word, position, kind) if normalised else f32(0)
        sums, squares, v = splat(f32(0)), splat(f32(0)), splat(f32(0))
        for n in range(0, row_bytes, 4 * CHUNK):
            prefetch(ahead + n)
            prefetch(ahead + n + 64)
            prefetch(ahead + n + 128)
            prefetch(ahead + n + 192)
            sums, squares = add(sums, v), fma(v, v, squares)  # of the piece before
            v = load_row(word + n)
            if kind:
                v = add(v, load_row(kind + n))
            if how:
                v = rounded(v, how)
            if position:
                v = add(v, load_row(position + n))
            v = sub(v, splat(near))
            store(kept + n, v)
        if last < CHUNK:  # what does not count does not deviate
            end = kept + row_bytes - 4 * CHUNK
            store_lanes(end, splat(f32(0)), last, CHUNK)
            v = load_kept(end)
        return total(add(sums, v)), total(fma(v, v, squares))

    return routine(gather)


@routine
def scale_of(variance, epsilon):
    """1 / sqrt(variance + epsilon); rounding may leave a variance of less than nothing."""
    if variance < f32(0):
        variance = f32(0)
    return f32(1) / square_root(variance + epsilon)


def embedding(output, normalised):
    """y in "u8" or "f32"; normalised: with LayerNorm."""
    size = 1 if output == "u8" else 4
    block = 64 if output == "u8" else 16
    transpose = transposition(
        load_bytes if output == "u8" else load_line, size, block, 6 if output == "u8" else 4
    )
    put, gather = _store_row(output), _gathered(normalised)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        words = load_i64(params + EMBEDDING.words)
        positions = load_i64(params + EMBEDDING.positions)
        types, channels = load_i64(params + EMBEDDING.types), load_i64(params + EMBEDDING.channels)
        ids, places = load_i64(context + CONTEXT.ids), load_i64(context + CONTEXT.positions)
        kinds, tokens = load_i64(context + CONTEXT.types), load_i64(context + CONTEXT.tokens)
        gamma, last = load_i64(params + EMBEDDING.norm), load_i64(params + EMBEDDING.last)
        epsilon, share = load_f32(params + EMBEDDING.epsilon), load_f32(params + EMBEDDING.share)
        row_bytes, how = 4 * channels, load_i64(params + EMBEDDING.rounding)
        rows = kept + row_bytes
        block_scratch = rows + size * TILE * channels
        beta, swapped = gamma + row_bytes, load_i64(params + EMBEDDING.positions_first)
        for tile in range(begin, end):
            for t in range(min(tokens - TILE * tile, TILE)):
                at = 4 * (TILE * tile + t)
                word = words + row_bytes * load_int(ids + at)
                later = min(TILE * tile + t + AHEAD, tokens - 1)
                ahead = words + row_bytes * load_int(ids + 4 * later)
                position, kind = positions, types
                if positions:
                    position += row_bytes * load_int(places + at)
                if types:
                    kind += row_bytes * load_int(kinds + at)
                of_row = row_bytes, last, how, swapped
                sums, squares = gather(word, position, kind, ahead, kept, of_row)
                rest, factor = f32(0), f32(1)
                if normalised:
                    rest = sums * share
                    factor = scale_of(squares * share - rest * rest, epsilon)
                a, b = splat(factor), splat(-rest * factor)
                for n in range(0, row_bytes, 4 * CHUNK):
                    v = fma(load_kept(kept + n), a, b)
                    v = fma(v, load_row(gamma + n), load_row(beta + n))
                    put(rows + size * (channels * t) + n * size // 4, v)
            y = tile_of(arena, params + EMBEDDING.y, tile)
            for channel in range(0, channels, block):
                for t in range(0, TILE, block):
                    transpose(
                        rows + size * (channels * t + channel),
                        size * channels,
                        y + size * (TILE * channel + t),
                        size * TILE,
                        block_scratch,
                    )

    return kernel


@routine
def put_sum(row, count, first, second):
    """Two rows of floats added, either of which may be 0."""
    for n in range(0, 4 * count, 64):
        v = no_sixteen(f32(0))
        if first:
            v = load_sixteen(first + n)
        if second:
            v = add(v, load_sixteen(second + n))
        store(row + n, v)


@routine
def word_of(params, context, place, step):
    """The address of the row of the word `step` beside a place in the batch; 0 behind an end."""
    length = load_i64(context + CONTEXT.length)
    column = place % length + step
    if column < 0 or column >= length:
        return 0
    word = load_i64(load_i64(context + CONTEXT.batch_ids) + 8 * (place + step))
    word = min(max(word, 0), load_i64(params + TRIGRAM.vocabulary) - 1)
    return load_i64(params + TRIGRAM.words) + 4 * load_i64(params + TRIGRAM.width) * word


def trigram():
    """y: the words behind, at and before a token, then its position and type, added."""
    transpose = transposition(load_line, 4, 16, 4)

    def kernel(params, context, begin, end):
        arena, rows = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        positions, types = load_i64(params + TRIGRAM.positions), load_i64(params + TRIGRAM.types)
        width, rest = load_i64(params + TRIGRAM.width), load_i64(params + TRIGRAM.rest)
        places, kinds = load_i64(context + CONTEXT.places), load_i64(context + CONTEXT.types)
        numbers, tokens = load_i64(context + CONTEXT.positions), load_i64(context + CONTEXT.tokens)
        channels = 3 * width + rest
        block_scratch = rows + 4 * TILE * channels
        for tile in range(begin, end):
            for t in range(min(tokens - TILE * tile, TILE)):
                at, row = 4 * (TILE * tile + t), rows + 4 * channels * t
                place = load_int(places + at)
                for step in range(3):
                    put_sum(
                        row + 4 * width * step, width, word_of(params, context, place, 1 - step), 0
                    )
                position, kind = positions + 4 * rest * load_int(numbers + at), types
                if types:
                    kind += 4 * rest * load_int(kinds + at)
                put_sum(row + 12 * width, rest, position, kind)
            y = tile_of(arena, params + TRIGRAM.y, tile)
            for channel in range(0, channels, 16):
                for t in range(0, TILE, 16):
                    source = rows + 4 * (channels * t + channel)
                    target = y + 4 * (TILE * channel + t)
                    transpose(source, 4 * channels, target, 4 * TILE, block_scratch)

    return kernel
