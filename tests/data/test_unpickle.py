"""Pickles from outside: arrays and plain containers come back, and nothing in a file is ever run."""

from __future__ import annotations

import copyreg
import functools
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avjax.data.unpickle import PickleRefused, parse_pickle, read_pickle

PROTOCOLS = range(6)
KINDS = (bool, int, float, complex, str, bytes, type(None), list, tuple, dict, np.ndarray)


def same(a: Any, b: Any) -> bool:
    """Equal in kind and content; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(b, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=b.dtype.kind in "fc"))
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def is_plain(value: Any) -> bool:
    """Of the kinds that the reader promises, all the way down; what holds itself is looked at once."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            if type(value) is not np.ndarray or value.dtype.kind not in "biufcSUO":
                return False
            waiting += value.ravel().tolist() if value.dtype.kind == "O" else []
        elif isinstance(value, np.generic):
            continue
        elif type(value) not in KINDS:
            return False
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            waiting += list(value)
    return True


big = np.arange(30_000, dtype=np.float64).reshape(100, 300)
EXAMPLES = {
    "long": big,
    "fortran": np.asfortranarray(big),
    "strided": big.T[::2],
    "permuted": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "other byte order": np.arange(5, dtype=">i4"),
    "text": np.array(["a", "bcd\u00fc"]),
    "bytes": np.array([b"a", b"bcd"]),
    "objects": np.array([["x", None], [3, 2.5]], object),
    "bool": np.array([True, False]),
    "half": np.array([np.nan, np.inf, -np.inf], np.float16),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(3.5),
    "text scalar": np.str_("word"),
    "none": [None, True, False, [], (), {}, "", b""],
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**70, -(2**2000), 0.1, float("inf")],
    "strings": ["line\nbreak", "\u00fc\u4e2d\U0001f600\ud800", "x" * 300, b"\x00\xff", b"y" * 70_000],
    "tuples": [(1,), (1, 2), (1, (2, (b"z" * 70_000, 3))), tuple(range(9))],
    ("key", 1): {b"bytes": 1, 2: [{"deep": {}}]},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_python_wrote_comes_back(protocol: int) -> None:
    found = parse_pickle(pickle.dumps(EXAMPLES, protocol))
    assert found.keys() == EXAMPLES.keys()
    assert not [key for key in EXAMPLES if not same(found[key], EXAMPLES[key])]


@hypothesis.settings(max_examples=10)
@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
        | arrays.arrays(
            st.sampled_from(["<f4", ">f8", "i2", "u1", "?", "U3", "S2"]),
            arrays.array_shapes(min_dims=0, min_side=0, max_side=3),
        ),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=12,
    ),
    st.sampled_from(PROTOCOLS),
)  # fmt: skip
def test_anything_plain_comes_back(value: Any, protocol: int) -> None:
    assert same(parse_pickle(pickle.dumps(value, protocol)), value)


def test_the_names_of_other_versions_of_numpy_and_python_are_known() -> None:
    data = pickle.dumps({"a": np.arange(3.0)}, 2)
    assert b"numpy._core" in data
    assert same(parse_pickle(data.replace(b"numpy._core", b"numpy.core")), {"a": np.arange(3.0)})
    # Python 2's text strings, in both of its ways, and an array whose content is one.
    two = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\n"
    )
    two += b"I1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    assert same(parse_pickle(two), np.array([1, 2], np.float32))
    assert parse_pickle(b"(lp0\nS'caf\\xe9'\naU\x03\xe9bcaT\x02\x00\x00\x00xya.") == ["caf\u00e9", "\u00e9bc", "xy"]


