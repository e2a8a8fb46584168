"""cgru.layers.Attention: against its equations in NumPy, finite differences, other batches and other paddings."""

import numpy as np
import pytest

import cgru
from cgru.layers import Attention

SCORES = ["dot", "general", "additive"]
N, T, S, H = 3, 4, 6, 5
LENGTHS, MEMORY_LENGTHS = [4, 1, 3], [2, 6, 5]


def layer_of(score, dtype="float64", units=7):
    options = {"units": units} if score == "additive" else {}
    return Attention(score, seed=1, dtype=dtype, **options)


def inputs(score, dtype="float64", rng=None):
    rng = np.random.default_rng(0) if rng is None else rng
    F = H if score == "dot" else 3
    return rng.standard_normal((N, T, H)).astype(dtype), rng.standard_normal((N, S, F)).astype(dtype)


def plain(layer, x, memory, lengths, memory_lengths):
    """The equations, row by row and step by step; (outputs, weights)."""
    p = layer.parameters
    y, weights = np.zeros((*x.shape[:2], x.shape[2] + memory.shape[2])), np.zeros((*x.shape[:2], memory.shape[1]))
    for i, (n, m) in enumerate(zip(lengths, memory_lengths, strict=True)):
        e = memory[i, :m]
        for t in range(n):
            h = x[i, t]
            if layer.score == "additive":
                scores = np.tanh(h @ p["kernel"] + e @ p["memory_kernel"]) @ p["score_kernel"][:, 0]
            else:
                scores = (e if layer.score == "dot" else e @ p["kernel"]) @ h
            a = np.exp(scores - scores.max(initial=-np.inf))
            a /= a.sum() or 1
            weights[i, t, :m] = a
            y[i, t] = [*h, *(a @ e)]
    return y, weights


@pytest.mark.parametrize("score", SCORES)
def test_equations(score):
    layer = layer_of(score)
    x, memory = inputs(score)
    x[1, 1:], memory[0, 2:] = np.nan, np.inf  # padding is not read
    given = {"lengths": LENGTHS, "memory_lengths": MEMORY_LENGTHS}
    y = layer(x, memory, **given)
    expected, weights = plain(layer, x, memory, LENGTHS, MEMORY_LENGTHS)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer.weights(x, memory, **given), weights, rtol=1e-12, atol=1e-13)
    steps, others = ([a[:n] for a, n in zip(*pair, strict=True)] for pair in ((x, LENGTHS), (memory, MEMORY_LENGTHS)))
    listed = layer(steps, others)
    np.testing.assert_array_equal(listed, y)


