"""HDF5 files of any origin, read with NumPy alone: groups, texts and arrays of floating-point numbers.

HDF5 can do much more than store arrays. A dataset may be the bytes of another file, or made of datasets elsewhere; a
link may lead to another file, to a name, or back up; what is never written takes no room and is still read as
terabytes; and a compressed chunk may unpack to any size, whatever the dataset says. None of this is followed, and no
more is unpacked than fits the size of the file. The library that others use for all that is not made for files of
strangers: a few changed bytes keep it busy for ever.

Read is what HDF5 writes by default, as h5py and Keras have it do.
"""

import itertools
import math
import zlib

import numpy as np

from cgru.convert.hdf5_objects import NEWER, SIGNATURE, UNDEFINED, Bytes, Source
from cgru.reading import errors_name

MAX_DEPTH = 64  # of groups in groups
_MAX_RANK = 32
_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = range(4)  # of layouts, IV.A.2.i
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # of filters, IV.A.2.l

__all__ = ["MAX_DEPTH", "SIGNATURE", "Dataset", "Group", "allowance", "open_hdf5"]


def allowance(size, least=4 << 20):
    """How many bytes a file of this size may unpack to: trained weights are noise, which cannot be packed well."""
    return 16 * size + least


def open_hdf5(file, size, where="the file"):
    """The root `Group` of an open file of so many bytes; errors call it `where`."""
    return _Store(Source(file, size), where).object(None, "")


class _Store:
    """The file that groups and datasets are in, and how many bytes may still be unpacked from it."""

    def __init__(self, source, where):
        self.source, self.where, self._left = source, where, allowance(source.size)

    def spend(self, count, what):
        if count > self._left:
            size = self.source.size
            raise ValueError(f"{what}: expected data that a file of {size} bytes can hold, got {count} bytes of it")
        self._left -= count

    def object(self, address, path):
        address = self.source.root if address is None else address
        header = self.source.header(address)
        if header.is_dataset:
            return Dataset(self, header, path)
        if header.is_group:
            return Group(self, header, path, address)
        raise ValueError(f"{path or '/'}: expected a group or a dataset, got something else")


class _Object:
    """What groups and datasets have: a path, and attributes that are texts."""

    def __init__(self, store, header, path):
        self._store, self._header, self.path = store, header, path

    def text(self, name):
        """The text of an attribute; None where there is none."""
        texts = self.texts(name)
        if texts is not None and len(texts) != 1:
            raise ValueError(f"{self.path or '/'}: expected a text as the attribute {name!r}, got {len(texts)} of them")
        return None if texts is None else texts[0]

    def texts(self, name):
        """The texts of an attribute, a list; None where there is none."""
        what = f"the attribute {name!r} of {self.path or '/'}"
        for own, type_, shape, data in self._header.attributes():
            if own == name.encode():
                return self._texts(type_, shape.sizes, Bytes(data, what), what)
        if self._header.has_more_attributes():
            raise ValueError(f"{what}: expected attributes in the header, got some in a heap, {NEWER}")
        return None

    def _texts(self, type_, sizes, data, what):
        count = 0 if sizes is None else math.prod(sizes)
        if not count:
            return []  # an empty list has the type of numbers
        if type_.kind != "text" or not type_.size or len(sizes) > 1 or count * type_.size > data.left:
            raise ValueError(f"{what}: expected a list of texts, got something else")
        texts = []
        for _ in range(count):
            if type_.is_variable:
                length, address, index = data.number(4), data.number(8), data.number(4)
                text = self._store.source.heap_object(address, index)[:length] if length else b""
            else:
                text = data.take(type_.size).partition(b"\0")[0]
            self._store.spend(len(text), what)
            texts.append(text.decode())
        return texts


