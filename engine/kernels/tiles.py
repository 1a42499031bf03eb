"""AMX for kernels: eight tile registers of 16 rows x 64 bytes, named by number.

    configure     what each tile is: rows and bytes a row (ldtilecfg); `release` ends it
    zero, load, save, and the products  dst[m, n] += sum over k, i of a[m, k, i] b[k, n, i]
        tdpbsud    a s8 [m][k][4], b u8 [k][n][4], dst int32
        tdpbf16ps  a bf16 [m][k][2], b bf16 [k][n][2], dst float32

So with weights as a (rows: outputs) and activations as b (columns: tokens) the sums lie as all our
activations do, [output][token], and b is what `interleave` makes of 4 rows of bytes: k4, as VNNI
has it.

A tile's number is part of the instruction: functions are made for a number (`zeros(3)`).  LLVM ends
the process where an instruction is asked for that the target lacks; here it is an IsaError.
Source: Intel SDM vol. 2, LDTILECFG ... TDPBF16PS.
"""

import llvmlite.ir as ir
import numba as nb

from ..codegen.lower import instruction, routine
from ..codegen.simd import I8, call, store_unaligned
from ..errors import IsaError

VOID = ir.VoidType()
ROWS = 16  # of a tile
ROW_BYTES = 64


def _require(isa, feature):
    if not isa.has(feature):
        raise IsaError(f"{isa} lacks {feature}, which this kernel is made of")


def _number(tile):
    return ir.Constant(I8, tile)


def _pointer(builder, address):
    return builder.inttoptr(address, I8.as_pointer())


def _configure(b, isa, address):
    _require(isa, "amx-tile")
    call(b, "llvm.x86.ldtilecfg", VOID, _pointer(b, address))


@instruction(_configure)
def load_configuration(address):
    """ldtilecfg of 64 bytes."""
    return nb.void


def _release(b, isa):
    _require(isa, "amx-tile")
    call(b, "llvm.x86.tilerelease", VOID)


@instruction(_release)
def release():
    """Every kernel that configures ends with it: later code then saves no tiles on a switch."""
    return nb.void


def configuration(shapes):
    """64 bytes for ldtilecfg: palette 1, then rows and bytes a row of each tile."""
    content = bytearray(64)
    content[0] = 1
    for tile, (rows, row_bytes) in enumerate(shapes):
        content[16 + 2 * tile : 18 + 2 * tile] = row_bytes.to_bytes(2, "little")
        content[48 + tile] = rows
    return bytes(content)


def configures(shapes):
    """A routine (address of 64 bytes to use) that sets tiles up; shapes: (rows, bytes a row)."""
    content = configuration(shapes)
    words = [int.from_bytes(content[i : i + 8], "little", signed=True) for i in range(0, 64, 8)]
    lines = [f"    store(scratch + {8 * i}, i64({word}))" for i, word in enumerate(words)]
    source = "\n".join(["def configure(scratch):", *lines, "    load_configuration(scratch)"])
    scope = {"store": store_unaligned, "i64": nb.int64, "load_configuration": load_configuration}
    exec(source, scope)  # unrolled: Numba does not loop over a tuple at compile time
    return routine(scope["configure"])


def _zero(b, isa, tile):
    _require(isa, "amx-tile")
    call(b, "llvm.x86.tilezero", VOID, _number(tile))


def zeros(tile):
    """A function that clears the tile."""

    @instruction(_zero, static=(tile,))
    def tile_zero():
        return nb.void

    return tile_zero


def _load(b, isa, address, stride, tile):
    _require(isa, "amx-tile")
    call(b, "llvm.x86.tileloadd64", VOID, _number(tile), _pointer(b, address), stride)


def tile_loads(tile):
    """A function (address, bytes from row to row) that fills the tile."""

    @instruction(_load, static=(tile,))
    def tile_load(address, stride):
        return nb.void

    return tile_load


def _save(b, isa, address, stride, tile):
    _require(isa, "amx-tile")
    call(b, "llvm.x86.tilestored64", VOID, _number(tile), _pointer(b, address), stride)


def tile_stores(tile):
    """A function (address, bytes from row to row) that stores the tile."""

    @instruction(_save, static=(tile,))
    def tile_store(address, stride):
        return nb.void

    return tile_store


_FEATURE = {"tdpbsud": "amx-int8", "tdpbf16ps": "amx-bf16"}


def _product(b, isa, name, target, left, right):
    _require(isa, _FEATURE[name])
    call(b, f"llvm.x86.{name}", VOID, _number(target), _number(left), _number(right))


def products(name, target, left, right):
    """A function target += left x right; name: "tdpbsud" or "tdpbf16ps"."""

    @instruction(_product, static=(name, target, left, right))
    def tile_product():
        return nb.void

    return tile_product


def every(functions):
    """One routine without arguments that calls all of them."""
    scope = {f"do{i}": function for i, function in enumerate(functions)}
    exec("\n".join(["def all_of_them():", *(f"    {name}()" for name in scope)]), scope)
    return routine(scope["all_of_them"])


def side_by_side(functions):
    """One routine (address, bytes from row to row) that calls all of them, each a tile's width
    further.
    """
    scope = {f"do{i}": function for i, function in enumerate(functions)}
    calls = [f"    {name}(at + {ROW_BYTES * i}, stride)" for i, name in enumerate(scope)]
    exec("\n".join(["def all_of_them(at, stride):", *calls]), scope)
    return routine(scope["all_of_them"])
