"""What the runtime and the executor share: calls, packs, steps, the control block of the workers.

The caller fills a CALL and calls compiled code once; that begins and ends the work of all workers,
so that no exception of Python's comes in between, and when it returns no worker is at work.
"""

from __future__ import annotations

from .record import CACHE_LINE, Field, record

__all__ = [
    "CALL",
    "CONTROL",
    "CPUS_BYTES",
    "EVERYWHERE",
    "LINE",
    "NOWHERE",
    "PACK",
    "STEP",
    "WHERE_UNEVEN",
]


CALL = record(
    "CALL",
    # where the caller says that an array's address is found; find_arrays puts the address there
    Field("ids", "int64", "address of int64 [batch][length]"),
    Field("types", "int64", "address of int64 [batch][length], or 0"),
    Field("mask", "int64", "address of int64 [batch][length], or 0"),
    Field("batch", "int64", "sentences"),
    Field("length", "int64", "tokens of a sentence, with padding"),
    Field("outputs", "int64", "address of int64 [output_count]: where their addresses are found"),
    Field("taken", "int64", "counter of packs that workers have taken"),
    Field("pack_tokens", "int64", "tokens that a pack may hold"),
    Field("steps", "int64", "address of the STEPs in use"),
    Field("step_count", "int64", "of them"),
    Field("sharing", "int64", "workers that share each pack; 1: each takes packs of its own"),
    Field("packs", "int64", "address of PACK [pack_count]"),
    Field("pack_count", "int64", "of them, as the batch was cut"),
    Field("counts", "int64", "address of int32 [batch]: tokens of each sentence that count"),
    Field("arrived", "int64", "the barrier's counter"),
    Field("first_position", "int64", "position of a sentence's first token"),
    Field("padding_id", "int64", "RoBERTa counts positions over other ids, from it on; or -1"),
    Field("vocabulary", "int64", "ids are below it"),
    Field("kinds", "int64", "token types are below it"),
    Field("wrong", "int64", "found: 1 + the place of the first id or type out of range, or 0"),
    Field("odd", "int64", "found: sentences with nothing to attend to, or a masked first token"),
    Field("control", "int64", "address of the thread pool's CONTROL"),
    Field("late", "int64", "number of the first step on rows alone"),
    Field("shared_steps", "int64", "address of the STEPs for workers that share a pack"),
    Field("output_count", "int64", "of the outputs"),
    Field("first_context", "int64", "address of the first worker's context"),
)
PACK = record(
    "PACK",
    Field("first", "int32", "its first sentence"),
    Field("sentences", "int32", "of them"),
)

# Where workers that share a pack wait for one another after a step: plan/barriers.py.
NOWHERE, WHERE_UNEVEN, EVERYWHERE = 0, 1, 2
STEP = record(
    "STEP",
    Field("kernel", "int64", "address of its code"),
    Field("params", "int64", "address of its parameters"),
    Field("counted", "int64", "what units are counted in: offset in the context, or 0: one unit"),
    Field("units", "int64", "of each that is counted"),
    Field("cycles", "int64", "spent, where the run is profiled"),
    Field("calls", "int64", "so many times, likewise"),
    Field("barrier", "int64", "behind it: NOWHERE, WHERE_UNEVEN (tiles among workers), EVERYWHERE"),
    Field("alone", "int64", "whether all of it is the first worker's"),
)

CONTROL = record(  # lines of the workers follow it
    "CONTROL",
    Field("generation", "int64", "a new one: there is work"),
    Field("call", "int64", "address of the CALL, or 0: end"),
    Field("finished", "int64", "workers that have done their share"),
    Field("spins", "int64", "before a worker sleeps"),
    Field("workers", "int64", "of the pool, the caller among them"),
    Field("sem_wait", "int64", "address of the C library's"),
    Field("sem_post", "int64", "address of the C library's"),
    Field("sched_setaffinity", "int64", "address of the C library's, or 0"),
)
CPUS_BYTES = 128  # a cpu_set_t of glibc
LINE = record(  # of a worker; a cache line for each thing that another core may write
    "LINE",
    Field("state", "int64", "0 awake, 1 asleep"),
    Field("rest", "uint8", "of the cache line", CACHE_LINE - 8),
    Field("semaphore", "uint8", "a sem_t: what it sleeps at", CACHE_LINE),
    Field("cpus", "uint8", "a cpu_set_t: where it may run", CPUS_BYTES),
)
