"""Files that somebody else wrote: as many tensors as the format allows, types that NumPy lacks, and what is no
safetensors file at all."""

import gzip
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import cgru
import cgru.safetensors


def file_of(header, tensors=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# -- many tensors


def test_twenty_thousand_tensors(path):
    """Their header is longer than a megabyte."""
    tensors = {f"encoder.layers.{i}.attention.weight": np.full(2, i, "float32") for i in range(20_000)}
    safetensors.numpy.save_file(tensors, path)
    assert int.from_bytes(path.read_bytes()[:8], "little") > 1 << 20
    again = cgru.files.load_tensors(path)
    assert again.keys() == tensors.keys()
    assert all((again[name] == tensors[name]).all() for name in tensors)


@pytest.mark.parametrize("dtype", cgru.safetensors._DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3)])
def test_tensors_of_few_numbers_are_arrays(path, dtype, shape):
    """Of no dimensions as well, where NumPy's operators give numbers."""
    size = int(np.prod(shape)) * np.dtype(cgru.safetensors._DTYPES[dtype]).itemsize
    path.write_bytes(file_of({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"\1" * size))
    array = cgru.files.load_tensors(path)["a"]
    assert type(array) is np.ndarray and array.shape == shape


def test_a_model_of_many_layers_comes_back(path):
    layer = cgru.GRU(1, num_layers=5000, input_size=1, seed=0)
    cgru.save(layer, path)
    again = cgru.load(path)
    assert all((a == b).all() for a, b in zip(again.get_weights(), layer.get_weights(), strict=True))


def test_the_limit_of_the_header_is_the_format_s(path, monkeypatch):
    assert cgru.safetensors.MAX_HEADER == 100_000_000
    cgru.save(cgru.Dropout(0.5), path)
    monkeypatch.setattr(cgru.safetensors, "MAX_HEADER", 300)
    for function in (cgru.load, cgru.files.load_tensors):
        with pytest.raises(ValueError, match=r"expected a header of at most 300 bytes, got one of \d+"):
            function(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"model: expected a header of at most 300 bytes, got .*: too many tensors"):
        cgru.save(cgru.Dropout(0.75), path)
    assert path.read_bytes() == before


# -- types that NumPy lacks


ODD = {"F8_E4M3": 3, "F8_E5M2": 3, "F8_E8M0": 3, "F8_E4M3FNUZ": 3, "F4": 1.5, "F6_E2M3": 2.25}  # bytes of 3 elements


@pytest.mark.parametrize("dtype", [dtype for dtype, size in ODD.items() if size == 3])
def test_an_odd_tensor_is_refused_when_it_is_asked_for(path, dtype):
    arrays = {"rnn.weight_ih_l0": np.ones((6, 3), "<f4"), "rnn.weight_hh_l0": np.ones((6, 2), "<f4")}
    header = {"odd": {"dtype": dtype, "shape": [3], "data_offsets": [0, 3]}}
    data, end = b"abc", 3
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        data, end = data + array.tobytes(), end + array.nbytes
    path.write_bytes(file_of(header, data))
    tensors = cgru.files.load_tensors(path)
    assert list(tensors) == ["odd", *arrays] and "odd" in tensors
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)
        np.testing.assert_array_equal(tensors.get(name), array)
    for ask in (
        lambda: tensors["odd"],
        lambda: tensors.get("odd"),
        lambda: tensors.pop("odd"),
        lambda: np.asarray(dict(tensors.items())["odd"]),
    ):
        with pytest.raises(ValueError, match=rf"odd: expected a dtype among .*, got '{dtype}'"):
            ask()
    assert tensors.get("none") is None and tensors.pop("none", 3) == 3
    assert f"<tensor of type {dtype}, shape (3,)>" in repr(tensors)
    layer = cgru.from_torch(tensors, "rnn")
    assert (layer.units, layer.input_size) == (2, 3)
    kernel = {"kernel": tensors["rnn.weight_ih_l0"].T, "recurrent_kernel": tensors["rnn.weight_hh_l0"].T}
    assert cgru.from_keras(kernel, reset_after=True).units == 2


def test_an_odd_tensor_beside_names_that_are_looked_through(path):
    """A converter that looks at all names does not ask for it either, unless it is one that it takes."""
    header = {"odd": {"dtype": "F8_E5M2", "shape": [3], "data_offsets": [0, 3]}}
    data, end = b"abc", 3
    for name, array in cgru.convert.to_haiku(cgru.GRU(2, input_size=3)).items():
        array = np.asarray(array, "<f4")
        header[f"net/gru/{name}"] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        data, end = data + array.tobytes(), end + array.nbytes
    path.write_bytes(file_of(header, data))
    assert cgru.convert.from_haiku(cgru.files.load_tensors(path)).units == 2
    header["net/gru/b"]["dtype"], header["net/gru/b"]["shape"] = "F8_E5M2", [24]
    path.write_bytes(file_of(header, data))
    with pytest.raises(ValueError, match=r"net/gru/b: expected a dtype among .*, got 'F8_E5M2'"):
        cgru.convert.from_haiku(cgru.files.load_tensors(path))