def test_arrays_are_views_of_the_file_and_shared_ones_stay_shared(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": big, "again": big}, 4))
    found = read_pickle(path)
    assert found["again"] is found["a"]
    assert np.array_equal(found["a"], big)
    assert not found["a"].flags.writeable
    assert not found["a"].flags.owndata


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made

    def __call__(self) -> Any:
        """A call of what a call makes: to be pickled, that has to look as if it could be called."""
        return self.made


class Plain:
    """An object of a class."""


class SubArray(np.ndarray):
    """An array of a class of its own."""


# What is refused, and what the error says of it.
HOSTILE: dict[str, tuple[Any, str]] = {
    "system": (Calls(os.system, "touch ran"), r"names '\w+\.system'"),
    "Popen": (Calls(subprocess.Popen, ["touch", "ran"]), r"names '\w+\.Popen'"),
    "eval": (Calls(eval, "open('ran', 'w')"), r"names '\w+\.eval'"),
    "exec": (Calls(exec, "open('ran', 'w')"), r"names '\w+\.exec'"),
    "getattr": (Calls(getattr, np.ndarray, "tofile"), r"names '\w+\.getattr'"),
    "a chain": (Calls(Calls(getattr, np.ndarray, "tofile"), "ran"), r"names '\w+\.getattr'"),
    "import": (Calls(__import__, "os"), r"names '\w+\.__import__'"),
    "partial": (Calls(functools.partial, print), r"names 'functools\.partial'"),
    "load": (Calls(np.load, "ran.npy"), r"names 'numpy\.load'"),
    "fromfile": (Calls(np.fromfile, "ran.bin"), r"names 'numpy[\w.]*\.fromfile'"),
    "save": (Calls(np.save, "ran.npy", 1), r"names 'numpy\.save'"),
    "runstring": (Calls(np.testing.runstring, "open('ran', 'w')", {}), r"names 'numpy[\w.]*\.runstring'"),
    "memmap": (np.memmap, r"names 'numpy\.memmap'"),
    "reconstructor": (Calls(copyreg._reconstructor, Plain, object, None), r"names '\w+\._reconstructor'|names .*Plain"),
    "an object": (Plain(), r"names '[\w.]+'"),
    "a set": ({1, 2}, r"a set|names '\w+\.set'"),
    "bytearray": (Calls(bytearray, 10**12), r"names '\w+\.bytearray'"),
    "complex": (1j, r"names '\w+\.complex'"),
    "masked": (np.ma.masked_array([1.0], [True]), r"names 'numpy\.ma"),
    "a subclass": (np.zeros(2).view(SubArray), r"names '[\w.]+SubArray'|calls numpy"),
    "a large array": (Calls(np.ndarray, (10**12,)), r"calls numpy\.ndarray"),
    "fields": (Calls(np.dtype, [("a", "O")]), r"calls numpy\.dtype"),
    "named fields": (np.zeros(2, [("a", "f4")]), r"calls numpy\.dtype"),
    "times": (np.zeros(2, "M8[s]"), r"calls numpy\.dtype"),
    "nested": (np.array([[1], {}], object), r"array of objects"),
    "calls inside": (np.array([Calls(os.system, "touch ran")], object), r"names '\w+\.system'"),
    "a dtype": (np.dtype("f4"), r"unfinished dtype"),
    "a name": (np.ndarray, r"numpy\.ndarray itself"),
    "a state": (Calls(bytes, state={"a": 1}), r"sets the state"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_else_is_made_and_nothing_is_run(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused, by name where it has one, before anything could be called."""
    monkeypatch.chdir(tmp_path)
    value, says = HOSTILE[what]
    for protocol in PROTOCOLS:
        with pytest.raises(PickleRefused, match=rf"^file\.pkl: .*({says})"):
            parse_pickle(pickle.dumps({"train": [value]}, protocol), "file.pkl")
    assert not list(tmp_path.iterdir())


HEAD = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"


def array_of(kind: bytes, shape: bytes, content: bytes) -> bytes:
    """An array's pickle, by hand."""
    return (
        HEAD + b"(K\x01" + shape + b"cnumpy\ndtype\n(X" + struct.pack("<I", len(kind)) + kind + b"\x89\x88tR"
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + content + b"tb."
    )  # fmt: skip


def test_a_hand_made_array_is_read() -> None:
    """So that those below fail for the reason that they are there for."""
    found = parse_pickle(array_of(b"f4", b"(K\x01K\x02t", b"C\x08" + struct.pack("<ff", 1, 2)))
    assert same(found, np.array([[1, 2]], np.float32))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (array_of(b"f8", b"(L1000000000000000L\nt", b"C\x08" + bytes(8)), "has 8 bytes"),
        (array_of(b"f8", b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", b"C\x08" + bytes(8)), "shape"),
        (array_of(b"f8", b"(\x88t", b"C\x08" + bytes(8)), "shape"),
        (array_of(b"f8", b"(" + b"K\x01" * 33 + b"t", b"C\x08" + bytes(8)), "shape"),
        (array_of(b"S0", b"(L99999999999999L\nt", b"C\x00"), "dtype"),
        (array_of(b"U99999999", b"(K\x01t", b"C\x04" + bytes(4)), "has 4 bytes"),
        (array_of(b"U999999999", b"(K\x01t", b"C\x04" + bytes(4)), "not understood"),
        (array_of(b"V8", b"(K\x01t", b"C\x08" + bytes(8)), "dtype"),
        (array_of(b"(999999,999999)f8", b"(K\x01t", b"C\x08" + bytes(8)), "dtype"),
        (array_of(b"f4,O", b"(K\x01t", b"C\x08" + bytes(8)), "dtype"),
        (array_of(b"O8", b"(K\x01t", b"C\x08" + bytes(8)), "array of objects"),
        (array_of(b"O8", b"(L1000000000000L\nt", b"](K\x01e"), "has 1"),
        (array_of(b"U1", b"(K\x01t", b"C\x04\xff\xff\xff\xff"), "no character"),
        (array_of(b"f4", b"(K\x01t", b"K\x08"), "a int stands where bytes"),
        (b"B\xff\xff\xff\xff.", "cut short"),
        (b"\x8e" + b"\xff" * 8 + b".", "cut short"),
        (b"\x96" + b"\x00" * 7 + b"\x7f.", "cut short"),
        (b"\x8b\xff\xff\xff\xff.", "cut short"),
        (b"T\xff\xff\xff\xffx.", "cut short"),
        (b"L" + b"9" * 100_000 + b"\n.", "refused"),
        (b"N" * 5 + b"R.", "calls"),
        (b"K\x01(K\x02d.", "pairs"),
        (b"}]K\x01s.", "a key of a dictionary is a list"),
        (b"})" + b"\x85" * 5000 + b"K\x01s.", "key"),
        (b"h\x07.", "damaged"),
        (b".", "damaged"),
        (b"", "cut short"),
        (b"P1\n.", "outside"),
        (b"\x82\x01.", "extension"),
        (b"cnumpy\nndarray\n.", "numpy.ndarray itself"),
        (b"(ios\nsystem\n.", "INST"),
    ],
)
def test_what_is_not_sound_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(PickleRefused, match=says):
        parse_pickle(data)


def test_a_large_memo_number_takes_no_memory() -> None:
    """Python's own machine, up to 3.13, makes room for all numbers below it."""
    assert parse_pickle(b"K\x05r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == 5


def test_a_list_used_many_times_makes_no_room_of_its_own_each_time() -> None:
    """Of one long list a short file could make any number of arrays of objects; of one text, any number of bytes."""
    one = array_of(b"O8", b"(M\xe8\x03t", b"h\x00")[:-1]
    begin = b"](" + b"N" * 1000 + b"eq\x000"
    assert len(parse_pickle(begin + one + b".")) == 1000
    with pytest.raises(PickleRefused, match="more of its content than the file holds"):
        parse_pickle(begin + b"(" + one * 400 + b"l.")
    # The same of bools, which are copied, and of scalars of text.
    piece = b"B" + struct.pack("<I", 4000) + bytes(4000) + b"q\x000"
    bools = array_of(b"b1", b"(M\xa0\x0ft", b"h\x00")[:-1]
    scalar = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x05\x00\x00\x00U1000\x89\x88tRh\x00tR"
    for copied in (bools, scalar):
        assert len(parse_pickle(piece + b"(" + copied + b"l.")) == 1
        with pytest.raises(PickleRefused, match="more of its content than the file holds"):
            parse_pickle(piece + b"(" + copied * 100 + b"l.")
    text = b"X\xe8\x03\x00\x00" + b"\xc3\xa9" * 500 + b"q\x000"
    found = parse_pickle(text + b"(" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 3 + b"l.")
    assert found == [b"\xe9" * 500] * 3
    assert found[0] is found[1]


@pytest.mark.parametrize("protocol", [0, 4])
def test_the_beginning_of_a_file_is_refused(protocol: int) -> None:
    small = {"a": np.arange(3.0), "o": np.array(["x", None], object), "l": [1, (2.5, "y"), 2**80], "t": np.array(["z"])}
    data = pickle.dumps(small, protocol)
    for end in range(protocol, len(data) - 1, 5):
        with pytest.raises(PickleRefused):
            parse_pickle(data[:end])


@pytest.mark.parametrize("protocol", [1, 4])
def test_no_damage_makes_anything_else(protocol: int, rng: np.random.Generator) -> None:
    """Bytes changed at random: an error that says so, or plain values."""
    small = {"a": np.arange(3.0), "o": np.array(["x", None], object), "l": [1, (2.5, "y"), {}], "t": np.array(["z"])}
    data = np.frombuffer(pickle.dumps(small, protocol), np.uint8)
    for _ in range(100):
        damaged = data.copy()
        places = rng.integers(0, len(data), rng.integers(1, 4))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            found = parse_pickle(damaged.tobytes())
        except PickleRefused:
            continue
        assert is_plain(found)


def test_a_file_that_is_empty_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with pytest.raises(FileNotFoundError):
        read_pickle(path)
    path.touch()
    with pytest.raises(PickleRefused, match=r"a\.pkl: the file is empty"):
        read_pickle(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PickleRefused, match=str(path)):
        read_pickle(path)
