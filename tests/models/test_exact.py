"""Whole models keep the promise of their kernels: the same bits at any batch, number of threads and cut."""

import numpy as np
import pytest

import cgru
from cgru import kernels
from cgru.models.runs import Totals
from cgru.models.targets import Targets

pytestmark = pytest.mark.skipif(cgru.get_backend() != "native", reason="BLAS has an order of its own")
V, K, T = 50, 90, 12
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def share_everything(limits):
    """All threads share the smallest call, in small pieces."""
    limits(thread_work=0, small_work=0, team_work=0, measured=0, product_rows=20, product_bytes=128, product_k=16)


def model_of(dtype, units=40, classes=K, activation="softmax", **options):
    layers = [
        cgru.Embedding(V, 24, dtype=dtype),
        cgru.GRU(units, return_sequences=True, dtype=dtype, **options),
        cgru.Dense(31, "tanh", dtype=dtype),
        cgru.Dense(classes, activation, dtype=dtype),
    ]
    model = cgru.Sequential(layers, seed=0).build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batch_of(rng, rows):
    return rng.integers(0, V, (rows, T)), rng.integers(0, K, (rows, T))


@DTYPES
@pytest.mark.parametrize("options", [{}, {"reset_after": True, "num_layers": 2}], ids=["before", "after"])
def test_outputs_at_any_batch_number_of_threads_and_cut(rng, limits, dtype, options):
    model = model_of(dtype, **options)
    x, _ = batch_of(rng, 64)
    kernels.set_num_threads(1)
    whole = model(x)
    share_everything(limits)
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        np.testing.assert_array_equal(model(x), whole)
        for rows in (slice(0, 1), slice(5, 7), slice(10, 23), slice(63, 64)):
            np.testing.assert_array_equal(model(x[rows]), whole[rows])
        state, steps = None, []
        for t in range(T):
            y, state = model.step(x[:, t], state)
            steps.append(y)
        np.testing.assert_array_equal(np.stack(steps, axis=1), whole)
        state = None
        for t in range(T):
            y, state = model.step(x[3:4, t], state)
            np.testing.assert_array_equal(y, whole[3:4, t])
    np.testing.assert_array_equal(model.predict(x, batch_size=7), whole)


@DTYPES
@pytest.mark.parametrize("activation", ["linear", "relu", "sigmoid", "softmax", "tanh"])
def test_lengths_change_no_bit_of_what_is_valid(rng, limits, dtype, activation):
    layers = [cgru.Embedding(V, 24, dtype=dtype), cgru.Dense(K, activation, dtype=dtype)]
    model = cgru.Sequential(layers, seed=0).build()
    x, _ = batch_of(rng, 20)
    lengths = rng.integers(0, T + 1, 20)
    whole = model(x)
    share_everything(limits)
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        part = model(x, lengths=lengths)
        for i, length in enumerate(lengths):
            np.testing.assert_array_equal(part[i, :length], whole[i, :length])
            assert not part[i, length:].any()


@DTYPES
@pytest.mark.parametrize("validity", ["all", "lengths"])
@pytest.mark.parametrize("options", [{}, {"reset_after": True, "num_layers": 2}], ids=["before", "after"])
def test_gradients_with_any_number_of_threads(rng, limits, dtype, validity, options):
    model = model_of(dtype, **options)
    x, y = batch_of(rng, 40)
    batch = cgru.sequences.as_batch(x, rng.integers(0, T + 1, 40) if validity == "lengths" else None)
    targets = Targets(y, steps=y.ndim == 2)
    kernels.set_num_threads(1)
    alone = model._gradients(batch, targets)
    assert len(alone) == 5 + len(model.layers[1].parameters)
    share_everything(limits)
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        for key, gradient in model._gradients(batch, targets).items():
            np.testing.assert_array_equal(gradient, alone[key], err_msg=str(key))


