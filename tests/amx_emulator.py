"""Executes AMX machine code in this process on an x86-64 Linux CPU that has no AMX.

The CPU raises #UD on an AMX instruction and the kernel sends SIGILL.  The handler below decodes the
instruction at RIP, carries it out on tile registers held in memory, moves RIP past it and returns:
everything else (address arithmetic, AVX-512, loops, calls) runs natively.

    with enabled() as amx:
        kernel(...)                      # code made with +amx-tile, +amx-int8, +amx-bf16
    assert amx.count["tdpbsud"] == 8     # the tiles were really used
    assert not amx.configured            # and given back

It has ldtilecfg, sttilecfg, tilerelease, tilezero, tileloadd, tileloaddt1, tilestored, tdpb*d and
tdpbf16ps; what else is illegal goes to the SIGILL action before ours.  Not tested by it: timing,
the kernel's permission and saving of tiles, NaN payloads.  Each thread has its slot of memory; the
key is the word at %fs:0, glibc's thread pointer.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from tests.amx_instructions import (
    CONFIG,
    COUNTS,
    NAMES,
    REGISTERS,
    RIP,
    SLOT_BYTES,
    SLOTS,
    as_address,
    as_pointer,
    longs_at,
    step,
)


# --- slots of threads
@intrinsic
def _thread_key(typing):
    def emit(context, builder, signature, args):
        word = ir.IntType(64).as_pointer(addrspace=257)  # LLVM's name for memory relative to %fs
        return builder.load(ir.Constant(word, None))

    return types.int64(), emit


@intrinsic
def _exchange_if(typing, address, expected, value):
    def emit(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        result = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 0)

    return types.int64(types.int64, types.int64, types.int64), emit


# --- the handler
@njit(error_model="numpy", cache=True)
def _slot(state):
    key = _thread_key()
    for number in range(SLOTS):
        slot = state + SLOT_BYTES * number
        owner = longs_at(slot, 1)[0]
        if owner == 0:
            owner = _exchange_if(slot, np.int64(0), key)
        if owner in (0, key):
            return slot
    return 0


class _Action(ctypes.Structure):
    """struct sigaction of glibc on x86-64."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_SIGILL, _SA_SIGINFO, _SA_NODEFER = 4, 4, 0x40000000
_memory = mmap.mmap(-1, SLOT_BYTES * SLOTS)
_STATE = ctypes.addressof(ctypes.c_char.from_buffer(_memory))
_set_action = ctypes.CDLL(None).sigaction
_set_action.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_set_action.restype = ctypes.c_int
_before = _Action()
_BEFORE = ctypes.addressof(_before)


def _make_handler() -> Any:
    @cfunc(types.void(types.int32, types.voidptr, types.voidptr), error_model="numpy")
    def on_illegal_instruction(signal, information, context):
        registers = longs_at(as_address(context) + REGISTERS, 17)
        slot, done = _slot(_STATE), False
        while slot != 0:  # neighbours that are AMX too need no trap of their own
            length = step(slot, registers[RIP], registers)
            if length <= 0:
                break
            registers[RIP] += length
            done = True
        if not done:  # as if we were not there: it traps again
            _set_action(_SIGILL, as_pointer(_BEFORE), as_pointer(0))

    return on_illegal_instruction


class Amx:
    """What the emulated tiles did, all threads together."""

    def _slots(self) -> np.ndarray:
        memory = np.frombuffer(_memory, np.uint8).reshape(SLOTS, SLOT_BYTES)
        return memory[memory[:, :8].copy().view(np.int64)[:, 0] != 0]

    @property
    def count(self) -> dict[str, int]:
        """Instructions carried out so far, by name."""
        counts = self._slots()[:, COUNTS : COUNTS + 8 * len(NAMES)].copy().view(np.int64)
        return dict(zip(NAMES, map(int, counts.sum(axis=0)), strict=True))

    @property
    def configured(self) -> bool:
        """Some thread holds tiles: its kernel ended without tilerelease."""
        return bool((self._slots()[:, CONFIG] != 0).any())


_handlers: list[Any] = []  # made on first use: Numba needs a few seconds
_nesting: list[Amx] = []


@contextmanager
def enabled() -> Iterator[Amx]:
    """AMX instructions of this process work inside the block."""
    assert sys.platform == "linux" and platform.machine() == "x86_64", "needs Linux on x86-64"
    assert not _nesting, "already enabled"
    if not _handlers:
        _handlers.append(_make_handler())
    ctypes.memset(_STATE, 0, SLOT_BYTES * SLOTS)
    action = _Action(handler=_handlers[0].address, flags=_SA_SIGINFO | _SA_NODEFER)
    assert _set_action(_SIGILL, ctypes.addressof(action), _BEFORE) == 0, "sigaction failed"
    _nesting.append(Amx())
    try:
        yield _nesting[-1]
    finally:
        _set_action(_SIGILL, _BEFORE, None)
        _nesting.pop()
