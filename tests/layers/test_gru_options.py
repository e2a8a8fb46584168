"""Dropout, zoneout and normalisation as a user meets them: seeds, training, inference, models, parameters, refusals."""

import checks
import numpy as np
import pytest

import cgru
from cgru import convert, masks
from cgru.sequences import as_batch

N, T, D, H = checks.N, checks.T, checks.D, checks.H
RATES = {"dropout": 0.4, "recurrent_dropout": 0.4, "layer_dropout": 0.4, "zoneout": 0.4}
STACK = {"num_layers": 2, "return_sequences": True}


def made(rng, **options):
    return checks.random_layer(rng, H, input_size=D, dtype="float64", **options)


def passes(layer, x, seed=None):
    y, h, tape = layer.forward(x, training=True, seed=seed)
    return [y, h, *checks.arrays_in(layer.backward(np.ones_like(y), tape))]


@pytest.mark.parametrize("name", RATES)
def test_seeds(rng, name):
    layer = made(rng, **STACK, **{name: RATES[name]})
    x = rng.uniform(-1, 1, (N, T, D))
    first = passes(layer, x, seed=5)
    checks.assert_same_arrays(passes(layer, x, seed=5), first)
    checks.assert_same_arrays(passes(layer, x, seed=masks.Key(masks.seed_of(5))), first)
    assert not np.array_equal(passes(layer, x, seed=6)[0], first[0])
    assert not np.array_equal(passes(layer, x)[0], passes(layer, x)[0])  # of its own, another one each time
    twins = [layer.with_options(seed=3) for _ in range(2)]
    for _ in range(2):
        checks.assert_same_arrays(*(passes(twin, x) for twin in twins))


def test_rates_of_zero_leave_nothing_to_chance(rng):
    layer = made(rng, **STACK)
    x = rng.uniform(-1, 1, (N, T, D))
    checks.assert_same_arrays(layer.forward(x, training=True, seed=1)[0], layer(x))
    assert layer.forward(x, training=True)[2].cells[0].noise == (None, None)


def test_inference_has_no_dropout_and_expects_zoneout(rng):
    x = rng.uniform(-1, 1, (N, T, D))
    plain = made(rng, **STACK)
    for name in ("dropout", "recurrent_dropout", "layer_dropout"):
        checks.assert_same_arrays(plain.with_options(**{name: 0.5})(x), plain(x))
    layer = made(rng, zoneout=0.25)
    first = layer(x[:, :1])
    checks.assert_close(first, 0.75 * layer.with_options(zoneout=0.0)(x[:, :1]), 1e-15)  # from a state of zero


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "layer_dropout"])
def test_means_stay(rng, name):
    """Where everything is linear in the masks, the mean over many is the output without them."""
    layer = made(rng, activation="linear", recurrent_activation="linear", **STACK, **{name: 0.3})
    with layer.update() as p:  # gates are one
        for parameter, array in p.items():
            array[..., : 2 * H] = 1.0 if parameter.endswith("bias") else 0.0
    x = rng.uniform(-1, 1, (1, 2, D))  # at a third step a mask would meet itself
    many = np.repeat(x, 20000, axis=0)
    ys = layer.forward(many, training=True, seed=1)[0]
    error = np.abs(ys.mean(axis=0) - layer(x)[0])
    assert (error < 5 * ys.std(axis=0) / np.sqrt(20000) + 1e-12).all() and ys.std() > 0


def test_zoneout_keeps_units_as_they_are(rng):
    layer = made(rng, zoneout=0.5, return_sequences=True)
    x, h0 = rng.uniform(-1, 1, (200, 4, D)), rng.uniform(-1, 1, (200, H))
    y, _, _ = layer.forward(x, h0, training=True, seed=0)
    before = np.concatenate([h0[:, None], y[:, :-1]], axis=1)
    kept = y == before
    assert abs(kept.mean() - 0.5) < 0.03 and (kept.any(axis=(1, 2)) & ~kept.all(axis=(1, 2))).all()


def test_one_choice_a_sequence(rng):
    """A feature that is dropped is dropped at all steps, for all gates and in both directions."""
    layer = made(rng, dropout=0.5, bidirectional=True, return_sequences=True)
    x = rng.uniform(-1, 1, (40, T, D))
    y, _, tape = layer.forward(x, training=True, seed=2)
    dx, _, _ = layer.backward(np.ones_like(y), tape)
    dropped = ~masks.keep(masks.Key(masks.seed_of(2)), (40, D), 0.5, "input")
    assert dropped.any() and not dropped.all() and ((dx == 0) == dropped[:, None]).all()
    checks.assert_close(layer(np.where(dropped[:, None], 0, 2 * x)), y, 1e-14)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "^seed: expected at least 0, got -1"),
        (0.5, TypeError, "^seed: expected an integer, got 0.5"),
        (True, TypeError, "^seed: expected an integer, got True"),
        (masks.Key(0, examples=np.arange(2)), ValueError, "^key: expected an index for each of 3 examples"),
    ],
)
def test_wrong_seeds(rng, seed, error, message):
    layer = made(rng, dropout=0.1)
    with pytest.raises(error, match=message):
        layer.forward(np.zeros((N, T, D)), training=True, seed=seed)


# -- normalisation


