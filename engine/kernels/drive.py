"""The run itself: packs of sentences go through all steps, one pack at a time, without returning to
Python.  The last steps, on rows alone (a lane a sentence), wait until as many rows as there is room
for have come together: one row costs them as much as sixteen.

call (int64 slots): 0 ids, 1 types or 0, 2 mask or 0 (addresses of int64 [batch][length]), 3 batch,
4 length, 5 address of the addresses of outputs, 6 counter of packs taken, 7 tokens a pack may hold,
8 address of steps, 9 steps, 10 workers that share a pack (1: each takes its own), 11 address of
packs: int32 (first sentence, sentences), 12 packs, 13 address of int32 [batch] tokens per sentence,
14 barrier's counter, 15 position of the first token, 16 padding id (RoBERTa counts positions over
other ids, from it on) or -1, 17 vocabulary, 18 kinds of token, 19 set by prepare: 1 + the place of
the first id or type out of range, 20 set by prepare: sentences that no pack can hold (nothing
attended to, or the first token masked), 21 address of control, 22 first of the steps on rows alone.
control (int64 slots): 0 generation (a new one: work), 1 address of call, 2 workers that have
finished, 3 spins before sleep, 8.. state of worker n: 0 awake, 1 asleep.
step (int64 slots): 0 address of the kernel, 1 params, 2 what is counted (an offset into the
context, or 0: one unit), 3 units each, 4 cycles spent, 5 calls.
"""

import numba as nb

from ..lower import routine
from ..simd import (
    call_kernel,
    cycles,
    exchange,
    fetch_add,
    load_i64,
    load_int,
    load_shared,
    pause,
    store_unaligned,
    yield_core,
)
from .context import (
    ARENA,
    FIRST_ROW,
    GENERATION,
    IDS,
    MOST_ROWS,
    OWN_ARENA,
    PLACES,
    POSITIONS,
    ROW_SENTENCES,
    ROW_TILES,
    ROWS,
    SENTENCES,
    SHARED_ARENA,
    STARTS,
    TILE,
    TILES,
    TOKENS,
    TYPES,
)

i32, i64 = nb.int32, nb.int64
STEP_BYTES = 64


def prepare():
    """Counts each sentence's tokens and cuts the batch into packs of whole sentences.  params:
    call.
    """

    def kernel(params, context, begin, end):
        mask, batch, length, limit = (
            load_i64(params + 16),
            load_i64(params + 24),
            load_i64(params + 32),
            load_i64(params + 56),
        )
        packs, counts, ids, types = (
            load_i64(params + 88),
            load_i64(params + 104),
            load_i64(params),
            load_i64(params + 8),
        )
        vocabulary, kinds = load_i64(params + 136), load_i64(params + 144)
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
                store_unaligned(packs + 8 * made, i32(first))
                store_unaligned(packs + 8 * made + 4, i32(sentences))
                made, held, sentences, first = made + 1, 0, 0, sentence
            held, sentences = held + tokens, sentences + 1
        store_unaligned(packs + 8 * made, i32(first))
        store_unaligned(packs + 8 * made + 4, i32(sentences))
        store_unaligned(params + 96, i64(made + 1))
        store_unaligned(params + 152, i64(wrong))
        store_unaligned(params + 160, i64(odd))

    return kernel


