"""Gradients of the compiled layer against finite differences in float64, with every option that matters to them."""

import itertools

import checks
import numpy as np
import pytest

import cgru

N, T, D, H = checks.N, checks.T, checks.D, checks.H

# What a layer may be; each is tried with both reset modes and every kind of batch.
KINDS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "reverse-last": {"reverse": True},
    "reverse": {"reverse": True, "return_sequences": True},
    "go_backwards-last": {"go_backwards": True},
    "go_backwards": {"go_backwards": True, "return_sequences": True},
    "no-bias": {"use_bias": False, "return_sequences": True},
    "learned": {"learn_initial_state": True, "return_sequences": True},
    "learned-bidirectional": {"learn_initial_state": True, "bidirectional": True},
    "time_major": {"time_major": True, "return_sequences": True},
    "time_major-last": {"time_major": True, "bidirectional": True},
    "time_major-stack": {"time_major": True, "bidirectional": True, "num_layers": 2, "return_sequences": True},
    "two-layers": {"num_layers": 2, "return_sequences": True},
    "three-layers-last": {"num_layers": 3},
    "two-layers-go_backwards": {"num_layers": 2, "go_backwards": True, "return_sequences": True},
    "two-layers-reverse": {"num_layers": 2, "reverse": True, "return_sequences": True},
    "two-layers-no-bias": {"num_layers": 2, "bidirectional": True, "use_bias": False},
    "repeat": {"zero_output_for_mask": False, "return_sequences": True},
    "repeat-reverse": {"zero_output_for_mask": False, "return_sequences": True, "reverse": True},
    "repeat-go_backwards": {"zero_output_for_mask": False, "return_sequences": True, "go_backwards": True},
    "repeat-two-layers": {"zero_output_for_mask": False, "return_sequences": True, "num_layers": 2},
    "repeat-concat": {"zero_output_for_mask": False, "return_sequences": True, "bidirectional": True},
    "repeat-mul": {"zero_output_for_mask": False, "return_sequences": True, "bidirectional": True, "merge_mode": "mul"},
    "repeat-time_major": {"zero_output_for_mask": False, "return_sequences": True, "time_major": True},
} | {
    f"{merge_mode}{'' if sequences else '-last'}{'' if layers == 1 else '-two-layers'}": {
        "bidirectional": True, "merge_mode": merge_mode, "return_sequences": sequences, "num_layers": layers
    }
    for merge_mode, sequences, layers in itertools.product(("concat", "sum", "mul", "ave"), (True, False), (1, 2))
}  # fmt: skip
BATCHES = (*checks.VALIDITY, "ragged")


class Case:
    """A built float64 layer with random weights, an input, and random gradients of everything it returns."""

    def __init__(self, rng, batch="all", learned=False, **options):
        self.layer = layer = checks.random_layer(rng, H, dtype="float64", input_size=D, **options)
        self.validity = {"lengths": checks.LENGTHS} if batch == "ragged" else checks.VALIDITY[batch]
        self.valid = checks.valid_steps(N, T, **self.validity)
        if layer.time_major and "mask" in self.validity:
            self.validity = {"mask": checks.MASK.T}
        self.ragged = batch == "ragged"
        x = rng.uniform(-1, 1, (N, T, D))
        self.x = x.swapaxes(0, 1).copy() if layer.time_major and not self.ragged else x
        self.h0 = None if learned else rng.uniform(-1, 1, layer._state_shape(N))
        y, h, _ = self.forward()
        self.dy, self.dh = rng.standard_normal(y.shape), rng.standard_normal(h.shape)

    def forward(self, x=None, h0=None, training=False):
        x = self.x if x is None else x
        validity = self.validity
        if self.ragged:
            x, validity = [row[:n] for row, n in zip(x, checks.LENGTHS, strict=True)], {}
        return self.layer.forward(x, self.h0 if h0 is None else h0, training=training, **validity)

    def loss(self, arrays):
        with self.layer.update() as parameters:
            for name in parameters:
                parameters[name] = arrays[name]
        y, h, _ = self.forward(arrays["x"], arrays.get("h0"))
        return (self.dy * y).sum() + (self.dh * h).sum()

    def arrays(self):
        """What the loss depends on, by name."""
        given = {"x": self.x} | ({} if self.h0 is None else {"h0": self.h0})
        return given | {name: array.copy() for name, array in self.layer.parameters.items()}

    def gradients(self, dx, dh0, grads):
        """What backward returned, by the names of `arrays`."""
        if self.ragged and self.layer.time_major:
            dx = dx.swapaxes(0, 1)
        return {"x": dx} | ({} if self.h0 is None else {"h0": dh0}) | grads


def copies(nested):
    return [array.copy() for array in checks.arrays_in(nested)]


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer(rng, kind, batch, reset_after):
    """Finite differences with dy and dh at once; the gradients of dy alone and of dh alone are the two parts."""
    learned = kind.startswith("learned")
    case = Case(rng, batch, learned, reset_after=reset_after, **KINDS[kind])
    _, _, tape = case.forward(training=True)
    whole = case.gradients(*case.layer.backward(case.dy, tape, case.dh))
    checks.assert_gradients(case.loss, case.arrays(), whole, rng)
    of_dy = case.gradients(*case.layer.backward(case.dy, tape))
    of_dh = case.gradients(*case.layer.backward(None, tape, case.dh))
    for name, gradient in whole.items():
        checks.assert_close(of_dy[name] + of_dh[name], gradient, 1e-13, name)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", checks.VALIDITY)