@pytest.mark.parametrize("score", SCORES)
def test_gradients_are_finite_differences(score, rng):
    layer = layer_of(score)
    x, memory = inputs(score, rng=rng)
    given = {"lengths": LENGTHS, "memory_lengths": MEMORY_LENGTHS}
    y, tape = layer.forward(x, memory, training=True, **given)
    dy = rng.standard_normal(y.shape)
    dx, d_memory, grads = layer.backward(dy, tape)
    weights = layer.get_weights()

    def value():
        return (layer(x, memory, **given) * dy).sum()

    def slope(array, place, changed=lambda: None):
        kept, found = array[place], []
        for step in (1e-5, -1e-5):
            array[place] = kept + step
            changed()
            found.append(value())
        array[place] = kept
        changed()
        return (found[0] - found[1]) / 2e-5

    for array, gradient in ((x, dx), (memory, d_memory)):
        for place in np.ndindex(array.shape):
            np.testing.assert_allclose(gradient[place], slope(array, place), rtol=1e-6, atol=1e-8)
    for array, (name, gradient) in zip(weights, grads.items(), strict=True):
        for place in np.ndindex(array.shape):
            expected = slope(array, place, lambda: layer.set_weights(weights))
            np.testing.assert_allclose(gradient[place], expected, rtol=1e-6, atol=1e-8, err_msg=name)
    again = layer.backward(dy, tape)
    np.testing.assert_array_equal(again[0], dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("score", SCORES)
def test_rows_have_the_same_bits_in_any_company_padding_and_team(score, dtype, rng):
    layer = layer_of(score, dtype)
    x, memory = inputs(score, dtype)
    y, tape = layer.forward(x, memory, lengths=LENGTHS, memory_lengths=MEMORY_LENGTHS, training=True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx, d_memory, grads = layer.backward(dy, tape)
    for i, (n, m) in enumerate(zip(LENGTHS, MEMORY_LENGTHS, strict=True)):
        one, alone = layer.forward(x[i : i + 1, :n], memory[i : i + 1, :m], training=True)
        np.testing.assert_array_equal(one[0], y[i, :n])
        d_one, d_other, _ = layer.backward(dy[i : i + 1, :n], alone)
        np.testing.assert_array_equal(d_one[0], dx[i, :n])
        np.testing.assert_array_equal(d_other[0], d_memory[i, :m])
    with cgru.limit_threads(1):
        again, tape = layer.forward(x, memory, lengths=LENGTHS, memory_lengths=MEMORY_LENGTHS, training=True)
        for name, gradient in layer.backward(dy, tape)[2].items():
            np.testing.assert_array_equal(gradient, grads[name])
    np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize("score", SCORES)
def test_step_by_step_is_the_sequence(score):
    from cgru.sequences import Batch

    layer = layer_of(score, "float32")
    x, memory = inputs(score, "float32")
    y = layer(x, memory, memory_lengths=MEMORY_LENGTHS)
    known = layer.prepared(layer.remember(Batch(memory, np.array(MEMORY_LENGTHS))))
    owners = np.array([0, 0, 1, 2])  # two hypotheses of the first sequence
    rows = layer.attend_rows(np.ascontiguousarray(x[[0, 0, 1, 2], [0, 1, 2, 3]]), known, owners)
    np.testing.assert_array_equal(rows, y[[0, 0, 1, 2], [0, 1, 2, 3]])


@pytest.mark.parametrize("score", SCORES)
def test_a_memory_without_steps_gives_zeros(score):
    layer = layer_of(score)
    x, memory = inputs(score)
    y, tape = layer.forward(x, memory, memory_lengths=[0, 3, 0], training=True)
    assert (y[[0, 2], :, H:] == 0).all() and (y[1, :, H:] != 0).any()
    dx, d_memory, _ = layer.backward(np.ones_like(y), tape)
    assert (dx[0] == 1).all() and not d_memory[[0, 2]].any()
    assert layer(x[:0], memory[:0]).shape == (0, T, H + memory.shape[2])
    assert layer(x[:, :0], memory).shape == (N, 0, H + memory.shape[2])


def test_a_layer_of_its_own_saved_and_loaded(tmp_path):
    layer = Attention("additive", units=3, memory_size=4, seed=0)
    layer.build(5)
    assert repr(layer) == "Attention(score='additive', units=3, memory_size=4, seed=0)"
    cgru.save(layer, tmp_path / "a")
    again = cgru.load(tmp_path / "a")
    assert again.get_config() == layer.get_config()
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)
    assert {n: p.shape for n, p in layer.parameters.items()} == {
        "kernel": (5, 3), "memory_kernel": (4, 3), "score_kernel": (3, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Attention("luong"), r"score: expected one of \['additive', 'dot', 'general'\], got 'luong'"),
        (lambda: Attention("dot", units=3), "units: expected None for the score 'dot'"),
        (lambda: Attention("additive", units=0), "units"),
        (lambda: Attention("dot").build(3), "memory_size: expected the number of features"),
        (lambda: Attention("dot")(np.ones((2, 3, 4)), np.ones((2, 3, 5))), "memory: expected 4 features"),
        (lambda: Attention("general")(np.ones((2, 3, 4)), np.ones((3, 3, 5))), "memory: expected 2 rows"),
        (lambda: Attention("general")(np.ones((2, 4)), np.ones((3, 3, 5))), r"x: expected shape \(N, T, F\)"),
        (
            lambda: Attention("general")(np.ones((2, 3, 4)), np.ones((2, 3, 5)), memory_lengths=[1, 4]),
            "memory_lengths: expected values from 0 to T = 3, got 4 in row 1",
        ),
        (lambda: Attention("dot", memory_size=5)(np.ones((2, 3, 4)), np.ones((2, 3, 4))), "memory: expected 5"),
        (lambda: cgru.Sequential([Attention("dot")]).predict(np.ones((2, 3, 4))), "Attention belongs into a Seq2Seq"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_another_layers_tape_is_refused():
    x = np.ones((2, 3, 4))
    _, tape = Attention("dot").forward(x, x, training=True)
    with pytest.raises(TypeError, match="tape"):
        Attention("dot").backward(np.ones((2, 3, 8)), tape)
