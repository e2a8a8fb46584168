"""Resets within rows: the reference's numbers, and the bits of the segments run apart."""

import itertools

import checks
import numpy as np
import pytest

import cgru
from cgru import masks

N, T, D, H = 4, 9, 3, 7
SAME_BITS = cgru.get_backend() == "native"
KINDS = {
    "plain": {},
    "reverse": {"reverse": True},
    "go_backwards": {"go_backwards": True},
    "deep": {"num_layers": 2, "layer_norm": True},
    "both_ways": {"bidirectional": True, "num_layers": 2},
    "multiplied": {"bidirectional": True, "merge_mode": "mul", "zero_output_for_mask": False},
    "chance": {"recurrent_dropout": 0.3, "zoneout": 0.2, "dropout": 0.2, "layer_dropout": 0.3, "num_layers": 2},
    "chance_reverse": {"recurrent_dropout": 0.3, "zoneout": 0.2, "reverse": True},
}


def random_resets(rng, first):
    resets = rng.random((N, T)) < 0.3
    resets[:, 0] = first
    return resets


def same(actual, expected):
    checks.assert_close(actual, expected, 0 if SAME_BITS else 1e-12)


@pytest.mark.parametrize("validity", ["all", "lengths", "mask"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_references(rng, kind, reset_after, validity):
    time_major, sequences = bool(rng.integers(2)), bool(rng.integers(2))
    layer = checks.random_layer(
        rng, H, input_size=D, dtype="float64", reset_after=reset_after, time_major=time_major,
        return_sequences=sequences, learn_initial_state=True, **KINDS[kind],
    )  # fmt: skip
    valid = checks.random_validity(rng, validity, N, T)
    resets = random_resets(rng, rng.random(N) < 0.5)
    h0 = rng.uniform(-1, 1, layer._state_shape(N))
    x = rng.uniform(-1, 1, (N, T, D))
    key = masks.Key(5) if kind.startswith("chance") else None
    turned = (lambda a: a.swapaxes(0, 1) if a.ndim == 3 else a.T) if time_major else (lambda a: a)
    given = valid | ({"mask": turned(valid["mask"])} if "mask" in valid else {})
    spoiled = checks.spoiled(x, checks.valid_steps(N, T, **valid))
    y, h, tape = layer.forward(turned(spoiled), h0, **given, resets=turned(resets), training=True, seed=key)
    batch_major = turned(y) if sequences else y
    dy, dh = rng.standard_normal(batch_major.shape), rng.standard_normal(h.shape)
    dx, dh0, grads = layer.backward(turned(dy) if sequences else dy, tape, dh)
    cells = h0.reshape(-1, N, H)
    expected_y, expected_h, expected = checks.reference_layer(
        layer, x, cells, dy, dh.reshape(cells.shape), key=key, resets=resets, **valid
    )
    checks.assert_close(batch_major, expected_y, 1e-13)
    checks.assert_close(h, expected_h.reshape(h.shape), 1e-13)
    checks.assert_close(turned(dx), expected.pop("dx"), 1e-12)
    checks.assert_close(dh0, expected.pop("dh0").reshape(h.shape), 1e-12)
    assert set(grads) == set(expected)
    for name, gradient in expected.items():
        checks.assert_close(grads[name], gradient, 1e-12, name)
    if key is None:
        y_of_call = layer.with_options(return_state=True)(turned(x), h0, **given, resets=turned(resets))
        checks.assert_same_arrays(y_of_call, (y, h))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_those_of_the_segments(rng, dtype, options, threads):
    """Outputs of each alone, and all gradients of the segments as a list."""
    layer = checks.random_layer(rng, 21, input_size=D, dtype=dtype, return_sequences=True, return_state=True, **options)
    x, resets = rng.standard_normal((N, 40, D)).astype(dtype), rng.random((N, 40)) < 0.1
    parts, places = [], []
    for i in range(N):
        cuts = [0, *(np.flatnonzero(resets[i, 1:]) + 1), 40]
        places += [(i, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    parts = [x[place] for place in places]
    with cgru.limit_threads(threads):
        y, h, tape = layer.forward(x, resets=resets, training=True)
        dy = rng.standard_normal(y.shape).astype(dtype)
        dx, _, grads = layer.backward(dy, tape)
        same(layer(x, resets=resets)[0], y)
    for (i, steps), part in zip(places, parts, strict=True):
        y_part, h_part = layer(part[None])
        same(y[i, steps], y_part[0])
        if not options and steps.stop == 40:
            same(h[i], h_part[0])
    _, _, tape = layer.forward(parts, training=True)
    listed = np.zeros((len(parts), max(map(len, parts)), dy.shape[2]), dtype)
    for k, (i, steps) in enumerate(places):
        listed[k, : len(parts[k])] = dy[i, steps]
    dx_parts, _, expected = layer.backward(listed, tape)
    for k, (i, steps) in enumerate(places):
        same(dx[i, steps], dx_parts[k, : len(parts[k])])
    for name, gradient in expected.items():
        same(grads[name], gradient)


def test_where_a_reset_acts_and_where_it_does_not(rng):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True, return_state=True)
    x, h0 = rng.standard_normal((1, 6, D)), rng.uniform(-1, 1, (1, H))
    mask = np.array([[0, 1, 0, 0, 1, 0]], bool)

    def run(*at, **options):
        return layer(x, h0, mask=mask, resets=np.isin(np.arange(6), at)[None], **options)

    plain, fresh = layer(x, h0, mask=mask), layer(x, mask=mask)
    for nowhere in (), (5,):
        checks.assert_same_arrays(run(*nowhere), plain)
    for before_the_first in (0,), (1,), (0, 1, 5):
        checks.assert_same_arrays(run(*before_the_first), fresh)
    for between in (2,), (3,), (4,), (2, 4):
        checks.assert_same_arrays(run(*between), run(4))
        assert (run(*between)[0][0, 1] == plain[0][0, 1]).all()
        same(run(*between)[1], layer(x[:, 4:5])[1])
    y, h = layer(x, h0, lengths=[0], resets=np.ones((1, 6), bool))
    assert (h == h0.astype(h.dtype)).all() and (y == 0).all()


def test_no_reset_is_no_resets(rng):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True)
    x = rng.standard_normal((N, T, D))
    for resets in np.zeros((N, T), bool), np.zeros((N, T)), np.zeros((N, T), int).tolist():
        checks.assert_same_arrays([layer(x, resets=resets)], [layer(x)])
    ones = np.ones((N, T), bool)
    steps = [layer(x[:, t : t + 1])[:, 0] for t in range(T)]
    same(layer(x, resets=ones), np.stack(steps, axis=1))
    for empty in np.zeros((0, T, D)), np.zeros((N, 0, D)):
        assert layer(empty, resets=np.ones(empty.shape[:2], bool)).shape == (*empty.shape[:2], H)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_step_by_step(rng, learned, num_layers):
    layer = checks.random_layer(
        rng, H, input_size=D, return_sequences=True, return_state=True, learn_initial_state=learned,
        num_layers=num_layers,
    )  # fmt: skip
    x, resets = rng.standard_normal((N, T, D)).astype("float32"), random_resets(rng, [0, 1, 0, 1])
    h = h0 = rng.uniform(-1, 1, layer._state_shape(N)).astype("float32")
    kept = h0.copy()
    y, final = layer(x, h0, resets=resets)
    for t in range(T):
        h = layer.step(x[:, t], h, resets=resets[:, t])
        same(h if num_layers == 1 else h[-1], y[:, t])
    same(h, final)
    assert (h0 == kept).all()
    out = np.empty_like(h)
    assert layer.step(x[:, 0], None, out, resets=[1, 0, 1, 0]) is out
    same(out, layer.step(x[:, 0]))


def test_a_stateful_layer_keeps_the_state_of_the_last_segment(rng):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True, stateful=True)
    plain = layer.with_options(stateful=False, return_state=True)
    x, resets = rng.standard_normal((N, T, D)), random_resets(rng, [1, 0, 1, 0])
    same(layer(x[:, :5], resets=resets[:, :5]), plain(x[:, :5], resets=resets[:, :5])[0])
    stepped = layer.step(x[:, 5], resets=resets[:, 5])
    same(layer(x[:, 5:], resets=resets[:, 5:]), plain(x, resets=resets)[0][:, 5:])
    same(stepped, plain(x[:, :6], resets=resets[:, :6])[1])


def test_gates(rng):
    for options in {}, {"bidirectional": True}, {"time_major": True}:
        layer = checks.random_layer(rng, H, input_size=D, return_sequences=True, **options)
        x, resets = rng.standard_normal((N, T, D)), random_resets(rng, True)
        mask = rng.random((N, T)) < 0.7
        if layer.time_major:
            x, resets, mask = x.swapaxes(0, 1), resets.T, mask.T
        found = layer.gates(x, mask=mask, resets=resets)
        found = list(found.values()) if layer.bidirectional else [found]
        y = layer(x, mask=mask, resets=resets)
        same(np.concatenate([gates.h for gates in found], axis=-1), y)
        _r, z, n, h = found[0]
        starts = (resets & mask)[..., None]
        checks.assert_close(np.where(starts, h, 0), np.where(starts, z * n, 0), 1e-6)


def test_what_chance_chooses_does_not_depend_on_resets(rng):
    """A segment run apart has the masks of its row, if the key says which row and which step it starts with."""
    layer = checks.random_layer(
        rng, H, input_size=D, return_sequences=True, recurrent_dropout=0.4, zoneout=0.3, dropout=0.2
    )
    x, resets = rng.standard_normal((N, T, D)), np.arange(T)[None] == np.array([[3], [5], [20], [1]])
    key = masks.Key(3, examples=np.arange(N) + 7)
    y = layer.forward(x, resets=resets, training=True, seed=key)[0]
    for i, start in ((0, 3), (1, 5), (3, 1)):
        own = key._replace(examples=key.examples[i : i + 1], step=start)
        same(y[i, start:], layer.forward(x[i : i + 1, start:], training=True, seed=own)[0][0])


def test_lists_bring_theirs(rng):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True)
    x = [rng.standard_normal((n, D)) for n in (5, 9, 2)]
    resets = [rng.random(len(row)) < 0.4 for row in x]
    resets[0][2] = True
    padded = np.zeros((3, 9), bool)
    for row, own in zip(padded, resets, strict=True):
        row[: len(own)] = own
    y = layer(x, resets=resets)
    checks.assert_same_arrays([layer(x, resets=padded)], [y])
    checks.assert_same_arrays([layer(x, resets=[row.astype(int).tolist() for row in resets])], [y])
    for i, row in enumerate(x):
        same(y[i, : len(row)], layer(row[None], resets=resets[i][None])[0])


