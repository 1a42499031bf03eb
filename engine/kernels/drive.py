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
attended to, or the first token masked), 21 address of control, 22 first of the steps on rows
alone, 23 address of the steps for workers that share a pack, 24 outputs, 25 address of the first
worker's context.
The caller of call or prepare tells in 0 to 2 and for outputs where an address is found; they put
the address itself there.  call sets 8 and 10 again where workers share each pack, which is where
that should end before each has done packs of its own.  A call begins and ends in compiled code:
no exception of Python's comes in between, and when it returns no worker is at work.
control (int64 slots): 0 generation (a new one: work), 1 address of call, or 0: end, 2 workers that
have finished, 3 spins before sleep, 4 workers, 5 to 7 addresses of sem_wait, sem_post and
sched_setaffinity (or 0) of the C library; then a line of LINE bytes for each worker: its state (0
awake, 1 asleep) and behind it, at SEMAPHORE, what it sleeps at and, at CPUS, a mask of those it is
pinned to.
step (int64 slots): 0 address of the kernel, 1 params, 2 what is counted (an offset into the
context, or 0: one unit), 3 units each, 4 cycles spent, 5 calls, 6 who meets after it
(plan/meetings.py: 0 nobody, 1 all where the tiles do not divide evenly among the workers, 2 all),
7 whether all of it is the first worker's.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
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
    CPUS,
    CPUS_BYTES,
    FIRST_ROW,
    GENERATION,
    IDS,
    LINE,
    LINES,
    MOST_ROWS,
    OWN_ARENA,
    PLACES,
    POSITIONS,
    ROW_SENTENCES,
    ROW_TILES,
    ROWS,
    SEMAPHORE,
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
MOST_SPINS = 2000  # then another process has one of our cores: let it have this one
SHARING_COST = 115  # percent: meetings and uneven steps, against one worker a pack


@routine
def find_arrays(params):
    """Puts the addresses of arrays where the caller told where these are found."""
    for slot in range(3):
        at = load_i64(params + 8 * slot)
        if at:
            store_unaligned(params + 8 * slot, load_i64(at))
    table = load_i64(params + 40)
    for number in range(load_i64(params + 192)):
        store_unaligned(table + 8 * number, load_i64(load_i64(table + 8 * number)))


