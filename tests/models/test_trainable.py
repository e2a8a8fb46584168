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
    assert capsys.readouterr().out.splitlines()[-1] == "178 parameters in 712 bytes"
    model.layers[0].trainable = False
    model.summary()
    assert capsys.readouterr().out.splitlines()[-1] == "178 parameters in 712 bytes, 16 frozen"


@pytest.mark.parametrize("frozen", [[0], [1], [0, 1], [0, 2], [1, 3], [0, 1, 2], [3]])
@pytest.mark.parametrize("options", [{}, {"reset_after": True, "bidirectional": True}, {"num_layers": 2}])
def test_the_gradients_of_the_others_are_those_of_the_whole(frozen, options):
    layers = [
        cgru.GRU(5, return_sequences=True, **options),
        cgru.Dense(6, "tanh"),
        cgru.GRU(4, **options),
        cgru.Dense(2, activation="softmax"),
    ]
    model = model_of(*layers)
    batch = cgru.sequences.as_batch(x, [5, 3, 0, 1, 5, 2, 4, 5])
    targets = model._targets(y, batch, (8, 2))
    whole = model._gradients(batch, targets)
    for i in frozen:
        model.layers[i].trainable = False
    gradients = model._gradients(batch, targets)
    assert gradients.keys() == {key for key in whole if key[0] not in frozen} != whole.keys()
    for key, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, whole[key], err_msg=str(key))


@pytest.mark.parametrize("backend", ["native", "blas"])
@pytest.mark.parametrize("reset_after", [False, True])
def test_without_gradients_of_the_weights_the_others_are_the_same(backend, reset_after):
    with cgru.backend(backend):
        layer = cgru.GRU(7, return_sequences=True, reset_after=reset_after, input_size=3, seed=0)
        batch = cgru.sequences.as_batch(x, [5, 3, 0, 1, 5, 2, 4, 5])
        out, _, _, tape = layer.forward_batch(batch, training=True)
        dx, dh, grads = layer.backward_batch(out.data, None, tape)
        assert set(grads) == set(layer.parameters)
        for need_dx in (True, False):
            found = layer.backward_batch(out.data, None, tape, need_dx=need_dx, need_grads=False)
            assert found[2] == {} and (found[0] is not None) is need_dx
            np.testing.assert_array_equal(found[1], dh)
            if need_dx:
                np.testing.assert_array_equal(found[0], dx)


def test_what_a_frozen_model_leaves_out(monkeypatch):
    """Below the first layer that is trained no tape is kept and nothing goes back; above it no products of weights."""
    calls = []

    class Watched(cgru.GRU):
        def backward_batch(self, d_out, d_state, tape, need_dx=True, need_grads=True):
            calls.append((self.units, need_dx, need_grads))
            return super().backward_batch(d_out, d_state, tape, need_dx, need_grads)

    sizes = (3, 4, 5, 6)
    layers = [Watched(units, return_sequences=units < 6) for units in sizes]
    model = model_of(*layers, cgru.Dense(2, activation="softmax"))
    for i in (0, 2):
        layers[i].trainable = False
    fit(model, epochs=1)
    assert calls[:3] == [(6, True, True), (5, True, False), (4, False, True)] and len(calls) == 6

    plain = model_of(cgru.GRU(3, return_sequences=True), cgru.Dropout(0.5), cgru.GRU(4), cgru.Dense(2, "softmax"))
    plain.layers[0].trainable = False
    seen = []
    forward = cgru.GRU._run

    def run(self, batch, state, record, *options):
        seen.append((self.units, record))
        return forward(self, batch, state, record, *options)

    monkeypatch.setattr(cgru.GRU, "_run", run)
    fit(plain, epochs=1)
    assert seen == [(3, False), (4, True)] * 2


def test_dropout_below_the_first_trained_layer_acts():
    """Two epochs of one frozen model that differ in the masks alone."""
    model = model_of(cgru.Dropout(0.5), cgru.Dense(4, trainable=False), cgru.GRU(5), cgru.Dense(2, "softmax"))
    model.compile(optimizers.Adam(1e-30), "sparse_categorical_crossentropy")
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert history["loss"][0] != history["loss"][1] != model.evaluate(x, y)["loss"]


def test_what_is_remembered_of_a_frozen_layer_rests_and_is_saved(tmp_path):
    model = three()
    fit(model)
    remembered = {name: model._states[0].slots[0, name] for name in ("kernel", "bias")}
    model.layers[0].trainable = False
    fit(model)
    for name, slots in remembered.items():
        assert (0, name) not in model._states[0].slots
        for kept, slot in zip(model._states[0].resting[0, name], slots, strict=True):
            np.testing.assert_array_equal(kept, slot)
            assert slot.any()
    cgru.save(model, tmp_path / "model.safetensors", training_state=True)
    again = cgru.load(tmp_path / "model.safetensors")
    fit(model)
    fit(again)
    for m in (model, again):
        m.layers[0].trainable = True
        fit(m)
        assert not m._states[0].resting
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
