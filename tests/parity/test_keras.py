"""Keras 3, and Keras 2 where tf_keras is installed: what from_keras makes of layers, weights and files, and the way
back."""

import importlib
import os
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_keras

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    pytest.importorskip("h5py")
    pytest.importorskip("tensorflow")
    KERAS = {3: pytest.importorskip("keras")}
    try:
        KERAS[2] = importlib.import_module("tf_keras")
    except ImportError:
        pass

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own: of NumPy, of files that it calls legacy
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
versions = pytest.mark.parametrize("keras", KERAS.values(), ids=[f"keras{version}" for version in KERAS])


def sized(rng, low=1, high=12):
    return int(rng.integers(low, high))


def random_values(layer, rng):
    """Weights that are not Keras' initial ones, whose biases are zero."""
    scaled = [rng.standard_normal(array.shape) / np.sqrt(array.shape[-1]) for array in layer.get_weights()]
    layer.set_weights([new.astype(old.dtype) for new, old in zip(scaled, layer.get_weights(), strict=True)])


def compare(ours, layer, rng, features, dtype):
    """Outputs and final states of the same inputs, with a mask that has holes and rows without a valid step."""
    n, t = sized(rng, 3), sized(rng, 3)
    x = rng.standard_normal((n, t, features)).astype(dtype)
    random_mask = rng.random((n, t)) < rng.random((n, 1)) * 1.3 - 0.1
    random_mask[0, -1] = True  # Sequential.predict cuts a batch at its last valid step
    for mask in (None, random_mask):
        arguments = {} if mask is None else {"mask": mask}
        y_k, *h_k = (np.asarray(a) for a in layer(x, **arguments))
        if isinstance(ours, cgru.Sequential):
            y = ours.predict(x, **arguments)
            if mask is not None:  # outside of it, the last layer's outputs alone are those of Keras
                valid = (mask[:, ::-1] if ours.layers[0].go_backwards else mask)[:, :, None]
                y_k, y = np.where(valid, y_k, 0), np.where(valid, y, 0)
        else:
            y, h = ours(x, **arguments)
            checks.assert_close(h, np.stack(h_k).reshape(h.shape), TOLERANCE[dtype], "h")
        checks.assert_close(y, y_k, TOLERANCE[dtype], "y")


@versions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gru(rng, reset_after, dtype, keras):
    for activations in (("tanh", "sigmoid"), ("relu", "hard_sigmoid"), ("linear", "sigmoid")):
        features, units = sized(rng), sized(rng)
        options = {name: bool(rng.integers(2)) for name in ("use_bias", "go_backwards", "zero_output_for_mask")}
        layer = keras.layers.GRU(
            units, reset_after=reset_after, activation=activations[0], recurrent_activation=activations[1], dtype=dtype,
            return_sequences=True, return_state=True, **options,
        )  # fmt: skip
        layer.build((None, None, features))
        random_values(layer, rng)
        ours = cgru.from_keras(layer)
        compare(ours, layer, rng, features, dtype)
        arrays = layer.get_weights()
        checks.assert_same_arrays(to_keras(ours), arrays)
        chosen = {"activation": ours.activation, "recurrent_activation": ours.recurrent_activation}
        del options["use_bias"]
        compare(cgru.from_keras(arrays, reset_after=reset_after, **chosen, **options), layer, rng, features, dtype)


@versions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])
def test_both_directions(rng, merge_mode, dtype, keras):
    features, units = sized(rng), sized(rng)
    gru = keras.layers.GRU(
        units, return_sequences=True, return_state=True, reset_after=bool(rng.integers(2)), dtype=dtype
    )
    layer = keras.layers.Bidirectional(gru, merge_mode=merge_mode, dtype=dtype)
    layer.build((None, None, features))
    random_values(layer, rng)
    ours = cgru.from_keras(layer)
    compare(ours, layer, rng, features, dtype)
    checks.assert_same_arrays(to_keras(ours), layer.get_weights())


@versions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stacks_of_cells(rng, dtype, keras):
    """Cells of one size and form become one GRU, others a Sequential."""
    for units, go_backwards in (([5], True), ([3, 3, 3], True), ([4, 2, 7], True), ([6, 1], False)):
        features = sized(rng)
        reset_after = bool(rng.integers(2))
        cells = [keras.layers.GRUCell(size, reset_after=reset_after, dtype=dtype) for size in units]
        layer = a_stack(keras, cells, features, go_backwards, rng, dtype)
        ours = cgru.from_keras(layer)
        assert isinstance(ours, cgru.GRU) == (len(set(units)) == 1)
        compare(ours, layer, rng, features, dtype)
        checks.assert_same_arrays(to_keras(ours), layer.get_weights())
    cells = [
        keras.layers.GRUCell(3, activation="relu", dtype=dtype),
        keras.layers.GRUCell(3, reset_after=False, dtype=dtype),
    ]
    mixed = a_stack(keras, cells, 4, True, rng, dtype)
    compare(cgru.from_keras(mixed), mixed, rng, 4, dtype)


