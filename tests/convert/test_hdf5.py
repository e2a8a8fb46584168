"""The reader of HDF5 files: the arrays and texts that h5py writes, and whatever else may be in a file."""

import io
import time
import tracemalloc
import zlib

import checks
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cgru.convert.hdf5 import Dataset, Group, open_hdf5

h5py = pytest.importorskip("h5py")
SHAPE = (37, 21)


@pytest.fixture
def array(rng):
    return rng.standard_normal(SHAPE).astype("float32")


def store_of(write, **options):
    """(bytes, root group) of a file that `write` fills."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        write(file)
    return buffer.getvalue(), open_hdf5(buffer, len(buffer.getvalue()))


def read(write, name="a", **options):
    return store_of(write, **options)[1].below(name, Dataset).read()


def same(actual, expected):
    assert actual.dtype == expected.dtype.newbyteorder("=") and actual.shape == expected.shape
    assert actual.tobytes() == expected.astype(actual.dtype).tobytes()


# -- what h5py writes


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_numbers(array, dtype, libver):
    array = array.astype(dtype)
    same(read(lambda file: file.create_dataset("a", data=array), libver=libver), array)
    for other in (array[0, 0], array[:0], array[:, :0], array[None, :, :, None], np.asfortranarray(array), array[::-2]):
        same(read(lambda file, other=other: file.create_dataset("a", data=other)), np.asarray(other))


FILTERS = {
    "none": {}, "gzip": {"compression": "gzip"}, "best": {"compression": "gzip", "compression_opts": 9},
    "shuffle": {"shuffle": True}, "fletcher32": {"fletcher32": True},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("chunks", [(8, 8), SHAPE, (5, 30), (1, 1), (40, 2), True], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f2"])
def test_chunks(array, chunks, filters, dtype):
    array = array.astype(dtype)
    shape = tuple(min(own, size) for own, size in zip(chunks, SHAPE, strict=True)) if chunks is not True else True

    def write(file):
        file.create_dataset("a", data=array, chunks=shape, **filters)
        grown = file.create_dataset("grown", SHAPE, dtype, chunks=(8, 30), maxshape=(None, None), **filters)
        grown[...] = array

    _, root = store_of(write)
    same(root.child("a").read(), array)
    same(root.child("grown").read(), array)


def test_a_chunk_whose_filters_were_skipped(array):
    def write(file):
        dataset = file.create_dataset("a", SHAPE, "float32", chunks=SHAPE, compression="gzip")
        dataset.id.write_direct_chunk((0, 0), array.tobytes(), filter_mask=1)

    same(read(write), array)


def test_many_chunks_and_many_children():
    """Trees of several levels."""
    array = np.arange(20_000, dtype="float64")

    def write(file):
        file.create_dataset("a", data=array, chunks=(7,), compression="gzip")
        for i in range(2000):
            file.create_group(f"g{i}")

    _, root = store_of(write)
    same(root.child("a").read(), array)
    assert root.names() == sorted(["a", *(f"g{i}" for i in range(2000))])
    assert isinstance(root.child("g1999"), Group)


def test_a_compact_dataset(array):
    def write(file):
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3, 4))
        dataset = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, space, created)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array[:3, :4].copy())

    same(read(write), array[:3, :4])


def test_bfloat16_widens(array):
    def write(file):
        file["a"] = (array.view("uint32") >> 16).astype("uint16").view("V2")
        file["a"].attrs["dtype"] = "bfloat16"

    same(read(write), (array.view("uint32") >> 16 << 16).view("float32"))


def test_texts():
    long = "ä" * 100_000

    def write(file):
        for name, value in {"str": "x", "bytes": b"yy", "long": long, "nothing": [], "empty": ""}.items():
            file.attrs[name] = value
        file.attrs["strs"], file.attrs["fixed"] = ["q", "", "rrr"], [b"q", b"rr"]
        file.attrs["null"], file.attrs["number"] = h5py.Empty("S1"), 3
        for i in range(100):
            file.attrs[f"more{i}"] = f"text {i}"

    for libver in ("earliest", None):
        _, root = store_of(write, **({"libver": libver} if libver else {}))
        assert (root.text("str"), root.text("bytes"), root.text("long"), root.text("empty")) == ("x", "yy", long, "")
        assert (root.texts("strs"), root.texts("fixed")) == (["q", "", "rrr"], ["q", "rr"])
        assert (root.texts("nothing"), root.texts("null"), root.texts("none")) == ([], [], None)
        assert root.text("more99") == "text 99"
        with pytest.raises(ValueError, match="the attribute 'number' of /: expected a list of texts"):
            root.text("number")
        with pytest.raises(ValueError, match="/: expected a text as the attribute 'fixed', got 2"):
            root.text("fixed")


def test_groups_as_the_latest_format_has_them(array):
    def write(file):
        file["x/y/a"] = array
        file["x"].attrs["n"] = "text"
        for i in range(9):
            file.create_group(f"many/{i}")

    _, root = store_of(write, libver="latest")
    same(root.below("x/y/a", Dataset).read(), array)
    assert root.child("x").text("n") == "text"
    with pytest.raises(ValueError, match=r"got one with a heap, .* libver='earliest'"):
        root.child("many").names()


# -- what is not in the file, or is more than it can hold


def refused(write, message, name="a"):
    data, root = store_of(write)
    began = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            root.below(name, Dataset).read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(data) + (8 << 20) and time.thread_time() - began < 20


def test_datasets_of_other_files(tmp_path, array):
    secret = tmp_path / "secret"
    secret.write_bytes(array.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = array

    def external(file):
        file.create_dataset("a", SHAPE, "float32", external=[(str(secret), 0, array.nbytes)])

    def virtual(file):
        layout = h5py.VirtualLayout(SHAPE, "float32")
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", SHAPE)
        file.create_virtual_dataset("a", layout)

    for write in (external, virtual):
        path = tmp_path / "this.h5"
        with h5py.File(path, "w") as file:
            write(file)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["a"][()], array)  # which is what must not happen
        data = path.read_bytes()
        root = open_hdf5(io.BytesIO(data), len(data))
        with pytest.raises(ValueError, match=r"/a: expected an array in the file itself, got one .* other files"):
            root.child("a")


def test_links_to_elsewhere(tmp_path, array):
    def write(file):
        file["g/b"] = array
        file["soft"] = h5py.SoftLink("/g/b")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["external"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/a")
        file["loop"] = h5py.SoftLink("/loop")

    for libver in ("earliest", "latest"):
        _, root = store_of(write, libver=libver)
        for name in ("soft", "dangling", "external", "loop"):
            with pytest.raises(ValueError, match=rf"/{name}: expected a group or a dataset of the file itself"):
                root.child(name)
        same(root.below("g/b", Dataset).read(), array)


def test_arrays_that_are_not_there():
    huge = (10**6, 3 * 10**6)  # 12 TB
    refused(lambda file: file.create_dataset("a", huge, "float32"), "data that a file of .* can hold")
    for options in ({}, {"compression": "gzip"}):
        chunks = {"chunks": (1000, 1000), **options}
        refused(lambda file, chunks=chunks: file.create_dataset("a", huge, "float32", **chunks), "data that a file of")
    refused(lambda file: file.create_dataset("a", (100, 100), "float32"), "got an array that is not there")
    refused(lambda file: file.create_dataset("a", (100, 100), "float32", chunks=(10, 10)), "expected 100 chunks, got 0")
    refused(lambda file: file.create_dataset("a", (10**6,), "float32", chunks=(1,)), "expected 1000000 chunks, got 0")

    def one_of_four(file):
        file.create_dataset("a", (20, 20), "float32", chunks=(10, 10))[:10, :10] = 1

    refused(one_of_four, "expected 4 chunks, got 1")

    def a_large_chunk(file):
        file.create_dataset("a", (4,), "float32", chunks=(1 << 28,), maxshape=(None,))

    refused(a_large_chunk, "data that a file of")


def test_bombs():
    packed = zlib.compress(bytes(200 << 20), 9)

    def write(file):
        dataset = file.create_dataset("a", (10, 10), "float32", chunks=(10, 10), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), packed)

    refused(write, "expected a chunk of at most .* bytes, got one that is larger or damaged")
    honest = np.zeros((5000, 3000), "float32")  # which packs a thousand to one
    refused(lambda file: file.create_dataset("a", data=honest, chunks=True, compression="gzip"), "data that a file of")


def test_many_datasets_of_the_same_bytes(array):
    def write(file):
        file["a"] = np.zeros((500, 500))
        for i in range(100):
            file[f"a{i}"] = file["a"]

    _, root = store_of(write)
    with pytest.raises(ValueError, match="data that a file of"):
        for i in range(100):
            root.child(f"a{i}").read()


def test_chunks_that_do_not_hold_what_they_say(array):
    def damaged(content, **options):
        def write(file):
            dataset = file.create_dataset("a", (10, 10), "float32", chunks=(10, 10), **options)
            dataset.id.write_direct_chunk((0, 0), content)

        return write

    whole = zlib.compress(array.tobytes()[:400])
    refused(damaged(whole[:-9], compression="gzip"), "got one that is larger or damaged")
    refused(damaged(b"junk", compression="gzip"), "got a damaged one")
    refused(damaged(zlib.compress(bytes(80)), compression="gzip"), "chunks of 400 bytes, got one of 80")
    refused(damaged(bytes(80)), "chunks of 400 bytes, got one of 80")
    refused(damaged(bytes(399) + b"\1" + bytes(4), fletcher32=True), "the checksum that it names")


@pytest.mark.parametrize(
    "value",
    [np.ones((2, 2), "int32"), np.array([b"text"]), np.ones(3, [("x", "f4"), ("y", "f4")]), np.ones(2, "complex64"),
     np.ones((2, 2), "V2"), np.array([True, False])],
    ids=lambda value: str(value.dtype),
)  # fmt: skip
def test_other_types(value):
    refused(lambda file: file.create_dataset("a", data=value), "expected floating-point numbers of 16, 32 or 64 bits")


def test_floats_that_numpy_does_not_have():
    def write(file):
        type_ = h5py.h5t.IEEE_F32LE.copy()
        type_.set_fields(15, 7, 8, 0, 7)  # bfloat16 without its name
        type_.set_precision(16)
        type_.set_size(2)
        h5py.h5d.create(file.id, b"a", type_, h5py.h5s.create_simple((3,)))

    refused(write, "expected floating-point numbers")


def test_other_filters(array):
    refused(lambda file: file.create_dataset("a", data=array, compression="lzf"), "got another filter")
    refused(lambda file: file.create_dataset("a", data=array, scaleoffset=3), "got another filter")


def test_groups_where_arrays_belong(array):
    _, root = store_of(lambda file: (file.create_group("a/b"), file.create_dataset("c", data=array)))
    with pytest.raises(ValueError, match="/a: expected a dataset, got a group"):
        root.below("a", Dataset)
    with pytest.raises(ValueError, match="/c: expected a group, with 'd' in it, got a dataset"):
        root.below("c/d", Dataset)
    with pytest.raises(ValueError, match="/a: expected 'x' in the HDF5 file, got no such thing"):
        root.below("a/x", Dataset)


def everything(file):
    rng = np.random.default_rng(0)
    file["g/plain"] = rng.standard_normal((5, 4))
    file.create_dataset("g/packed", data=rng.standard_normal((9, 7)), chunks=(4, 4), compression="gzip", shuffle=True)
    file["h/i/j"] = rng.standard_normal(3).astype("float32")
    file.attrs["text"], file["g"].attrs["list"], file["h"].attrs["texts"] = "long" * 30, [b"a", b"bc"], ["x", "yz"]


ORIGINALS = [store_of(everything, libver=libver)[0] for libver in ("earliest", "latest")]


def walk(data):
    """Read all that is there; ValueError where something is damaged."""
    left, seen = [open_hdf5(io.BytesIO(data), len(data))], 0
    while left and seen < 1000:
        found, seen = left.pop(), seen + 1
        if isinstance(found, Dataset):
            found.read()
            continue
        for name in ("text", "list", "texts"):
            found.texts(name)
        left += [found.child(name) for name in found.names()]


@checks.examples(1500)
@given(data=st.data())
def test_damaged_files(data):
    """Whatever changes, there is an answer or a ValueError, soon and without large allocations."""
    original = data.draw(st.sampled_from(ORIGINALS))
    altered = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(original) - 1))
        new = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" * 4]) | st.binary(min_size=1, max_size=8))
        altered[position : position + len(new)] = new
    altered = bytes(altered[: data.draw(st.sampled_from([len(altered)] * 4 + [len(altered) // 2]))])
    began = time.thread_time()
    try:
        walk(altered)
    except ValueError:
        pass
    assert time.thread_time() - began < 10


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x89HDF\r\n\x1a\n")
def test_junk(junk):
    for data in (junk, b"\x89HDF\r\n\x1a\n" + junk):
        with pytest.raises(ValueError):
            walk(data)
