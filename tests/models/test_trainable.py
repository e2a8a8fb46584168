"""`trainable=False` freezes a layer in fit; it may be set at any time."""

import numpy as np
import pytest

import cgru
from cgru import optimizers

x = np.random.default_rng(0).standard_normal((8, 5, 3)).astype("float32")
y = np.arange(8) % 2


def model_of(*layers):
    model = cgru.Sequential(list(layers), seed=0)
    model.compile(optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.build(3)
    return model


def three(**options):
    return model_of(cgru.Dense(4), cgru.GRU(5), cgru.Dense(2, activation="softmax"))


def fit(model, inputs=x, epochs=3):
    model.fit(inputs, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 1], [0, 2], [0, 1, 2]])
def test_frozen_layers_stay_as_they_are_and_others_train(frozen):
    model = three()
    for i in frozen:
        model.layers[i].trainable = False
    before = [layer.get_weights() for layer in model.layers]
    fit(model)
    for i, layer in enumerate(model.layers):
        same = [np.array_equal(a, b) for a, b in zip(layer.get_weights(), before[i], strict=True)]
        assert all(same) if i in frozen else not any(same)


def test_above_a_frozen_layer_training_is_as_on_its_outputs():
    whole, top = three(), model_of(cgru.GRU(5), cgru.Dense(2, activation="softmax"))
    whole.layers[0].trainable = False
    inputs = np.stack([cgru.Sequential([whole.layers[0]]).predict(x)[i] for i in range(8)])
    top = cgru.Sequential([cgru.GRU(5), cgru.Dense(2, activation="softmax")])
    top.compile(optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    top.build(4)
    top.set_weights(whole.get_weights()[2:])
    fit(whole)
    fit(top, inputs)
    for a, b in zip(whole.get_weights()[2:], top.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_constructor_argument_and_a_part_of_the_configuration():
    model = model_of(cgru.Dense(4, trainable=False), cgru.GRU(5), cgru.Dense(2, activation="softmax"))
    again = cgru.Sequential.from_config(model.get_config())
    assert [layer.trainable for layer in again.layers] == [False, True, True]
    for layer in (cgru.GRU(3, trainable=False), cgru.Embedding(3, 2, trainable=False), cgru.Dropout(0.1)):
        assert type(layer).from_config(layer.get_config()).trainable is layer.trainable
        assert ("trainable=False" in repr(layer)) is not layer.trainable


def test_to_freeze_and_thaw_keeps_what_the_optimizer_remembers_of_the_others():
    model, constant = three(), three()
    # Nothing reaches a layer whose outputs are multiplied by zero: to freeze it or not is the same.
    for m in (model, constant):
        weights = m.layers[1].get_weights()
        m.layers[1].set_weights([np.zeros_like(weights[0]), *weights[1:]])
        m.layers[1].trainable = False
    fit(model)
    fit(constant)
    model.layers[0].trainable = False
    fit(model)
    fit(constant)
    model.layers[0].trainable = True
    fit(model)
    fit(constant)
    for a, b in zip(model.get_weights(), constant.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_summary_counts_what_is_frozen(capsys):
    model = three()
    model.summary()
    assert capsys.readouterr().out.splitlines()[-1] == "178 parameters"
    model.layers[0].trainable = False
    model.summary()
    assert capsys.readouterr().out.splitlines()[-1] == "178 parameters, 16 frozen"