@pytest.mark.parametrize("kind", ["sequences", "reverse", "concat"])
def test_every_element(rng, kind, batch, reset_after):
    case = Case(rng, batch, reset_after=reset_after, **KINDS[kind])
    _, _, tape = case.forward(training=True)
    checks.assert_gradients(case.loss, case.arrays(), case.gradients(*case.layer.backward(case.dy, tape, case.dh)))


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", ["all", "mask"])
@pytest.mark.parametrize("pair", checks.PAIRS, ids="-".join)
def test_every_pair_of_activations(rng, pair, batch, reset_after):
    options = {"reset_after": reset_after, "activation": pair[0], "recurrent_activation": pair[1]}
    case = Case(rng, batch, bidirectional=True, return_sequences=True, **options)
    _, _, tape = case.forward(training=True)
    checks.assert_gradients(case.loss, case.arrays(), case.gradients(*case.layer.backward(case.dy, tape, case.dh)), rng)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", ["last", "sequences", "repeat-mul", "mul-last", "go_backwards", "time_major-stack"])
def test_the_tape_is_only_read(rng, kind, batch, reset_after):
    """Backward gives the same bits twice, without dx too; neither it nor writing to any result changes the tape."""
    case = Case(rng, batch, reset_after=reset_after, **KINDS[kind])
    y, h, tape = case.forward(training=True)
    kept = copies(tape)
    y.fill(np.nan)
    h.fill(np.nan)
    checks.assert_same_arrays(tape, kept, "tape after writing to y and h")
    first = case.layer.backward(case.dy, tape, case.dh)
    checks.assert_same_arrays(tape, kept, "tape after backward")
    first_kept = copies(first)
    second = case.layer.backward(case.dy, tape, case.dh)
    checks.assert_same_arrays(second, first_kept, "second backward")
    for array in (*first[:2], *first[2].values()):  # results are the caller's own
        array.fill(np.nan)
    checks.assert_same_arrays(tape, kept, "tape after writing to the gradients")
    dx, *others = case.layer.backward(case.dy, tape, case.dh, need_dx=False)
    assert dx is None
    checks.assert_same_arrays(others, first_kept[1:], "without dx")


@pytest.mark.parametrize("batch", ["lengths", "mask"])
@pytest.mark.parametrize("kind", ["sequences", "reverse", "go_backwards", "time_major-stack", "mul-two-layers"])
def test_steps_that_are_not_valid_are_not_read(rng, kind, batch):
    """NaN there changes no bit of any result, and the gradient of x is zero there."""
    case = Case(rng, batch, **KINDS[kind])
    valid = case.valid.T if case.layer.time_major else case.valid
    y, h, tape = case.forward(training=True)
    expected = y, h, case.layer.backward(case.dy, tape, case.dh)
    valid_y = valid[:, ::-1] if case.layer.go_backwards else valid
    y, h, tape = case.forward(checks.spoiled(case.x, valid), training=True)
    gradients = case.layer.backward(checks.spoiled(case.dy, valid_y), tape, case.dh)
    checks.assert_same_arrays((y, h, gradients), expected)
    assert (gradients[0][~valid] == 0).all() and (y[~valid_y] == 0).all()


def test_a_given_state_takes_the_place_of_the_learned_one(rng):
    case = Case(rng, learn_initial_state=True)
    _, _, tape = case.forward(training=True)
    _, dh0, grads = case.layer.backward(case.dy, tape, case.dh)
    assert (grads["initial_state"] == 0).all() and (dh0 != 0).all()
    case.h0 = None
    _, _, tape = case.forward(training=True)
    _, dh0, grads = case.layer.backward(case.dy, tape, case.dh)
    np.testing.assert_array_equal(grads["initial_state"], dh0.sum(axis=0))


def test_the_state_of_a_stateful_layer_is_differentiated_as_a_given_one(rng):
    case = Case(rng, "lengths", learned=True, stateful=True, num_layers=2, return_sequences=True)
    case.layer.reset_states(rng.uniform(-1, 1, (2, N, H)))
    _, carried, _ = case.forward()
    carried = carried.copy()
    _, _, tape = case.forward(training=True)
    actual = case.layer.backward(case.dy, tape, case.dh)
    _, _, tape = case.forward(h0=carried, training=True)
    checks.assert_same_arrays(actual, case.layer.backward(case.dy, tape, case.dh))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_have_the_names_order_shapes_and_dtype_of_the_parameters(rng, dtype):
    layer = cgru.GRU(
        H, num_layers=2, bidirectional=True, learn_initial_state=True, reset_after=True, dtype=dtype, input_size=D
    )
    y, _, tape = layer.forward(rng.standard_normal((N, T, D)), training=True)
    dx, dh0, grads = layer.backward(np.ones_like(y), tape)
    assert [(n, g.shape, g.dtype) for n, g in grads.items()] == [
        (n, p.shape, p.dtype) for n, p in layer.parameters.items()
    ]
    assert dx.dtype == dh0.dtype == dtype and dx.shape == (N, T, D) and dh0.shape == (4, N, H)
