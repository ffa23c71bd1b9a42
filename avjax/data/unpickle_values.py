"""What the machine of unpickle.py makes: words that it knows, values that are not finished yet, arrays."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import numpy as np

# What a file may name -> what it means here. NumPy 2 moved numpy.core to numpy._core.
NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
} | {
    (f"numpy.{core}.{module}", name): name.strip("_")
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
TYPE = re.compile(r"[<>=|]?(?:[biufcSU][1-9]\d{0,8}|\?|O[48]?)")
ELEMENTS = (str, bytes, bool, int, float, type(None))
LARGE = 1 << 16  # bytes; what is smaller is copied at once


class Name:
    """A name that the machine knows; it stands in no container."""

    def __init__(self, words: tuple[str, str]):
        self.words, self.meaning = words, NAMES[words]


class Type:
    """A dtype, whose byte order follows in a second step."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class Unfilled:
    """An array whose shape and content follow in a second step."""

    value: np.ndarray | None = None


class Bytes:
    """A long piece of the file, copied only where it is wanted as bytes."""

    def __init__(self, view: memoryview):
        self.view = view

    @functools.cached_property
    def plain(self) -> bytes:
        return bytes(self.view)


class Arguments:
    """A tuple that holds what is not plain yet."""

    def __init__(self, items: tuple[Any, ...]):
        self.items = items

    @functools.cached_property
    def plain(self) -> tuple[Any, ...]:
        return tuple(plain(item) for item in self.items)


def plain(value: Any) -> Any:
    """What may stand in a container or be the result."""
    if isinstance(value, Bytes | Arguments):
        return value.plain
    if isinstance(value, Unfilled) and value.value is not None:
        return value.value
    if isinstance(value, Name):
        raise ValueError(f"it holds {'.'.join(value.words)} itself, where an array or plain value should stand")
    if isinstance(value, Unfilled | Type):
        raise ValueError(f"it holds an unfinished {'array' if isinstance(value, Unfilled) else 'dtype'}")
    return value


def build_array(dtype: np.dtype, shape: tuple[Any, ...], order: Any, content: Any) -> np.ndarray:
    """An array of a shape that the content fills exactly."""
    if len(shape) > 32 or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError("an array's shape is no tuple of sizes")
    count = math.prod(shape)
    if dtype.kind == "O":
        flat = np.empty(len(content), object)
        flat[:] = content
    else:
        view = content.view if isinstance(content, Bytes) else content
        if len(view) != count * dtype.itemsize:
            raise ValueError(f"an array of {count} elements of {dtype.itemsize} bytes has {len(view)} bytes")
        flat = np.frombuffer(view, dtype) if count else np.empty(0, dtype)
        if dtype.kind == "b":
            flat = flat.view(np.uint8) != 0
        if dtype.kind == "U" and count and flat.view(dtype.byteorder + "u4").max() > 0x10FFFF:
            raise ValueError("an array of text holds what is no character")
    if flat.size != count:
        raise ValueError(f"an array of {count} elements has {flat.size}")
    return flat.reshape(shape, order=order)