def test_an_odd_tensor_of_the_gru_itself_is_refused_by_name(path):
    header = {
        "weight_hh_l0": {"dtype": "F8_E4M3", "shape": [6, 2], "data_offsets": [0, 12]},
        "weight_ih_l0": {"dtype": "F32", "shape": [6, 1], "data_offsets": [12, 36]},
    }
    path.write_bytes(file_of(header, b"1" * 36))
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected a dtype among .*, got 'F8_E4M3'"):
        cgru.from_torch(cgru.files.load_tensors(path))


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "fits"),
    [("F4", [4], 2, True), ("F4", [3], 1, False), ("F6_E2M3", [4], 3, True), ("F8_E4M3", [3], 4, False),
     ("F8_E4M3", [2**62, 4], 1, False), ("F31", [3], 3, False), ("F8_", [3], 3, False), ("f8_e4m3", [3], 3, False)],
)  # fmt: skip
def test_the_size_of_an_odd_tensor(path, dtype, shape, size, fits):
    path.write_bytes(file_of({"odd": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"1" * size))
    if fits:
        assert list(cgru.files.load_tensors(path)) == ["odd"]
    else:
        with pytest.raises(ValueError, match=r"odd: expected (a dtype among|\d+ bytes for shape)"):
            cgru.files.load_tensors(path)


def test_complex_tensors_are_read(path):
    array = np.array([1 + 2j, -3j], "<c8")
    path.write_bytes(file_of({"w": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}}, array.tobytes()))
    np.testing.assert_array_equal(cgru.files.load_tensors(path)["w"], array)


def test_a_model_of_ours_has_no_odd_tensors(path):
    layer = cgru.Dense(3, use_bias=False)
    layer.build(4)
    cgru.save(layer, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["kernel"] = {"dtype": "F8_E4M3", "shape": [4, 12], "data_offsets": [0, 48]}
    header["__metadata__"]["header_sha256"] = cgru.safetensors.hash_of(header)
    path.write_bytes(file_of(header, data[8 + length :]))
    with pytest.raises(ValueError, match=r"kernel: expected shape \(4, 3\) of F32, .* got \(4, 12\) of F8_E4M3"):
        cgru.load(path)


# -- what is no safetensors file


def zip_of(first):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(first, b"12345678" * 8)
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(40))
    return buffer.getvalue()


@pytest.mark.parametrize("function", [cgru.load, cgru.files.load_tensors])
@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (pickle.dumps({"a": np.ones(30)}), "a pickle, which would execute"),
        (zip_of("archive/data.pkl"), "PyTorch's .pt: give cgru.from_torch the state_dict"),
        (zip_of("model/byteorder"), "PyTorch's .pt"),
        (zip_of("metadata.json"), "a .keras file: cgru.from_keras"),
        (zip_of("W.npy"), "arrays of NumPy, .npz"),
        (zip_of("readme.txt"), "a zip archive"),
        (npy(), "an array of NumPy"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (gzip.compress(b"abc" * 100), "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML or XML"),
        (b'{"weights": [1, 2, 3], "more": [4, 5]}', "JSON"),
        (b"GGUF\x03\0\0\0\xff\0\0\0\xff", "a GGUF file"),
        (np.random.default_rng(0).bytes(1000), None),
        (b"Lorem ipsum dolor sit amet", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_it_looks_like(path, function, data, seen):
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        function(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a safetensors file") and "header of" not in message
    assert (f"it looks like {seen}" in message) if seen else message.endswith("file")


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(8), bytes(1000)], ids=["empty", "short", "zero", "zeros"])
def test_empty_files_and_zeros(path, data):
    path.write_bytes(data)
    for function in (cgru.load, cgru.files.load_tensors):
        with pytest.raises(ValueError, match="not a safetensors file"):
            function(path)


def test_a_truncated_file_is_called_that(path):
    layer = cgru.GRU(8, input_size=4)
    cgru.save(layer, path)
    data = path.read_bytes()
    path.write_bytes(data[:300])
    with pytest.raises(ValueError, match=r"expected 8 bytes and a header of .*, got 300 bytes: truncated"):
        cgru.load(path)
