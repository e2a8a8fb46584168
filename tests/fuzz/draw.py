"""What a random program is drawn from: choices that can be taken back one by one, and arrays in every form that NumPy
has.

The first of the alternatives is always the plainest, so a failing program gets simpler as choices are put to it.
"""

import random
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="cgru-fuzz-"))
SIZES = (2, 1, 3, 0, 5, 7, 8, 13, 17, 33, 67)
UNITS = (3, 1, 4, 5, 8, 13, 16, 17, 31, 40, 65)


class Draw:
    """Choices of one program: from a seed, but for those that `plain`, a set of their numbers, makes the plainest."""

    def __init__(self, seed, plain=frozenset()):
        self.random = random.Random(seed)
        self.plain = plain
        self.taken = []  # the choices, as indices
        self.forms = []  # of the arrays that came in another form, for the report

    def index(self, count, weight=1.0):
        """A number below `count`; 0 in all but a part `weight` of the cases."""
        found = self.random.randrange(count) if self.random.random() < weight else 0
        if len(self.taken) in self.plain:
            found = 0
        self.taken.append(found)
        return found

    def pick(self, *alternatives, weight=1.0):
        return alternatives[self.index(len(alternatives), weight)]

    def flag(self, weight=0.5):
        return self.pick(False, True, weight=2 * weight)

    def size(self, most=67, least=0):
        return self.pick(*(size for size in SIZES if least <= size <= most))

    def rng(self):
        return np.random.default_rng(self.random.getrandbits(64))

    def options(self, **choices):
        """Keyword arguments: of each, in one case of four, another value than the first."""
        found = {name: self.pick(*values, weight=0.25) for name, values in choices.items()}
        return {name: value for name, value in found.items() if value is not choices[name][0]}

    # -- arrays

    def values(self, shape, dtype="float32"):
        """Numbers, sometimes those at which kernels may change their mind."""
        rng, dtype = self.rng(), np.dtype(dtype)
        if dtype.kind in "iu":
            return rng.integers(0, 5, shape).astype(dtype)
        array = rng.standard_normal(shape)
        kind = self.index(8, 0.3)
        if kind == 1:
            array = array * 30
        elif kind == 2:
            array = np.sign(array) * 0.0
        elif kind >= 3 and array.size:
            odd = (np.nan, np.inf, -np.inf, 1e-42, 1e30)[kind - 3]
            array.reshape(-1)[rng.integers(0, array.size, 1 + array.size // 50)] = odd
        return array.astype(dtype)

    def lengths(self, n, t):
        lengths = self.rng().integers(0, t + 1, n)
        return self.form(lengths, lists=True)

    def flags(self, shape, part=0.5):
        return self.form(self.rng().random(shape) < part, lists=True)

    def form(self, array, lists=False):
        """The same values in another form: strides, byte order, type, owner."""
        kind = self.pick(*FORMS, *([listed] if lists else []), weight=0.6)
        changed = kind(array)
        if kind is not same:
            self.forms.append(kind.__name__)
        return changed

    def repeated(self, shape, dtype="float32"):
        """Values of which those along one axis are the same memory: strides of zero."""
        axis = self.index(len(shape))
        one = self.values((*shape[:axis], 1, *shape[axis + 1 :]), dtype)
        self.forms.append(f"repeated along {axis}")
        return np.broadcast_to(one, shape)

    def array(self, shape, dtype="float32"):
        if shape and self.flag(0.05):
            return self.repeated(shape, dtype)
        return self.form(self.values(shape, dtype))

    def nonsense(self):
        """What is no argument of any kind."""
        return self.pick(
            None, "text", object(), 1j, -1, 2**70, 0.5, np.nan, True, [], [[1, 2], [3]], {}, b"x", np.zeros((1,) * 9),
            [None], np.array(["a"]), np.array([1j]), np.zeros(3, "M8[s]"), np.float32, (), slice(3), range(3), "1",
            np.ma.masked, lambda: 0, np.zeros((2, 3), "f4,f4"), np.array(None), [np.zeros(2), "x"], -(2**63),
            np.uint64(2**64 - 1), np.zeros((0, 0, 0)),
        )  # fmt: skip


# -- forms of arrays


def same(array):
    return array


def fortran(array):
    return np.asfortranarray(array)


def negative(array):
    return array[(slice(None, None, -1),) * array.ndim].copy()[(slice(None, None, -1),) * array.ndim]


def every_other(array):
    wide = np.full([2 * size + 1 for size in array.shape], 77, array.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def turned(array):
    """The last axis first in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1) if array.ndim else array


def unaligned(array):
    data = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype) if array.nbytes else array.reshape(-1)
    data = data.reshape(array.shape)
    data[...] = array
    return data


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array):
    if not array.size:
        return array
    path = FOLDER / "mapped"
    path.unlink(missing_ok=True)
    path.write_bytes(array.tobytes())
    return np.memmap(path, array.dtype, "r", shape=array.shape)


class Subclass(np.ndarray):
    """An array whose operators are not NumPy's."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        raise AssertionError(f"{ufunc.__name__} on what came from outside")


def subclass(array):
    return array.copy().view(Subclass)


def wide(array):
    """Another type that holds the same values."""
    if array.dtype == bool:
        return array.astype(np.int8)
    return array.astype(np.float64) if array.dtype == np.float32 else array


def offset(array):
    """Rows of a wider array: aligned to an element and to nothing more."""
    if not array.ndim:
        return array
    rows = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan if array.dtype.kind == "f" else 1, array.dtype)
    rows[..., 1 : array.shape[-1] + 1] = array
    return rows[..., 1 : array.shape[-1] + 1]


def listed(array):
    return array.tolist()


FORMS = (
    same, fortran, negative, every_other, turned, unaligned, swapped, read_only, mapped, subclass, wide, offset,
)  # fmt: skip


def clean(value):
    """A copy in the plainest form: C order, native bytes, aligned, writable; inside of lists, tuples and dicts, too."""
    if isinstance(value, np.ndarray) and value.dtype != object and not isinstance(value, np.ma.MaskedArray):
        plain = np.empty(value.shape, value.dtype.newbyteorder("="))
        plain[...] = value.view(np.ndarray)
        return plain
    if isinstance(value, dict):
        return {key: clean(part) for key, part in value.items()}
    return type(value)(map(clean, value)) if type(value) in (list, tuple) else value
