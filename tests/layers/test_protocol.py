"""What a model relies on in every layer: state and key go in, state, penalty and tape come out."""

import checks
import numpy as np
import pytest

import cgru
from cgru import masks
from cgru.sequences import as_batch

N, T, D, H = checks.N, checks.T, checks.D, checks.H
STATELESS = {
    "Dense": lambda: cgru.Dense(3, activation="tanh", seed=0),
    "Dropout": lambda: cgru.Dropout(0.5, seed=0),
    "Embedding": lambda: cgru.Embedding(9, 3, seed=0),
}
GRUS = {
    "one": {},
    "reset_after": {"reset_after": True},
    "stack": {"num_layers": 2},
    "both directions": {"bidirectional": True, "merge_mode": "mul"},
    "reverse": {"reverse": True},
    "go_backwards": {"go_backwards": True},
    "time_major": {"time_major": True},
    "vectors": {"return_sequences": False},
}


def gru(rng, options):
    return checks.random_layer(rng, H, input_size=D, dtype="float64", **{"return_sequences": True, **options})


@pytest.mark.parametrize("kind", STATELESS)
def test_layers_without_a_state_give_none(rng, kind):
    layer = STATELESS[kind]()
    x = rng.integers(0, 9, (N, T)) if kind == "Embedding" else rng.standard_normal((N, T, D)).astype(np.float32)
    out, state, penalty, tape = layer.forward_batch(as_batch(x, checks.LENGTHS), None, None, True)
    assert state is None and penalty == 0.0
    dx, d_state, grads = layer.backward_batch(out.data, None, tape)
    assert d_state is None and grads.keys() == layer.parameters.keys()
    assert (dx is None) == (kind == "Embedding")


@pytest.mark.parametrize("options", GRUS.values(), ids=GRUS)
@pytest.mark.parametrize("valid", checks.VALIDITY.values(), ids=checks.VALIDITY)
def test_the_state_of_a_gru_goes_in_and_comes_out(rng, options, valid):
    layer = gru(rng, options)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal(layer._state_shape(N))
    given = {**valid, **({"mask": valid["mask"].T} if layer.time_major and "mask" in valid else {})}

    def ordered(array):
        return array.swapaxes(0, 1) if layer.time_major and array.ndim == 3 else array

    y, h, tape = layer.forward(ordered(x), h0, **given, training=True)
    out, state, penalty, batch_tape = layer.forward_batch(as_batch(x, **valid), h0, training=True)
    assert penalty == 0.0
    checks.assert_same_arrays((ordered(out.data), state), (y, h))
    dy, dh = rng.standard_normal(out.data.shape), rng.standard_normal(h.shape)
    dx, dh0, grads = layer.backward(ordered(dy), tape, dh)
    checks.assert_same_arrays(layer.backward_batch(dy, dh, batch_tape), (ordered(dx), dh0, grads))


@pytest.mark.parametrize("reset_after", [False, True])
def test_chunks_joined_by_the_state_are_the_whole_sequence(rng, reset_after):
    layer = gru(rng, {"reset_after": reset_after, "num_layers": 2})
    x = rng.standard_normal((N, T, D))
    whole, final, _, _ = layer.forward_batch(as_batch(x))
    first, state, _, _ = layer.forward_batch(as_batch(x[:, :2]))
    second, state, _, _ = layer.forward_batch(as_batch(x[:, 2:]), state)
    checks.assert_same_arrays((np.concatenate([first.data, second.data], axis=1), state), (whole.data, final))


def test_the_protocol_keeps_no_state_in_a_stateful_layer(rng):
    layer = cgru.GRU(H, return_sequences=True, stateful=True, seed=0)
    x = as_batch(rng.standard_normal((N, T, D)).astype(np.float32))
    first = layer.forward_batch(x)[0].data
    checks.assert_same_arrays(layer.forward_batch(x)[0].data, first)
    assert not np.array_equal(layer(x.data), layer(x.data))  # a call does keep it


@pytest.mark.parametrize("key", [masks.Key(7), masks.Key(7, 2, np.array([5, 0, 9]), 3)])
def test_a_key_chooses_what_dropout_drops(key):
    x = as_batch(np.ones((N, T, D), np.float32))
    layers = [cgru.Dropout(0.5, seed=seed) for seed in (0, 1)]
    outs = [layer.forward_batch(x, key=key, training=True)[0].data for layer in layers for _ in range(2)]
    for out in outs[1:]:
        checks.assert_same_arrays(out, outs[0])
    other = layers[0].forward_batch(x, key=masks.Key(8), training=True)[0].data
    assert set(np.unique(other)) == {0, 2} and not np.array_equal(other, outs[0])
    # Their own generators did not move.
    fresh = cgru.Dropout(0.5, seed=0).forward_batch(x, training=True)[0].data
    checks.assert_same_arrays(layers[0].forward_batch(x, training=True)[0].data, fresh)
