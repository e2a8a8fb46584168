"""Whole models of Keras 3, and of Keras 2 where tf_keras is installed: Dense, Embedding and Sequentials there and back,
from objects and from files."""

import importlib
import os
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, from_keras_dense, from_keras_embedding, to_keras, to_keras_model

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
versions = pytest.mark.parametrize("keras", KERAS.values(), ids=[f"keras{version}" for version in KERAS])
N, T, D, V = 4, 7, 3, 11
TOLERANCE = 5e-6


def randomized(model, rng):
    model.set_weights([(rng.standard_normal(a.shape) / 2).astype(a.dtype) for a in model.get_weights()])
    return model


MODELS = {
    "classifier": lambda k: [
        k.Input((None,)), k.Embedding(V, D), k.Dropout(0.2), k.Bidirectional(k.GRU(4)), k.Dense(5, activation="softmax")
    ],
    "tagger": lambda k: [
        k.Input((None,)),
        k.Embedding(V, D),
        k.GRU(4, return_sequences=True, reset_after=False),
        k.Dense(5, activation="tanh"),
    ],
    "deep": lambda k: [
        k.Input((None, D)),
        k.Dense(4, activation="relu", use_bias=False),
        k.GRU(5, return_sequences=True, recurrent_activation="hard_sigmoid"),
        k.RNN([k.GRUCell(4), k.GRUCell(3)], return_sequences=True),
        k.GRU(2, return_sequences=True, go_backwards=True),
        k.TimeDistributed(k.Dense(3)),
        k.Activation("sigmoid"),
        k.Dense(3),
        k.Softmax(),
    ],
    "grus": lambda k: [k.Input((None, D)), k.GRU(4, return_sequences=True), k.GRU(4)],
    "vectors": lambda k: [k.Input((D,)), k.Dense(4, activation="sigmoid"), k.Dropout(0.5), k.Dense(2), k.ReLU()],
}  # fmt: skip


def functional(keras, layers):
    """The model that calls one of these layers after the other; the first is its input."""
    tensor = layers[0]
    for layer in layers[1:]:
        tensor = layer(tensor)
    return keras.Model(layers[0], tensor)


@versions
@pytest.mark.parametrize("source", ["object", "model.keras", "model.h5"])
@pytest.mark.parametrize("form", ["Sequential", "functional"])
@pytest.mark.parametrize("name", MODELS)
def test_sequentials(rng, tmp_path, name, form, source, keras):
    layers = MODELS[name](keras.layers)
    theirs = randomized(keras.Sequential(layers) if form == "Sequential" else functional(keras, layers), rng)
    if source == "object":
        ours = cgru.from_keras(theirs)
    else:
        theirs.save(str(tmp_path / source))
        ours = cgru.from_keras(tmp_path / source)
    assert isinstance(ours, cgru.Sequential)
    if name in ("classifier", "tagger"):
        x = rng.integers(0, V, (N, T))
    else:
        x = rng.standard_normal((N, D) if name == "vectors" else (N, T, D)).astype("float32")
    checks.assert_close(ours.predict(x), theirs(x), TOLERANCE)
    if name != "deep":  # a stack of unlike cells is one list of Keras
        checks.assert_same_arrays(to_keras(ours), theirs.get_weights())


@versions
def test_nested_sequentials_and_what_returns_every_step(rng, tmp_path, keras):
    layers = keras.layers
    theirs = keras.Sequential([
        layers.Input((None,)),
        keras.Sequential([layers.Embedding(V, D), layers.GRU(4, name="inner")], name="encoder"),
        keras.Sequential([layers.Dense(3, activation="relu")], name="head"),
    ])  # fmt: skip
    randomized(theirs, rng)
    ids = rng.integers(0, V, (N, T))
    theirs.save(str(tmp_path / "model.keras"))
    for source in (theirs, tmp_path / "model.keras"):
        ours = cgru.from_keras(source)
        checks.assert_close(ours.predict(ids), theirs(ids), TOLERANCE)
        steps = cgru.from_keras(source, return_sequences=True).predict(ids)
        checks.assert_close(steps[:, -1], theirs(ids), TOLERANCE)
        assert isinstance(cgru.from_keras(source, "inner"), cgru.GRU)


