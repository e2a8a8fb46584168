"""What the converters share: gate blocks, biases, arrays under names, and layers of cells."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import cells
from cgru.convert.arrays import Arrays, as_weight
from cgru.convert.cells import Cell

D, H = checks.D, checks.H


def random_cell(rng, inputs=D, units=H, reset_after=True, bias=True, h0=False, dtype="float64"):
    parts = checks.random_parameters(rng, inputs, units, reset_after)
    kernel, recurrent_kernel, b = (part.astype(dtype) for part in parts)
    return Cell(kernel, recurrent_kernel, b if bias else None, rng.uniform(-1, 1, units).astype(dtype) if h0 else None)


# -- gates


def test_reorder_moves_blocks_and_changes_signs():
    columns = np.array([[1.0, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    np.testing.assert_array_equal(
        cells.canonical(columns, "zrn"), [[3, 4, -1, -2, 5, 6], [9, 10, -7, -8, 11, 12]]
    )
    np.testing.assert_array_equal(cells.canonical(columns[0], "nzr", "new"), [5, 6, 3, 4, 1, 2])
    np.testing.assert_array_equal(cells.reorder(columns[0], "rzn", "nz"), [5, 6, 3, 4])


@pytest.mark.parametrize("z_weighs", ["old", "new"])
@pytest.mark.parametrize("order", ["rzn", "zrn", "nzr"])
def test_foreign_is_the_inverse_to_the_bit(rng, order, z_weighs):
    columns = rng.standard_normal((D, 3 * H)).astype("float32")
    columns[0, ::2] = -0.0
    back = cells.foreign(cells.canonical(columns, order, z_weighs), order, z_weighs)
    assert back.tobytes() == columns.tobytes() and back.dtype == columns.dtype


def test_z_of_the_old_state_is_one_minus_z_of_the_new(rng):
    """The rule itself, on one step in plain NumPy."""
    a = rng.standard_normal(50)
    for name in cells.FLIPPABLE:
        f = cgru.reference.ACTIVATIONS[name][0]
        np.testing.assert_allclose(1 - f(3 * a), f(-3 * a), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["tanh", "relu", "linear"])
def test_other_gates_are_not_flippable(name):
    f = cgru.reference.ACTIVATIONS[name][0]
    assert abs(1 - f(np.array(0.7)) - f(np.array(-0.7))) > 0.1
    with pytest.raises(ValueError, match=rf"^Keras: .*recurrent_activation='{name}'.*sigmoid, hard_sigmoid"):
        cells.require_flippable(name, "Keras")
    for flippable in cells.FLIPPABLE:
        cells.require_flippable(flippable, "Keras")


# -- biases


def test_sums_keep_the_bits_where_the_other_is_zero(rng):
    b = rng.standard_normal(6)
    b[2] = -0.0
    assert cells.add_biases(b, np.zeros(6)).tobytes() == b.tobytes()
    np.testing.assert_array_equal(cells.add_biases(b, b), b + b)


def test_four_biases_and_back(rng):
    bias = rng.standard_normal((2, 3 * H))
    sums, b_hn = cells.four_biases(bias)
    np.testing.assert_array_equal(sums[: 2 * H], bias[0, : 2 * H] + bias[1, : 2 * H])
    np.testing.assert_array_equal(sums[2 * H :], bias[0, 2 * H :])
    np.testing.assert_array_equal(b_hn, bias[1, 2 * H :])
    again = cells.from_four_biases(sums, b_hn)
    np.testing.assert_array_equal(again, [sums, np.concatenate([np.zeros(2 * H), b_hn])])
    for old, new in zip((sums, b_hn), cells.four_biases(again), strict=True):
        assert old.tobytes() == new.tobytes()


# -- arrays under names


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.ones(3, "float16"), "float32"), (np.ones(3, "float32"), "float32"), (np.ones(3, ">f8"), "float64"),
     ([1.0, 2.0], "float64")],
)  # fmt: skip
def test_types_are_kept_and_half_widens(value, dtype):
    array = as_weight(value, "w")
    assert array.dtype == dtype and array.dtype.isnative
    np.testing.assert_array_equal(array, np.asarray(value, "float64"))


@pytest.mark.parametrize("value", [np.ones(3, int), np.ones(3, "int8"), np.ones(3, complex), "weights", None, object()])
def test_what_is_no_weight_is_named(value):
    with pytest.raises(TypeError, match=r"^weight_ih_l0: expected floating-point numbers, got"):
        as_weight(value, "weight_ih_l0")


def test_shapes_are_found_and_checked_under_the_names():
    arrays = Arrays({"w": np.ones((15, 7)), "u": np.ones((15, 5)), "b": np.ones(14), "c": None}, "state_dict")
    arrays.take("w", "3H D")
    assert arrays.sizes == {"H": 5, "D": 7}
    assert arrays.take("u", "3H H").shape == (15, 5) and "u" in arrays and "v" not in arrays
    assert arrays.take_if_there("c", "3H") is None and arrays.take_if_there("v", "3H") is None
    with pytest.raises(ValueError, match=r"^b: expected shape \(3H,\) = \(15,\), got \(14,\)"):
        arrays.take("b", "3H")
    with pytest.raises(ValueError, match=r"^w: expected shape \(D\+H, 2H\) = \(12, 10\), got \(15, 7\)"):
        arrays.take("w", "D+H 2H")
    with pytest.raises(ValueError, match=r"^w: expected shape \(3H, D, 2\)"):
        arrays.take("w", "3H D 2")
    with pytest.raises(ValueError, match=r"^state_dict: expected an array 'weight_hh_l0', got w, u, b, c$"):
        arrays.take("weight_hh_l0", "3H H")


def test_a_size_is_found_from_a_sum():
    arrays = Arrays({"gates": np.ones((12, 10)), "square": np.ones((2, 3))}, "weights")
    arrays.take("gates", "D+H 2H") if "H" in arrays.sizes else arrays.sizes.update(H=5)
    arrays.take("gates", "D+H 2H")
    assert arrays.sizes == {"H": 5, "D": 7}
    for shape in ("K K", "2K K", "K", "2 2K", "D+H 3", "0 3"):
        with pytest.raises(ValueError, match=r"^square: expected shape"):
            Arrays(arrays.arrays, "weights").take("square", shape)
    with pytest.raises(ValueError, match=r"^empty: expected shape \(3H,\), got \(0,\)"):
        Arrays({"empty": np.ones(0)}, "weights").take("empty", "3H")


def test_arrays_that_nobody_takes_are_refused():
    arrays = Arrays({"w": np.ones(3), "weight_hr_l0": np.ones(3)}, "state_dict")
    arrays.take("w", "3")
    with pytest.raises(ValueError, match=r"^state_dict: expected w and no others, got 'weight_hr_l0' as well"):
        arrays.finish()
    arrays.take("weight_hr_l0", "3")
    arrays.finish()


def test_something_that_is_no_mapping():
    with pytest.raises(TypeError, match=r"^state_dict: expected a mapping of names to arrays, got ndarray"):
        Arrays(np.ones(3), "state_dict")


# -- layers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_a_layer_of_cells_and_back(rng, layers, directions, reset_after, dtype):
    given = [
        random_cell(rng, D if i < directions else directions * H, H, reset_after, h0=True, dtype=dtype)
        for i in range(layers * directions)
    ]
    layer = cells.layer_of(given, reset_after=reset_after, directions=directions)
    assert isinstance(layer, cgru.GRU) and layer.built and layer.return_sequences and layer.return_state
    assert layer.dtype == dtype and layer.learn_initial_state and layer.num_layers == layers
    checks.assert_same_arrays(cells.cells_of(layer), given)


def test_without_biases_and_initial_states(rng):
    given = [random_cell(rng, bias=False)]
    layer = cells.layer_of(given, reset_after=True, reverse=True, activation="relu")
    assert not layer.use_bias and not layer.learn_initial_state and layer.reverse and layer.activation == "relu"
    (back,) = cells.cells_of(layer)
    assert back.bias is None and back.initial_state is None


@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"reverse": True}], ids=str)
def test_unequal_cells_become_a_sequential(rng, options):
    given = [random_cell(rng, D, 5), random_cell(rng, 5, 3), random_cell(rng, 3, 3, bias=False)]
    model = cells.layer_of(given, reset_after=True, **options)
    assert isinstance(model, cgru.Sequential) and [layer.units for layer in model.layers] == [5, 3, 3]
    assert [layer.go_backwards for layer in model.layers] == [bool(options.get("go_backwards")), False, False]
    assert all(layer.reverse == bool(options.get("reverse")) for layer in model.layers)
    x = rng.uniform(-1, 1, (4, 6, D))
    expected = x
    for cell in given:
        y, _, _ = cgru.reference.forward(
            expected if cell.input_size != D or not options.get("go_backwards") else expected[:, ::-1],
            cell.kernel, cell.recurrent_kernel, np.zeros((2, 3 * cell.units)) if cell.bias is None else cell.bias,
            np.zeros((4, cell.units)), reset_after=True, reverse=bool(options.get("reverse")),
        )  # fmt: skip
        expected = y
    checks.assert_close(model.predict(x), expected, 1e-13)
    checks.assert_same_arrays([cells.cells_of(layer) for layer in cells.gru_layers(model)], [tuple(c) for c in given])


def test_some_learned_initial_states(rng):
    given = [random_cell(rng, D, H), random_cell(rng, H, H, h0=True)]
    model = cells.layer_of(given, reset_after=True)
    assert [layer.learn_initial_state for layer in model.layers] == [False, True]
    options = [{"activation": "relu"}, {"activation": "tanh"}]
    model = cells.layer_of(given[:1] + [given[1]._replace(initial_state=None)], reset_after=True, each=options)
    assert [layer.activation for layer in model.layers] == ["relu", "tanh"]


def test_layers_that_do_not_fit_one_another(rng):
    with pytest.raises(ValueError, match=r"^layer 1: expected a kernel for 7 features, got one for 5"):
        cells.layer_of([random_cell(rng, D, H), random_cell(rng, 5, H)], reset_after=True)
    with pytest.raises(ValueError, match=r"^layer 1: expected a kernel for 7 features, got one for 5"):
        cells.layer_of([random_cell(rng, D, H), random_cell(rng, 5, 3)], reset_after=True)


def test_only_built_layers_have_cells():
    with pytest.raises(RuntimeError, match=r"^layer: expected one with parameters"):
        cells.cells_of(cgru.GRU(3))
    for wrong in (cgru.Dense(3), cgru.Sequential([cgru.GRU(3, input_size=2), cgru.Dense(3)]), None):
        with pytest.raises(TypeError, match=r"^layer: expected a cgru.GRU or a Sequential of them, got"):
            cells.gru_layers(wrong)


def test_refusals_name_the_reason_and_the_nearest_thing(rng):
    with pytest.raises(ValueError, match=r"^PyTorch: cannot convert reset_after=False exactly: .*\. Use Keras$"):
        cells.require_reset(False, True, "PyTorch", "Use Keras")
    cells.require_reset(True, True, "PyTorch", "Use Keras")
    layer = cgru.GRU(3, activation="relu", input_size=2)
    with pytest.raises(ValueError, match=r"^PyTorch: cannot convert activation='relu' exactly"):
        cells.require_activations(layer, "tanh", "sigmoid", "PyTorch")
    cells.require_activations(layer, "relu", "sigmoid", "PyTorch")
    cell = random_cell(rng, h0=True)
    with pytest.raises(ValueError, match=r"^Keras: cannot convert a learned initial state"):
        cells.require_no_initial_state([cell], "Keras", "Pass it")
    cells.require_no_initial_state([cell._replace(initial_state=np.zeros(H))], "Keras", "Pass it")
