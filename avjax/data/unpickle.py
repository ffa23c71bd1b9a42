"""Pickles from outside, read without being run.

A pickle is a program for a stack machine, and Python's own imports and calls whatever the file names. Here is another
machine for the same language, protocols 0 to 5, that can make numbers, text, bytes, lists, tuples, dictionaries, and
NumPy arrays of numbers, text or (as objects) single plain values. It imports nothing and calls nothing that a file
names: the few names it knows are words to it. Whatever else a file says is refused, with an error that names it.

Arrays are views into the mapped file, read when they are touched; a file cannot ask for more memory than its own size
accounts for.
"""

from __future__ import annotations

import codecs
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from avjax.data.unpickle_values import (
    ELEMENTS,
    LARGE,
    NAMES,
    TYPE,
    Arguments,
    Bytes,
    Name,
    Type,
    Unfilled,
    build_array,
    plain,
)


class PickleRefused(ValueError):
    """A pickle that is damaged, or that holds something other than arrays and plain containers."""


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What a pickle file holds: plain values, containers and (read-only) NumPy arrays.

    Raises:
      PickleRefused: the file is damaged, cut short, or names anything else; the message says what and where.
    """
    path = Path(path)
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise PickleRefused(f"{path}: the file is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Machine(memoryview(mapped), str(path)).run()


def parse_pickle(data: bytes, name: str = "pickle") -> Any:
    """``read_pickle`` of bytes; ``name`` is what errors call them."""
    return _Machine(memoryview(data), name).run()


class _Machine:
    """Reads one pickle. ``at`` is the place in it, ``outer`` the stacks below the marks."""

    def __init__(self, data: memoryview, name: str):
        self.data, self.name, self.at = data, name, 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.encoded: dict[str, bytes] = {}
        # What is copied takes as many bytes of the file, unless one piece of it is used many times.
        self.left = len(data)

    def run(self) -> Any:
        begin = 0
        try:
            while True:
                begin = self.at
                code = self.take(1)[0]
                if code == ord("."):
                    return plain(self.stack.pop())
                if code not in _OPERATIONS:
                    what = _REFUSED.get(code, f"an unknown instruction 0x{code:02x}")
                    raise ValueError(f"{what}, which no array or plain container needs")
                _OPERATIONS[code](self)
        except PickleRefused:
            raise
        except (IndexError, KeyError, struct.error) as error:
            raise PickleRefused(f"{self.name}: damaged at byte {begin}: {type(error).__name__}") from error
        except (ValueError, TypeError, OverflowError, MemoryError, RecursionError, DeprecationWarning) as error:
            raise PickleRefused(f"{self.name}: refused at byte {begin}: {str(error)[:300]}") from error

    # Reading

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"it is cut short: {count} bytes are to come, {len(self.data) - self.at} are there")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def line(self) -> bytes:
        """Up to the next line's end."""
        begin, step = self.at, 256
        while (end := bytes(self.data[begin : self.at + step]).find(b"\n")) < 0:
            if self.at + step >= len(self.data):
                raise ValueError("it is cut short within a line")
            step *= 2
        self.at = begin + end + 1
        return bytes(self.data[begin : begin + end])

    # What instructions do

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_bytes(self, view: memoryview) -> None:
        self.push(Bytes(view) if len(view) >= LARGE else bytes(view))

    def push_tuple(self, items: list[Any]) -> None:
        inner = any(isinstance(item, Bytes | Arguments | Unfilled | Name | Type) for item in items)
        self.push(Arguments(tuple(items)) if inner else tuple(items))

    def last(self, count: int) -> list[Any]:
        """The topmost values, taken off."""
        if len(self.stack) < count:
            raise IndexError
        found, self.stack[len(self.stack) - count :] = self.stack[len(self.stack) - count :], []
        return found

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Everything above the last mark, taken off with it."""
        found, self.stack = self.stack, self.outer.pop()
        return found

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"elements are added to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(plain(item) for item in items)

    def update(self, items: list[Any], to: dict[Any, Any]) -> dict[Any, Any]:
        if type(to) is not dict or len(items) % 2:
            raise ValueError(f"pairs are added to a {type(to).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            key = plain(key)
            parts = key if type(key) is tuple else (key,)
            # The hash of a tuple of tuples of tuples would recurse as deep as the file likes.
            if not all(type(part) in ELEMENTS for part in parts):
                raise ValueError(f"a key of a dictionary is a {type(key).__name__}")
            to[key] = plain(value)
        return to

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in NAMES:
            raise ValueError(
                f"it names {f'{module}.{name}'[:120]!r}; only NumPy arrays and plain containers are read, and nothing"
                " that a file names is ever run"
            )
        self.push(Name((module, name)))

    def encode(self, text: Any) -> bytes | Bytes:
        """Bytes that were kept as text (Python 2, and protocols below 3)."""
        if type(text) is str:
            if text not in self.encoded:
                self.encoded[text] = text.encode("latin-1")
            return self.encoded[text]
        if not isinstance(text, bytes | Bytes):
            raise ValueError(f"a {type(text).__name__} stands where bytes should")
        return text

    def reduce(self) -> None:
        """Calls, to Python's machine; here the few words that make arrays."""
        name, arguments = self.last(2)
        if not isinstance(name, Name) or not isinstance(arguments, tuple | Arguments):
            raise ValueError(f"it calls a {type(name).__name__}")
        items = arguments.items if isinstance(arguments, Arguments) else arguments
        match name.meaning, items:
            case "reconstruct", (Name(meaning="ndarray"), (0,), b"b" | "b"):
                self.push(Unfilled())
            case "dtype", (str(code), *_) if TYPE.fullmatch(code):
                self.push(Type(np.dtype(code)))
            case "scalar", (Type() as kind, data) if kind.dtype.kind != "O":
                self.spend(kind.dtype.itemsize)
                self.push(build_array(kind.dtype, (1,), "C", self.encode(data))[0])
            case "frombuffer", (data, Type() as kind, tuple(shape), "C" | "F" | "A" | "K" as order, *axes):
                array = self.array(kind.dtype, shape, order.replace("K", "C"), self.encode(data))
                self.push(array.transpose(axes[0]) if order == "K" else array)
            case "encode", (str(text), "latin1" | "latin-1"):
                self.push(self.encode(text))
            case "bytes", ():
                self.push(b"")
            case _:
                raise ValueError(f"it calls {'.'.join(name.words)} with what makes no array of numbers or text")

    def build(self) -> None:
        """The second step of an array or dtype."""
        target, state = self.last(2)
        items = state.items if isinstance(state, Arguments) else state
        match target, items:
            case Unfilled(value=None), (int(), tuple(shape), Type(dtype=dtype), bool() | 0 | 1 as fortran, content):
                data = self.objects(content) if dtype.kind == "O" else self.encode(content)
                target.value = self.array(dtype, shape, "F" if fortran else "C", data)
                self.push(target.value)
            case Type(), (int(), "<" | ">" | "=" | "|" as order, None, None, None, int(size), *_):
                if size not in (-1, target.dtype.itemsize):
                    raise ValueError(f"a dtype {target.dtype} of {size} bytes")
                target.dtype = target.dtype.newbyteorder(order)
                self.push(target)
            case _:
                raise ValueError("it sets the state of what is no array of numbers or text")

    def objects(self, content: Any) -> list[Any]:
        if type(content) is not list or not all(type(item) in ELEMENTS for item in content):
            raise ValueError("an array of objects holds more than text, bytes, numbers and None")
        self.spend(len(content))
        return content

    def array(self, dtype: np.dtype, shape: tuple[Any, ...], order: str, content: Any) -> np.ndarray:
        """A view of the file, but for bools, which are not taken as they are."""
        if dtype.kind == "b":
            self.spend(len(content.view if isinstance(content, Bytes) else content))
        return build_array(dtype, shape, order, content)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("it makes more of its content than the file holds")


