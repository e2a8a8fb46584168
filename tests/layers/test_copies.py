"""Layers and models that come out of pickles and copies: their parameters are their own, and can be trained."""

import copy
import io
import pickle

import numpy as np
import pytest

import cgru


def trained_model():
    """A model with a state of the optimizer; some arrays are above 1 MB, which joblib maps into memory."""
    gru = cgru.GRU(300, stateful=True, recurrent_initializer="uniform")
    model = cgru.Sequential([cgru.Embedding(9000, 32), gru, cgru.Dense(3, activation="softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    return fitted(model)


def fitted(model):
    x, y = np.arange(8).reshape(4, 2), np.array([0, 1, 2, 0])
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    return model


def out_of_band(model, freeze):
    buffers = []
    data = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[freeze(buffer) for buffer in buffers])


def through_joblib(model, folder, mmap_mode):
    joblib = pytest.importorskip("joblib")
    joblib.dump(model, folder / "model")
    return joblib.load(folder / "model", mmap_mode=mmap_mode)


def through_cloudpickle(model):
    cloudpickle = pytest.importorskip("cloudpickle")
    return cloudpickle.loads(cloudpickle.dumps(model))


WAYS = {
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "protocol 2": lambda model, folder: pickle.loads(pickle.dumps(model, protocol=2)),
    "read-only buffers": lambda model, folder: out_of_band(model, lambda b: bytes(b.raw())),
    "the pickled memory itself": lambda model, folder: out_of_band(model, lambda b: b),
    "misaligned buffers": lambda model, folder: out_of_band(
        model, lambda b: memoryview(bytearray(b"\0" + b.raw().tobytes()))[1:]
    ),
    "joblib": lambda model, folder: through_joblib(model, folder, None),
    "joblib, mapped": lambda model, folder: through_joblib(model, folder, "r"),
    "joblib, copy on write": lambda model, folder: through_joblib(model, folder, "c"),
    "cloudpickle": lambda model, folder: through_cloudpickle(model),
    "copy": lambda model, folder: copy.copy(model),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_trains_and_leaves_the_original_alone(way, tmp_path):
    model = trained_model()
    before = model.get_weights()
    other = WAYS[way](model, tmp_path)
    for a, b in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    fitted(other)
    assert any((a != b).any() for a, b in zip(other.get_weights(), before, strict=True))
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    fitted(model)  # with the same state of the optimizer, of the GRU and of the order
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    last = [part.layers[1].with_options(stateful=False)(np.ones((1, 2, 32))) for part in (model, other)]
    np.testing.assert_array_equal(*last)


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_layer_is_a_layer_of_its_own(way, tmp_path):
    layer = cgru.GRU(300, seed=0, input_size=200, recurrent_initializer="uniform")
    x = np.ones((2, 3, 200), "float32")
    y = layer(x)
    other = WAYS[way](layer, tmp_path)
    with other.update() as parameters:
        parameters["kernel"] *= 2
    assert (other(x) != y).any()
    layer.set_weights(layer.get_weights())  # drops what was made of them before
    np.testing.assert_array_equal(layer(x), y)


def test_weights_from_a_mapped_file(tmp_path):
    layer = cgru.GRU(5, seed=0, input_size=3)
    weights = []
    for i, array in enumerate(layer.get_weights()):
        np.save(tmp_path / f"{i}.npy", array.astype(array.dtype.newbyteorder()))
        weights.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    for array in weights:
        assert not array.flags.writeable
    other = cgru.GRU(5)
    other.build_from(3, weights)
    layer.set_weights(weights)
    for changed in (layer, other):
        with changed.update() as parameters:
            parameters["bias"] += 1
        np.testing.assert_array_equal(changed.parameters["bias"], np.ones(15))


def test_a_pickle_of_a_locked_layer_can_be_used_elsewhere():
    layer = cgru.GRU(5, seed=0, input_size=3)
    file = io.BytesIO()
    with layer.update():
        pickle.dump(layer, file)
    other = pickle.loads(file.getvalue())
    np.testing.assert_array_equal(other(np.ones((1, 2, 3))), layer(np.ones((1, 2, 3))))
