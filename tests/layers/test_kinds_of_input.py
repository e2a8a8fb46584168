"""What people pass as sequences: data frames, nested lists, object arrays, masked arrays, masks of 0 and 1, read-only
and masked views. It is taken where it can mean one thing only, else the message says what to write."""

import decimal
import fractions

import checks
import numpy as np
import pytest

import cgru
from cgru.sequences import as_batch

D, H, T = 3, 4, 5
LENGTHS = [5, 2, 3]


class Frame:
    """What is asked of a data frame: an array, and columns."""

    def __init__(self, array, columns=("a", "b", "c")):
        self.array, self.columns = array, columns

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


@pytest.fixture
def layer(rng):
    return checks.random_layer(rng, H, return_sequences=True, seed=1, input_size=D)


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, T, D)).astype("float32")


def object_array(sequences):
    array = np.empty(len(sequences), object)
    array[:] = sequences
    return array


def frames(sequences):
    pandas = pytest.importorskip("pandas")
    return [pandas.DataFrame(s, columns=["a", "b", "c"], index=range(10, 10 + len(s))) for s in sequences]


KINDS = {
    "nested lists": lambda s: [a.tolist() for a in s],
    "tuples": lambda s: tuple(tuple(map(tuple, a)) for a in s),
    "lists and arrays": lambda s: [s[0], *(a.tolist() for a in s[1:])],
    "lists of rows": lambda s: [list(a) for a in s],
    "duck-typed frames": lambda s: [Frame(a) for a in s],
    "object array of arrays": object_array,
    "object array of lists": lambda s: object_array([a.tolist() for a in s]),
    "arrays of objects": lambda s: [a.astype(object) for a in s],
    "masked arrays without a mask": lambda s: [np.ma.array(a) for a in s],
    "data frames": frames,
    "object array of frames": lambda s: object_array(frames(s)),
    "mixed columns": lambda s: [frame.astype({"b": object}) for frame in frames(s)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [LENGTHS, [T] * 3])
def test_sequences_of_every_kind(layer, x, kind, lengths):
    if kind == "arrays of objects":
        x = (x * 8).round()  # exact in decimals as well
    given = KINDS[kind]([row[:n] for row, n in zip(x, lengths, strict=True)])
    y = layer(given)
    np.testing.assert_array_equal(y[:, : max(lengths)], layer(x, lengths=lengths)[:, : max(lengths)])


def test_an_empty_list_is_a_sequence_without_steps(layer, x):
    np.testing.assert_array_equal(layer([x[0].tolist(), []]), layer(x[:2], lengths=[T, 0]))
    np.testing.assert_array_equal(layer([[], x[0].tolist()]), layer(x[[1, 0]], lengths=[0, T]))
    ids = as_batch([[3, 1], [], [2]])
    assert ids.data.dtype.kind == "i"
    np.testing.assert_array_equal(ids.data, [[3, 1], [0, 0], [2, 0]])


@pytest.mark.parametrize("number", [int, float, bool, np.float16, np.int8, decimal.Decimal, fractions.Fraction])
def test_objects_that_are_numbers(layer, number):
    x = np.arange(2 * T * D).reshape(2, T, D) % 2
    given = np.empty(x.shape, object)
    given.flat = [number(int(v)) for v in x.flat]
    np.testing.assert_array_equal(layer(given), layer(x))


def test_frames_whose_columns_differ_are_refused(layer, x):
    given = [Frame(x[0]), x[1], Frame(x[2], ("a", "c", "b"))]
    with pytest.raises(ValueError, match=r"^x\[2\]: expected the columns \['a', 'b', 'c'\], as x\[0\], got \['a', 'c'"):
        layer(given)


def test_one_frame_and_states_of_other_kinds(layer, x):
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(layer([pandas.DataFrame(x[0])]), layer(x[:1]))
    h = np.ones((1, H))
    step = layer.step(pandas.DataFrame(x[0, :1]), pandas.DataFrame(h))
    np.testing.assert_array_equal(step, layer.step(x[0, :1], h.astype("float32")))
    np.testing.assert_array_equal(layer(x[:1], initial_state=h.astype(object)), layer(x[:1], initial_state=h))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[[1, 2, 3]], 7], ValueError, "^x: expected an array or list of arrays, got nested lists of unequal lengths"),
        ([np.ones((2, 3)), None], ValueError, "^x: expected an array or list of arrays, got a list with None in it"),
        ([np.ones((2, 3)), "b"], ValueError, "^x: expected an array or list of arrays, got a list with 'b' in it"),
        (None, TypeError, "^x: expected real numbers, got NoneType$"),
        ({"x": [[1.0]]}, TypeError, "^x: expected real numbers, got dict$"),
        ((row for row in np.ones((2, 2, 3))), TypeError, "^x: expected real numbers, got generator$"),
        ([[[1, 2, 3]], [[1, 2], [3]]], ValueError, r"^x\[1\]: expected an array"),
        ([[[1, 2, 3]], [[1, 2]] * 2], ValueError, r"^x\[1\]: expected shape \(T_i, 3\) as x\[0\], got \(2, 2\)"),
        ([[["a", "b", "c"]], [["d", "e", "f"]] * 2], TypeError, r"^x\[0\]: expected real numbers, got dtype <U1"),
        ([[[1, 2, None]]], TypeError, r"^x: expected real numbers, got dtype object"),
        (object_array([np.ones((2, 3)), np.ones((2, 2))]), ValueError, r"^x\[1\]: expected shape \(T_i, 3\)"),
        (object_array([np.ones((2, 3)), "text"]), ValueError, "^x: expected an array or list of arrays"),
    ],
)
def test_what_cannot_be_told_is_refused(layer, x, error, message):
    with pytest.raises(error, match=message):
        layer(x)


