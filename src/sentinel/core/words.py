"""Bytes and words at an address: what the kernels that read bytes are made of.

Numba's array indexing carries the whole array descriptor through every call and checks for
negative indices. A kernel that looks at every byte of every event takes the address of its
buffer once and reads from there; arrays that are passed on are also counted up and down at each
call, which costs more than the work. Whoever calls these functions has checked the bounds.
All functions here are intrinsics: they exist in native code only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

_I8, _I64, _I128 = ir.IntType(8), ir.IntType(64), ir.IntType(128)


@intrinsic
def _address_of(typing_context, array):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        proxy = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(proxy.data, _I64)

    return types.int64(array), generate


@intrinsic
def _byte_at(typing_context, address, offset):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.add(arguments[0], arguments[1])
        pointer = builder.inttoptr(place, _I8.as_pointer())
        return builder.zext(builder.load(pointer, typ=_I8), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _word_at(typing_context, address, offset):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.add(arguments[0], arguments[1])
        pointer = builder.inttoptr(place, _I64.as_pointer())
        return builder.load(pointer, align=1, typ=_I64)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def _int_at(typing_context, address, index):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        offset = builder.shl(arguments[1], ir.Constant(_I64, 3))
        pointer = builder.inttoptr(builder.add(arguments[0], offset), _I64.as_pointer())
        return builder.load(pointer, typ=_I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _put_int(typing_context, address, index, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        offset = builder.shl(arguments[1], ir.Constant(_I64, 3))
        pointer = builder.inttoptr(builder.add(arguments[0], offset), _I64.as_pointer())
        builder.store(arguments[2], pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _put_byte(typing_context, address, offset, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.add(arguments[0], arguments[1])
        pointer = builder.inttoptr(place, _I8.as_pointer())
        builder.store(builder.trunc(arguments[2], _I8), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _trailing_zeros(typing_context, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def _leading_zeros(typing_context, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def _high_product(typing_context, left, right):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = [builder.zext(argument, _I128) for argument in arguments]
        product = builder.lshr(builder.mul(*wide), ir.Constant(_I128, 64))
        return builder.trunc(product, _I64)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def _as_int(typing_context, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return arguments[0]

    return types.int64(types.uint64), generate


@intrinsic
def _float_of_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def _bits_of_float(typing_context, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], _I64)

    return types.int64(types.float64), generate


address_of = cast("Callable[[npt.NDArray[np.generic]], int]", _address_of)
"""Return where the data of an array start; the caller keeps the array alive."""
byte_at = cast("Callable[[int, int], int]", _byte_at)
"""Read the byte at ``address + offset`` as an int64, 0 to 255."""
word_at = cast("Callable[[int, int], np.uint64]", _word_at)
"""Read eight bytes at ``address + offset``, the first in the lowest place."""
int_at = cast("Callable[[int, int], int]", _int_at)
"""Read the ``index``-th int64 of an array of int64 at ``address``."""
put_int = cast("Callable[[int, int, int], None]", _put_int)
"""Write the ``index``-th int64 of an array of int64 at ``address``."""
put_byte = cast("Callable[[int, int, int], None]", _put_byte)
"""Write the lowest byte of ``value`` at ``address + offset``."""
trailing_zeros = cast("Callable[[np.uint64], int]", _trailing_zeros)
"""Count the zero bits below the lowest one; 64 for zero."""
leading_zeros = cast("Callable[[np.uint64], int]", _leading_zeros)
"""Count the zero bits above the highest one; 64 for zero."""
high_product = cast("Callable[[np.uint64, np.uint64], np.uint64]", _high_product)
"""Return the upper 64 bits of the 128-bit product."""
as_int = cast("Callable[[np.uint64], int]", _as_int)
"""Read the bits of a word as an int64."""
float_of_bits = cast("Callable[[int], float]", _float_of_bits)
"""Read an int64 as the float64 with the same bits."""
bits_of_float = cast("Callable[[float], int]", _bits_of_float)
"""Return the bits of a float64 as an int64."""

__all__ = [
    "address_of",
    "as_int",
    "bits_of_float",
    "byte_at",
    "float_of_bits",
    "high_product",
    "int_at",
    "leading_zeros",
    "put_byte",
    "put_int",
    "trailing_zeros",
    "word_at",
]