@routine
def cut_into_packs(params):
    """Counts each sentence's tokens and cuts the batch into packs of whole sentences."""
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

    Another thread may have changed the inputs since cut_into_packs read them: each sentence gets
    as many tokens as were counted there, ids and types that are in range.
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
    padding, counts, token = load_i64(call + 128), load_i64(call + 104), i64(0)
    last_id, last_kind = load_i64(call + 136) - 1, load_i64(call + 144) - 1
    rows = load_i64(context + ROW_SENTENCES) + 4 * row
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
    store_unaligned(context + TOKENS, i64(token))
    store_unaligned(context + TILES, i64((token + TILE - 1) // TILE))
    set_rows(context, row, sentences)


@routine
def wait_until(counter, target):
    """Until other workers have counted so far."""
    spins = 0
    while load_shared(counter) < target:
        pause()
        spins += 1
        if spins > MOST_SPINS:
            yield_core()


@routine
def meet(counter, target):
    """A barrier: every worker adds one and waits until all have."""
    fetch_add(counter, 1)
    wait_until(counter, target)


@routine
def units_of(step, context):
    """Units of work a step has in this pack: the first and behind the last."""
    what, units, first = load_i64(step + 16), load_i64(step + 24), i64(0)
    if what == ROW_TILES:
        first = units * (load_i64(context + FIRST_ROW) // ROWS)
    if what:
        units *= load_i64(context + what)
    return first, units


@routine
def is_meeting(step, context, team):
    """Whether workers that share the pack meet after a step."""
    who = load_i64(step + 48)
    return who == 2 or (who == 1 and load_i64(context + TILES) % team != 0)


@routine
def is_lone(step, context):
    """Whether all of a step is the first worker's."""
    low, high = units_of(step, context)
    return high - low == 1 or load_i64(step + 56) != 0


@routine
def share_of(step, context, worker, team):
    """A worker's units: the first and behind the last."""
    low, high = units_of(step, context)
    if team == 1:
        return low, high
    if is_lone(step, context):
        return low, high if worker == 0 else low
    units = high - low
    return (
        low + (units * worker + team - 1) // team,
        low + (units * (worker + 1) + team - 1) // team,
    )


@routine
def is_for_one(step, context, team):
    """Whether all steps until the next meeting are the first worker's."""
    while True:
        if not is_lone(step, context):
            return False
        if is_meeting(step, context, team):
            return True
        step += STEP_BYTES


def steps_in_turn(profiled):
    """A worker's share of steps first .. last - 1: routine (call, context, its number, first, last,
    arrivals at the barrier so far) -> arrivals.

    Where all steps since the last meeting were the first worker's, and all until the next one are,
    nobody else has anything to wait for.
    """

    def through(params, context, worker, first, last, met):
        steps, team = load_i64(params + 64), load_i64(params + 80)
        lone = True
        for number in range(first, last):
            step = steps + STEP_BYTES * number
            low, high = share_of(step, context, worker, team)
            began = cycles() if profiled else i64(0)
            call_kernel(load_i64(step), load_i64(step + 8), context, low, high)
            lone = lone and (team == 1 or is_lone(step, context))
            if team > 1 and is_meeting(step, context, team):
                following = step + STEP_BYTES
                if not (lone and number + 1 < last and is_for_one(following, context, team)):
                    met += team
                    meet(params + 112, met)
                    lone = True
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


def prepare():
    """The first part of a call alone.  params: call."""

    def kernel(params, context, begin, end):
        find_arrays(params)
        cut_into_packs(params)

    return kernel


def run(profiled):
    """The packs of a call that is prepared, by one thread.  params: call; context: the worker's."""
    share = work(profiled)

    def kernel(params, context, begin, end):
        share(params, context, 0)

    return kernel


@routine
def begin_together(params, control, workers):
    """Shares the packs out, lets the other workers begin and wakes those that sleep."""
    packs = load_i64(params + 96)
    alone = (packs + workers - 1) // workers
    if 100 * alone * workers > SHARING_COST * packs:
        store_unaligned(params + 64, load_i64(params + 184))
        store_unaligned(params + 80, workers)
    store_unaligned(params + 112, i64(0))
    store_unaligned(control + 8, params)
    store_unaligned(control + 16, i64(0))
    fetch_add(control, 1)
    for worker in range(1, workers):
        state = control + LINES + LINE * worker
        if load_shared(state) and exchange(state, 0):
            call_kernel(load_i64(control + 48), state + SEMAPHORE, 0, 0, 0)


def call(profiled):
    """A whole call, by the first worker.  params: call; nothing else is read."""
    share = work(profiled)

    def kernel(params, context, begin, end):
        control = load_i64(params + 168)
        workers = load_i64(control + 32)
        find_arrays(params)
        cut_into_packs(params)
        if load_i64(params + 152) or load_i64(params + 160):
            return
        if workers > 1:
            begin_together(params, control, workers)
        share(params, load_i64(params + 200), 0)
        if workers > 1:
            wait_until(control + 16, workers - 1)

    return kernel


@routine
def sleep(control, state, seen):
    """Until the caller wakes this worker (or a signal does) where no generation has come yet."""
    exchange(state, 1)
    if load_shared(control) == seen:
        call_kernel(load_i64(control + 40), state + SEMAPHORE, 0, 0, 0)
    exchange(state, 0)


def serve():
    """A worker's life: waits for generations and does its share of each, until the team ends.

    params: control; context: its own; begin: its number; the generation it has seen is kept in the
    context.
    """
    share = work(False)

    def kernel(params, context, begin, end):
        state, pin = params + LINES + LINE * begin, load_i64(params + 56)
        if pin:  # this thread, where it may
            call_kernel(pin, 0, CPUS_BYTES, state + CPUS, 0)
        while True:
            seen, spins = load_i64(context + GENERATION), 0
            while load_shared(params) == seen:
                pause()
                spins += 1
                if spins > load_i64(params + 24):
                    sleep(params, state, seen)
                    spins = 0
            store_unaligned(context + GENERATION, load_shared(params))
            if load_i64(params + 8) == 0:
                return
            share(load_i64(params + 8), context, begin)
            fetch_add(params + 16, 1)

    return kernel