# -- masks


@pytest.mark.parametrize("kind", [bool, int, float, "float32", "uint8", object, list])
@pytest.mark.parametrize("time_major", [False, True])
def test_masks_of_0_and_1(layer, x, kind, time_major):
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    expected = layer(x, mask=mask == 1)
    if time_major:
        layer = layer.with_options(time_major=True)
        x, mask, expected = (array.swapaxes(0, 1) for array in (x, mask, expected))
    given = mask.tolist() if kind is list else mask.astype(kind)
    np.testing.assert_array_equal(layer(x, mask=given), expected)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2, ValueError, "^mask: expected True and False, or 1 and 0, got 2"),
        (-1, ValueError, "^mask: .* got -1"),
        (0.5, ValueError, "^mask: .* got 0.5"),
        (np.nan, ValueError, "^mask: .* got nan"),
        ("1", TypeError, "^mask: expected dtype bool, got <U1"),
        (None, TypeError, "^mask: expected dtype bool, got object"),
    ],
)
def test_other_masks_are_refused(layer, x, value, error, message):
    with pytest.raises(error, match=message):
        layer(x, mask=np.full((3, T), value))


# -- masked arrays


@pytest.mark.parametrize("time_major", [False, True])
def test_a_masked_array_that_hides_whole_steps_brings_its_mask(layer, x, time_major):
    hidden = np.arange(T) >= np.array(LENGTHS)[:, None]
    hidden[0, 1] = True  # a hole
    data = np.ma.array(np.where(hidden[..., None], np.nan, x), mask=np.repeat(hidden[..., None], D, axis=-1))
    expected = layer(x, mask=~hidden)
    if time_major:
        layer, data, expected = layer.with_options(time_major=True), data.swapaxes(0, 1), expected.swapaxes(0, 1)
    np.testing.assert_array_equal(layer(data), expected)
    assert isinstance(data, np.ma.MaskedArray)


def test_a_masked_array_without_masked_values_is_an_array(layer, x):
    np.testing.assert_array_equal(layer(np.ma.array(x)), layer(x))
    np.testing.assert_array_equal(layer(np.ma.array(x), lengths=LENGTHS), layer(x, lengths=LENGTHS))


