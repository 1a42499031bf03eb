"""The loop over the sentences of a tile of queries, once for every attention."""

from ...codegen.lower import routine
from ...codegen.simd import load_i64, load_int
from ..context import CONTEXT, TILE
from .records import CHANNELS


@routine
def channels_of(lists, depth, head):
    """Address of a head's CHANNELS; lists: address of the parameter that has those of all."""
    return load_i64(lists) + (CHANNELS.first + depth) * head


@routine
def bias_of(bias, reach, head):
    """Address of a head's entries, 0 where there is no bias, and reach; of the two parameters."""
    entries, most = load_i64(bias), load_i64(reach)
    if entries:
        entries += 4 * (2 * most + 1) * head
    return entries, most


@routine
def bias_at(bias, distance):
    """Address of what is added to the scores of TILE tokens in lanes, the first so far from the
    other side; bias: address of a head's entries and reach.  Entries go on for TILE lanes behind
    the last distance that differs from those further away.
    """
    entries, reach = bias
    return entries + 4 * min(max(distance + reach, 0), 2 * reach + 1 - TILE)


def for_each_sentence(block, width, before=None):
    """A routine (context, tile, operands, ahead): each sentence of the tile for blocks of the 16,
    32 or 64 lanes that its queries are among, at most `width`.

    Sentences are packed without padding, so a tile holds parts of several.  block: makes the
    routine for so many lanes (operands, start, stop, at, first, last): the sentence's tokens in the
    pack, the lane of the tile at which the block begins, which of the block's lanes are the
    sentence's.  before: a routine (operands, ahead, tile, start, stop), called ahead of each
    sentence if there is one; ahead is for it.
    """

    def nothing(operands, ahead, tile, start, stop):
        return

    def in_blocks(lanes):
        attend = block(lanes)

        def blocks(operands, start, stop, first, last):
            for at in range(first // lanes * lanes, last, lanes):
                attend(operands, start, stop, at, max(first - at, 0), min(last - at, lanes))

        return routine(blocks)

    begin, made = routine(before or nothing), {n: in_blocks(n) for n in (16, 32, 64) if n <= width}
    quarter, half, whole = (made[min(lanes, width)] for lanes in (16, 32, 64))

    def visit(context, tile, operands, ahead):
        starts = load_i64(context + CONTEXT.starts)
        low, high = tile * TILE, tile * TILE + TILE
        for number in range(load_i64(context + CONTEXT.sentences)):
            start, stop = load_int(starts + 4 * number), load_int(starts + 4 * number + 4)
            if stop <= low or start >= high or stop <= start:
                continue
            begin(operands, ahead, tile, start, stop)
            first, last = max(start, low) - low, min(stop, high) - low
            if width == 16 or first // 16 == (last - 1) // 16:
                quarter(operands, start, stop, first, last)
            elif width == 32 or first // 32 == (last - 1) // 32:
                half(operands, start, stop, first, last)
            else:
                whole(operands, start, stop, first, last)

    return routine(visit)
