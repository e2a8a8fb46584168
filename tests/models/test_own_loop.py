"""A training loop of one's own: forward and backward of a model, and the optimizer that is applied to its layers."""

import copy
import gc
import pickle
import re

import checks
import numpy as np
import pytest

import cgru
from cgru import losses, optimizers, schedules
from cgru.optimizers import SGD, Adam

N, T, D, H, K = checks.N, checks.T, checks.D, checks.H, 4


def model_of(seed=0, **options):
    layers = [cgru.Embedding(6, D, dtype="float64"), cgru.GRU(H, return_sequences=True, dtype="float64", **options)]
    return cgru.Sequential([*layers, cgru.Dense(K, "tanh", dtype="float64")], seed=seed).build()


def dense(rng, inputs=2, units=3, **options):
    layer = cgru.Dense(units, dtype="float64", **options)
    layer.build_from(inputs, [rng.standard_normal((inputs, units)), rng.standard_normal(units)])
    return layer


def gradients_for(rng, layer):
    return {name: rng.standard_normal(array.shape) for name, array in layer.parameters.items()}


# -- forward and backward of a model


@pytest.mark.parametrize("valid", checks.VALIDITY)
@pytest.mark.parametrize("options", [{}, {"reset_after": True, "bidirectional": True}])
def test_gradients_of_a_model(rng, options, valid):
    model, given = model_of(**options), checks.VALIDITY[valid]
    counted = checks.valid_steps(N, T, **given)
    ids, dy = rng.integers(0, 6, (N, T)), rng.standard_normal((N, T, K))
    y, tape = model.forward(np.where(counted, ids, 99), training=True, **given)
    checks.assert_same_arrays(y, model(ids, **given))
    assert (tape.valid is None) == (not given) and (given == {} or np.array_equal(tape.valid, counted))
    gradients = model.backward(checks.spoiled(dy, counted), tape)
    assert list(gradients) == list(model.parameters)
    checks.assert_same_arrays(model.backward(dy, tape), gradients)

    def value(arrays):
        model.set_weights(list(arrays.values()))
        return float((model(ids, **given) * dy).sum())

    checks.assert_gradients(value, dict(zip(model.parameters, model.get_weights(), strict=True)), gradients, rng)


@pytest.mark.parametrize("valid", checks.VALIDITY)
@pytest.mark.parametrize("trainable", [True, False])
def test_the_gradient_of_the_input_of_a_model(rng, valid, trainable):
    given = checks.VALIDITY[valid]
    counted = checks.valid_steps(N, T, **given)
    gru = cgru.GRU(H, bidirectional=True, return_sequences=True, dtype="float64", trainable=trainable)
    head = cgru.Dense(K, "tanh", dtype="float64", trainable=trainable)
    model = cgru.Sequential([cgru.Dropout(0.0), gru, cgru.Dropout(0.5), head], seed=0)
    x, dy = rng.standard_normal((N, T, D)), rng.standard_normal((N, T, K))
    _, tape = model.forward(x, training=True, seed=3, **given)
    dx, gradients = model.backward(checks.spoiled(dy, counted), tape, need_dx=True)
    assert dx.shape == x.shape and not dx[~counted].any()
    checks.assert_same_arrays([dx, *gradients.values()], [dx, *model.backward(dy, tape).values()])
    assert bool(gradients) == trainable

    def value(arrays):
        return float((model.forward(arrays["x"], training=True, seed=3, **given)[0] * dy).sum())

    checks.assert_gradients(value, {"x": x}, {"x": dx}, rng)


