"""Every GRU of a real model of Keras is reached by a name: in models, wrappers, custom layers and subclassed models,
from the model itself and from each of its files."""

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
    pytest.importorskip("tensorflow")
    KERAS = {3: pytest.importorskip("keras")}
    try:
        KERAS[2] = importlib.import_module("tf_keras")
    except ImportError:
        pass

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own
versions = pytest.mark.parametrize("keras", KERAS.values(), ids=[f"keras{version}" for version in KERAS])
T, D = 5, 3


def custom_layer(keras):
    class Mine(keras.layers.Layer):
        def __init__(self, units=4, **options):
            super().__init__(**options)
            self.gru = keras.layers.GRU(units, return_sequences=True, name="inner")
            self.dense = keras.layers.Dense(units)
            self.more = [keras.layers.GRU(units, return_sequences=True, name="later")]

        def call(self, x):
            return self.more[0](self.dense(self.gru(x)))

    return Mine


def functional(keras):
    layers = keras.layers
    x = keras.Input((T, D))
    encoder = keras.Sequential(
        [keras.Input((T, D)), layers.GRU(4, return_sequences=True, name="gru"), layers.Dense(4),
         layers.GRU(4, return_sequences=True, name="second")],
        name="encoder",
    )  # fmt: skip
    y = custom_layer(keras)(name="custom")(encoder(x))
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(y)
    cells = layers.RNN([layers.GRUCell(4), layers.GRUCell(5)], return_sequences=True, name="stack")
    y = layers.Reshape((T, 5, 1))(cells(y))
    y = layers.TimeDistributed(layers.GRU(4, name="each", activation="relu"), name="every")(y)
    model = keras.Model(x, layers.GRU(4, name="gru")(y))
    model.set_weights([np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate(model.get_weights())])
    encoder, custom = model.get_layer("encoder"), model.get_layer("custom")
    return model, {
        "encoder/gru": encoder.get_layer("gru"), "encoder/second": encoder.get_layer("second"),
        "second": encoder.get_layer("second"), "both": model.get_layer("both"), "stack": model.get_layer("stack"),
        "every": model.get_layer("every"),
        "gru": model.get_layer("gru"), "custom/gru|custom/inner": custom.gru,
        "custom/more/gru|custom/more/later|custom/later": custom.more[0],
    }  # fmt: skip


def subclassed(keras):
    class Translator(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.encoder, self.decoder = custom_layer(keras)(name="low"), custom_layer(keras)(5, name="high")
            self.top = keras.layers.GRU(3, name="top")

        def call(self, x):
            return self.top(self.decoder(self.encoder(x)))

        def get_config(self):
            return {}

    model = Translator()
    model(np.zeros((2, T, D), "float32"))
    model.set_weights([np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate(model.get_weights())])
    return model, {
        "encoder/gru|low/inner|layers/mine/gru": model.encoder.gru,
        "decoder/gru|high/inner|layers/mine_1/gru": model.decoder.gru,
        "top": model.top,
    }


def assert_reached(source, reached):
    """By one of the names at least, and not without a name."""
    with pytest.raises(ValueError, match=r"^name: expected one of") as caught:
        cgru.from_keras(source)
    for names, layer in reached.items():
        found = []
        for name in names.split("|"):
            try:
                found.append(cgru.from_keras(source, name))
            except ValueError:
                continue
        assert found, (names, str(caught.value))
        for ours in found:
            checks.assert_same_arrays(to_keras(ours), layer.get_weights(), names)


@versions
@pytest.mark.parametrize("make", [functional, subclassed])
def test_every_gru_is_reached(keras, make, tmp_path):
    model, reached = make(keras)
    assert_reached(model, reached)
    paths = [tmp_path / "model.keras"]
    model.save(paths[0])
    if keras is KERAS[3]:
        paths += [tmp_path / "model.h5", tmp_path / "model.weights.h5"]
        model.save(paths[1])
        model.save_weights(paths[2])
    for path in paths:
        assert_reached(path, reached)


@versions
def test_a_wrapped_layer_keeps_its_settings(keras, tmp_path):
    model, _ = functional(keras)
    model.save(tmp_path / "model.keras")
    for source in (model, tmp_path / "model.keras"):
        assert cgru.from_keras(source, "every").activation == "relu"


def test_bfloat16_weights_in_a_file(tmp_path):
    keras = KERAS[3]
    x = keras.Input((T, D), dtype="bfloat16")
    gru = keras.layers.GRU(4, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    model = keras.Model(x, gru(x))
    for path in (tmp_path / "model.keras", tmp_path / "model.weights.h5"):
        model.save(path) if path.suffix == ".keras" else model.save_weights(path)
        arrays = to_keras(cgru.from_keras(path))
        checks.assert_same_arrays(arrays, [np.asarray(array, "float32") for array in gru.get_weights()])