@versions
@pytest.mark.parametrize("source", ["object", "model.keras", "model.h5"])
def test_graphs_that_are_no_chain_say_what_is_left_out(rng, tmp_path, source, keras):
    k = keras.layers
    x, twice = keras.Input((T, D)), k.GRU(D, return_sequences=True, name="gru")
    gru = k.GRU(4, name="gru")
    state = keras.Input((4,))
    graphs = {
        "dense, norm": keras.Model(x, k.BatchNormalization(name="norm")(k.Dense(3, name="dense")(gru(x)))),
        "dense, other": keras.Model(x, [k.Dense(3, name="dense")(gru(x)), k.Dense(2, name="other")(x)]),
        "dense": keras.Model([x, state], k.Dense(3, name="dense")(k.GRU(4, name="gru")(x, initial_state=state))),
        "add": keras.Model(x, k.Add(name="add")([twice(x), x])),
        "what the model makes of it": keras.Model(x, twice(twice(x))),
    }
    for left, theirs in graphs.items():
        randomized(theirs, rng)
        if source != "object":
            theirs.save(str(tmp_path / source))
        given = theirs if source == "object" else tmp_path / source
        with pytest.warns(PartialConversionWarning, match=rf"only 'gru' was converted; left out: {left}\. name='gru'"):
            assert isinstance(cgru.from_keras(given), cgru.GRU)
        with warnings.catch_warnings():
            warnings.simplefilter("error", PartialConversionWarning)
            cgru.from_keras(given, "gru")
    outputs = keras.Model(x, k.GRU(4, return_state=True)(x))  # as the layer gives them
    with warnings.catch_warnings():
        warnings.simplefilter("error", PartialConversionWarning)
        assert isinstance(cgru.from_keras(outputs), cgru.GRU)


@versions
@pytest.mark.parametrize("source", ["object", "model.keras"])
def test_models_with_a_call_of_their_own_say_what_is_left_out(rng, tmp_path, source, keras):
    class Doubled(keras.Sequential):
        def call(self, *arguments, **options):
            return 2 * super().call(*arguments, **options)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.gru, self.head = keras.layers.GRU(4, name="gru"), keras.layers.Dense(2, name="head")

        def call(self, x):
            return self.head(self.gru(x))

    k = keras.layers
    for theirs in (Doubled([k.Input((T, D)), k.GRU(4, name="gru"), k.Dense(2, name="head")]), Own()):
        theirs(rng.standard_normal((N, T, D)).astype("float32"))
        if source != "object":
            theirs.save(str(tmp_path / source))
        with pytest.warns(PartialConversionWarning, match=r"only '.*gru' was converted; left out: .*(head|dense)\. "):
            assert isinstance(cgru.from_keras(theirs if source == "object" else tmp_path / source), cgru.GRU)


@versions
def test_what_acts_in_training_alone_is_left_out_with_a_warning(rng, keras):
    k = keras.layers
    theirs = [k.Input((T, D)), k.GaussianNoise(0.5, name="noise"), k.GRU(4, return_sequences=True)]
    theirs = keras.Sequential([*theirs, k.SpatialDropout1D(0.5, name="spatial"), k.Dense(2)])
    randomized(theirs, rng)
    with pytest.warns(PartialConversionWarning, match=r"act in training alone: noise, spatial$"):
        ours = cgru.from_keras(theirs)
    x = rng.standard_normal((N, T, D)).astype("float32")
    checks.assert_close(ours.predict(x), theirs(x), TOLERANCE)