@routine
def set_rows(context, first, count):
    """Rows that the next steps work on; tiles are counted from row 0."""
    store_unaligned(context + FIRST_ROW, i64(first))
    store_unaligned(context + SENTENCES, i64(count))
    store_unaligned(context + ROW_TILES, i64((first + count + ROWS - 1) // ROWS))


@routine
def fill(call, context, pack, row):
    """The context of one pack, its first sentence at `row`: its tokens gathered, masked ones left
    out.
    """
    at = load_i64(call + 88) + 8 * pack
    first, sentences = load_int(at), load_int(at + 4)
    ids, types, mask, length = (
        load_i64(call),
        load_i64(call + 8),
        load_i64(call + 16),
        load_i64(call + 32),
    )
    starts, to_ids, to_types = (
        load_i64(context + STARTS),
        load_i64(context + IDS),
        load_i64(context + TYPES),
    )
    to_positions, to_places, origin = (
        load_i64(context + POSITIONS),
        load_i64(context + PLACES),
        load_i64(call + 120),
    )
    padding, token = load_i64(call + 128), 0
    rows = load_i64(context + ROW_SENTENCES) + 4 * row
    for sentence in range(sentences):
        store_unaligned(starts + 4 * sentence, i32(token))
        store_unaligned(rows + 4 * sentence, i32(first + sentence))
        line, counted = (first + sentence) * length, 0
        for t in range(length):
            counted += load_i64(ids + 8 * (line + t)) != padding
            if mask == 0 or load_i64(mask + 8 * (line + t)) != 0:
                store_unaligned(to_ids + 4 * token, i32(load_i64(ids + 8 * (line + t))))
                kind = 0
                if types:
                    kind = load_i64(types + 8 * (line + t))
                store_unaligned(to_types + 4 * token, i32(kind))
                position = t + origin
                if padding >= 0:
                    position = padding
                    if load_i64(ids + 8 * (line + t)) != padding:
                        position = padding + counted
                store_unaligned(to_positions + 4 * token, i32(position))
                store_unaligned(to_places + 4 * token, i32(line + t))
                token += 1
    store_unaligned(starts + 4 * sentences, i32(token))
    store_unaligned(context + TOKENS, i64(token))
    store_unaligned(context + TILES, i64((token + TILE - 1) // TILE))
    set_rows(context, row, sentences)


@routine
def meet(counter, target):
    """A barrier: every worker adds one and waits until all have."""
    fetch_add(counter, 1)
    spins = 0
    while load_shared(counter) < target:
        pause()
        spins += 1
        if spins > 2000:  # another process has one of our cores: let it have this one
            yield_core()


@routine
def units_of(step, context):
    """Units of work a step has in this pack: the first and behind the last."""
    what, units, first = load_i64(step + 16), load_i64(step + 24), i64(0)
    if what == ROW_TILES:
        first = units * (load_i64(context + FIRST_ROW) // ROWS)
    if what:
        units *= load_i64(context + what)
    return first, units


def steps_in_turn(profiled):
    """A worker's share of steps first .. last - 1: routine (call, context, its number, first, last,
    arrivals at the barrier so far) -> arrivals.

    Of a step with one unit the first worker does it; where the next step has one too, nobody else
    has anything to wait for, so they do not meet between the two.
    """

    def through(params, context, worker, first, last, met):
        steps, team = load_i64(params + 64), load_i64(params + 80)
        for number in range(first, last):
            step = steps + STEP_BYTES * number
            low, high = units_of(step, context)
            units = high - low
            began = cycles() if profiled else i64(0)
            call_kernel(
                load_i64(step),
                load_i64(step + 8),
                context,
                low + ((units * worker + team - 1) // team if team > 1 else 0),
                low + ((units * (worker + 1) + team - 1) // team if team > 1 else units),
            )
            if team > 1:
                more = False
                if number + 1 < last and units == 1:
                    low, high = units_of(step + STEP_BYTES, context)
                    more = high - low == 1
                if not more:
                    met += team
                    meet(params + 112, met)
            if profiled and worker == 0:
                store_unaligned(step + 32, load_i64(step + 32) + cycles() - began)
                store_unaligned(step + 40, load_i64(step + 40) + 1)
        return met

    return routine(through)


def work(profiled):
    """A worker's share of a call: routine (call, context, its number)."""
    through = steps_in_turn(profiled)

    def share(params, context, worker):
        count, packs, late = load_i64(params + 72), load_i64(params + 96), load_i64(params + 176)
        team = load_i64(params + 80)
        pack, rows, met = i64(0), i64(0), i64(0)
        store_unaligned(
            context + ARENA, load_i64(context + (OWN_ARENA if team == 1 else SHARED_ARENA))
        )
        while True:
            if team == 1:
                pack = fetch_add(params + 48, 1)
            sentences = i64(0)
            if pack < packs:
                sentences = load_int(load_i64(params + 88) + 8 * pack + 4)
            if rows and (pack >= packs or rows + sentences > MOST_ROWS):
                set_rows(context, 0, rows)
                met = through(params, context, worker, late, count, met)
                rows = i64(0)
            if pack >= packs:
                break
            fill(params, context, pack, rows)
            met = through(params, context, worker, 0, late, met)
            rows += sentences
            if team > 1:
                pack += 1

    return routine(share)


def run(profiled):
    """A whole call by one thread, or the first worker's part of it.  params: call; context: this
    worker's.
    """
    share = work(profiled)

    def kernel(params, context, begin, end):
        share(params, context, 0)

    return kernel


def serve():
    """A worker's life: waits for generations and does its share of each; goes to sleep (returns)
    when none comes for long.

    params: control; context: its own; begin: its number; the generation it has seen is kept in the
    context.
    """
    share = work(False)

    def kernel(params, context, begin, end):
        state = params + 64 + 8 * begin
        while True:
            seen, spins = load_i64(context + GENERATION), 0
            while load_shared(params) == seen:
                pause()
                spins += 1
                if spins > load_i64(params + 24):
                    exchange(state, 1)
                    if load_shared(params) == seen:
                        return
                    exchange(state, 0)
            store_unaligned(context + GENERATION, load_shared(params))
            if load_i64(params + 8) == 0:  # the session is closed
                return
            share(load_i64(params + 8), context, begin)
            fetch_add(params + 16, 1)

    return kernel


def wait():
    """Until `end` workers have finished.  params: control."""

    def kernel(params, context, begin, end):
        spins = 0
        while load_shared(params + 16) < end:
            pause()
            spins += 1
            if spins > 2000:
                yield_core()

    return kernel
