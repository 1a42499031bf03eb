"""Numba as a front end: a Python function over simd's types -> LLVM IR with the abstract
instructions still calls.

`routine` is for functions that kernels call: compiled apart, always inlined.  `instruction`
declares an abstract instruction: its type rule and the function that gives it a body for an
instruction set.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numba as nb
from numba.core import cgutils, compiler
from numba.core.compiler import Flags
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .isa import Isa

__all__ = ["instruction", "kernel_module", "routine"]

FROM_C_LIBRARY = ("sched_yield",)  # resolved when code is loaded
_bodies: dict[
    str, tuple[Callable[..., Any], ir.FunctionType, tuple[Any, ...]]
] = {}  # abstract instructions met so far
_routines: dict[str, str] = {}  # LLVM name -> IR of routines compiled so far


def _flags() -> Any:
    flags: Any = Flags()  # its attributes are made at run time
    flags.error_model = "numpy"
    flags.boundscheck = False
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_compile = True
    return flags


def _compile(
    function: Callable[..., Any], argument_types: tuple[Any, ...], return_type: Any = None
) -> Any:
    typing_context, target_context = cpu_target.typing_context, cpu_target.target_context
    typing_context.refresh()
    target_context.refresh()
    return compiler.compile_extra(
        typing_context, target_context, function, argument_types, return_type, _flags(), {}
    )


def _remember_numbas_own(library: Any) -> None:
    """What Numba linked by itself (min, max, powers of ints): small functions of its standard
    library.
    """
    for linked in library._linking_libraries:
        text = linked.get_llvm_str()
        for name in re.findall(r'^define [^@]*@"?([^"( ]+)"?\(', text, re.MULTILINE):
            _routines.setdefault(name, text)
        _remember_numbas_own(linked)


def routine(function: Callable[..., Any]) -> Any:
    """A function that kernels and other routines may call."""
    made: dict[tuple[Any, ...], Any] = {}

    def typed(_context: Any, *types: Any) -> Any:
        if types not in made:
            result = _compile(function, types)
            _routines[result.fndesc.llvm_func_name] = result.library.get_llvm_str()
            _remember_numbas_own(result.library)
            made[types] = result
        result = made[types]
        return result.signature, lambda context, builder, signature, args: context.call_internal(
            builder, result.fndesc, result.signature, args
        )

    return intrinsic(
        _with_parameters(typed, list(inspect.signature(function).parameters), function.__name__)
    )


def _with_parameters(typed: Callable[..., Any], names: list[str], name: str) -> Callable[..., Any]:
    """`typed` as a function whose parameters have names: Numba's intrinsics take no *args."""
    scope: dict[str, Any] = {"typed": typed}
    given = ", ".join(["typing_context", *names])
    source = f"def {name}({given}):\n    return typed({given})"
    exec(source, scope)  # names come from a function's own signature
    return scope[name]


def _mangled(name: str, static: tuple[Any, ...], function_type: ir.FunctionType) -> str:
    """The name of an abstract instruction: what it is and what it is of."""
    types = [function_type.return_type, *function_type.args]
    return "simd." + re.sub(r"[^a-z0-9]+", "_", " ".join(map(str, (name, *static, *types))).lower())


def instruction(
    body: Callable[..., Any], *, static: tuple[Any, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a type rule (types -> result type).  body(builder, isa, *args, *static) -> value
    makes the code, for one instruction set.
    """

    def declare(rule: Callable[..., Any]) -> Any:
        def typed(_context: Any, *types: Any) -> Any:
            result = rule(*types)

            def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                returned = (
                    context.get_value_type(signature.return_type)
                    if signature.return_type != nb.void
                    else ir.VoidType()
                )
                function_type = ir.FunctionType(returned, [arg.type for arg in args])
                name = _mangled(rule.__name__, static, function_type)
                _bodies[name] = (body, function_type, static)
                value = builder.call(
                    cgutils.get_or_insert_function(builder.module, function_type, name), args
                )
                return context.get_dummy_value() if signature.return_type == nb.void else value

            return result(*types), emit

        return intrinsic(
            _with_parameters(typed, list(inspect.signature(rule).parameters), rule.__name__)
        )

    return declare


def _body_module(names: list[str], isa: Isa, like: llvm.ModuleRef) -> llvm.ModuleRef:
    module = ir.Module()
    module.triple, module.data_layout = like.triple, like.data_layout
    for name in names:
        body, function_type, static = _bodies[name]
        function = ir.Function(module, function_type, name)
        function.attributes.add("alwaysinline")
        builder = ir.IRBuilder(function.append_basic_block())
        value = body(builder, isa, *function.args, *static)
        if value is None:
            builder.ret_void()
        else:
            builder.ret(value)
    return llvm.parse_assembly(str(module))


def _undefined(module: llvm.ModuleRef, prefix: str = "") -> list[str]:
    return [
        function.name
        for function in module.functions
        if function.is_declaration and function.name.startswith(prefix)
    ]


def _entry(name: str, target: str) -> str:
    """A C function of four int64 around Numba's calling convention (status returned, result and
    exception by pointer).
    """
    return f"""
    declare i32 @"{target}"(ptr, ptr, i64, i64, i64, i64)
    define void @"{name}"(i64 %params, i64 %context, i64 %begin, i64 %end) {{
      %result = alloca ptr
      %exception = alloca ptr
      %status = call i32 @"{target}"(ptr %result, ptr %exception, i64 %params, i64 %context, i64
      %begin, i64 %end) ret void
    }}"""


@lru_cache(maxsize=16)
def _typed_kernel(function: Callable[..., Any]) -> tuple[str, str]:
    """The LLVM name of a kernel's function and its IR, the same for all instruction sets."""
    result = _compile(function, (nb.int64,) * 4, nb.void)
    _remember_numbas_own(result.library)
    return result.fndesc.llvm_func_name, result.library.get_llvm_str()


def kernel_module(name: str, function: Callable[..., Any], isa: Isa) -> str:
    """LLVM IR of the kernel under `name`, everything it calls inside, nothing inlined yet."""
    target, text = _typed_kernel(function)
    module = llvm.parse_assembly(text)
    entry = llvm.parse_assembly(_entry(name, target))
    entry.triple, entry.data_layout = module.triple, module.data_layout
    module.link_in(entry)
    while wanted := [other for other in _undefined(module) if other in _routines]:
        module.link_in(llvm.parse_assembly(_routines[wanted[0]]))
    module.link_in(_body_module(_undefined(module, "simd."), isa, module))
    unknown = [
        other
        for other in _undefined(module)
        if not other.startswith("llvm.") and other not in FROM_C_LIBRARY
    ]
    assert not unknown, f"kernel {name} calls {', '.join(unknown)}, which nothing defines"
    for each in module.functions:
        if not each.is_declaration and each.name != name:
            each.linkage = "internal"
            if not each.name.startswith("simd."):
                each.add_function_attribute("alwaysinline")
    return str(module)