@pytest.mark.parametrize("reset_after", [False, True])
def test_gains_are_parameters(reset_after):
    layer = cgru.GRU(H, layer_norm=True, bidirectional=True, num_layers=2, reset_after=reset_after, input_size=D)
    names = [name for name in layer.parameters if name.endswith("gain")]
    assert names == ["l0.forward.gain", "l0.backward.gain", "l1.forward.gain", "l1.backward.gain"]
    for name in names:
        assert layer.parameters[name].shape == (2, 3 * H) and (layer.parameters[name] == 1).all()
    assert list(cgru.GRU(H, layer_norm=True, learn_initial_state=True, input_size=D).parameters) == [
        *("kernel", "recurrent_kernel", "bias", "gain", "initial_state")
    ]
    with pytest.raises(ValueError, match=r"^layer_norm: expected options under which the parameters stay the same"):
        layer.with_options(layer_norm=False)


def test_normalised_outputs_do_not_depend_on_the_scale_of_a_kernel(rng):
    layer = made(rng, layer_norm=True, return_sequences=True)
    x = rng.uniform(-1, 1, (N, T, D))
    y = layer(x)
    with layer.update() as p:
        p["kernel"] *= 100
        p["recurrent_kernel"] *= 100
    larger = layer(x)
    with layer.update() as p:
        p["kernel"] *= 100
        p["recurrent_kernel"] *= 100
    checks.assert_close(layer(x), larger, 1e-4)  # where 1e-5 counts for nothing
    assert not np.array_equal(y, larger)


@pytest.mark.parametrize("reset_after", [False, True])
def test_gates_and_records_are_those_of_inference(rng, reset_after):
    layer = made(rng, layer_norm=True, reset_after=reset_after, return_sequences=True, **RATES)
    x = rng.uniform(-1, 1, (N, T, D))
    _, z, n, h = layer.gates(x)
    checks.assert_same_arrays(h, layer(x))
    before = np.concatenate([np.zeros((N, 1, H)), h[:, :-1]], axis=1)
    new = (1 - z) * before + z * n
    checks.assert_close(h, layer.zoneout * before + (1 - layer.zoneout) * new, 1e-14)
    batch, _, _, tape = layer.record_batch(as_batch(x))
    checks.assert_same_arrays(batch.data, h)
    _, _, grads = layer.backward_batch(np.ones_like(h), None, tape)
    expected = checks.reference_layer(layer, x, np.zeros((1, N, H)), np.ones_like(h))[2]
    for name, gradient in grads.items():
        checks.assert_close(gradient, expected[name], 1e-12, name)


# -- in a model


def model_of(**options):
    layers = [cgru.Embedding(9, 4), cgru.GRU(6, num_layers=2, layer_norm=True, **RATES, **options), cgru.Dense(3)]
    model = cgru.Sequential(layers, seed=4)
    model.compile("adam", cgru.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("reset_after", [False, True])
def test_training_has_one_result_whatever_the_threads(rng, reset_after):
    x, lengths, y = rng.integers(0, 9, (10, 7)), rng.integers(1, 8, 10), rng.integers(0, 3, 10)
    results = []
    for threads in (1, 2):
        model = model_of(reset_after=reset_after)
        with cgru.limit_threads(threads):
            model.fit(x, y, lengths=lengths, epochs=3, batch_size=4, verbose=0)
        results.append(model.get_weights())
    checks.assert_same_arrays(*results)
    assert all(np.isfinite(array).all() for array in results[0])


@pytest.mark.parametrize("export", [convert.to_torch, convert.to_keras, convert.to_onnx, convert.to_cudnn])
@pytest.mark.parametrize(("name", "value"), [("layer_norm", True), ("zoneout", 0.2)])
def test_what_no_convention_has_is_refused(export, name, value):
    if export is convert.to_onnx:
        pytest.importorskip("onnx")
    layer = cgru.GRU(H, reset_after=True, input_size=D, **{name: value})
    with pytest.raises(ValueError, match=f"cannot convert {name}={value} exactly"):
        export(layer)


def test_dropout_is_left_behind_by_weights():
    layer = cgru.GRU(H, reset_after=True, input_size=D, num_layers=2, dropout=0.1, recurrent_dropout=0.1)
    back = cgru.from_torch(convert.to_torch(layer))
    assert back.dropout == back.recurrent_dropout == 0
    checks.assert_same_arrays(back.get_weights(), layer.get_weights())


def test_options_of_layers_of_unequal_size():
    """One after the other they drop what a stack would."""
    first = cgru.GRU(4, reset_after=True, input_size=D)
    second = cgru.GRU(5, reset_after=True, input_size=4)
    pair = [convert.to_keras(layer) for layer in (first, second)]
    model = cgru.from_keras(pair, dropout=0.1, layer_dropout=0.2, recurrent_dropout=0.3)
    assert [type(layer).__name__ for layer in model.layers] == ["GRU", "Dropout", "GRU"]
    assert [model.layers[i].dropout for i in (0, 2)] == [0.1, 0.0] and model.layers[1].rate == 0.2
    assert [model.layers[i].recurrent_dropout for i in (0, 2)] == [0.3, 0.3]
    with pytest.raises(ValueError, match=r"^layer_norm: expected False"):
        cgru.from_keras(pair[0], layer_norm=True)