def a_stack(keras, cells, features, go_backwards, rng, dtype):
    cell = keras.layers.StackedRNNCells(cells, dtype=dtype) if len(cells) > 1 else cells[0]
    layer = keras.layers.RNN(cell, return_sequences=True, return_state=True, go_backwards=go_backwards, dtype=dtype)
    layer.build((None, None, features))
    random_values(layer, rng)
    return layer


@versions
def test_set_weights_takes_what_to_keras_gives(rng, keras):
    ours = checks.random_layer(rng, 5, input_size=3, reset_after=True, bidirectional=True, return_sequences=True)
    layer = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))
    layer.build((None, None, 3))
    layer.set_weights(to_keras(ours))
    x = rng.standard_normal((2, 6, 3)).astype("float32")
    checks.assert_close(ours(x), layer(x), TOLERANCE["float32"])


def a_model(keras, rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((None, 5)),
            layers.Bidirectional(layers.GRU(7, return_sequences=True), name="both"),
            layers.GRU(4, return_sequences=True, recurrent_activation="hard_sigmoid", reset_after=False, name="before"),
            layers.RNN([layers.GRUCell(3), layers.GRUCell(2)], return_sequences=True, name="stack"),
            keras.Sequential([layers.GRU(3, return_sequences=True, name="deep")], name="inner"),
            layers.LSTM(2, name="lstm"),
        ],
        name="model",
    )
    random_values(model, rng)
    return model


@versions
@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.weights.h5", "legacy_weights.h5"])
def test_files(rng, tmp_path, file, keras):
    """The layer of a file gives the numbers of the layer that was saved."""
    if file == "legacy_weights.h5" and keras is KERAS[3]:
        pytest.skip("Keras 3 writes weights in its own layout")
    model, path = a_model(keras, rng), str(tmp_path / file)
    save = model.save_weights if "weights" in file else model.save
    save(path)
    names = {"both": None, "before": None, "stack": None, "deep": None}
    if "weights" in file and keras is not KERAS[3] and "legacy" not in file:  # its layout has no names
        names = {"both": "bidirectional", "before": "gru", "stack": "rnn", "deep": "sequential/layers/gru"}
        names = {name: f"layers/{group}" for name, group in names.items()}
    elif file == "legacy_weights.h5":
        names["deep"] = "inner"  # the group of the model inside
    inner = next(layer for layer in model.layers if layer.name == "inner")
    for name, stored in names.items():
        layer = next(layer for layer in (*model.layers, *inner.layers) if layer.name == name)
        options = {}
        if "weights" in file and name == "before":
            options["recurrent_activation"] = "hard_sigmoid" if keras is KERAS[3] else "hard_sigmoid_keras2"
        ours = cgru.from_keras(path, stored or name, **options)
        checks.assert_same_arrays(to_keras(ours), layer.get_weights(), name)
        x = rng.standard_normal((3, 6, layer.get_weights()[0].shape[0])).astype("float32")
        y = ours.predict(x) if isinstance(ours, cgru.Sequential) else ours(x)[0]
        checks.assert_close(y, layer(x), TOLERANCE["float32"], name)
        if "weights" not in file:
            checks.assert_same_arrays(to_keras(cgru.from_keras(model, name)), layer.get_weights(), name)


@versions
def test_bfloat16_files(rng, tmp_path, keras):
    if keras is not KERAS[3]:
        pytest.skip("of Keras 3")
    gru = keras.layers.GRU(4, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    model = keras.Sequential([keras.layers.Input((None, 3)), gru])
    random_values(model, rng)
    model.save(tmp_path / "model.keras")
    expected = [array.astype("float32") for array in model.get_weights()]
    checks.assert_same_arrays(to_keras(cgru.from_keras(tmp_path / "model.keras")), expected)
    checks.assert_same_arrays(to_keras(cgru.from_keras(model)), expected)


@pytest.mark.skipif(2 not in KERAS, reason="of Keras 2")
def test_the_cudnn_layout_of_keras_2(rng):
    """Keras 2 itself converts the weights of a CuDNNGRU when it loads them into a GRU, and back."""
    from tf_keras.src.saving.legacy import hdf5_format

    layer = KERAS[2].layers.GRU(7)
    layer.build((None, None, 3))
    random_values(layer, rng)
    cudnn = hdf5_format._convert_rnn_weights(type("CuDNNGRU", (), {"units": 7})(), layer.get_weights())
    assert cudnn[2].shape == (42,)
    checks.assert_same_arrays(to_keras(cgru.from_keras(cudnn)), layer.get_weights())
    checks.assert_same_arrays(to_keras(cgru.from_keras(layer), cudnn=True), cudnn)


@versions
def test_layers_that_are_not_built_or_no_gru(keras):
    with pytest.raises(ValueError, match=r"expected a layer that is built, got one without weights"):
        cgru.from_keras(keras.layers.GRU(3))
    for wrong in (keras.layers.LSTM(3), keras.layers.Bidirectional(keras.layers.LSTM(3))):
        with pytest.raises(ValueError, match=r"^(LSTM|Bidirectional): expected a GRU, got none"):
            cgru.from_keras(wrong)
