"""The loop over the sentences of a tile of queries, once for every attention."""

from ...codegen.lower import routine
from ...codegen.simd import load_i64, load_int
from ..context import CONTEXT, TILE
from .records import CHANNELS


@routine
def channels_of(lists, depth, head):
    """Address of a head's CHANNELS; lists: address of the parameter that has those of all."""
    return load_i64(lists) + (CHANNELS.first + depth) * head


def for_each_sentence(quarter, half, whole, before=None):
    """A routine (context, tile, operands, ahead): each sentence of the tile for the 16, 32 or 64
    lanes that its queries are among.

    Sentences are packed without padding, so a tile holds parts of several.  The three are routines
    (operands, sentence) with sentence = (start, stop, first, last): its tokens in the pack, which
    of the tile's lanes are its own.  before: a routine (operands, ahead, tile, start, stop), called
    ahead of each sentence if there is one; ahead is for it.
    """

    def nothing(operands, ahead, tile, start, stop):
        return

    begin = routine(before or nothing)

    def visit(context, tile, operands, ahead):
        starts = load_i64(context + CONTEXT.starts)
        low, high = tile * TILE, tile * TILE + TILE
        for number in range(load_i64(context + CONTEXT.sentences)):
            start, stop = load_int(starts + 4 * number), load_int(starts + 4 * number + 4)
            if stop <= low or start >= high or stop <= start:
                continue
            begin(operands, ahead, tile, start, stop)
            first, last = max(start, low) - low, min(stop, high) - low
            if first // 16 == (last - 1) // 16:
                quarter(operands, (start, stop, first, last))
            elif first // 32 == (last - 1) // 32:
                half(operands, (start, stop, first, last))
            else:
                whole(operands, (start, stop, first, last))

    return routine(visit)