def test_the_gradient_of_the_input_is_padded_none_of_ids_and_apart_from_that_of_the_outputs(rng):
    lone = cgru.Sequential([cgru.Dropout(0.0)])
    _, tape = lone.forward([np.ones((2, D)), np.ones((3, D))], training=True)
    dy = rng.standard_normal((2, 3, D)).astype("float32")
    dx, gradients = lone.backward(dy, tape, need_dx=True)
    assert gradients == {} and not dx[0, 2].any() and np.array_equal(dx[1], dy[1])
    _, tape = lone.forward(np.ones((2, D), "float32"), training=True)
    dx, _ = lone.backward(dy[:, 0], tape, need_dx=True)
    assert np.array_equal(dx, dy[:, 0]) and not np.shares_memory(dx, dy)
    model = model_of()
    y, tape = model.forward(rng.integers(0, 6, (N, T)), training=True)
    dx, gradients = model.backward(y, tape, need_dx=True)
    assert dx is None and list(gradients) == list(model.parameters)


def test_outputs_may_be_written_into_before_backward(rng):
    model, ids, dy = model_of(), rng.integers(0, 6, (N, T)), rng.standard_normal((N, T, K))
    y, tape = model.forward(ids, training=True)
    expected = model.backward(dy, tape)
    y, tape = model.forward(ids, training=True)
    y[...] = dy
    checks.assert_same_arrays(model.backward(y, tape), expected)
    layer, x = cgru.Dense(3, "softmax", dtype="float64", seed=0), rng.standard_normal((5, 2))
    y, tape = layer.forward(x, training=True)
    expected = layer.backward(np.ones((5, 3)), tape)
    y[...] = 1
    checks.assert_same_arrays(layer.backward(y, tape), expected)


def test_dropout_of_a_model_follows_its_seed(rng):
    model = cgru.Sequential([cgru.Dropout(0.5), cgru.Dense(2, dtype="float64"), cgru.Dropout(0.3)], seed=0)
    x, dy = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    y, tape = model.forward(x, training=True, seed=4)
    checks.assert_same_arrays(model.forward(x, training=True, seed=4)[0], y)
    assert not np.array_equal(model.forward(x, training=True, seed=5)[0], y)
    assert not np.array_equal(model.forward(x, training=True)[0], y)
    checks.assert_same_arrays(model.forward(x, seed=4)[0], model(x))
    gradients = model.backward(dy, tape)

    def value(arrays):
        model.set_weights(list(arrays.values()))
        return float((model.forward(x, training=True, seed=4)[0] * dy).sum())

    # The mask of the first layer reaches the parameters through its outputs.
    checks.assert_gradients(value, dict(zip(model.parameters, model.get_weights(), strict=True)), gradients)


def test_frozen_layers_of_a_model_have_no_gradients(rng):
    model, ids = model_of(), rng.integers(0, 6, (N, T))
    y, tape = model.forward(ids, training=True)
    whole = model.backward(y, tape)
    model.layers[0].trainable = model.layers[2].trainable = False
    part = model.backward(y, tape)
    assert list(part) == ["1.kernel", "1.recurrent_kernel", "1.bias"]
    checks.assert_same_arrays(part, {name: whole[name] for name in part})


def test_a_stateful_model_goes_on_from_call_to_call(rng):
    x = rng.standard_normal((N, T, D))
    twins = [cgru.Sequential([cgru.GRU(H, stateful=True, dtype="float64")], seed=0) for _ in range(2)]
    for _ in range(3):
        checks.assert_same_arrays(twins[0].forward(x, training=True)[0], twins[1](x))


