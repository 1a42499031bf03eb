"""Packs of whole sentences: a batch is cut into them, and a worker's context is filled with one.

Masked tokens are left out when a pack is filled, so padding is not computed, and a mask with holes
is nothing special.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import load_i64, load_int, store_unaligned
from ..call import CALL, PACK
from ..context import CONTEXT, MOST_ROWS, ROWS, TILE

i32, i64 = nb.int32, nb.int64


@routine
def find_arrays(params):
    """Puts the addresses of arrays where the caller told where these are found."""
    for place in range(params + CALL.ids, params + CALL.mask + 8, 8):
        at = load_i64(place)
        if at:
            store_unaligned(place, load_i64(at))
    table = load_i64(params + CALL.outputs)
    for number in range(load_i64(params + CALL.output_count)):
        store_unaligned(table + 8 * number, load_i64(load_i64(table + 8 * number)))


@routine
def cut_into_packs(params):
    """Counts each sentence's tokens and cuts the batch into packs of whole sentences."""
    mask = load_i64(params + CALL.mask)
    batch = load_i64(params + CALL.batch)
    length = load_i64(params + CALL.length)
    limit = load_i64(params + CALL.pack_tokens)
    packs = load_i64(params + CALL.packs)
    counts = load_i64(params + CALL.counts)
    ids = load_i64(params + CALL.ids)
    types = load_i64(params + CALL.types)
    vocabulary, kinds = load_i64(params + CALL.vocabulary), load_i64(params + CALL.kinds)
    wrong, odd = 0, 0
    for place in range(batch * length):
        word, kind = load_i64(ids + 8 * place), 0
        if types:
            kind = load_i64(types + 8 * place)
        if (word < 0 or word >= vocabulary or kind < 0 or kind >= kinds) and wrong == 0:
            wrong = place + 1
    made, held, sentences, first = 0, 0, 0, 0
    for sentence in range(batch):
        tokens = length
        if mask:
            tokens = 0
            for t in range(length):
                tokens += load_i64(mask + 8 * (sentence * length + t)) != 0
            odd += tokens == 0 or load_i64(mask + 8 * sentence * length) == 0
        store_unaligned(counts + 4 * sentence, i32(tokens))
        if sentences and (held + tokens > limit or sentences == MOST_ROWS):
            store_unaligned(packs + PACK.size * made + PACK.first, i32(first))
            store_unaligned(packs + PACK.size * made + PACK.sentences, i32(sentences))
            made, held, sentences, first = made + 1, 0, 0, sentence
        held, sentences = held + tokens, sentences + 1
    store_unaligned(packs + PACK.size * made + PACK.first, i32(first))
    store_unaligned(packs + PACK.size * made + PACK.sentences, i32(sentences))
    store_unaligned(params + CALL.pack_count, i64(made + 1))
    store_unaligned(params + CALL.wrong, i64(wrong))
    store_unaligned(params + CALL.odd, i64(odd))


@routine
def set_rows(context, first, count):
    """Rows that the next steps work on; tiles are counted from row 0."""
    store_unaligned(context + CONTEXT.first_row, i64(first))
    store_unaligned(context + CONTEXT.sentences, i64(count))
    store_unaligned(context + CONTEXT.row_tiles, i64((first + count + ROWS - 1) // ROWS))


@routine
def set_batch(context, ids, length):
    """What the caller gave."""
    store_unaligned(context + CONTEXT.length, length)
    store_unaligned(context + CONTEXT.batch_ids, ids)


@routine
def fill(call, context, pack, row):
    """The context of one pack, its first sentence at `row`: its tokens gathered, masked ones left
    out.

    Another thread may have changed the inputs since cut_into_packs read them: each sentence gets
    as many tokens as were counted there, ids and types that are in range.
    """
    at = load_i64(call + CALL.packs) + PACK.size * pack
    first, sentences = load_int(at + PACK.first), load_int(at + PACK.sentences)
    ids, types = load_i64(call + CALL.ids), load_i64(call + CALL.types)
    mask, length = load_i64(call + CALL.mask), load_i64(call + CALL.length)
    set_batch(context, ids, length)
    starts = load_i64(context + CONTEXT.starts)
    to_ids = load_i64(context + CONTEXT.ids)
    to_types = load_i64(context + CONTEXT.types)
    to_positions = load_i64(context + CONTEXT.positions)
    to_places = load_i64(context + CONTEXT.places)
    origin = load_i64(call + CALL.first_position)
    padding, counts, token = load_i64(call + CALL.padding_id), load_i64(call + CALL.counts), i64(0)
    last_id, last_kind = load_i64(call + CALL.vocabulary) - 1, load_i64(call + CALL.kinds) - 1
    rows = load_i64(context + CONTEXT.row_sentences) + 4 * row
    for sentence in range(sentences):
        store_unaligned(starts + 4 * sentence, i32(token))
        store_unaligned(rows + 4 * sentence, i32(first + sentence))
        line, counted = (first + sentence) * length, i64(0)
        end = token + load_int(counts + 4 * (first + sentence))
        for t in range(length):
            word = min(max(load_i64(ids + 8 * (line + t)), 0), last_id)
            counted += word != padding
            left = length - t
            if token < end and (
                mask == 0 or load_i64(mask + 8 * (line + t)) != 0 or left == end - token
            ):
                store_unaligned(to_ids + 4 * token, i32(word))
                kind = i64(0)
                if types:
                    kind = min(max(load_i64(types + 8 * (line + t)), 0), last_kind)
                store_unaligned(to_types + 4 * token, i32(kind))
                position = t + origin
                if padding >= 0:
                    position = padding
                    if word != padding:
                        position = padding + counted
                store_unaligned(to_positions + 4 * token, i32(position))
                store_unaligned(to_places + 4 * token, i32(line + t))
                token += 1
    store_unaligned(starts + 4 * sentences, i32(token))
    store_unaligned(context + CONTEXT.tokens, i64(token))
    store_unaligned(context + CONTEXT.tiles, i64((token + TILE - 1) // TILE))
    set_rows(context, row, sentences)