class Group(_Object):
    """A group: its children by name."""

    def __init__(self, store, header, path, address):
        super().__init__(store, header, path)
        self.address = address  # what tells it from the other groups, whatever links lead to it

    def _links(self):
        return self._store.source.links(self.address)

    def __contains__(self, name):
        return name.encode() in self._links()

    def names(self):
        """Of the children."""
        self._store.source.spend(32 * len(self._links()))
        return sorted(name.decode() for name in self._links())

    def child(self, name):
        """The `Group` or `Dataset` of this name; ValueError where there is none, or a link to something elsewhere."""
        path, links = f"{self.path}/{name}", self._links()
        if name.encode() not in links:
            raise ValueError(f"{self.path or '/'}: expected {name!r} in the HDF5 file, got no such thing")
        address = links[name.encode()]
        if address is None:
            raise ValueError(f"{path}: expected a group or a dataset of the file itself, got a link to elsewhere")
        return self._store.object(address, path)

    def group(self, name):
        """The child of this name if it is a group, else None."""
        child = self.child(name) if name in self else None
        return child if isinstance(child, Group) else None

    def below(self, path, kind):
        """The `Group` or `Dataset`, as `kind` says, at a path such as "gru/cell/kernel:0"."""
        found = self
        for name in filter(None, path.split("/")):
            if not isinstance(found, Group):
                raise ValueError(f"{found.path}: expected a group, with {name!r} in it, got a dataset")
            found = found.child(name)
        if not isinstance(found, kind):
            raise ValueError(f"{found.path}: expected a {kind.__name__.lower()}, got a {type(found).__name__.lower()}")
        return found