def test_forward_and_backward_of_a_model_refuse(rng):
    model, other, ids = model_of(), model_of(), rng.integers(0, 6, (N, T))
    y, tape = model.forward(ids, training=True)
    assert model.forward(ids)[1] is None
    for arguments, error, message in (
        ((y[:1], tape), ValueError, f"dy: expected the shape of y, ({N}, {T}, {K}), got (1, {T}, {K})"),
        ((y.astype(complex), tape), TypeError, "dy: expected real numbers, got dtype complex128"),
        ((y, None), TypeError, "tape: expected what forward(..., training=True) returned, got NoneType"),
        ((y, other.forward(ids, training=True)[1]), ValueError, "tape: expected one of this model's forward passes"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            model.backward(*arguments)
    with pytest.raises(TypeError, match="need_dx: expected True or False, got 1"):
        model.backward(y, tape, need_dx=1)
    with pytest.raises(TypeError, match="training: expected True or False, got 1"):
        model.forward(ids, training=1)
    with pytest.raises(TypeError, match="x: expected integer ids, got dtype float64"):
        model.forward(np.zeros((2, 3)))


# -- apply


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("lengths", [None, checks.LENGTHS])
def test_a_loop_of_ones_own_does_what_fit_does(rng, optimizer, lengths):
    options = {"global_clipnorm": 0.5, "weight_decay": 0.1}
    rate = schedules.CosineDecay(0.05, 20, warmup_target=0.2, warmup_steps=3)
    make = {"adam": Adam, "sgd": SGD}[optimizer]
    x, labels = rng.standard_normal((N, T, D)), rng.integers(0, K, (N, T))
    models = [
        cgru.Sequential(
            [cgru.GRU(H, return_sequences=True, dtype="float64"), cgru.Dense(K, "softmax", dtype="float64")], seed=0
        ).build(D)
        for _ in range(2)
    ]
    models[0].compile(make(rate, **options), "sparse_categorical_crossentropy")
    models[0].fit(x, labels, lengths=lengths, epochs=10, batch_size=N, shuffle=False, verbose=0)
    own, loss = make(rate, **options), losses.get("sparse_categorical_crossentropy")
    for _ in range(10):
        y, tape = models[1].forward(x, lengths=lengths, training=True)
        own.apply(models[1], models[1].backward(loss.gradient(y, labels, tape.valid), tape))
    for found, expected in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        checks.assert_close(found, expected, 1e-12)


def test_a_model_a_list_of_its_layers_and_its_layers_one_by_one(rng):
    models = [model_of() for _ in range(7)]
    given = [gradients_for(rng, layer) for layer in models[0].layers]
    named = {f"{i}.{name}": g for i, part in enumerate(given) for name, g in part.items()}
    keyed = {(i, name): g for i, part in enumerate(given) for name, g in part.items()}
    optimizers_, rest = [Adam(0.1) for _ in models], None
    for _ in range(3):
        optimizers_[0].apply(models[0], named)
        optimizers_[1].apply(models[1], dict(reversed(keyed.items())))
        optimizers_[2].apply(models[2].layers, given)
        optimizers_[3].apply([*reversed(models[3].layers)], given[::-1])
        for layer, part in zip(models[4].layers, given, strict=True):
            optimizers_[4].apply(layer, part)
        optimizers_[5].apply([models[5]], [named])
        first, *others = models[6].layers  # a list of a layer and of a model of the others
        rest = rest or cgru.Sequential(others)
        optimizers_[6].apply([rest, first], [{f"{i - 1}.{name}": g for (i, name), g in keyed.items() if i}, given[0]])
    assert not np.array_equal(models[0].get_weights()[0], model_of().get_weights()[0])
    for model in models[1:]:
        checks.assert_same_arrays(model.get_weights(), models[0].get_weights())


def test_the_order_of_the_layers_does_not_matter_to_what_is_remembered(rng):
    twins = [[dense(np.random.default_rng(0)), dense(np.random.default_rng(1))] for _ in range(2)]
    adams = Adam(0.1), Adam(0.1)
    for step in range(4):
        parts = [gradients_for(rng, layer) for layer in twins[0]]
        adams[0].apply(twins[0], parts)
        turn = 1 if step % 2 else -1
        adams[1].apply(twins[1][::turn], parts[::turn])
    for one, other in zip(*twins, strict=True):
        checks.assert_same_arrays(one.get_weights(), other.get_weights())


def test_one_optimizer_remembers_different_layers_apart(rng):
    layers, twins = ([dense(np.random.default_rng(i)) for i in range(2)] for _ in range(2))
    one, others = Adam(0.1), (Adam(0.1), Adam(0.1))
    for step in range(4):
        for i in range(2):
            if i <= step:  # the second one starts later
                part = gradients_for(rng, layers[i])
                one.apply(layers[i], part)
                others[i].apply(twins[i], part)
    for layer, twin in zip(layers, twins, strict=True):
        checks.assert_same_arrays(layer.get_weights(), twin.get_weights())


def test_frozen_layers_stay_and_go_on_when_they_are_free_again(rng):
    layers, twins = ([dense(np.random.default_rng(i)) for i in range(2)] for _ in range(2))
    adam, twin_adam = Adam(0.1), Adam(0.1)
    parts = [[gradients_for(rng, layer) for layer in layers] for _ in range(4)]
    before = layers[1].get_weights()
    adam.apply(layers, parts[0])
    assert not np.array_equal(layers[1].get_weights()[0], before[0])
    before = layers[1].get_weights()
    layers[1].trainable = False
    adam.apply(layers, parts[1])
    adam.apply(layers, [parts[2][0], {}])  # none are needed
    checks.assert_same_arrays(layers[1].get_weights(), before)
    for part in parts[:3]:  # the first layer's updates are those of a twin that is alone
        twin_adam.apply(twins[0], part[0])
    checks.assert_same_arrays(layers[0].get_weights(), twins[0].get_weights())
    layers[1].trainable = True
    m = adam._memories[frozenset(map(id, layers))]._states[0].resting[1, "kernel"][0]
    adam.apply(layers, parts[3])
    assert not np.array_equal(layers[1].get_weights()[0], before[0])
    remembered = adam._memories[frozenset(map(id, layers))]._states[0]
    checks.assert_close(m, 0.1 * parts[0][1]["kernel"], 1e-14)
    checks.assert_close(remembered.slots[1, "kernel"][0], 0.9 * m + 0.1 * parts[3][1]["kernel"], 1e-14)
    assert remembered.resting == {} and remembered.iterations == 4


def test_all_layers_frozen(rng):
    layer = dense(rng, trainable=False)
    before = layer.get_weights()
    Adam().apply(layer, {})
    Adam().apply(layer, gradients_for(rng, layer))
    checks.assert_same_arrays(layer.get_weights(), before)


def test_layers_without_parameters(rng):
    model = cgru.Sequential([cgru.Dropout(0.5), dense(rng), cgru.Dropout(0.5)])
    y, tape = model.forward(np.ones((5, 2)), training=True, seed=0)
    before = model.get_weights()
    SGD(0.1).apply(model, model.backward(np.ones_like(y), tape))
    assert not np.array_equal(model.get_weights()[1], before[1])
    SGD(0.1).apply(cgru.Dropout(0.5), {})


def test_gradients_of_other_types_and_layouts(rng):
    layers = [dense(np.random.default_rng(0)).with_options(dtype="float32") for _ in range(3)]
    part = {"kernel": rng.integers(-3, 4, (2, 3)), "bias": rng.integers(-3, 4, 3)}
    SGD(0.1).apply(layers[0], {name: g.astype(np.float32) for name, g in part.items()})
    SGD(0.1).apply(layers[1], {name: g.tolist() for name, g in part.items()})
    SGD(0.1).apply(layers[2], {"kernel": np.asfortranarray(part["kernel"], float), "bias": part["bias"][::-1][::-1]})
    for layer in layers[1:]:
        checks.assert_same_arrays(layer.get_weights(), layers[0].get_weights())


def test_views_of_parameters_keep_their_values(rng):
    layer, adam, held = dense(rng), Adam(0.1), []
    for _ in range(6):
        held.append((layer.parameters["kernel"], layer.get_weights()[0]))
        adam.apply(layer, gradients_for(rng, layer))
    for view, copied in held:
        checks.assert_same_arrays(view, copied)


def test_gradients_may_be_views_of_the_parameters(rng):
    layer = dense(rng)
    expected = layer.get_weights()
    sgd = SGD(0.5)
    for _ in range(3):
        sgd.apply(layer, layer.parameters)
        expected = [0.5 * array for array in expected]
    checks.assert_same_arrays(layer.get_weights(), expected)


def test_weights_set_between_updates_are_kept(rng):
    layer, sgd = dense(rng), SGD(0.5)
    for _ in range(3):
        layer.set_weights([np.ones((2, 3)), np.ones(3)])
        sgd.apply(layer, {"kernel": np.ones((2, 3)), "bias": np.zeros(3)})
        checks.assert_same_arrays(layer.get_weights(), [np.full((2, 3), 0.5), np.ones(3)])


def test_memory_goes_with_the_layers(rng):
    adam, kept = Adam(), dense(rng)
    adam.apply(kept, gradients_for(rng, kept))
    for _ in range(50):
        layers = [dense(rng), dense(rng)]
        adam.apply(layers, [gradients_for(rng, layer) for layer in layers])
        model = cgru.Sequential([dense(rng)])
        adam.apply(model, {f"0.{name}": g for name, g in gradients_for(rng, model.layers[0]).items()})
    del layers, model
    gc.collect()
    assert len(adam._memories) == 1
    for copied in (copy.deepcopy(adam), pickle.loads(pickle.dumps(adam))):
        assert copied._memories == {} and repr(copied) == "Adam()"
        copied.apply(kept, gradients_for(rng, kept))


@pytest.mark.parametrize("when", [0, 1, 2])
def test_an_interrupted_update_is_whole_or_has_not_happened(rng, when, monkeypatch):
    """Ctrl-C in the product, and in the exchange of the first layer and of the second."""
    layers, twins = ([dense(np.random.default_rng(i)) for i in range(2)] for _ in range(2))
    adam, twin_adam = Adam(0.1), Adam(0.1)
    parts = [[gradients_for(rng, layer) for layer in layers] for _ in range(3)]
    for optimizer, them in ((adam, layers), (twin_adam, twins)):
        optimizer.apply(them, parts[0])
    calls, publish = [], cgru.Dense._publish

    def interrupted(self, parameters):
        calls.append(self)
        if len(calls) == when:
            raise KeyboardInterrupt
        publish(self, parameters)

    def propose(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if when:
            patched.setattr(cgru.Dense, "_publish", interrupted)
        else:
            patched.setattr(cgru.kernels, "update", propose)
        with pytest.raises(KeyboardInterrupt):
            adam.apply(layers, parts[1])
    if when:
        twin_adam.apply(twins, parts[1])
    for optimizer, them in ((adam, layers), (twin_adam, twins)):
        optimizer.apply(them, parts[2])
    for layer, twin in zip(layers, twins, strict=True):
        checks.assert_same_arrays(layer.get_weights(), twin.get_weights())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_gradients_that_are_not_finite_are_refused_by_name(rng, bad):
    model, adam = cgru.Sequential([dense(rng), dense(rng, 3)]), Adam(0.1)
    twin, twin_adam = copy.deepcopy(model), Adam(0.1)
    gradients = {f"{i}.{name}": g for i in (0, 1) for name, g in gradients_for(rng, model.layers[i]).items()}
    wrong = gradients | {"1.bias": np.array([0, bad, 0])}
    adam.apply(model, gradients)
    with pytest.raises(FloatingPointError, match=re.escape("the gradient of bias of layer 1 (Dense), or its")):
        adam.apply(model, wrong)
    adam.apply(model, gradients)
    for _ in range(2):
        twin_adam.apply(twin, gradients)
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


def test_an_update_that_is_not_finite_is_refused_by_name(rng):
    layer = dense(rng)
    before = layer.get_weights()
    sgd = SGD(1e300)
    with pytest.raises(FloatingPointError, match=re.escape("the update of kernel of layer 0 (Dense) is not")):
        sgd.apply(layer, {"kernel": np.full((2, 3), 1e100), "bias": np.zeros(3)})
    checks.assert_same_arrays(layer.get_weights(), before)


def test_a_list_in_another_order_keeps_the_numbers_of_its_layers(rng):
    layers, adam = [dense(rng), dense(rng)], Adam(0.1)
    parts = [gradients_for(rng, layer) for layer in layers]
    adam.apply(layers, parts)
    wrong = parts[1] | {"bias": np.full(3, np.inf)}
    with pytest.raises(FloatingPointError, match=re.escape("the gradient of bias of layer 1 (Dense)")):
        adam.apply(layers, [parts[0], wrong])
    with pytest.raises(FloatingPointError, match=re.escape("the gradient of bias of layer 0 (Dense)")):
        adam.apply(layers[::-1], [wrong, parts[0]])


def test_apply_refuses(rng):
    layer, model = dense(rng), cgru.Sequential([dense(rng), dense(rng, 3)])
    part, twice = gradients_for(rng, layer), dense(rng)
    whole = {f"{i}.{name}": g for i in (0, 1) for name, g in gradients_for(rng, model.layers[i]).items()}
    before = layer.get_weights(), model.get_weights()
    for target, gradients, error, message in (
        (layer, {"kernel": part["kernel"]}, ValueError, "one for each parameter, got none for bias of layer 0"),
        (layer, part | {"bias": None}, ValueError, "got none for bias of layer 0 (Dense); trainable=False leaves"),
        (layer, part | {"weight": 1}, ValueError, "expected parameters of layer 0 (Dense), kernel, bias; got 'weight'"),
        (layer, part | {"bias": np.zeros(2)}, ValueError, "gradient of bias of layer 0 (Dense): expected shape (3,)"),
        (layer, part | {"bias": ["a"]}, TypeError, "gradient of bias of layer 0 (Dense): expected real numbers, got"),
        (layer, part | {"bias": 1j * np.ones(3)}, TypeError, "expected real numbers, got dtype complex128"),
        (layer, [part], TypeError, "gradients: expected a dict of a layer's, name -> array, got list"),
        ([layer], part, TypeError, "gradients: expected a list of 1 dicts, one for each in the list, got dict"),
        ([layer], [part, part], TypeError, "one for each in the list, got 2 of them"),
        ([layer, "x"], [part, part], TypeError, "expected a model, a layer or a list of them, got str"),
        (None, part, TypeError, "model_or_layers: expected a model, a layer or a list of them, got NoneType"),
        ([twice, twice], [part, part], ValueError, "expected each layer once, got one twice"),
        ([model, model.layers[1]], [whole, part], ValueError, "expected each layer once, got one twice"),
        ([model, layer], [whole, whole], ValueError, "expected parameters of layer 2 (Dense), kernel, bias; got '0."),
        ([model, layer], [part, part], ValueError, 'expected keys like "0.kernel", of layers 0 to 1, got'),
        ([layer, model], [part, [part]], TypeError, 'gradients: expected a dict, "0.kernel" -> array, got list'),
        (model, [part, part], TypeError, 'gradients: expected a dict, "0.kernel" -> array, got list'),
        (model, whole | {"2.kernel": 1}, ValueError, 'expected keys like "0.kernel", of layers 0 to 1, got'),
        (model, whole | {"kernel": 1}, ValueError, "of layers 0 to 1, got 'kernel'"),
        (model, whole | {(0, "kernel"): 1}, ValueError, "one for each parameter, got two for kernel of layer 0"),
        (model, whole | {"1.gain": 1}, ValueError, "expected parameters of layer 1 (Dense), kernel, bias; got 'gain'"),
        (model, {}, ValueError, "got none for kernel of layer 0 (Dense)"),
        (cgru.Dense(2), {}, RuntimeError, "Dense has no parameters yet"),
    ):
        for optimizer in (Adam(), SGD()):
            with pytest.raises(error, match=re.escape(message)):
                optimizer.apply(target, gradients)
            assert optimizer._memories == {}
    checks.assert_same_arrays((layer.get_weights(), model.get_weights()), before)


def test_apply_takes_any_optimizer(rng):
    for name in ("sgd", "rmsprop", "adam", "adamw"):
        layer = dense(rng)
        before = layer.get_weights()
        optimizers.get(name).apply(layer, gradients_for(rng, layer))
        assert not np.array_equal(layer.get_weights()[0], before[0])