def test_arrays_that_are_not_those_of_the_layer_are_refused():
    """Keras adds up or scales others at each call; a file has them added up."""
    k = KERAS[3].layers
    for layer in (k.Embedding(V, D, name="one"), k.Dense(D, name="one")):
        shape = (None,) if isinstance(layer, k.Embedding) else (None, 4)
        theirs = KERAS[3].Sequential([k.Input(shape), layer, k.GRU(4)])
        if not hasattr(layer, "enable_lora"):
            pytest.skip("this version of Keras has no LoRA")
        layer.enable_lora(2)
        with pytest.raises(ValueError, match=r"^one: cannot convert LoRA exactly: its arrays are not the ones"):
            cgru.from_keras(theirs)


@versions
@pytest.mark.parametrize("form", ["Sequential", "functional"])
def test_masks_are_carried_or_given(rng, tmp_path, form, keras):
    layers = keras.layers
    theirs = [
        layers.Input((None,)), layers.Embedding(V, D, mask_zero=True, name="words"),
        layers.GRU(4, return_sequences=True), layers.Bidirectional(layers.GRU(3)), layers.Dense(2),
    ]  # fmt: skip
    theirs = randomized(keras.Sequential(theirs) if form == "Sequential" else functional(keras, theirs), rng)
    theirs.save(str(tmp_path / "model.keras"))
    ids = rng.integers(1, V, (N, T))
    ids[0, 3:] = 0
    ids[1, 2] = 0
    for source in (theirs, tmp_path / "model.keras"):
        checks.assert_close(cgru.from_keras(source).predict(ids), theirs(ids), TOLERANCE)
        ours = cgru.from_keras(source, without_masks=True)
        checks.assert_close(ours.predict(ids, mask=ids != 0), theirs(ids), TOLERANCE)
    assert from_keras_embedding(theirs.get_layer("words")).mask_zero
    assert not from_keras_embedding(theirs.get_layer("words"), without_masks=True).mask_zero
    masking = [layers.Input((None, D)), layers.Masking(name="m"), layers.GRU(4), layers.Dense(2)]
    masking = keras.Sequential(masking) if form == "Sequential" else functional(keras, masking)
    x = rng.standard_normal((N, T, D)).astype("float32")
    x[0, 3:] = 0
    ours = cgru.from_keras(masking, without_masks=True)
    checks.assert_close(ours.predict(x, mask=(x != 0).any(axis=2)), masking(x), TOLERANCE)
    checks.assert_close(cgru.from_keras(masking).predict(x), masking(x), TOLERANCE)


@versions
def test_single_layers(rng, tmp_path, keras):
    layers = keras.layers
    dense, words = layers.Dense(4, activation="relu", name="head"), layers.Embedding(V, D, name="words")
    theirs = randomized(keras.Sequential([layers.Input((None,)), words, layers.GRU(3), dense]), rng)
    theirs.save(str(tmp_path / "model.keras"))
    x, ids = rng.standard_normal((N, 3)).astype("float32"), rng.integers(0, V, (N, T))
    plain = from_keras_dense(dense.get_weights(), activation="relu")
    for layer in (plain, cgru.from_keras(dense), from_keras_dense(dense), cgru.from_keras(theirs, "head"),
                  cgru.from_keras(tmp_path / "model.keras", "head")):  # fmt: skip
        checks.assert_close(cgru.Sequential([layer]).predict(x), dense(x), TOLERANCE)
    for layer in (cgru.from_keras(words), from_keras_embedding(words), from_keras_embedding(words.get_weights()),
                  cgru.from_keras(theirs, "words"), cgru.from_keras(tmp_path / "model.keras", "words")):  # fmt: skip
        np.testing.assert_array_equal(cgru.Sequential([layer]).predict(ids), words(ids))