def _integer(text: bytes) -> int | bool:
    return {b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text)


def _quoted(text: bytes) -> str:
    """Text as Python 2 wrote it down."""
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"'\"":
        raise ValueError("text without quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")


def _text(kind: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(str(m.take(m.number(kind)), "utf-8", "surrogatepass"))


def _bytes(kind: str) -> Callable[[_Machine], None]:
    return lambda m: m.push_bytes(m.take(m.number(kind)))


def _long(kind: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(int.from_bytes(m.take(m.number(kind)), "little", signed=True))


def _do(names: dict[bytes, Callable[[_Machine], Any]]) -> dict[int, Callable[[_Machine], Any]]:
    return {code[0]: act for code, act in names.items()}


# The instructions, by what the standard library's pickletools calls them.
_OPERATIONS = _do(
    {
        b"\x80": lambda m: m.take(1),  # PROTO
        b"\x95": lambda m: m.take(8),  # FRAME
        b"(": _Machine.mark,
        b"0": lambda m: m.last(1) if m.stack else m.marked(),  # POP
        b"1": _Machine.marked,  # POP_MARK
        b"2": lambda m: m.push(m.stack[-1]),  # DUP
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"I": lambda m: m.push(_integer(m.line())),
        b"L": lambda m: m.push(int(m.line().removesuffix(b"L"))),
        b"J": lambda m: m.push(m.number("<i")),
        b"K": lambda m: m.push(m.number("<B")),
        b"M": lambda m: m.push(m.number("<H")),
        b"\x8a": _long("<B"),
        b"\x8b": _long("<i"),
        b"F": lambda m: m.push(float(m.line())),
        b"G": lambda m: m.push(m.number(">d")),
        b"S": lambda m: m.push(_quoted(m.line())),
        b"T": lambda m: m.push(str(m.take(m.number("<i")), "latin-1")),
        b"U": lambda m: m.push(str(m.take(m.number("<B")), "latin-1")),
        b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        b"X": _text("<I"),
        b"\x8c": _text("<B"),
        b"\x8d": _text("<Q"),
        b"B": _bytes("<I"),
        b"C": _bytes("<B"),
        b"\x8e": _bytes("<Q"),
        b"\x96": _bytes("<Q"),  # BYTEARRAY8
        b"]": lambda m: m.push([]),
        b"l": lambda m: m.push([plain(item) for item in m.marked()]),
        b"a": lambda m: m.extend(m.last(1)),
        b"e": lambda m: m.extend(m.marked()),
        b")": lambda m: m.push(()),
        b"t": lambda m: m.push_tuple(m.marked()),
        b"\x85": lambda m: m.push_tuple(m.last(1)),
        b"\x86": lambda m: m.push_tuple(m.last(2)),
        b"\x87": lambda m: m.push_tuple(m.last(3)),
        b"}": lambda m: m.push({}),
        b"d": lambda m: m.push(m.update(m.marked(), {})),
        b"s": lambda m: m.update(m.last(2), m.stack[-1]),
        b"u": lambda m: m.update(m.marked(), m.stack[-1]),
        b"p": lambda m: m.put(int(m.line())),
        b"q": lambda m: m.put(m.number("<B")),
        b"r": lambda m: m.put(m.number("<I")),
        b"\x94": lambda m: m.put(len(m.memo)),  # MEMOIZE
        b"g": lambda m: m.push(m.memo[int(m.line())]),
        b"h": lambda m: m.push(m.memo[m.number("<B")]),
        b"j": lambda m: m.push(m.memo[m.number("<I")]),
        b"c": lambda m: m.find(m.line().decode(), m.line().decode()),  # GLOBAL
        b"\x93": lambda m: m.find(*m.last(2)),  # STACK_GLOBAL
        b"R": _Machine.reduce,
        b"b": _Machine.build,
    }
)
_REFUSED = {
    code: f"it makes an object ({name})"
    for code, name in [(ord("i"), "INST"), (ord("o"), "OBJ"), (0x81, "NEWOBJ"), (0x92, "NEWOBJ_EX")]
} | {
    code: f"it holds {what}"
    for codes, what in [
        ((ord("P"), ord("Q")), "a reference to something outside (PERSID)"),
        ((0x82, 0x83, 0x84), "an extension's object (EXT)"),
        ((0x8F, 0x90, 0x91), "a set"),
        ((0x97, 0x98), "a buffer outside of the file (NEXT_BUFFER)"),
    ]
    for code in codes
}
