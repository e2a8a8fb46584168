"""Wrong arguments: the exception, a message with the argument, what was expected and what came, and nothing changed."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import cgru
from cgru import kernels, recurrence
from cgru.sequences import Batch, as_batch, pad

N, T, D, H = 3, 5, 2, 4


@contextmanager
def refused(error, *words):
    """The block raises exactly `error`, and its message holds each of `words` as a whole."""
    with pytest.raises(error) as caught:
        yield
    assert caught.type is error
    message = str(caught.value)
    for word in words:
        assert re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", message), f"{word!r} is missing in: {message}"


def unchanged(layer, call):
    """Run `call` and check that weights and results of the built layer are what they were."""
    x = np.random.default_rng(0).standard_normal((N, T, layer.input_size))
    weights, before = layer.get_weights(), layer.forward(x)
    if layer.stateful:
        state = layer._state.copy()
    call()
    assert all(np.array_equal(a, b) for a, b in zip(weights, layer.get_weights(), strict=True))
    if layer.stateful:
        assert np.array_equal(layer._state, state)
    else:
        after = layer.forward(x)
        assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


@pytest.fixture
def layer():
    return cgru.GRU(H, return_sequences=True, seed=1, input_size=D)


@pytest.fixture
def stack():
    return cgru.GRU(H, num_layers=2, bidirectional=True, return_sequences=True, seed=1, input_size=D)


x = np.ones((N, T, D), np.float32)


# ---- the constructor

ACTIVATIONS = sorted(recurrence.ACTIVATIONS)
BOOLS = (
    "use_bias return_sequences return_state go_backwards reverse stateful reset_after bidirectional "
    "learn_initial_state time_major zero_output_for_mask"
).split()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"units": 0}, ValueError, ["units", "at least 1", "0"]),
        ({"units": -3}, ValueError, ["units", "at least 1", "-3"]),
        ({"units": 4.0}, TypeError, ["units", "integer", "4.0"]),
        ({"units": "4"}, TypeError, ["units", "integer", "'4'"]),
        ({"units": True}, TypeError, ["units", "integer", "True"]),
        ({"units": None}, TypeError, ["units", "integer", "None"]),
        ({"num_layers": 0}, ValueError, ["num_layers", "at least 1", "0"]),
        ({"num_layers": 1.5}, TypeError, ["num_layers", "integer", "1.5"]),
        ({"seed": -1}, ValueError, ["seed", "at least 0", "-1"]),
        ({"seed": 0.5}, TypeError, ["seed", "integer", "0.5"]),
        ({"input_size": 0}, ValueError, ["input_size", "at least 1", "0"]),
        ({"input_size": "2"}, TypeError, ["input_size", "integer", "'2'"]),
        ({"activation": "softmax"}, ValueError, ["activation", "one of", *map(repr, ACTIVATIONS), "'softmax'"]),
        ({"activation": None}, ValueError, ["activation", "one of", "None"]),
        ({"activation": ["tanh"]}, ValueError, ["activation", "one of", "['tanh']"]),
        ({"recurrent_activation": "Swish"}, ValueError, ["recurrent_activation", "'sigmoid'", "'Swish'"]),
        ({"merge_mode": "avg"}, ValueError, ["merge_mode", "'ave'", "'concat'", "'mul'", "'sum'", "'avg'"]),
        ({"kernel_initializer": "he"}, ValueError, ["kernel_initializer", "'glorot_uniform'", "'he'"]),
        ({"recurrent_initializer": 3}, ValueError, ["recurrent_initializer", "'orthogonal'", "3"]),
        ({"bias_initializer": "twos"}, ValueError, ["bias_initializer", "'zeros'", "'twos'"]),
        ({"dtype": "float16"}, ValueError, ["dtype", "'float32'", "'float64'", "'float16'"]),
        ({"dtype": ">f4"}, ValueError, ["dtype", "'float32'", "'>f4'"]),
        ({"dtype": None}, ValueError, ["dtype", "'float32'", "None"]),
        ({"dtype": "nonsense"}, ValueError, ["dtype", "'float32'", "'nonsense'"]),
        ({"go_backwards": True, "bidirectional": True}, ValueError, ["go_backwards", "False", "bidirectional", "True"]),
        ({"reverse": True, "bidirectional": True}, ValueError, ["reverse", "False", "bidirectional", "True"]),
        ({"reverse": True, "go_backwards": True}, ValueError, ["reverse", "go_backwards", "one of the two", "both"]),
        # Arguments that a later version may take are not taken in silence.
        *(
            ({name: rate}, error, [name, "a number", repr(rate)])
            for name in ("dropout", "recurrent_dropout", "layer_dropout", "zoneout")
            for rate, error in ((1.0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError))
        ),
        ({"layer_norm": 1}, TypeError, ["layer_norm", "1"]),
        ({"drop": 0.1}, TypeError, ["drop"]),
        ({"unroll": True}, TypeError, ["unroll"]),
        *[({name: 1}, TypeError, [name, "True or False", "1"]) for name in BOOLS],
        *[({name: None}, TypeError, [name, "True or False", "None"]) for name in BOOLS],
    ],
)
def test_constructor(arguments, error, words):
    with refused(error, *words):
        cgru.GRU(**{"units": H, **arguments})


def test_constructor_takes_numpy_scalars():
    layer = cgru.GRU(np.int64(3), use_bias=np.True_, num_layers=np.int8(2), seed=np.uint8(1), dtype=np.float64)
    assert (layer.units, layer.use_bias, layer.num_layers) == (3, True, 2)


def test_from_config():
    with refused(TypeError, "config", "dict", "list"):
        cgru.GRU.from_config([("units", 3)])
    with refused(TypeError, "unit"):
        cgru.GRU.from_config({"unit": 3})
    with refused(ValueError, "units", "at least 1", "0"):
        cgru.GRU.from_config({"units": 0})


# ---- build, parameters, weights


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (0, ValueError, ["input_size", "at least 1", "0"]),
        (2.0, TypeError, ["input_size", "integer", "2.0"]),
        (None, TypeError, ["input_size", "integer", "None"]),
        (D + 1, ValueError, ["GRU", str(D), str(D + 1)]),
    ],
)
def test_build(layer, size, error, words):
    def call():
        with refused(error, *words):
            layer.build(size)

    unchanged(layer, call)


def test_failed_build_leaves_the_layer_unbuilt():
    layer = cgru.GRU(H)
    with refused(ValueError, "input_size"):
        layer.build(0)
    assert not layer.built and layer.input_size is None
    layer.build(D)
    assert layer.input_size == D


@pytest.mark.parametrize(
    "use",
    [lambda v: v.parameters, lambda v: v.get_weights(), lambda v: v.set_weights([]), lambda v: v.update().__enter__()],
)
def test_parameters_before_the_layer_is_built(use):
    layer = cgru.GRU(H)
    with refused(RuntimeError, "GRU", "no parameters yet", "build"):
        use(layer)
    layer.build(D)  # and the lock is free
    assert len(layer.get_weights()) == 3


W, U, b = np.zeros((D, 3 * H)), np.zeros((H, 3 * H)), np.zeros(3 * H)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (None, TypeError, ["weights", "list of arrays", "NoneType"]),
        ({"kernel": W}, TypeError, ["weights", "list of arrays", "dict"]),
        (np.zeros((3, 2)), TypeError, ["weights", "list of arrays", "ndarray"]),
        ([W, U], ValueError, ["weights", "3 arrays", "kernel", "recurrent_kernel", "bias", "2"]),
        ([W, U, b, b], ValueError, ["weights", "3 arrays", "4"]),
        ([W.T, U, b], ValueError, ["kernel", str(W.shape), str(W.T.shape)]),
        ([W, U[:-1], b], ValueError, ["recurrent_kernel", str(U.shape), str(U[:-1].shape)]),
        ([W, U, b[None]], ValueError, ["bias", str(b.shape), str(b[None].shape)]),
        ([W, U, 0.0], ValueError, ["bias", str(b.shape), "()"]),
        ([W, U, b + 1j], TypeError, ["bias", "real numbers", "complex128"]),
        ([W, U, b.astype(str)], TypeError, ["bias", "real numbers"]),
        ([W, U, [None] * (3 * H)], TypeError, ["bias", "real numbers", "object"]),
        ([W, U, b.astype(bool)], TypeError, ["bias", "real numbers", "bool"]),
        ([[[1.0], [1.0, 2.0]], U, b], ValueError, ["kernel", str(W.shape), "unequal lengths"]),
    ],
)
def test_set_weights(layer, weights, error, words):
    def call():
        with refused(error, *words):
            layer.set_weights(weights)

    unchanged(layer, call)


def test_set_weights_names_the_cell(stack):
    weights = stack.get_weights()
    weights[-2] = weights[-2][1:]

    def call():
        with refused(ValueError, "l1.backward.recurrent_kernel", str((H, 3 * H)), str((H - 1, 3 * H))):
            stack.set_weights(weights)

    unchanged(stack, call)


def test_update_takes_no_new_name_and_no_other_shape(layer):
    def call():
        with pytest.raises(KeyError, match="biases"), layer.update() as p:
            p["biases"] = 0
        with pytest.raises(ValueError, match=rf"\({H},\)"), layer.update() as p:
            p["bias"] = np.zeros(H)

    unchanged(layer, call)


def test_parameters_are_read_only(layer):
    with pytest.raises(ValueError, match="read-only"):
        layer.parameters["bias"][0] = 1


# ---- a call, and forward


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        # x
        ({"x": x[0]}, ValueError, ["x", "(N, T, D)", str(x[0].shape)]),
        ({"x": x[None]}, ValueError, ["x", "(N, T, D)", str(x[None].shape)]),
        ({"x": 1.0}, ValueError, ["x", "(N, T, D)", "()"]),
        ({"x": []}, ValueError, ["x", "(N, T, D)", "(0,)"]),
        ({"x": x[:, :, :1]}, ValueError, ["x", f"{D} features", "1"]),
        ({"x": x[:, :, :0]}, ValueError, ["x", "at least one feature", str((N, T, 0))]),
        ({"x": x + 1j}, TypeError, ["x", "real numbers", "complex64"]),
        ({"x": x.astype(str)}, TypeError, ["x", "real numbers"]),
        ({"x": np.where(np.arange(D) > 0, x, None)}, TypeError, ["x", "real numbers", "object", "None"]),
        ({"x": x.astype("M8[s]")}, TypeError, ["x", "real numbers", "datetime64[s]"]),
        ({"x": None}, TypeError, ["x", "real numbers", "NoneType"]),
        ({"x": [[[1.0, 2.0]], [[1.0], [3.0, 4.0]]]}, ValueError, ["x[1]", "nested lists of unequal lengths"]),
        ({"x": [x[0], x[0][:, :1]]}, ValueError, ["x[1]", f"(T_i, {D})", "x[0]", str((T, 1))]),
        ({"x": [x[0], x[0][0]]}, ValueError, ["x[1]", f"(T_i, {D})", str((D,))]),
        ({"x": [x[0, :, 0], x[0, 1:, 0]]}, ValueError, ["x", "(T_i, D)", str((2, T))]),
        ({"x": [x[0], x[0] * 1j]}, TypeError, ["x[1]", "real numbers", "complex64"]),
        ({"x": as_batch(x)}, TypeError, ["x", "array", "Batch"]),
        # lengths
        ({"lengths": [1, 2, T + 1]}, ValueError, ["lengths", f"0 to T = {T}", str(T + 1), "row 2"]),
        ({"lengths": [1, -2, 3]}, ValueError, ["lengths", f"0 to T = {T}", "-2", "row 1"]),
        ({"lengths": np.array([1, 2, 2**63], np.uint64)}, ValueError, ["lengths", f"0 to T = {T}", str(2**63)]),
        ({"lengths": [1.0, 2.0, 3.0]}, TypeError, ["lengths", "integers", "float64"]),
        ({"lengths": [True, True, False]}, TypeError, ["lengths", "integers", "bool"]),
        ({"lengths": ["1", "2", "3"]}, TypeError, ["lengths", "integers"]),
        ({"lengths": [None, 1, 2]}, TypeError, ["lengths", "integers", "object"]),
        ({"lengths": [1, 2]}, ValueError, ["lengths", f"({N},)", "(2,)"]),
        ({"lengths": []}, ValueError, ["lengths", f"({N},)", "(0,)"]),
        ({"lengths": 3}, ValueError, ["lengths", f"({N},)", "()"]),
        ({"lengths": [[1], [2], [3]]}, ValueError, ["lengths", f"({N},)", "(3, 1)"]),
        ({"lengths": [[1], [2, 3], [3]]}, ValueError, ["lengths", "array", "unequal lengths"]),
        ({"x": x[0, :, 0], "lengths": [1] * T}, ValueError, ["x", "(N, T, D)", str((T,))]),
        ({"x": list(x), "lengths": [1, 2, 3]}, ValueError, ["lengths", "ragged list x", "its own lengths"]),
        # mask
        ({"mask": np.ones((N, T + 1), bool)}, ValueError, ["mask", str((N, T)), str((N, T + 1))]),
        ({"mask": np.ones((T, N), bool)}, ValueError, ["mask", str((N, T)), str((T, N))]),
        ({"mask": np.ones((N, T, 1), bool)}, ValueError, ["mask", str((N, T)), str((N, T, 1))]),
        ({"mask": True}, ValueError, ["mask", str((N, T)), "()"]),
        ({"mask": np.full((N, T), 2)}, ValueError, ["mask", "1 and 0", "2"]),
        ({"mask": np.full((N, T), 0.5)}, ValueError, ["mask", "1 and 0", "0.5"]),
        ({"mask": np.full((N, T), "1")}, TypeError, ["mask", "bool", "<U1"]),
        ({"mask": [[True], [True, False]]}, ValueError, ["mask", "unequal lengths"]),
        ({"x": list(x), "mask": np.ones((N, T), bool)}, ValueError, ["mask", "ragged list x", "its own lengths"]),
        (
            {"lengths": [1, 2, 3], "mask": np.ones((N, T), bool)},
            ValueError,
            ["lengths", "mask", "one of the two", "both"],
        ),
        # initial_state
        ({"initial_state": np.zeros((N, H + 1))}, ValueError, ["initial_state", str((N, H)), str((N, H + 1))]),
        ({"initial_state": np.zeros((1, N, H))}, ValueError, ["initial_state", str((N, H)), str((1, N, H))]),
        ({"initial_state": np.zeros(H)}, ValueError, ["initial_state", str((N, H)), str((H,))]),
        ({"initial_state": 0}, ValueError, ["initial_state", str((N, H)), "()"]),
        ({"initial_state": np.zeros((N, H), complex)}, TypeError, ["initial_state", "real numbers", "complex128"]),
        ({"initial_state": "zeros"}, TypeError, ["initial_state", "real numbers"]),
    ],
)
def test_call(layer, arguments, error, words, training):
    def call():
        with refused(error, *words):
            layer.forward(**{"x": x, **arguments}, training=training)
        with refused(error, *words):
            layer(**{"x": x, **arguments})

    unchanged(layer, call)


def test_call_of_a_stack(stack):
    with refused(ValueError, "initial_state", str((4, N, H)), str((N, H))):
        stack(x, initial_state=np.zeros((N, H)))
    with refused(ValueError, "initial_state", str((4, N, H)), str((2, 2, N, H))):
        stack(x, initial_state=np.zeros((2, 2, N, H)))


def test_call_time_major():
    layer = cgru.GRU(H, return_sequences=True, time_major=True, seed=1, input_size=D)
    x_t = x.swapaxes(0, 1)
    with refused(ValueError, "x", "(T, N, D)", str((T, N))):
        layer(np.ones((T, N)))
    with refused(ValueError, "x", str((T,))):
        layer(np.ones(T))
    with refused(ValueError, "mask", str((T, N)), str((N, T))):
        layer(x_t, mask=np.ones((N, T), bool))
    with refused(ValueError, "lengths", f"0 to T = {T}", str(T + 1)):
        layer(x_t, lengths=[1, T + 1, 1])
    _, _, tape = layer.forward(x_t, training=True)
    with refused(ValueError, "dy", str((T, N, H)), str((N, T, H))):
        layer.backward(np.ones((N, T, H)), tape)
    with refused(ValueError, "dy", str((T, N, H)), str((T, N))):
        layer.backward(np.ones((T, N)), tape)


@pytest.mark.parametrize("training", [1, None, "yes"])
def test_training(layer, training):
    with refused(TypeError, "training", "True or False", repr(training)):
        layer.forward(x, training=training)


def test_unknown_arguments_of_a_call(layer):
    with refused(TypeError, "sequence_lengths"):
        layer(x, sequence_lengths=[1, 2, 3])


def test_a_refused_first_call_builds_nothing():
    layer = cgru.GRU(H)
    for arguments in ({"x": x[0]}, {"x": x, "lengths": [9, 9, 9]}, {"x": x, "mask": [[True]]}, {"x": x[:, :, :0]}):
        with pytest.raises(ValueError):
            layer(**arguments)
    assert not layer.built


# ---- stateful


def test_stateful():
    layer = cgru.GRU(H, stateful=True, seed=1, input_size=D)

    def call():
        with refused(ValueError, "x", f"{N} rows", "stateful", str(N + 1), "reset_states"):
            layer(np.ones((N + 1, T, D)))
        with refused(ValueError, "lengths"):
            layer(x, lengths=[T + 1, 1, 1])
        with refused(ValueError, "states", f"(N, {H})", str((N, H + 1))):
            layer.reset_states(np.zeros((N, H + 1)))
        with refused(ValueError, "states", f"(N, {H})", str((H,))):
            layer.reset_states(np.zeros(H))
        with refused(TypeError, "states", "real numbers", "complex128"):
            layer.reset_states(np.zeros((N, H), complex))

    unchanged(layer, call)


def test_reset_states_of_a_layer_without_any(layer):
    with refused(RuntimeError, "reset_states", "stateful=True", "stateful=False"):
        layer.reset_states()


def test_reset_states_of_a_stack():
    layer = cgru.GRU(H, stateful=True, num_layers=2, input_size=D)
    with refused(ValueError, "states", f"(2, N, {H})", str((N, H))):
        layer.reset_states(np.zeros((N, H)))


# ---- backward

dy = np.ones((N, T, H), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dy": None}, ValueError, ["dy", "dh", "at least one", "None for both"]),
        ({"dy": dy[:, 0]}, ValueError, ["dy", str((N, T, H)), str((N, H))]),
        ({"dy": dy[:, 1:]}, ValueError, ["dy", str((N, T, H)), str((N, T - 1, H))]),
        ({"dy": 1.0}, ValueError, ["dy", str((N, T, H)), "()"]),
        ({"dy": dy * 1j}, TypeError, ["dy", "real numbers", "complex64"]),
        ({"dy": [dy[0], dy[1, 1:]]}, ValueError, ["dy", "unequal lengths"]),
        ({"dh": np.zeros((N, H + 1))}, ValueError, ["dh", str((N, H)), str((N, H + 1))]),
        ({"dh": np.zeros((1, N, H))}, ValueError, ["dh", str((N, H)), str((1, N, H))]),
        ({"dh": np.zeros((N, H), complex)}, TypeError, ["dh", "real numbers", "complex128"]),
        ({"tape": None}, TypeError, ["tape", "training=True", "NoneType"]),
        ({"tape": ()}, TypeError, ["tape", "training=True", "tuple"]),
        ({"need_dx": 1}, TypeError, ["need_dx", "True or False", "1"]),
        ({"need_dx": None}, TypeError, ["need_dx", "True or False", "None"]),
    ],
)
def test_backward(layer, arguments, error, words):
    def call():
        _, _, tape = layer.forward(x, training=True)
        before = layer.backward(dy, tape)
        with refused(error, *words):
            layer.backward(**{"dy": dy, "tape": tape, **arguments})
        after = layer.backward(dy, tape)
        assert np.array_equal(before[0], after[0])

    unchanged(layer, call)


def test_backward_without_return_sequences():
    layer = cgru.GRU(H, bidirectional=True, seed=1, input_size=D)
    _, _, tape = layer.forward(x, training=True)
    with refused(ValueError, "dy", str((N, 2 * H)), str((N, T, 2 * H))):
        layer.backward(np.ones((N, T, 2 * H)), tape)
    with refused(ValueError, "dy", str((N, 2 * H)), str((N, H))):
        layer.backward(np.ones((N, H)), tape)
    with refused(ValueError, "dh", str((2, N, H)), str((N, H))):
        layer.backward(None, tape, dh=np.ones((N, H)))


@pytest.mark.parametrize(
    "other",
    [
        {"units": H + 3},
        {"input_size": D + 1},
        {"num_layers": 2},
        {"num_layers": 2, "units": 2 * H},
        {"bidirectional": True},
        {"reset_after": True},
        {"dtype": "float64"},
        {"seed": 2},
    ],
)
def test_backward_with_the_tape_of_another_layer(layer, other):
    """The kernels trust the sizes on the tape."""
    other = cgru.GRU(**{"units": H, "return_sequences": True, "seed": 1, "input_size": D, **other})
    y, h, tape = other.forward(np.ones((N, T, other.input_size)), training=True)
    with refused(ValueError, "tape", "this layer", "another"):
        layer.backward(np.ones_like(y), tape)
    with refused(ValueError, "tape", "this layer", "another"):
        layer.backward(None, tape, dh=np.ones_like(h))


# ---- step

x_t, h = np.ones((N, D), np.float32), np.zeros((N, H), np.float32)


@pytest.mark.parametrize("name", ["bidirectional", "reverse", "go_backwards"])
def test_step_runs_forward_in_time_alone(name):
    layer = cgru.GRU(H, **{name: True}, input_size=D)
    with refused(ValueError, "step", "forward in time", f"{name}=True"):
        layer.step(x_t, h)


def readonly(a):
    a.flags.writeable = False
    return a


def misaligned(a):
    return np.frombuffer(bytearray(b"?" + a.tobytes()), np.uint8)[1:].view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x_t": x}, ValueError, ["x_t", "(N, D)", str(x.shape)]),
        ({"x_t": x_t[0]}, ValueError, ["x_t", "(N, D)", str((D,))]),
        ({"x_t": x_t[:, :1]}, ValueError, ["x_t", f"{D} features", "1"]),
        ({"x_t": x_t[:, :0]}, ValueError, ["x_t", "at least one feature", str((N, 0))]),
        ({"x_t": x_t * 1j}, TypeError, ["x_t", "real numbers", "complex64"]),
        ({"x_t": None}, TypeError, ["x_t", "real numbers", "NoneType"]),
        ({"x_t": [[1.0], [1.0, 2.0]]}, ValueError, ["x_t", "unequal lengths"]),
        ({"h": h[1:]}, ValueError, ["h", str((N, H)), str((N - 1, H))]),
        ({"h": h[None]}, ValueError, ["h", str((N, H)), str((1, N, H))]),
        ({"h": 0.0}, ValueError, ["h", str((N, H)), "()"]),
        ({"h": h * 1j}, TypeError, ["h", "real numbers", "complex64"]),
        ({"out": h[1:].copy()}, ValueError, ["out", str((N, H)), "float32", str((N - 1, H))]),
        ({"out": np.zeros((N, H))}, ValueError, ["out", str((N, H)), "float32", "float64"]),
        ({"out": np.zeros((N, H), ">f4")}, ValueError, ["out", "float32", ">f4"]),
        ({"out": np.zeros((N, H), np.float32, order="F")}, ValueError, ["out", "C-contiguous", str((4, 4 * N))]),
        ({"out": np.zeros((N, 2 * H), np.float32)[:, ::2]}, ValueError, ["out", "C-contiguous", str((8 * H, 8))]),
        ({"out": readonly(np.zeros((N, H), np.float32))}, ValueError, ["out", "writable"]),
        ({"out": misaligned(np.zeros((N, H), np.float32))}, ValueError, ["out", "aligned"]),
        ({"out": [[0.0] * H] * N}, TypeError, ["out", "ndarray", "list"]),
        ({"out": 0.0}, TypeError, ["out", "ndarray", "float"]),
    ],
)
def test_step(layer, arguments, error, words):
    out = np.full((N, H), 7, np.float32)
    given = arguments.get("out", out)
    before = np.array(given)

    def call():
        with refused(error, *words):
            layer.step(**{"x_t": x_t, "h": h, "out": out, **arguments})
        assert np.array_equal(np.array(given), before)

    unchanged(layer, call)


def test_step_of_one_layer_takes_no_state_of_a_stack():
    layer = cgru.GRU(H, seed=1, input_size=D)
    layer.step(x_t, h)
    with refused(ValueError, "h", str((N, H)), str((1, N, H))):
        layer.step(x_t, h[None].copy(), out=h[None].copy())


def test_step_of_a_stack():
    layer = cgru.GRU(H, num_layers=2, seed=1, input_size=D)
    with refused(ValueError, "h", str((2, N, H)), str((N, H))):
        layer.step(x_t, h)
    with refused(ValueError, "out", str((2, N, H)), str((N, H))):
        layer.step(x_t, np.zeros((2, N, H)), out=h.copy())


def test_step_of_a_stateful_layer():
    layer = cgru.GRU(H, stateful=True, seed=1, input_size=D)
    layer(x)
    with refused(ValueError, "x_t", f"{N} rows", "stateful", str(N + 1)):
        layer.step(np.ones((N + 1, D)))


# ---- threads


@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (0, ValueError, ["n", "at least 1", "0"]),
        (-2, ValueError, ["n", "at least 1", "-2"]),
        (1.0, TypeError, ["n", "integer", "1.0"]),
        ("2", TypeError, ["n", "integer", "'2'"]),
        (True, TypeError, ["n", "integer", "True"]),
    ],
)
def test_set_num_threads(n, error, words):
    before = kernels.get_num_threads()
    with refused(error, *words):
        kernels.set_num_threads(n)
    assert kernels.get_num_threads() == before


# ---- the layer protocol


def test_forward_and_backward_batch(layer):
    with refused(ValueError, "x", "(N, T, D)", str((N, D))):
        layer.forward_batch(Batch(x_t))
    with refused(ValueError, "x", f"{D} features", str(D + 1)):
        layer.forward_batch(Batch(np.ones((N, T, D + 1), np.float32)))
    with refused(TypeError, "x", "real numbers", "complex64"):
        layer.forward_batch(Batch(x * 1j))
    *_, tape = layer.forward_batch(as_batch(x), training=True)
    with refused(ValueError, "d_out", str((N, T, H)), str((N, H))):
        layer.backward_batch(dy[:, 0], None, tape)


# ---- sequences


def test_as_batch_names_its_argument():
    with refused(TypeError, "tokens", "real numbers", "complex128"):
        as_batch([1j], name="tokens")
    with refused(ValueError, "tokens", "(T, N, ...)", "(2,)"):
        as_batch([1, 2], time_major=True, name="tokens")
    with refused(ValueError, "tokens", "(N, T, ...)", "lengths or mask", "(2,)"):
        as_batch([1, 2], mask=[True, False], name="tokens")
    with refused(ValueError, "tokens[1]", "(T_i, 2)", "tokens[0]", "(3, 1)"):
        as_batch([np.zeros((1, 2)), np.zeros((3, 1))], name="tokens")
    with refused(TypeError, "tokens", "Batch"):
        as_batch(Batch(np.zeros((1, 2))), name="tokens")


def test_pad():
    with refused(ValueError, "x", "at least one sequence", "empty list"):
        pad([])
    with refused(ValueError, "x[0]", "array of time steps", "number"):
        pad([1.0, np.zeros(2)])
    with refused(ValueError, "frames[1]", "(T_i, 2)", "frames[0]", "(2, 3)"):
        pad([np.zeros((1, 2)), np.zeros((2, 3))], name="frames")
    with refused(TypeError, "x[1]", "real numbers"):
        pad([np.zeros(1), np.array(["a"])])
    with refused(ValueError, "x[0]", "unequal lengths"):
        pad([[[1.0], [1.0, 2.0]]])


# ---- kernels.gemm

a32, b32 = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"a": a32[0]}, ValueError, ["a", "two-dimensional", "(4,)"]),
        ({"b": b32[None]}, ValueError, ["b", "two-dimensional", "(1, 4, 5)"]),
        ({"a": [[1.0] * 4]}, TypeError, ["a", "ndarray", "list"]),
        ({"b": None}, TypeError, ["b", "ndarray", "NoneType"]),
        ({"a": a32.astype(float)}, TypeError, ["a", "b", "float32", "float64"]),
        ({"a": a32.astype(int), "b": b32.astype(int)}, TypeError, ["a", "b", "float32", "float64", "int64"]),
        ({"a": a32.astype(">f4"), "b": b32.astype(">f4")}, TypeError, ["a", "b", ">f4"]),
        ({"a": a32.T}, ValueError, ["a", "b", "inner sizes", "3", "4"]),
        ({"transpose_a": True}, ValueError, ["a", "b", "inner sizes", "3", "4"]),
        ({"transpose_b": True}, ValueError, ["a", "b", "inner sizes", "4", "5"]),
        ({"out": np.zeros((5, 3), np.float32)}, ValueError, ["out", "(3, 5)", "(5, 3)"]),
        ({"out": np.zeros((3, 5))}, ValueError, ["out", "float32", "float64"]),
        ({"out": np.zeros((3, 10), np.float32)[:, ::2]}, ValueError, ["out", "contiguous rows", "(40, 8)"]),
        ({"out": as_strided(np.zeros(9, np.float32), (3, 5), (8, 4))}, ValueError, ["out", "contiguous", "(8, 4)"]),
        ({"out": readonly(np.zeros((3, 5), np.float32))}, ValueError, ["out", "writable"]),
        ({"out": [[0.0] * 5] * 3}, TypeError, ["out", "ndarray", "list"]),
    ],
)  # fmt: skip
def test_gemm(arguments, error, words):
    out = arguments.get("out")
    before = None if out is None else np.array(out)
    with refused(error, *words):
        kernels.gemm(**{"a": a32, "b": b32, **arguments})
    assert out is None or np.array_equal(out, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gemm_reads_any_layout(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-3, 4, (3, 4)).astype(dtype), rng.integers(-3, 4, (4, 5)).astype(dtype)
    layouts = [
        lambda v: v,
        np.asfortranarray,
        lambda v: np.repeat(np.repeat(v, 2, axis=0), 3, axis=1)[::2, ::3],
        lambda v: np.ascontiguousarray(v[::-1])[::-1],
        lambda v: np.ascontiguousarray(v[:, ::-1])[:, ::-1],
        lambda v: readonly(v.copy()),
        lambda v: np.frombuffer(b"?" + v.tobytes(), np.uint8)[1:].view(dtype).reshape(v.shape),
    ]
    for left in layouts:
        for right in layouts:
            assert np.array_equal(kernels.gemm(left(a), right(b)), a @ b)
            assert np.array_equal(kernels.gemm(left(a.T), right(b.T), transpose_a=True, transpose_b=True), a @ b)
    column, row = as_strided(a, (3, 1), (a.strides[0], 1)), a[::-1][:1]
    assert np.array_equal(kernels.gemm(column, row), a[:, :1] @ a[-1:])
    out = np.ones((3, 7), dtype)
    assert kernels.gemm(a, b, out[:, 1:6], accumulate=True).base is out
    assert np.array_equal(out[:, 1:6], a @ b + 1) and (out[:, [0, 6]] == 1).all()
    kernels.gemm(a, b, out[::-1, 1:6])
    assert np.array_equal(out[::-1, 1:6], a @ b)
    assert not kernels.gemm(a[:, :0], b[:0]).any() and kernels.gemm(a[:0], b).shape == (0, 5)
