"""Files of small weights: to the bit, readable by others, and refused where something is wrong with them."""

import json

import numpy as np
import pytest

import cgru
from cgru import safetensors

KINDS = ("float16", "bfloat16", "int8")
STORED = {"float16": "F16", "bfloat16": "BF16", "int8": "I8"}


def model():
    made = cgru.Sequential(
        [cgru.Embedding(9, 6), cgru.Conv1D(5, 2), cgru.GRU(7, bidirectional=True, return_sequences=True),
         cgru.GRU(5, reset_after=True, layer_norm=True, learn_initial_state=True), cgru.Dense(3, activation="softmax")],
        seed=0,
    )  # fmt: skip
    return made.build()


IDS = np.random.default_rng(0).integers(0, 9, (4, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_models_come_back_to_the_bit(tmp_path, kind):
    small, path = cgru.quantize(model(), kind), tmp_path / "model.safetensors"
    cgru.save(small, path)
    again = cgru.load(path)
    assert repr(again) == repr(small) and np.array_equal(again(IDS), small(IDS))
    for one, other in zip(again.layers, small.layers, strict=True):
        stored = other.stored()
        assert stored.keys() == one.stored().keys() and type(one) is type(other)
        assert all(np.array_equal(one.stored()[name], array) for name, array in stored.items())
    second = tmp_path / "again.safetensors"
    cgru.save(again, second)
    assert second.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_layers_come_back_to_the_bit(tmp_path, kind):
    dense, table = cgru.Dense(4, seed=0), cgru.Embedding(20, 3, seed=0)
    dense.build(6)
    table.build()
    for layer in (cgru.GRU(33, input_size=6, num_layers=2, seed=0), dense, table):
        small, path = cgru.quantize(layer, kind), tmp_path / "layer"
        cgru.save(small, path)
        again = cgru.load(path)
        assert again.get_config() == small.get_config() and again.nbytes == small.nbytes
        x = IDS if layer is table else np.random.default_rng(0).standard_normal((2, 3, 6))
        assert np.array_equal(again(x), small(x))


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_types(tmp_path, kind):
    layer = cgru.GRU(64, input_size=32, seed=0)
    cgru.save(layer, tmp_path / "whole")
    cgru.save(cgru.quantize(layer, kind), tmp_path / "small")
    with open(tmp_path / "small", "rb") as file:
        table, *_ = safetensors.read_header(file)
    assert table["kernel"].dtype == table["recurrent_kernel"].dtype == STORED[kind] and table["bias"].dtype == "F32"
    assert table["kernel"].shape == (32, 192)
    assert ("kernel_scale" in table) == (kind == "int8")
    if kind == "int8":
        assert table["kernel_scale"].shape == (192,) and table["kernel_scale"].dtype == "F32"
    whole, small = ((tmp_path / name).stat().st_size for name in ("whole", "small"))
    assert small < whole * (0.27 if kind == "int8" else 0.51) + 2500


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_read_them(tmp_path, kind):
    library = pytest.importorskip("safetensors.torch")
    small = cgru.quantize(model(), kind)
    cgru.save(small, tmp_path / "file")
    tensors = library.load_file(tmp_path / "file")
    for name, array in small.parameters.items():
        values = tensors[name].float().numpy()
        if f"{name}_scale" in tensors:
            scales = tensors[f"{name}_scale"].numpy()
            values = values * (scales[:, None] if name.endswith("embeddings") else scales)
        assert np.array_equal(values, array), name


# -- weights published in 16 bits


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_published_halves_need_no_detour(tmp_path, kind):
    """16-bit weights in a file of somebody else widen to float32 exactly, and become the same 16 bits again."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    dtype = getattr(torch, kind)
    module = torch.nn.GRU(5, 7, num_layers=2, batch_first=True).to(dtype)
    library.save_file(module.state_dict(), tmp_path / "file")
    layers = [cgru.from_torch(given) for given in
              (cgru.files.load_tensors(tmp_path / "file"), module.state_dict(), module)]  # fmt: skip
    for layer in layers:
        assert layer.dtype == np.float32
        small = cgru.quantize(layer, kind)
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), small.get_weights(), strict=True))
        codes = small.stored()["l0.forward.recurrent_kernel"]
        published = module.weight_hh_l0.detach().view(torch.int16).numpy().view(np.uint16)  # rows r, z, n
        own = codes.view(np.uint16).T.copy()
        own[7:14] ^= 0x8000  # z weighs the other state: its signs
        assert np.array_equal(own, published)


# -- what is wrong with a file


def altered(path, change):
    """Write a file anew after a change of its header and its tensors, with the hashes that then belong to it."""
    import hashlib

    with open(path, "rb") as file:
        table, metadata, _ = safetensors.read_header(file)
        raw = {name: bytearray(file.read(entry.end - entry.begin)) for name, entry in table.items()}
    header = {name: {"dtype": e.dtype, "shape": list(e.shape)} for name, e in table.items()}
    change(header, raw, metadata)
    begin = 0
    for name in header:
        header[name]["data_offsets"] = [begin, begin + len(raw[name])]
        begin += len(raw[name])
    metadata = {key: text for key, text in metadata.items() if key != "header_sha256"}
    metadata["sha256"] = hashlib.sha256(b"".join(raw[name] for name in header)).hexdigest()
    header = {"__metadata__": metadata, **header}
    metadata["header_sha256"] = safetensors.hash_of(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(raw[name] for name in raw))


def saved(tmp_path, kind):
    path = tmp_path / "file"
    cgru.save(cgru.quantize(model(), kind), path)
    return path


def set_scale(value):
    def change(header, raw, metadata):
        scales = np.frombuffer(raw["4.kernel_scale"], np.float32).copy()
        scales[1] = value
        raw["4.kernel_scale"][:] = scales.tobytes()

    return change


def without_scale(header, raw, metadata):
    del header["2.l0.forward.kernel_scale"], raw["2.l0.forward.kernel_scale"]


def longer_scale(header, raw, metadata):
    header["3.kernel_scale"]["shape"] = [16]
    raw["3.kernel_scale"] += b"\0" * 4


def other_type(header, raw, metadata):
    header["4.kernel"]["dtype"] = "U8"


def least_code(header, raw, metadata):
    raw["4.kernel"][4] = 0x80


def other_kind(header, raw, metadata):
    metadata["config"] = metadata["config"].replace('"int8"', '"float16"')


def made_of(text):
    return lambda header, raw, metadata: metadata.update(made_of=text)


def no_kind(header, raw, metadata):
    metadata["config"] = metadata["config"].replace('"int8"', '"int4"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scale, "expected a tensor '2.l0.forward.kernel_scale' of shape .21,., as the configuration has it"),
        (longer_scale, "3.kernel_scale: expected shape .15,. of F32"),
        *(
            (set_scale(value), f"4.kernel_scale: expected scales from 1.18e-38 to 2.68e.36, got {text}.* at .1,.")
            for value, text in [(np.nan, "nan"), (np.inf, "inf"), (0, "0"), (-1, "-1"), (1e-39, "1"), (3e38, "3")]
        ),  # times 3e38, codes would stand for infinity
        (other_type, "4.kernel: expected shape .5, 3. of I8, .*got .5, 3. of U8"),
        (least_code, "4.kernel: expected codes from -127 to 127, got -128 at .1, 1."),
        (other_kind, "expected shape .* of F16"),
        (made_of("[null]"), "made_of: expected for each layer with small weights a digest, else null, got .None.$"),
        (made_of('["", "", null, null, null]'), "made_of: expected .*"),  # the convolution is float32
        (made_of("[null, null, null, null, 1]"), "made_of: expected .*"),
        (made_of('{"a": 1}'), "made_of: expected .*"),
        (made_of("junk"), "made_of: .*"),
        (no_kind, "kind: expected one of"),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    path = saved(tmp_path, "int8")
    altered(path, lambda *parts: None)
    assert np.isfinite(cgru.load(path)(IDS)).all()  # what follows is refused for what was changed
    altered(path, change)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        cgru.load(path)


def test_what_somebody_took_out_is_named_beside_the_hash(tmp_path):
    path = saved(tmp_path, "int8")
    with open(path, "rb") as file:
        hashed = safetensors.read_header(file)[1]["header_sha256"]
    altered(path, without_scale)
    raw = path.read_bytes()
    with open(path, "rb") as file:
        own = safetensors.read_header(file)[1]["header_sha256"]
    path.write_bytes(raw.replace(own.encode(), hashed.encode()))  # as before: what a program does that copies metadata
    with pytest.raises(ValueError, match=r"the header was altered: .*; expected a tensor '2.l0.forward.kernel_scale'"):
        cgru.load(path)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_that_are_not_finite_are_named(tmp_path, kind):
    path = saved(tmp_path, kind)

    def change(header, raw, metadata):
        raw["4.kernel"][8:10] = b"\xff\x7f" if kind == "float16" else b"\x80\x7f"

    altered(path, change)
    with pytest.raises(ValueError, match=r"4\.kernel: expected finite weights, got (nan|inf) at \(1, 1\)"):
        cgru.load(path)


def test_training_states_are_refused(tmp_path):
    whole = model()
    for compiled in (False, True):
        if compiled:
            whole.compile(loss="sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match=r"training_state: .*quantised layers cannot be trained"):
            cgru.save(cgru.quantize(whole, "int8"), tmp_path / "file", training_state=True)
    assert not (tmp_path / "file").exists()
