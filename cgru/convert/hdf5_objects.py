"""The objects of an HDF5 file as they stand in it: headers, their messages, links, texts in heaps.

HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_s_p_e_c.html; the sections
are named below. Every number is taken from a place that is known to be in the file, and blocks are read a limited
number of times, so that time and memory are bounded by the file's size, whatever stands in it.
"""

import struct
from typing import NamedTuple

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = (1 << 64) - 1  # an address that leads nowhere
_MAX_NAME = 1024  # bytes

# Types of messages, IV.A.2
_DATASPACE, _LINK_INFO, _DATATYPE, _EXTERNAL, _LINK, _LAYOUT = 0x01, 0x02, 0x03, 0x07, 0x06, 0x08
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
_SHARED = 0x02  # flag of a message that stands elsewhere

NEWER = "which HDF5 writes if it is asked for its latest format: write the file with libver='earliest'"


class Bytes:
    """Bytes of a file, from which numbers are taken one after the other; ValueError where they end."""

    def __init__(self, data, what):
        self._data, self._what, self.position = data, what, 0

    def take(self, count):
        begin, self.position = self.position, self.position + count
        if count < 0 or self.position > len(self._data):
            raise ValueError(f"{self._what}: expected {count} bytes more, got the end of a block: damaged")
        return self._data[begin : self.position]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def numbers(self, count, size):
        return struct.unpack(f"<{count}{'xBHxIxxxQ'[size]}", self.take(count * size))

    def align(self):
        self.take(-self.position % 8)

    def rest(self):
        return self._data[self.position :]

    @property
    def left(self):
        return len(self._data) - self.position


class Shape(NamedTuple):
    """A dataspace: its sizes, None for one that is for nothing."""

    sizes: tuple | None

    @classmethod
    def of(cls, data):
        version, rank, _ = data.numbers(3, 1)
        if version == 1:
            kind = 1
            data.take(5)
        elif version == 2:
            kind = data.number(1)
        else:
            raise ValueError(f"expected a dataspace of version 1 or 2, got {version}: damaged")
        return cls(data.numbers(rank, 8) if kind != 2 else None)


class Type(NamedTuple):
    """A datatype: "float", "text" of a fixed or variable length, "opaque" or "other"."""

    kind: str
    size: int  # of an element in the file
    order: str = "<"
    is_variable: bool = False

    @classmethod
    def of(cls, data):
        first, *bits = data.numbers(4, 1)
        size, kind = data.number(4), first & 15
        if kind == 1:
            # How IEEE 754 has its bits: precision, where the exponent begins, its size, that of the mantissa, the bias
            wanted = {2: (16, 10, 5, 10, 15), 4: (32, 23, 8, 23, 127), 8: (64, 52, 11, 52, 1023)}.get(size)
            offset, precision = data.numbers(2, 2)
            exponent, exponent_size, mantissa, mantissa_size = data.numbers(4, 1)
            got = (precision, exponent, exponent_size, mantissa_size, data.number(4))
            is_ieee = got == wanted and not offset and not mantissa and bits[0] & 0xFE == 0x20
            if is_ieee and bits[1] == precision - 1:
                return cls("float", size, ">" if bits[0] & 1 else "<")
        elif kind == 3:
            return cls("text", size)
        elif kind == 9 and bits[0] & 15 == 1:
            return cls("text", 16, is_variable=True)
        return cls("opaque" if kind == 5 else "other", size)