def test_other_masked_arrays_are_refused(layer, x):
    single = np.ma.array(x, mask=np.zeros_like(x, bool))
    single[0, 1, 2] = np.ma.masked
    steps = np.ma.array(x, mask=np.zeros_like(x, bool))
    steps[:, 3:] = np.ma.masked
    h = np.ma.array(np.zeros((3, H), "float32"), mask=False)
    h[1, 1] = np.ma.masked
    with pytest.raises(ValueError, match=r"^x: .* hides single features; .*x\.filled\(0\).*mask=~x\.mask\.any"):
        layer(single)
    for extra in ({"lengths": LENGTHS}, {"mask": np.ones((3, T), bool)}):
        with pytest.raises(ValueError, match=r"^lengths, mask: the masked array x brings its own mask"):
            layer(steps, **extra)
    with pytest.raises(ValueError, match=r"^x\[0\]: expected no masked values, got 1; x\[0\]\.filled"):
        layer(list(single))
    for call in (
        lambda: layer(x, initial_state=h),
        lambda: layer.forward(x, initial_state=h),
        lambda: cgru.GRU(H, seed=1, input_size=D)(x, initial_state=h),
    ):
        with pytest.raises(ValueError, match=r"^initial_state: expected no masked values, got 1"):
            call()
    with pytest.raises(ValueError, match=r"^h: expected no masked values"):
        layer.step(x[:, 0], h)
    with pytest.raises(ValueError, match=r"^x_t: expected no masked values"):
        layer.step(single[0, :3], h.data)
    with pytest.raises(ValueError, match=r"^mask: expected no masked values"):
        layer(x, mask=np.ma.array(np.ones((3, T), bool), mask=steps.mask[..., 0]))
    with pytest.raises(ValueError, match=r"^lengths: expected no masked values"):
        layer(x, lengths=np.ma.array([1, 2, 3], mask=[0, 0, 1]))
    _, _, tape = layer.forward(x, training=True)
    with pytest.raises(ValueError, match=r"^dy: expected no masked values"):
        layer.backward(np.ma.array(np.ones((3, T, H)), mask=np.ones((3, T, H), bool)), tape)
    weights = layer.get_weights()
    with pytest.raises(ValueError, match=r"^kernel: expected no masked values"):
        layer.set_weights([np.ma.masked_less(weights[0], 0), *weights[1:]])
    with pytest.raises(ValueError, match=r"^x: expected no masked values.*mask=~x\.mask"):
        cgru.Sequential([cgru.Embedding(9, 2)]).predict(np.ma.masked_equal(np.arange(6).reshape(2, 3), 5))


# -- habits of others


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cgru.GRU(12, 64), r"PyTorch's GRU\(12, 64\) is GRU\(64, input_size=12\) here"),
        (lambda: cgru.GRU(12, np.int64(64), num_layers=2), r"GRU\(64, input_size=12\) here"),
        (lambda: cgru.Dense(64, 10), r"PyTorch's Linear\(64, 10\) is Dense\(10\) here"),
    ],
)
def test_arguments_in_the_order_of_pytorch(make, message):
    with pytest.raises(TypeError, match=f"^activation: expected a name, got .*{message}"):
        make()


def test_options_behind_the_activation_are_given_by_name():
    for call in (
        lambda: cgru.GRU(4, "tanh", "sigmoid"),
        lambda: cgru.GRU(12, 64, 2),
        lambda: cgru.Dense(4, "tanh", False),
        lambda: cgru.Embedding(4, 3, "uniform"),
        lambda: cgru.Dropout(0.5, 7),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            call()


@pytest.mark.parametrize(
    "write", [str.upper, str.title, lambda s: s.title().replace("_", ""), lambda s: s.replace("_", "-")]
)
def test_names_in_any_case(write):
    layer = cgru.GRU(
        4,
        write("relu"),
        recurrent_activation=write("hard_sigmoid_keras2"),
        kernel_initializer=write("glorot_uniform"),
        bidirectional=True,
        merge_mode=write("ave"),
        dtype=write("float32"),
    )
    config = layer.get_config()
    assert config["activation"] == "relu" and config["recurrent_activation"] == "hard_sigmoid_keras2"
    assert config["kernel_initializer"] == "glorot_uniform" and config["merge_mode"] == "ave"
    assert config["dtype"] == "float32"
    model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, write("softmax"))])
    model.compile(write("adam"), write("sparse_categorical_crossentropy"), metrics=[write("accuracy")])
    model.fit(np.ones((2, 3, 1)), [0, 1], verbose=0)
