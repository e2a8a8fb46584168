"""Convolution, pooling, attention, normalisation and masking: gradients, and what padding, batches, threads and cuts
may not change."""

import numpy as np
import pytest

import cgru
from cgru.sequences import Batch, as_batch

FORMS = {
    "conv-valid": lambda **o: cgru.Conv1D(4, 3, activation="tanh", **o),
    "conv-same": lambda **o: cgru.Conv1D(4, 4, padding="same", dilation_rate=2, **o),
    "conv-causal": lambda **o: cgru.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="sigmoid", **o),
    "conv-strides": lambda **o: cgru.Conv1D(3, 3, padding="same", strides=2, activation="softmax", **o),
    "conv-valid-strides": lambda **o: cgru.Conv1D(3, 2, strides=3, use_bias=False, **o),
    "conv-one": lambda **o: cgru.Conv1D(1, 1, **o),
    "max": lambda **o: cgru.GlobalMaxPooling1D(),
    "average": lambda **o: cgru.GlobalAveragePooling1D(),
    "attention": lambda **o: cgru.AttentionPooling(**o),
    "attention-units": lambda **o: cgru.AttentionPooling(7, **o),
    "attention-no-bias": lambda **o: cgru.AttentionPooling(2, use_bias=False, **o),
    "norm": lambda **o: cgru.LayerNormalization(**o),
    "norm-plain": lambda **o: cgru.LayerNormalization(center=False, scale=False, **o),
    "masking": lambda **o: cgru.Masking(),
    "embedding": lambda **o: cgru.Embedding(6, 5, mask_zero=True, **o),
}
LENGTHS = np.array([7, 0, 3, 11, 1])
HOLES = np.array(
    [[1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1], [0] * 11, [0] * 8 + [1] * 3, [1] * 11, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]], bool
)
STEPS = [{}, {"lengths": LENGTHS}, {"mask": HOLES}]


def data(form, rng, N=5, T=11, F=5, dtype="float64"):
    if form == "embedding":
        return rng.integers(0, 6, (N, T))
    return rng.standard_normal((N, T, F)).astype(dtype)


def built(form, dtype="float64"):
    """A layer none of whose parameters is zero."""
    layer = FORMS[form](seed=3, dtype=dtype)
    layer.build(5)
    with layer.update() as parameters:
        for array in parameters.values():
            array += 0.3 * np.random.default_rng(5).standard_normal(array.shape)
    return layer


def fill_padding(x, steps, value):
    """x with something else at the steps that are not valid."""
    batch = as_batch(x, **steps)
    if batch.valid is None:
        return x
    x = x.copy()
    x[~batch.valid] = value
    return x


@pytest.mark.parametrize("steps", STEPS, ids=["full", "lengths", "holes"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form, steps, rng):
    layer, x = built(form), data(form, rng)
    y, tape = layer.forward(x, training=True, **steps)
    weights = rng.standard_normal(y.shape)
    valid = layer.forward_batch(as_batch(x, **steps))[0].valid
    if valid is not None:
        weights[~valid] = np.nan  # nobody reads the gradient there
    dx, grads = layer.backward(weights, tape)
    weights = np.nan_to_num(weights)

    def total():
        return float((layer(x, **steps) * weights).sum())

    def slope(array, place, set_to):
        h, old = 1e-5, array[place]
        found = []
        for k in (-2, -1, 1, 2):
            set_to(place, old + k * h)
            found.append(total())
        set_to(place, old)
        return (found[0] - 8 * found[1] + 8 * found[2] - found[3]) / (12 * h)

    if form != "embedding":
        places = [tuple(rng.integers(0, size) for size in x.shape) for _ in range(25)]
        slopes = [slope(x, place, x.__setitem__) for place in places]
        np.testing.assert_allclose([dx[place] for place in places], slopes, rtol=1e-6, atol=1e-8)
    for name, gradient in grads.items():
        parameter = layer.parameters[name]

        def set_to(place, value, name=name):
            with layer.update() as p:
                p[name][place] = value

        places = [tuple(rng.integers(0, size) for size in parameter.shape) for _ in range(12)]
        slopes = [slope(parameter, place, set_to) for place in places]
        np.testing.assert_allclose([gradient[place] for place in places], slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", STEPS, ids=["full", "lengths", "holes"])
@pytest.mark.parametrize("form", FORMS)
def test_bits_of_a_row_alone_and_in_any_batch(form, steps, dtype, rng):
    layer, x = built(form, dtype), data(form, rng, dtype=dtype)
    batch = as_batch(fill_padding(x, steps, 0 if form == "embedding" else np.nan), **steps)
    whole = layer.forward_batch(batch)[0]
    longer = fill_padding(np.concatenate([x, x[:, :6]], axis=1), {"lengths": np.full(5, 11)}, 0)
    if batch.valid is None:
        more = Batch(longer, np.full(5, 11))
    else:
        more = Batch(longer, None, np.pad(batch.valid, ((0, 0), (0, 6))))
    padded = layer.forward_batch(more)[0]
    for i in range(5):
        own = x[i : i + 1] if batch.valid is None else x[i : i + 1, batch.valid[i]]
        alone = layer.forward_batch(Batch(own))[0]
        mine = [out.data[i] if out.valid is None else out.data[i][out.valid[i]] for out in (whole, padded)]
        row = alone.data[0] if alone.valid is None else alone.data[0][alone.valid[0]]
        for other in mine:
            np.testing.assert_array_equal(row, other)
    if whole.valid is not None:
        assert not whole.data[~whole.valid].any()


@pytest.mark.parametrize("form", FORMS)
def test_bits_with_any_number_of_threads(form, rng):
    layer, x = built(form, "float32"), data(form, rng, N=40, T=50, dtype="float32")
    found = []
    for threads in (1, 2, 3):
        with cgru.limit_threads(threads):
            y, tape = layer.forward(x, training=True)
            dx, grads = layer.backward(np.cos(y), tape)
            found.append([y, *([] if dx is None else [dx]), *grads.values()])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("ids", [[[], []], np.zeros((2, 0))])
def test_ids_of_sequences_without_a_step(ids, mask_zero):
    layer = cgru.Embedding(4, 3, mask_zero=mask_zero, seed=0)
    assert layer(ids).shape == (2, 0, 3)
    model = cgru.Sequential([layer, cgru.GRU(5), cgru.Dense(2)], seed=0)
    np.testing.assert_array_equal(model.predict(ids), model.predict([[], [], [1]])[:2])


def test_a_convolution_of_one_step_goes_step_by_step(rng):
    x = rng.standard_normal((3, 4, 5))
    for padding in ("valid", "same", "causal"):
        layer = cgru.Conv1D(6, 1, padding=padding, dilation_rate=2, seed=0)
        y, state = layer(x), None
        for t in range(4):
            y_t, state = layer.step(x[:, t], state)
            np.testing.assert_array_equal(y_t, y[:, t])
    with pytest.raises(ValueError, match="got strides=2"):
        cgru.Conv1D(6, 1, strides=2).step(x[:, 0])


def test_a_step_of_no_sequences():
    y, state = cgru.Conv1D(6, 3, padding="causal", seed=0).step(np.ones((0, 5)))
    assert y.shape == (0, 6) and state.shape == (0, 2, 5)


@pytest.mark.parametrize("layer", [cgru.GlobalAveragePooling1D(), cgru.AttentionPooling(seed=0)])
def test_means_of_very_many_steps_keep_their_digits(layer):
    y = layer(np.full((1, 100_000, 1), 0.1, "float32"))
    np.testing.assert_allclose(y, 0.1, rtol=2e-7)
