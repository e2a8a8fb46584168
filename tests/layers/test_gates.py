"""layer.gates: what the reference computes at every step, and the bits of the outputs."""

import numpy as np
import pytest
from checks import PAIRS, SMOOTH, VALIDITY, D, H, N, T, assert_close, random_layer, spoiled, valid_steps

import cgru
from cgru import reference
from cgru.layers.gates import Gates

DTYPES = {"float64": 1e-13, "float32": 2e-6}


def reference_gates(layer, x, h0, prefix="", reverse=False, **validity):
    """Gates of one cell by cgru.reference, in float64."""
    parameters = {name: array.astype(float) for name, array in layer.parameters.items()}
    shape = (2, 3 * layer.units) if layer.reset_after else 3 * layer.units
    y, _, tape = reference.forward(
        x.astype(float),
        parameters[prefix + "kernel"],
        parameters[prefix + "recurrent_kernel"],
        parameters.get(prefix + "bias", np.zeros(shape)),
        h0.astype(float),
        layer.reset_after,
        layer.activation,
        layer.recurrent_activation,
        reverse=reverse,
        **validity,
    )
    r, z, n = np.zeros((3, *y.shape))
    for t, valid, _, r_t, z_t, n_t, *_ in tape.steps:
        for gate, values in ((r, r_t), (z, z_t), (n, n_t)):
            gate[:, t] = np.where(valid, values, 0)
    return Gates(r, z, n, y)