def test_strided_inputs_and_gradients(rng):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True)
    wide, resets = rng.standard_normal((2 * N, 2 * T, 2 * D)).astype("float32"), random_resets(rng, False)
    dy = rng.standard_normal((T, N, H)).astype("float32").swapaxes(0, 1)
    for x in wide[::2, ::-2, :D], wide[::2, :T, ::2], np.asfortranarray(wide[:N, :T, :D]):
        results = []
        for given in (x, np.ascontiguousarray(x)):
            y, h, tape = layer.forward(given, resets=resets, training=True)
            results.append((y, h, layer.backward(dy, tape)))
        checks.assert_same_arrays(*results)


@pytest.mark.parametrize(
    ("resets", "message"),
    [
        (np.zeros((T, N), bool), rf"resets: expected shape \({N}, {T}\), got \({T}, {N}\)"),
        (np.zeros(N, bool), "resets: expected shape"),
        (True, "resets: expected shape"),
        (np.full((N, T), 2), "resets: expected True and False, or 1 and 0, got 2"),
        (np.full((N, T), 0.5), "resets: .* got 0.5"),
        (np.full((N, T), np.nan), "resets: .* got nan"),
        (np.full((N, T), "x"), "resets: expected dtype bool, got"),
        ([[True] * T] * (N - 1) + [[True]], "resets: expected an array"),
    ],
)
def test_what_is_wrong_is_named(rng, resets, message):
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True)
    x = rng.standard_normal((N, T, D))
    for call in (layer, layer.gates, layer.forward, cgru.Sequential([layer]), cgru.Sequential([layer]).predict):
        with pytest.raises((TypeError, ValueError), match=message):
            call(x, resets=resets)


def test_what_is_wrong_beside_lists_and_in_steps(rng):
    layer = checks.random_layer(rng, H, input_size=D)
    x = [np.ones((n, D)) for n in (5, 3)]
    for resets, message in (
        ([np.zeros(5, bool)], "resets: expected a list of 2 arrays"),
        ([np.zeros(5, bool), np.zeros(4, bool)], r"resets\[1\]: expected shape \(3,\), got \(4,\)"),
        (np.zeros((2, 4), bool), r"resets: expected shape \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x, resets=resets)
    for resets in np.zeros(3, bool), np.zeros((2, 1), bool), True:
        with pytest.raises(ValueError, match=r"resets: expected shape \(2,\)"):
            layer.step(np.ones((2, D)), resets=resets)
    with pytest.raises(ValueError, match="h: expected shape"):
        layer.step(np.ones((2, D)), np.ones((3, H)), resets=[0, 1])
    with pytest.raises(ValueError, match="reverse=True"):
        layer.with_options(reverse=True).step(np.ones((2, D)), resets=[0, 1])