class Header(NamedTuple):
    """What the header of an object says; bytes of messages are not looked at before they are needed."""

    messages: dict  # type -> list of (flags, bytes)

    def one(self, kind):
        """`Bytes` of the message of this type, None where there is none."""
        for flags, data in self.messages.get(kind, ())[:1]:
            if flags & _SHARED:
                raise ValueError("expected an object that says itself what it is, got one that shares it with others")
            return Bytes(data, "an object's header")
        return None

    @property
    def is_group(self):
        return bool(self.messages.keys() & {_SYMBOL_TABLE, _LINK_INFO, _LINK})

    @property
    def is_dataset(self):
        return _LAYOUT in self.messages

    @property
    def is_external(self):
        return _EXTERNAL in self.messages

    def shape(self):
        data = self.one(_DATASPACE)
        return Shape(None) if data is None else Shape.of(data)

    def type(self):
        data = self.one(_DATATYPE)
        return Type("other", 0) if data is None else Type.of(data)

    def layout(self):
        return self.one(_LAYOUT)

    def filters(self):
        """[(number of a filter, its values)], in the order in which they were applied."""
        data = self.one(_FILTERS)
        if data is None:
            return []
        version, count = data.numbers(2, 1)
        if version == 1:
            data.take(6)
        found = []
        for _ in range(count):
            code = data.number(2)
            name = data.number(2) if version == 1 or code >= 256 else 0
            _, values = data.numbers(2, 2)
            data.take(-(-name // 8) * 8 if version == 1 else name)
            found.append((code, data.numbers(values, 4)))
            if version == 1 and values % 2:
                data.take(4)
        return found

    def attributes(self):
        """Yield (name, `Type`, `Shape`, bytes) of the attributes."""
        for _, content in self.messages.get(_ATTRIBUTE, ()):
            data = Bytes(content, "an attribute")
            version, flags = data.numbers(2, 1)
            sizes = data.numbers(3, 2)
            if version == 3:
                data.take(1)
            parts = []
            for size in sizes:
                parts.append(data.take(size))
                if version == 1:
                    data.align()
            if version > 1 and flags & 3:
                continue  # its type stands elsewhere; Keras writes none
            name, type_, shape = parts
            yield name.rstrip(b"\0"), Type.of(Bytes(type_, "a type")), Shape.of(Bytes(shape, "a shape")), data.rest()

    def has_more_attributes(self):
        """Whether there are attributes in a heap."""
        data = self.one(_ATTRIBUTE_INFO)
        if data is None:
            return False
        _, flags = data.numbers(2, 1)
        data.take(2 * (flags & 1))
        return data.number(8) != UNDEFINED


class Source:
    """An HDF5 file: where its objects are."""

    def __init__(self, file, size):
        self._file, self.size = file, size
        self._headers, self._links, self._heaps = {}, {}, {}
        self._work = 32 * size + (1 << 20)
        self.root = self._root()

    def bytes_at(self, address, count, what):
        """Bytes of the file; ValueError where they are not in it."""
        if not (0 <= address <= self.size and 0 <= count <= self.size - address):
            raise ValueError(f"{what}: expected {count} bytes at {address}, got a file of {self.size}: damaged")
        self.spend(count + 16)
        self._file.seek(address)
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError(f"{what}: expected {count} bytes at {address}, got {len(data)}: the file became shorter")
        return data

    def spend(self, work):
        """Every part of a file is needed a few times at most; who leads in circles is stopped."""
        self._work -= work
        if self._work < 0:
            raise ValueError("expected every part of the file to be needed once, got the same again and again: damaged")

    def at(self, address, count, what, signature=b""):
        data = Bytes(self.bytes_at(address, count, what), what)
        if data.take(len(signature)) != signature:
            raise ValueError(f"{what}: expected {signature.decode()} at {address}, got something else: damaged")
        return data

    # II: the superblock

    def _root(self):
        what = "the superblock"
        data = self.at(0, min(self.size, 100), what)
        data.take(len(SIGNATURE))
        version = data.number(1)
        if version in (0, 1):
            data.take(4)
            sizes = data.numbers(2, 1)
            data.take(9 + 4 * version)
            base = data.number(8)
            data.take(4 * 8)
        elif version in (2, 3):
            sizes = data.numbers(2, 1)
            data.take(1)
            base = data.number(8)
            data.take(2 * 8)
        else:
            raise ValueError(f"{what}: expected version 0 to 3, got {version}: damaged")
        if sizes != (8, 8) or base:
            raise ValueError(f"{what}: expected addresses of 8 bytes from the file's begin on, got others")
        return data.number(8)

    # IV.A: headers of objects

    def header(self, address):
        """The `Header` of the object at an address."""
        if address not in self._headers:
            data = self.bytes_at(address, min(16, max(0, self.size - address)), "an object's header")
            read = self._messages_of_version_2 if data.startswith(b"OHDR") else self._messages_of_version_1
            messages = {}
            for kind, flags, content in read(address):
                messages.setdefault(kind, []).append((flags, content))
            self._headers[address] = Header(messages)
        return self._headers[address]

    def _messages_of_version_1(self, address):
        what = "an object's header"
        data = self.at(address, 16, what)
        version, _ = data.numbers(2, 1)
        count, _, size = data.number(2), data.number(4), data.number(4)
        if version != 1:
            raise ValueError(f"{what}: expected version 1 or 2, got {version}: damaged")
        blocks, seen = [(address + 16, size)], set()
        while blocks and count:
            begin, size = blocks.pop(0)
            if begin in seen:
                raise ValueError(f"{what}: expected each of its blocks once, got one again: damaged")
            seen.add(begin)
            block = self.at(begin, size, what)
            while count and block.left >= 8:
                kind, length = block.numbers(2, 2)
                flags = block.number(4) & 0xFF
                content = block.take(length)
                count -= 1
                if kind == _CONTINUATION:
                    blocks.append(Bytes(content, what).numbers(2, 8))
                else:
                    yield kind, flags, content

    def _messages_of_version_2(self, address):
        what = "an object's header"
        data = self.at(address, min(64, self.size - address), what, b"OHDR")
        _, flags = data.numbers(2, 1)
        data.take(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))
        size = data.number(1 << (flags & 3))
        blocks, seen = [(address + data.position, size)], set()
        while blocks:
            begin, size = blocks.pop(0)
            if begin in seen:
                raise ValueError(f"{what}: expected each of its blocks once, got one again: damaged")
            seen.add(begin)
            block = self.at(begin, size, what)
            while block.left >= 4 + 2 * (flags >> 2 & 1):
                kind, length, own = block.number(1), block.number(2), block.number(1)
                block.take(2 * (flags >> 2 & 1))
                content = block.take(length)
                if kind == _CONTINUATION:
                    begin, size = Bytes(content, what).numbers(2, 8)
                    self.at(begin, size, what, b"OCHK")
                    blocks.append((begin + 4, size - 8))  # without the checksum
                else:
                    yield kind, own, content

    # III.C, III.D, IV.A.2.c, g: links

    def links(self, address):
        """dict of bytes to address of the objects in the group with its header at this address; None in place of an
        address where a link leads to a name or to another file."""
        if address not in self._links:
            self._links[address] = self._links_of(self.header(address))
        return self._links[address]

    def _links_of(self, header):
        found = {}
        table = header.one(_SYMBOL_TABLE)
        if table is not None:
            tree, heap = table.numbers(2, 8)
            names = self._local_heap(heap)
            for _, leaf in self.leaves(tree, 0, 8):
                found.update(self._symbols(leaf, names))
        info = header.one(_LINK_INFO)
        if info is not None:
            _, flags = info.numbers(2, 1)
            info.take(8 * (flags & 1))
            if info.number(8) != UNDEFINED:
                raise ValueError(f"expected groups whose links stand in their headers, got one with a heap, {NEWER}")
        for _, content in header.messages.get(_LINK, ()):
            name, address = self._link(Bytes(content, "a link"))
            found[name] = address
        return found

    def _local_heap(self, address):
        data = self.at(address, 32, "a group's heap", b"HEAP")
        data.take(4)
        size, _, begin = data.numbers(3, 8)
        return self.bytes_at(begin, size, "a group's heap")

    def _symbols(self, address, names):
        what = "a group's table"
        data = self.at(address, 8, what, b"SNOD")
        data.take(2)
        count = data.number(2)
        entries = self.at(address + 8, 40 * count, what)
        for _ in range(count):
            offset, target = entries.numbers(2, 8)
            is_soft = entries.number(4) == 2
            entries.take(20)
            end = names.find(b"\0", offset, offset + _MAX_NAME)
            if end < 0:
                raise ValueError(f"{what}: expected names in the group's heap of less than {_MAX_NAME} bytes: damaged")
            yield names[offset:end], None if is_soft else target

    def _link(self, data):
        _, flags = data.numbers(2, 1)
        kind = data.number(1) if flags & 8 else 0
        data.take(8 * (flags >> 2 & 1) + (flags >> 4 & 1))
        name = data.take(data.number(1 << (flags & 3)))
        return name, data.number(8) if kind == 0 else None

    def leaves(self, address, kind, key_size):
        """Yield (bytes of the key, address) of the leaves of a B-tree of version 1, III.A.1."""
        what, left, seen = "a tree", [(address, None)], set()
        while left:
            address, level = left.pop()
            if address in seen:
                raise ValueError(f"{what}: expected each of its nodes once, got one again: damaged")
            seen.add(address)
            data = self.at(address, 24, what, b"TREE")
            got, own_level = data.numbers(2, 1)
            count = data.number(2)
            if got != kind or level not in (None, own_level):
                raise ValueError(f"{what}: expected nodes of one kind, level under level, got others: damaged")
            entries = self.at(address + 24, count * (key_size + 8), what)
            children = [(entries.take(key_size), entries.number(8)) for _ in range(count)]
            if own_level:
                left += [(child, own_level - 1) for _, child in reversed(children)]
            else:
                yield from children

    # III.E: texts of variable length

    def heap_object(self, address, index):
        """Bytes of an object in a global heap."""
        if address not in self._heaps:
            what = "a heap of texts"
            data = self.at(address, 16, what, b"GCOL")
            data.take(4)
            size = data.number(8)
            objects, data = {}, self.at(address + 16, size - 16, what)
            while data.left >= 16:
                own, _, _, length = data.number(2), data.number(2), data.number(4), data.number(8)
                if own == 0:  # the rest is free
                    break
                objects[own] = data.take(length)
                data.take(min(-length % 8, data.left))
            self._heaps[address] = objects
        objects = self._heaps[address]
        if index not in objects:
            raise ValueError(f"a heap of texts: expected a text {index} at {address}, got none: damaged")
        return objects[index]