@versions
@pytest.mark.filterwarnings("error::cgru.convert.PartialConversionWarning")
def test_layers_that_are_not_here(keras):
    layers = keras.layers

    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    for other in (layers.BatchNormalization(name="other"), layers.LSTM(3, name="other"), Doubled(3, name="other")):
        theirs = keras.Sequential([layers.Input((None, D)), layers.GRU(4, return_sequences=True, name="gru"), other])
        with pytest.warns(PartialConversionWarning, match=r"only 'gru' was converted; left out: other\. name='gru'"):
            assert isinstance(cgru.from_keras(theirs), cgru.GRU)
        assert cgru.from_keras(theirs, "gru").units == 4
    one = keras.Sequential([layers.Input((None, D)), layers.GRU(4)])
    assert isinstance(cgru.from_keras(one), cgru.GRU) and cgru.from_keras(one).return_sequences
    gelu = keras.Sequential([layers.Input((None, D)), layers.GRU(4), layers.Dense(3, activation="gelu", name="d")])
    with pytest.raises(ValueError, match=r"^d: cannot convert activation='gelu' exactly"):
        cgru.from_keras(gelu)
    with pytest.warns(PartialConversionWarning):  # an option of the GRU is a choice of it
        assert cgru.from_keras(gelu, merge_mode="sum").units == 4
    activation = keras.Sequential([layers.Input((None, D)), layers.GRU(4), layers.Activation("relu", name="a")])
    with pytest.raises(ValueError, match=r"^a: cannot convert Activation 'relu' where no Dense"):
        cgru.from_keras(activation)
    with pytest.raises(ValueError, match=r"expected a layer that is built"):
        cgru.from_keras(layers.Dense(3))
    with pytest.raises(TypeError, match=r"^weights: expected a Dense of Keras, got Doubled"):
        from_keras_dense(Doubled(3))


WAYS_OUT = {
    "classifier": lambda: [
        cgru.Embedding(V, D),
        cgru.Dropout(0.3),
        cgru.GRU(4, bidirectional=True, merge_mode="ave"),
        cgru.Dense(3, "softmax"),
    ],
    "tagger": lambda: [
        cgru.Embedding(V, D), cgru.GRU(4, num_layers=2, return_sequences=True), cgru.Dense(3, "sigmoid")
    ],
    "deep": lambda: [
        cgru.GRU(5, num_layers=2, bidirectional=True, reset_after=True, return_sequences=True),
        cgru.Dense(4, "relu", use_bias=False),
        cgru.GRU(3, num_layers=2, go_backwards=True, recurrent_activation="hard_sigmoid", use_bias=False),
        cgru.Dense(2, "tanh"),
    ],
    "vectors": lambda: [cgru.Dense(4, "relu"), cgru.Dense(3)],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WAYS_OUT)
def test_the_way_out(rng, name, dtype):
    layers = WAYS_OUT[name]()
    config = cgru.Sequential(layers, seed=0).get_config()
    for entry in config["layers"]:
        entry["config"] |= {"dtype": dtype} if "dtype" in entry["config"] else {}
    ours = cgru.Sequential.from_config(config)
    has_ids = isinstance(ours.layers[0], cgru.Embedding)
    ours.build(None if has_ids else D)
    randomized(ours, rng)
    theirs = to_keras_model(ours)
    x = rng.integers(0, V, (N, T)) if has_ids else rng.standard_normal((N, D) if name == "vectors" else (N, T, D))
    x = x if has_ids else x.astype(dtype)
    checks.assert_close(ours.predict(x), theirs(x), TOLERANCE if dtype == "float32" else 1e-12)
    checks.assert_same_arrays(theirs.get_weights(), to_keras(ours))
    back = cgru.from_keras(theirs)
    checks.assert_close(back.predict(x), ours.predict(x), 0)


def test_what_keras_does_not_have():
    for options, message in [
        ({"recurrent_activation": "hard_sigmoid_keras2"}, "Keras 3: cannot convert recurrent_activation="),
        ({"stateful": True}, "Keras: cannot convert stateful=True"),
        ({"time_major": True}, "Keras 3: cannot convert time_major=True"),
        ({"reverse": True}, "Keras: cannot convert reverse=True"),
    ]:
        with pytest.raises(ValueError, match=rf"^{message}"):
            to_keras_model(cgru.GRU(4, input_size=D, **options))
    with pytest.raises(RuntimeError, match=r"^layer: expected one with parameters"):
        to_keras_model(cgru.Sequential([cgru.GRU(3)]))
