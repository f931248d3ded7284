"""Instructions that Numba has no name for, spelt for LLVM, which has them on every machine.

Each has a plain reference in the tests that gives the same answer. They are worth it where the compiler does
not find them by itself: counting a confusion matrix takes a fifth of the time with `changes`.
"""

import inspect
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = 64  # pixels that `changes` looks at together

_I64 = ir.IntType(64)
_NO = ir.Constant(ir.IntType(1), 0)


def instruction(code: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's `intrinsic`; a kernel calls it without the first argument, which is the compiler's own."""
    return cast(Callable[..., Any], intrinsic(inspect.unwrap(code)))


def _is_flat(array: Any) -> bool:
    """Whether the compiler's type is that of a contiguous array of integers with one axis."""
    return (
        isinstance(array, types.Array)
        and array.ndim == 1
        and array.layout == "C"
        and isinstance(array.dtype, types.Integer)
    )


@instruction
def changes(typing: Any, first: Any, second: Any, begin: Any) -> Any:
    """A word whose bit j tells that `first` or `second` differs between pixels begin + j and begin + j + 1.

    Both arrays must reach to pixel begin + 64 at least.
    """
    if not (_is_flat(first) and _is_flat(second)):
        return None

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pixels(number: int, shift: int) -> Any:
            array_type = signature.args[number]
            bits = array_type.dtype.bitwidth
            data = context.make_array(array_type)(context, builder, arguments[number]).data
            position = builder.add(arguments[2], ir.Constant(_I64, shift))
            vector_type = ir.VectorType(ir.IntType(bits), WORD)
            vector = builder.load(builder.bitcast(builder.gep(data, [position]), vector_type.as_pointer()))
            vector.align = bits // 8
            return vector

        either = builder.or_(
            builder.icmp_unsigned("!=", pixels(0, 0), pixels(0, 1)),
            builder.icmp_unsigned("!=", pixels(1, 0), pixels(1, 1)),
        )
        return builder.bitcast(either, _I64)

    return types.uint64(first, second, types.int64), code


@instruction
def lowest_bit(typing: Any, word: Any) -> Any:
    """Place of the lowest bit that is set; 64 where none is."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], _NO)

    return types.int64(types.uint64), code


@instruction
def count_bits(typing: Any, word: Any) -> Any:
    """Number of bits that are set."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), code


@instruction
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Sum of a * b and c in float32, rounded once."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), code


@instruction
def from_bits(typing: Any, bits: Any) -> Any:
    """The float32 that these bits spell."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code