def assert_same(actual, expected, tolerance):
    for name, one, other in zip(Gates._fields, actual, expected, strict=True):
        assert one.shape == other.shape, name
        assert_close(one, other, tolerance, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", VALIDITY)
def test_they_are_those_of_the_reference(rng, dtype, reset_after, reverse, kind):
    options = {"reset_after": reset_after, "reverse": reverse, "dtype": dtype, "return_sequences": True}
    layer = random_layer(rng, H, input_size=D, **options)
    validity = VALIDITY[kind]
    x, h0 = rng.uniform(-1, 1, (N, T, D)).astype(dtype), rng.uniform(-1, 1, (N, H)).astype(dtype)
    valid = valid_steps(N, T, **validity)
    given = spoiled(x, valid), h0
    found = layer.gates(*given, **validity)
    assert all(array.dtype == dtype and array.flags.c_contiguous for array in found)
    assert_same(found, reference_gates(layer, x, h0, reverse=reverse, **validity), DTYPES[dtype])
    assert (found.h == layer(*given, **validity)).all()
    assert not any(array[~valid].any() for array in found)


@pytest.mark.parametrize(
    ("activation", "recurrent_activation"), [p for p in PAIRS if p[0] not in SMOOTH or p[1] != "sigmoid"]
)
def test_with_any_activations(rng, activation, recurrent_activation):
    options = {"activation": activation, "recurrent_activation": recurrent_activation, "dtype": "float64"}
    layer = random_layer(rng, H, input_size=D, **options)
    x, h0 = rng.uniform(-1, 1, (N, T, D)), rng.uniform(-1, 1, (N, H))
    assert_same(layer.gates(x, h0), reference_gates(layer, x, h0), 1e-13)


def test_of_a_stack_they_are_told_by_the_names_of_its_parameters(rng):
    layer = random_layer(
        rng, H, input_size=D, num_layers=2, bidirectional=True, return_sequences=True, dtype="float64",
        learn_initial_state=True,
    )  # fmt: skip
    x, lengths = rng.uniform(-1, 1, (N, T, D)), [3, 5, 0]
    found = layer.gates(x, lengths=lengths)
    assert list(found) == ["l0.forward", "l0.backward", "l1.forward", "l1.backward"]
    below = x
    for level in ("l0", "l1"):
        for direction in ("forward", "backward"):
            prefix = f"{level}.{direction}."
            h0 = np.tile(layer.parameters[prefix + "initial_state"], (N, 1))
            expected = reference_gates(layer, below, h0, prefix, direction == "backward", lengths=lengths)
            assert_same(found[prefix[:-1]], expected, 1e-13)
        below = np.concatenate([found[f"{level}.forward"].h, found[f"{level}.backward"].h], axis=-1)
    assert (below == layer(x, lengths=lengths)).all()


def test_are_in_the_order_of_the_outputs(rng):
    x, lengths = rng.uniform(-1, 1, (N, T, D)).astype("float32"), np.array([4, 5, 2])
    layer = random_layer(rng, H, input_size=D, return_sequences=True)
    late = layer.with_options(time_major=True)
    turned = x.swapaxes(0, 1)
    for array, other in zip(late.gates(turned, lengths=lengths), layer.gates(x, lengths=lengths), strict=True):
        assert (array == other.swapaxes(0, 1)).all()
    back = layer.with_options(go_backwards=True)
    assert (back.gates(x, lengths=lengths).h == back(x, lengths=lengths)).all()
    flipped = layer.with_options(reverse=True).gates(x, lengths=lengths)
    for array, other in zip(back.gates(x, lengths=lengths), flipped, strict=True):
        assert (array[:, ::-1] == other).all()


def test_of_a_ragged_list_and_without_steps_or_rows(rng):
    layer = random_layer(rng, H, input_size=D)
    rows = [rng.standard_normal((length, D)).astype("float32") for length in (3, 0, 6)]
    found = layer.gates(rows)
    for i, row in enumerate(rows):
        if len(row):
            alone = layer.gates(row[None])
            for array, other in zip(found, alone, strict=True):
                assert (array[i, : len(row)] == other[0]).all()
        assert not any(array[i, len(row) :].any() for array in found)
    assert layer.gates(np.zeros((2, 0, D))).r.shape == (2, 0, H)
    assert layer.gates(np.zeros((0, 4, D)), lengths=np.zeros(0, int)).z.shape == (0, 4, H)
    assert layer.gates(np.zeros((2, 4, D)), lengths=[0, 0]).n.shape == (2, 4, H)


def test_state_of_a_stateful_layer_is_the_start_and_stays(rng):
    layer = random_layer(rng, H, input_size=D, stateful=True, return_sequences=True)
    x = rng.standard_normal((N, T, D)).astype("float32")
    layer(x)
    found = layer.gates(x)
    assert (layer.gates(x).h == found.h).all()
    assert (found.h == layer(x)).all()


def test_through_blas_as_well(rng):
    layer = random_layer(rng, H, input_size=D, reset_after=True)
    x, h0 = rng.uniform(-1, 1, (N, T, D)).astype("float32"), np.zeros((N, H), "float32")
    with cgru.backend("blas"):
        assert_same(layer.gates(x, h0), reference_gates(layer, x, h0), 2e-6)


def test_what_they_mean(rng):
    """h' = (1 - z) * h + z * n."""
    r, z, n, h = random_layer(rng, H, input_size=D, dtype="float64").gates(rng.standard_normal((N, T, D)))
    before = np.concatenate([np.zeros((N, 1, H)), h[:, :-1]], axis=1)
    assert_close(h, (1 - z) * before + z * n, 1e-15)
    assert (r > 0).all() and (r < 1).all()


def test_wrong_arguments_are_named(rng):
    layer = random_layer(rng, H, input_size=D)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, T, D\)"):
        layer.gates(np.zeros((4, D)))
    with pytest.raises(ValueError, match="lengths: expected"):
        layer.gates(np.zeros((N, T, D)), lengths=[T + 1] * N)
    with pytest.raises(ValueError, match="initial_state: expected shape"):
        layer.gates(np.zeros((N, T, D)), np.zeros((N, H + 1)))


CHANCES = {"dropout": 0.4, "recurrent_dropout": 0.4, "layer_dropout": 0.4, "zoneout": 0.3}


@pytest.mark.parametrize("layer_norm", [False, True])
def test_chance_has_no_part_in_them(rng, layer_norm):
    """Units that training would drop are there, and zoneout is its expectation."""
    layer = cgru.GRU(
        H, input_size=D, num_layers=2, return_sequences=True, layer_norm=layer_norm, seed=0, dtype="float64", **CHANCES
    )
    x, lengths = rng.standard_normal((N, T, D)), [2, 5, 0]
    found = layer.gates(x, lengths=lengths)
    assert (found["l1.forward"].h == layer(x, lengths=lengths)).all()
    kept = CHANCES["zoneout"]
    for r, z, n, h in found.values():
        before = np.concatenate([np.zeros((N, 1, H)), h[:, :-1]], axis=1)
        expected = kept * before + (1 - kept) * ((1 - z) * before + z * n)
        assert_close(h, np.where(valid_steps(N, T, lengths)[:, :, None], expected, 0), 1e-15)
        assert (r <= 1).all()