@DTYPES
def test_the_gradient_of_a_rows_inputs_does_not_depend_on_the_batch(rng, limits, dtype):
    model = model_of(dtype)
    x, _ = batch_of(rng, 16)
    d = rng.standard_normal((16, T, K)).astype(dtype)

    def gradients(rows):
        d_in, batch, tapes = d[rows], cgru.sequences.as_batch(x[rows]), []
        for layer in model.layers:
            batch, _, _, tape = layer.forward_batch(batch, training=True)
            tapes.append(tape)
        for layer, tape in zip(model.layers[:0:-1], tapes[:0:-1], strict=True):
            d_in = layer.backward_batch(d_in, None, tape)[0]
        return d_in

    whole = gradients(slice(None))
    share_everything(limits)
    for rows in (slice(0, 1), slice(3, 10), slice(15, 16)):
        np.testing.assert_array_equal(gradients(rows), whole[rows])


@DTYPES
def test_training_with_any_number_of_threads(rng, limits, dtype):
    x, y = batch_of(rng, 24)
    results = []
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        model = model_of(dtype)
        history = model.fit(x, y, epochs=2, batch_size=10, verbose=0).history
        results.append((model.get_weights(), history))
        share_everything(limits)
    for weights, history in results[1:]:
        assert history == results[0][1]
        for found, expected in zip(weights, results[0][0], strict=True):
            np.testing.assert_array_equal(found, expected)


@DTYPES
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("validity", ["all", "lengths", "rows"])
def test_the_fused_loss_is_the_plain_one(rng, dtype, from_logits, validity):
    """Loss, accuracy and gradients are those of outputs, loss and gradient one after the other."""

    class Apart(cgru.Dense):  # a layer of one's own is never fused
        def forward_batch(self, *arguments, **options):
            return super().forward_batch(*arguments, **options)

    models = []
    for kind in (cgru.Dense, Apart):
        layers = [
            cgru.GRU(9, return_sequences=validity != "rows", dtype=dtype),
            kind(K, "linear" if from_logits else "softmax", dtype=dtype),
        ]
        model = cgru.Sequential(layers, seed=0)
        model.compile("adam", cgru.losses.SparseCategoricalCrossentropy(from_logits), metrics=["accuracy"])
        model.build(5)
        model.layers[1].set_weights([w + 0.1 for w in model.layers[1].get_weights()])
        models.append(model)
    x = rng.standard_normal((8, T, 5)).astype(dtype)
    y = rng.integers(0, K, 8 if validity == "rows" else (8, T))
    batch = cgru.sequences.as_batch(x, rng.integers(0, T + 1, 8) if validity == "lengths" else None)
    fused, plain = (model._run(batch, Targets(y, steps=y.ndim == 2)) for model in models)
    assert type(fused) is not type(plain)
    tolerance = 20 * float(np.finfo(dtype).eps)
    totals = Totals(models[0])
    for name, counts in plain.seen(totals).items():
        np.testing.assert_allclose(fused.seen(totals)[name], counts, rtol=tolerance)
    np.testing.assert_allclose(list(fused.row_losses(8)), list(plain.row_losses(8)), rtol=tolerance)
    gradients = plain.gradients()
    for key, gradient in fused.gradients().items():
        np.testing.assert_allclose(gradient, gradients[key], rtol=0, atol=tolerance)
        if not from_logits:
            np.testing.assert_array_equal(gradient, gradients[key])