class Dataset(_Object):
    """A dataset, an array once it is asked for: what it is made of is checked before its numbers are read."""

    def __init__(self, store, header, path):
        super().__init__(store, header, path)
        self._version, self._layout = header.layout().numbers(2, 1)
        if header.is_external or (self._layout == _VIRTUAL and self._version == 4):
            raise ValueError(f"{path}: expected an array in the file itself, got one whose numbers are in other files")
        if self._version not in (3, 4) or self._layout > _CHUNKED:
            raise ValueError(f"{path}: expected an array as HDF5 writes it since version 1.6.3, got another layout")
        self.shape = header.shape().sizes
        if self.shape is None or len(self.shape) > _MAX_RANK:
            raise ValueError(f"{path}: expected an array of at most {_MAX_RANK} dimensions, got another dataset")

    def __array__(self, dtype=None, copy=None):
        with errors_name(self._store.where):
            array = self.read()
        return array if dtype is None else array.astype(dtype)

    def read(self):
        """The array; bfloat16, which NumPy lacks, widens to float32."""
        type_ = self._header.type()
        is_bfloat16 = type_.size == 2 and self.text("dtype") == "bfloat16"
        if type_.kind != "float" and not is_bfloat16:
            raise ValueError(f"{self.path}: expected floating-point numbers of 16, 32 or 64 bits, got something else")
        dtype = np.dtype(f"{type_.order}{'u' if is_bfloat16 else 'f'}{type_.size}")
        count = math.prod(self.shape) * dtype.itemsize
        self._store.spend(count, self.path)
        if not count:
            array = np.zeros(self.shape, dtype)
        elif self._layout == _CHUNKED:
            array = self._of_chunks(dtype)
        else:
            array = np.frombuffer(self._of_one_piece(count), dtype).reshape(self.shape)
        if is_bfloat16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(dtype.newbyteorder("="))

    def _place(self):
        """`Bytes` that say where the numbers are."""
        place = self._header.layout()
        place.take(2)
        return place

    def _of_one_piece(self, count):
        place = self._place()
        if self._layout == _COMPACT:
            data = place.take(place.number(2))
        else:
            address, size = place.numbers(2, 8)
            data = b""
            if address != UNDEFINED and size >= count:
                data = self._store.source.bytes_at(address, count, self.path)
        if len(data) < count:
            raise ValueError(f"{self.path}: expected {count} bytes in the file, got an array that is not there")
        return data[:count]

    def _of_chunks(self, dtype):
        chunk, chunks = self._chunks(dtype)
        filters = self._header.filters()
        if any(code not in (_DEFLATE, _SHUFFLE, _FLETCHER32) for code, _ in filters):
            raise ValueError(f"{self.path}: expected chunks with gzip, shuffle or fletcher32, got another filter")
        size = math.prod(chunk) * dtype.itemsize
        self._store.spend(size, self.path)
        counts = [-(-size // own) for size, own in zip(self.shape, chunk, strict=True)]
        if math.prod(counts) > len(chunks):
            raise ValueError(f"{self.path}: expected {math.prod(counts)} chunks, got {len(chunks)} in the file")
        array = np.empty(self.shape, dtype)
        for position in itertools.product(*map(range, counts)):
            begin = tuple(i * own for i, own in zip(position, chunk, strict=True))
            if begin not in chunks:
                raise ValueError(f"{self.path}: expected a chunk at {begin}, got none in the file")
            address, stored, skipped = chunks[begin]
            data = self._store.source.bytes_at(address, stored, self.path)
            data = _unpacked(data, filters, skipped, size, dtype.itemsize, self.path)
            part = array[tuple(slice(start, start + own) for start, own in zip(begin, chunk, strict=True))]
            whole = np.frombuffer(data, dtype).reshape(chunk)
            part[...] = whole[tuple(slice(own) for own in part.shape)]
        return array

    def _chunks(self, dtype):
        """(shape of the chunks, dict of where each begins to (address, bytes stored, filters that were skipped))."""
        place, rank = self._place(), len(self.shape)
        if self._version == 4:
            flags, dimensions, width = place.numbers(3, 1)
            sizes = [place.number(width) for _ in range(dimensions)]
            if place.number(1) != 1:
                raise ValueError(f"{self.path}: expected chunks that a tree leads to, or one, got more, {NEWER}")
            stored, skipped = (place.number(8), place.number(4)) if flags & 2 else (math.prod(sizes), 0)
            chunks = {(0,) * rank: (place.number(8), stored, skipped)}
        else:
            dimensions = place.number(1)
            tree, sizes = place.number(8), place.numbers(dimensions, 4)
            chunks = {}
        if dimensions != rank + 1 or sizes[-1] != dtype.itemsize or not all(sizes):
            raise ValueError(f"{self.path}: expected chunks of {rank} dimensions, got sizes {list(sizes)}: damaged")
        if self._version == 3 and tree != UNDEFINED:  # nothing was written where it leads nowhere
            for key, address in self._store.source.leaves(tree, 1, 8 + 8 * dimensions):
                key = Bytes(key, self.path)
                stored, skipped = key.numbers(2, 4)
                chunks[key.numbers(rank, 8)] = address, stored, skipped
        return tuple(sizes[:-1]), chunks


# -- filters


def _unpacked(data, filters, skipped, size, itemsize, what):
    """The bytes of a chunk, `size` of them, behind its filters; `skipped` has a bit for each that was not applied."""
    for i, (code, values) in reversed(list(enumerate(filters))):
        if skipped >> i & 1:
            continue
        if code == _DEFLATE:
            data = _inflated(data, size + 4 * len(filters), what)
        elif code == _FLETCHER32:
            data, checksum = data[:-4], int.from_bytes(data[-4:], "little")
            if _fletcher32(data) != ((checksum & 0xFFFF) % 65535, (checksum >> 16) % 65535):
                raise ValueError(f"{what}: expected a chunk with the checksum that it names, got another one: damaged")
        else:
            width = values[0] if values else itemsize
            count = len(data) // width if width else 0
            planes = np.frombuffer(data[: count * width], np.uint8).reshape(width, count)
            data = planes.T.tobytes() + data[count * width :]
    if len(data) != size:
        raise ValueError(f"{what}: expected chunks of {size} bytes, got one of {len(data)}: damaged")
    return data


def _inflated(data, limit, what):
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"{what}: expected a chunk packed with gzip, got a damaged one: {error}") from None
    if len(unpacked) > limit or not unpacker.eof:
        raise ValueError(f"{what}: expected a chunk of at most {limit} bytes, got one that is larger or damaged")
    return unpacked


def _fletcher32(data):
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    return int(words.sum() % 65535), int((words * weights % 65535).sum() % 65535)
