"""Eight float32 numbers in one register, for inner loops that are too short for the compiler.

A loop over 21 classes is written as a loop over three groups of eight lanes. LLVM gives every machine the
instructions that it has: AVX, two times SSE or two times NEON.
"""

from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

WIDTH = 8


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator; Any, because what it makes is called without the first argument."""
    return numba.extending.intrinsic(function)


_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, WIDTH)
_INTEGERS = ir.VectorType(_I32, WIDTH)


class Lanes(types.Type):
    """The type of eight float32 numbers inside a kernel."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _all(number: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [ir.Constant(_F32, number)] * WIDTH)


def _spread(builder: Any, number: Any) -> Any:
    """The same number in every lane."""
    none = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(none, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, none, ir.Constant(_INTEGERS, [0] * WIDTH))


def _muladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """The sum of c and the product of a and b, rounded once where the machine can."""
    module = builder.module
    name = f"llvm.fmuladd.v{WIDTH}f32"
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), name)
    return builder.call(function, [a, b, c])


def _fold(builder: Any, vector: Any, combine: Any) -> Any:
    """One number of all lanes, by halves."""
    for step in (4, 2, 1):
        turned = [(lane + step) % WIDTH for lane in range(WIDTH)]
        other = builder.shuffle_vector(vector, vector, ir.Constant(_INTEGERS, turned))
        vector = combine(vector, other)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _address(context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [position]), _VECTOR.as_pointer())


def _is_plain(array: Any) -> bool:
    """Whether the compiler's type is that of a contiguous array of float32."""
    return isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"


@intrinsic
def load(typing: Any, array: Any, position: Any) -> Any:
    """Eight numbers of a contiguous array from the flat position `position`, which must be inside."""
    if not _is_plain(array):
        return None

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_address(context, builder, signature.args[0], *arguments))
        vector.align = 4
        return vector

    return lanes(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, position: Any, vector: Any) -> Any:
    """Write eight numbers into a contiguous array from the flat position `position`."""
    if not _is_plain(array):
        return None

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, position, vector = arguments
        written = builder.store(vector, _address(context, builder, signature.args[0], array, position))
        written.align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@intrinsic
def every(typing: Any, number: Any) -> Any:
    """The same number in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[0])

    return lanes(types.float32), code


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """The sum of a and b."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return lanes(lanes, lanes), code


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """The product of a and b."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments)

    return lanes(lanes, lanes), code


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """The sum of c and the product of a and b, rounded once where the machine can."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _muladd(builder, *arguments)

    return lanes(lanes, lanes, lanes), code


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return lanes(lanes, lanes), code


@intrinsic
def largest(typing: Any, a: Any) -> Any:
    """The largest number of all lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def combine(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _fold(builder, arguments[0], combine)

    return types.float32(lanes), code


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of all lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _fold(builder, arguments[0], builder.fadd)

    return types.float32(lanes), code


@intrinsic
def exponential(typing: Any, a: Any) -> Any:
    """exp(a) for a <= 0 to about one unit in the last place; 0 below -69, where it is less than 1e-30.

    exp(a) = 2^n exp(r) with n whole and |r| <= ln(2) / 2; a polynomial (Cephes' expf) gives exp(r).
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        # Adding and taking away 1.5 * 2^23 leaves a float32 without a fraction.
        shift = _all(12582912.0)
        n = builder.fsub(_muladd(builder, x, _all(1.4426950408889634), shift), shift)
        r = _muladd(builder, n, _all(-0.693359375), x)  # ln(2) in two parts: the first is exact
        r = _muladd(builder, n, _all(2.12194440e-4), r)
        p = _all(1.9875691500e-4)
        for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = _muladd(builder, p, r, _all(factor))
        p = builder.fadd(_muladd(builder, p, builder.fmul(r, r), r), _all(1.0))
        bits = builder.add(builder.fptosi(n, _INTEGERS), ir.Constant(_INTEGERS, [127] * WIDTH))
        power = builder.bitcast(builder.shl(bits, ir.Constant(_INTEGERS, [23] * WIDTH)), _VECTOR)
        kept = builder.fcmp_ordered(">", x, _all(-69.0))
        return builder.select(kept, builder.fmul(p, power), _all(0.0))

    return lanes(lanes), code