class TestParametersAreExchanged:
    def test_a_view_that_is_held_keeps_its_values(self, rng):
        model = model_of("float32")
        x, y = batch_of(rng, 8)
        held = []  # after each update
        for _ in range(4):
            held.append((model.parameters, model.get_weights()))
            model.fit(x, y, verbose=0, batch_size=8)
        for views, values in held:
            for view, value in zip(views.values(), values, strict=True):
                np.testing.assert_array_equal(view, value)
        assert not np.array_equal(held[0][1][0], held[1][1][0])

    def test_a_tape_that_is_held_keeps_its_weights(self, rng):
        """Its gradients are those of the moment when it was made, though they are asked for after several updates."""
        layer = cgru.GRU(6, return_sequences=True)
        model = cgru.Sequential([layer, cgru.Dense(3, activation="softmax")], seed=0)
        model.compile(loss="sparse_categorical_crossentropy")
        x, y = rng.standard_normal((8, 5, 4)).astype("float32"), rng.integers(0, 3, (8, 5))
        model.fit(x, y, verbose=0)
        out, _, tape = layer.forward(x, training=True)
        twin = cgru.GRU(6, return_sequences=True, input_size=4)
        twin.set_weights(layer.get_weights())
        expected = twin.backward(out, twin.forward(x, training=True)[2])
        model.fit(x, y, epochs=3, verbose=0)
        found = layer.backward(out, tape)
        for a, b in zip([*found[:2], *found[2].values()], [*expected[:2], *expected[2].values()], strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("part", [lambda v: v[1:], lambda v: memoryview(v), lambda v: v.T.reshape(-1)[::-1]])
    def test_so_does_what_was_made_of_it(self, rng, part):
        model = model_of("float32")
        x, y = batch_of(rng, 8)
        model.fit(x, y, verbose=0, batch_size=8)
        parts = [part(view) for view in model.parameters.values() if view.ndim == 2]
        values = [np.array(p) for p in parts]
        model.fit(x, y, verbose=0, batch_size=2)
        for found, value in zip(parts, values, strict=True):
            np.testing.assert_array_equal(np.asarray(found), value)

    def test_arrays_that_nobody_holds_are_used_again(self, rng):
        model = model_of("float32")
        x, y = batch_of(rng, 8)
        seen = []
        for _ in range(6):
            model.fit(x, y, verbose=0, batch_size=8)
            seen.append([view.ctypes.data for view in model.parameters.values()])
        assert seen[2] == seen[4] != seen[3] == seen[5]

    def test_a_tape_keeps_the_weights_of_its_pass(self, rng):
        model = model_of("float64")
        x, y = batch_of(rng, 8)
        batch = cgru.sequences.as_batch(x)
        outputs, _, tapes, _ = model._forward(batch, training=True)
        d = rng.standard_normal(outputs.data.shape)
        before = model._backward(d, tapes, at_logits=False)
        for _ in range(3):
            model.fit(x, y, verbose=0, batch_size=8)
        for key, gradient in model._backward(d, tapes, at_logits=False).items():
            np.testing.assert_array_equal(gradient, before[key])

    def test_an_update_by_hand_is_seen_at_its_end(self):
        layer = cgru.Dense(3)
        layer.build(2)
        view = layer.parameters["bias"]
        with layer.update() as outer:
            outer["bias"] += 1
            with layer.update() as inner:
                inner["bias"] += 1
            assert (layer.parameters["bias"] == 0).all()
        assert (layer.parameters["bias"] == 2).all()
        assert (view == 0).all()

    def test_set_weights_leaves_what_is_held(self):
        layer = cgru.Dense(3)
        layer.build(2)
        view = layer.parameters["bias"]
        layer.set_weights([np.ones((2, 3)), np.ones(3)])
        assert (view == 0).all()
        assert (layer.parameters["bias"] == 1).all()


def test_an_optimizer_of_ones_own(rng):
    class Descent(cgru.optimizers.Optimizer):
        slots = 1

        def _step(self, iteration):
            def step(p, g, m, new_p, new_m):
                np.add(m, g, out=new_m)
                np.subtract(p, self.learning_rate * new_m, out=new_p)

            return step

    model = model_of("float64")
    model.compile(Descent(0.5), "sparse_categorical_crossentropy")
    x, y = batch_of(rng, 8)
    before, gradients = model.get_weights(), model._gradients(cgru.sequences.as_batch(x), Targets(y))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    names = [(i, name) for i, layer in enumerate(model.layers) for name in layer.parameters]
    for name, old, new in zip(names, before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradients[name], atol=1e-15)
