"""The compiled recurrence against the NumPy reference: all options and shapes, long sequences, huge strides."""

import contextlib

import checks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import kernels, recurrence, reference, scheduling

# Within these of the largest value expected, or of 1. float32 gradients: sums of up to some hundred terms.
FORWARD = {"float64": 1e-13, "float32": 2e-6}
BACKWARD = {"float64": 1e-12, "float32": 2e-5}

sizes = st.tuples(
    st.integers(0, 5) | st.sampled_from([8, 13, 29]),
    st.integers(0, 9),
    st.integers(1, 9) | st.sampled_from([32, 67]),
    st.integers(1, 19) | st.sampled_from([32, 37, 67]),
)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["all", "lengths", "mask"])
pairs = st.sampled_from([("tanh", "sigmoid")] * 3 + checks.PAIRS)
backends = st.sampled_from(["native", "native", "blas"])

# Limits so low that small batches go every way that large ones go: several blocks, by rows or by units, two threads.
low_limits = st.fixed_dictionaries(
    {
        "block_rows": st.sampled_from([64, 1, 2, 5]),
        "large_rows": st.sampled_from([512, 1, 2, 5]),
        "dx_rows": st.sampled_from([48, 1, 7]),
        "few_rows": st.sampled_from([8, 1, 3, 100]),
        "step_rows": st.sampled_from([4, 1, 100]),
        "thread_work": st.sampled_from([2_000_000, 0]),
        "small_work": st.sampled_from([90_000, 0]),
        "team_work": st.sampled_from([15_000, 0]),
        "signal_work": st.sampled_from([1_000_000_000, 1]),
        "turned_bytes": st.sampled_from([1_200_000, 0]),
    }
)


@contextlib.contextmanager
def limits(threads=None, **changes):
    """Move the limits between the ways of working (kernels.tune), and the number of threads."""
    before, threads_before = kernels.tune(measured=0, **changes), kernels.get_num_threads()
    kernels.set_num_threads(threads or threads_before)
    try:
        yield
    finally:
        kernels.tune(**before)
        kernels.set_num_threads(threads_before)


def agreement(dtype):
    """How far apart two ways through one sequence may be: not at all with the packed tile, by rounding with BLAS."""
    return 0 if cgru.get_backend() == "native" else FORWARD[dtype]


def assert_gradients_close(actual, expected, dtype):
    checks.assert_close(actual.dx, expected["dx"], BACKWARD[dtype], "dx")
    checks.assert_close(actual.dh0, expected["dh0"], BACKWARD[dtype], "dh0")
    for name in ("kernel", "recurrent_kernel", "bias"):
        checks.assert_close(getattr(actual, name), expected[name], BACKWARD[dtype], name)


def run_both(problem, options, dtype, dy=True, dh=True, backend=None, **validity):
    """Compare the functional core with the reference: outputs, final state and all gradients.

    The core's x and dy hold NaN at the steps that are not valid; its outputs go to a view inside a larger array.
    """
    n, t, _ = problem.x.shape
    units = problem.h0.shape[1]
    cell = {name: options[name] for name in ("reset_after", "activation", "recurrent_activation")}
    reverse = options["reverse"]
    p = checks.Problem(*(array.astype(dtype) for array in problem))
    exact = checks.Problem(*(array.astype("float64") for array in p))
    y, h, tape = reference.forward(*exact[:5], **cell, **validity, reverse=reverse)
    expected = reference.backward(exact.dy if dy else None, exact.dh if dh else None, tape)

    valid = checks.valid_steps(n, t, **validity)
    plan = scheduling.schedule(n, t, validity.get("lengths"), validity.get("mask"), reverse)
    weights = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, **cell, backend=backend)
    x = checks.spoiled(p.x, valid)
    canvas = np.full((t + 2, n + 1, units + 3), 7, dtype)
    y_view = canvas[1 : t + 1, :n, 2 : units + 2].swapaxes(0, 1)
    state, tape = recurrence.forward(weights, x, p.h0, plan, y_view, training=True)
    assert np.isfinite(state).all()
    checks.assert_close(state, h, FORWARD[dtype], "final state")
    checks.assert_close(np.where(valid[:, :, None], y_view, 0), y, FORWARD[dtype], "y")
    y_view[valid] = 7
    assert (canvas == 7).all(), "written outside of the valid outputs"
    gradients = recurrence.backward(checks.spoiled(p.dy, valid) if dy else None, p.dh if dh else None, tape)
    assert (gradients.dx[~valid] == 0).all()
    assert_gradients_close(gradients, expected, dtype)

    y_alone = np.zeros((n, t, units), dtype)
    state_alone, no_tape = recurrence.forward(weights, x, p.h0, plan, y_alone)
    assert no_tape is None
    checks.assert_close(state_alone, h, FORWARD[dtype], "final state without a tape")
    checks.assert_close(y_alone, y, FORWARD[dtype], "y without a tape")


options = st.fixed_dictionaries({"reset_after": st.booleans(), "reverse": st.booleans()})


@checks.examples(400)
@given(sizes=sizes, options=options, pair=pairs, kind=kinds, seed=seeds, low=low_limits, threads=st.integers(1, 2),
       backend=backends, parts=st.sampled_from(["both", "dy", "dh"]))  # fmt: skip
def test_one_cell_in_float64(sizes, options, pair, kind, seed, low, threads, backend, parts):
    rng = np.random.default_rng(seed)
    problem = checks.random_problem(rng, options["reset_after"], *pair, sizes)
    options = options | dict(zip(("activation", "recurrent_activation"), pair, strict=True))
    validity = checks.random_validity(rng, kind, *sizes[:2])
    with limits(threads, **low):
        run_both(problem, options, "float64", parts != "dh", parts != "dy", backend, **validity)


@checks.examples(200)
@given(sizes=sizes, options=options, pair=pairs, kind=kinds, seed=seeds, low=low_limits, threads=st.integers(1, 2),
       backend=backends)  # fmt: skip
def test_one_cell_in_float32(sizes, options, pair, kind, seed, low, threads, backend):
    rng = np.random.default_rng(seed)
    problem = checks.random_problem(rng, options["reset_after"], *pair, sizes)
    options = options | dict(zip(("activation", "recurrent_activation"), pair, strict=True))
    with limits(threads, **low):
        run_both(problem, options, "float32", backend=backend, **checks.random_validity(rng, kind, *sizes[:2]))


layers = st.fixed_dictionaries(
    {
        "reset_after": st.booleans(),
        "use_bias": st.booleans(),
        "return_sequences": st.booleans(),
        "num_layers": st.integers(1, 3),
        "time_major": st.booleans(),
        "zero_output_for_mask": st.booleans(),
    }
)
directions = st.one_of(
    st.sampled_from([{}, {"reverse": True}, {"go_backwards": True}]),
    st.sampled_from(["concat", "sum", "mul", "ave"]).map(lambda mode: {"bidirectional": True, "merge_mode": mode}),
)


@checks.examples(200)
@given(sizes=sizes, options=layers, direction=directions, pair=pairs, kind=kinds, seed=seeds,
       dtype=st.sampled_from(["float64", "float32"]))  # fmt: skip
def test_whole_layers(sizes, options, direction, pair, kind, seed, dtype):
    n, t, features, units = sizes
    rng = np.random.default_rng(seed)
    activations = dict(zip(("activation", "recurrent_activation"), pair, strict=True))
    layer = checks.random_layer(rng, units, input_size=features, dtype=dtype, **options, **direction, **activations)
    validity = checks.random_validity(rng, kind, n, t)
    x, h0 = (v.astype(dtype) for v in (rng.uniform(-1, 1, (n, t, features)), rng.uniform(-1, 1, layer._state_shape(n))))
    cells = h0.reshape(layer.num_layers * (1 + layer.bidirectional), n, units).astype("float64")

    def in_order(array):
        return array.swapaxes(0, 1) if options["time_major"] and array.ndim == 3 else array

    x_spoiled = checks.spoiled(x, checks.valid_steps(n, t, **validity))
    given = {k: v.T if options["time_major"] and k == "mask" else v for k, v in validity.items()}
    y, h, tape = layer.forward(in_order(x_spoiled), h0, training=True, **given)
    expected, expected_h, _ = checks.reference_layer(layer, x.astype("float64"), cells, **validity)
    checks.assert_close(in_order(y), expected, 3 * FORWARD[dtype], "y")
    checks.assert_close(h.reshape(cells.shape), expected_h, 3 * FORWARD[dtype], "h")
    if dtype == "float32" and any(name in checks.KINKS for name in pair):
        return  # a pre-activation of an upper layer may round to the other side of a kink

    dy, dh = rng.standard_normal(expected.shape).astype(dtype), rng.standard_normal(cells.shape).astype(dtype)
    _, _, gradients = checks.reference_layer(layer, x.astype("float64"), cells, dy, dh, **validity)
    dx, dh0, grads = layer.backward(in_order(dy), tape, dh.reshape(h0.shape))
    checks.assert_close(in_order(dx), gradients.pop("dx"), BACKWARD[dtype], "dx")
    checks.assert_close(dh0.reshape(cells.shape), gradients.pop("dh0"), BACKWARD[dtype], "dh0")
    assert grads.keys() == gradients.keys()
    for name, gradient in gradients.items():
        checks.assert_close(grads[name], gradient, BACKWARD[dtype], name)


@checks.examples(100)
@given(sizes=sizes, reset_after=st.booleans(), pair=pairs, layers=st.integers(1, 3), seed=seeds, cut=st.integers(0, 9),
       dtype=st.sampled_from(["float64", "float32"]))  # fmt: skip
def test_step_by_step_in_chunks_and_whole(sizes, reset_after, pair, layers, seed, cut, dtype):
    n, t, features, units = sizes
    rng = np.random.default_rng(seed)
    options = {"activation": pair[0], "recurrent_activation": pair[1], "reset_after": reset_after, "num_layers": layers}
    layer = checks.random_layer(
        rng, units, input_size=features, dtype=dtype, return_sequences=True, return_state=True, **options
    )
    x, h0 = (v.astype(dtype) for v in (rng.uniform(-1, 1, (n, t, features)), rng.uniform(-1, 1, layer._state_shape(n))))
    y, h = layer(x, initial_state=h0)
    y_first, state = layer(x[:, :cut], initial_state=h0)
    y_second, state = layer(x[:, cut:], initial_state=state)
    checks.assert_close(np.concatenate([y_first, y_second], axis=1), y, agreement(dtype), "y of chunks")
    checks.assert_close(state, h, agreement(dtype), "state after chunks")

    state, outputs = h0.copy(), []
    for step in range(t):
        if step % 2:
            assert layer.step(x[:, step], state, out=state) is state
        else:
            before = state.copy()
            after = layer.step(x[:, step], state)
            assert after is not state and (state == before).all()
            state = after
        outputs.append(state.reshape(layers, n, units)[-1].copy())
    checks.assert_close(state, h, agreement(dtype), "state after steps")
    if t:
        checks.assert_close(np.stack(outputs, axis=1), y, agreement(dtype), "y of steps")


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("n", "units"), [(1, 512), (3, 67), (17, 5)])
def test_float32_over_1000_steps(rng, n, units, reset_after):
    """Initialised weights, standard normal inputs: the outputs of every step within 2e-6 of the float64 reference."""
    features = 13
    layer = cgru.GRU(
        units, reset_after=reset_after, return_sequences=True, seed=int(rng.integers(99)), input_size=features
    )
    x = rng.standard_normal((n, 1000, features))
    x = x.astype("float32")
    y = layer(x)
    expected, _, _ = checks.reference_layer(layer, x.astype("float64"), np.zeros((1, n, units)))
    assert np.abs(y - expected).max() <= 2e-6
    if units > 100:
        return
    h, chunk, steps = np.zeros((n, units), "float32"), [], np.zeros((n, units), "float32")
    layer = layer.with_options(return_state=True)
    for start in range(0, 1000, 333):
        y_part, h = layer(x[:, start : start + 333], initial_state=h)
        chunk.append(y_part)
    for t in range(1000):
        layer.step(x[:, t], steps, out=steps)
    assert np.abs(np.concatenate(chunk, axis=1) - expected).max() <= 2e-6
    assert np.abs(steps - expected[:, -1]).max() <= 2e-6


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
@pytest.mark.parametrize("n", [5, 11])
def test_long_sequences_of_mixed_lengths(rng, n, kind, reverse, reset_after):
    """Several blocks of the size that is really used, shared by units or by rows; rows run out in every one."""
    sizes = (n, 3001, 3, 7)
    real = kernels.tune()
    assert 5 < real["few_rows"] <= 11
    problem = checks.random_problem(rng, reset_after, sizes=sizes)
    validity = checks.random_validity(rng, kind, *sizes[:2])
    if kind == "lengths":
        validity["lengths"] = np.resize([1000, 3001, 0, 2500, 3, 1700, 999], n)
    assert 2 * real["large_rows"] < checks.valid_steps(*sizes[:2], **validity).sum()
    options = {"reset_after": reset_after, "reverse": reverse, "activation": "tanh", "recurrent_activation": "sigmoid"}
    run_both(problem, options, "float64", **validity)


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("features", "units"), [(1061, 5), (3, 1061)])
def test_wide_layers(rng, features, units, reset_after):
    """Sums so long that the packed tile takes them in several pieces, in every build."""
    options = {"reset_after": reset_after, "reverse": False, "activation": "tanh", "recurrent_activation": "sigmoid"}
    run_both(checks.random_problem(rng, reset_after, sizes=(11, 2, features, units)), options, "float64")


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
def test_rows_do_not_depend_on_their_neighbours(rng, reset_after):
    """Each row of a padded batch is what it would be alone."""
    problem = checks.random_problem(rng, reset_after, sizes=(7, 11, 3, 19))
    lengths = np.array([4, 11, 1, 0, 11, 7, 2])
    weights = recurrence.prepare(*problem[1:4], reset_after=reset_after)
    whole, _ = recurrence.forward(weights, problem.x, problem.h0, scheduling.schedule(7, 11, lengths))
    for i, length in enumerate(lengths):
        alone, _ = recurrence.forward(
            weights, problem.x[i : i + 1, :length], problem.h0[i : i + 1], scheduling.schedule(1, length)
        )
        checks.assert_close(alone[0], whole[i], agreement("float64"), f"row {i}")


class TestHugeStrides:
    """More than 2^31 elements between the first and the last in use; memory is only taken where it is touched."""

    def huge(self, *shape):
        assert np.prod(shape, dtype=float) > 2**31
        try:
            return np.zeros(shape, "float32")
        except MemoryError:
            pytest.skip("no address space for 2^31 elements")

    def expected(self, problem, reset_after, mask=None):
        exact = checks.Problem(*(array.astype("float64") for array in problem))
        y, h, tape = reference.forward(*exact[:5], reset_after, mask=mask)
        return y, h, reference.backward(exact.dy, exact.dh, tape)

    @pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("axis", ["rows", "times"])
    def test_between_rows_or_times(self, rng, axis, reset_after):
        """x, y and dy are sparse views. Times far apart: several blocks whose products read x where it lies."""
        n, t, features, units = (2, 5, 3, 11) if axis == "rows" else (1, 5, 3, 11)
        problem = checks.Problem(
            *(v.astype("float32") for v in checks.random_problem(rng, reset_after, sizes=(n, t, features, units)))
        )

        def sparse(array):
            width = array.shape[-1]
            if axis == "rows":
                view = self.huge(n, 2**31 // width + t + 1, width)[:, :t]
            else:
                view = self.huge(n, t, 2**29 + 5)[:, :, :width]
            assert sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)) // 4 >= 2**31
            view[...] = array
            return view

        y_expected, h_expected, gradients = self.expected(problem, reset_after)
        weights = recurrence.prepare(*problem[1:4], reset_after=reset_after)
        x, y = sparse(problem.x), sparse(np.zeros_like(problem.dy))
        with limits(block_rows=1, large_rows=1):
            h, tape = recurrence.forward(weights, x, problem.h0, scheduling.schedule(n, t), y, training=True)
            checks.assert_close(h, h_expected, 2e-6, "h")
            checks.assert_close(y, y_expected, 2e-6, "y")
            del y
            assert_gradients_close(recurrence.backward(sparse(problem.dy), problem.dh, tape), gradients, "float32")

    @pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
    def test_far_steps_of_a_mask(self, rng, reverse):
        """x and dx of a batch with 2^31 elements, of which few steps are valid."""
        n, features, units = 2, 4099, 3
        t = 2**30 // features + 10
        steps = [[0, 5, t - 1], [1, t - 2, t - 1]]
        mask = np.zeros((n, t), bool)
        x = self.huge(n, t, features)
        problem = checks.Problem(
            *(v.astype("float32") for v in checks.random_problem(rng, True, sizes=(n, 3, features, units)))
        )
        for i, times in enumerate(steps):
            mask[i, times] = True
            x[i, times] = problem.x[i]
        order = slice(None, None, -1) if reverse else slice(None)
        compact = problem._replace(x=problem.x[:, order])
        _, h_expected, gradients = self.expected(compact._replace(dy=np.zeros_like(problem.dy)), True)
        weights = recurrence.prepare(*problem[1:4], reset_after=True)
        h, tape = recurrence.forward(
            weights, x, problem.h0, scheduling.schedule(n, t, mask=mask, reverse=reverse), training=True
        )
        checks.assert_close(h, h_expected, 2e-6, "h")
        actual = recurrence.backward(None, problem.dh, tape)
        assert actual.dx.size > 2**31
        few = np.stack([actual.dx[i, times] for i, times in enumerate(steps)])
        assert (actual.dx[:, 2:5] == 0).all() and (actual.dx[:, t - 5 : t - 2] == 0).all()
        assert_gradients_close(actual._replace(dx=few[:, order]), gradients, "float32")


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("dtype", "D", "H"), [("float32", 9, 405), ("float32", 391, 30), ("float64", 201, 217)])
def test_gradients_that_are_kept_in_panels(rng, dtype, D, H, reset_after):
    """From some hundred rows on; gates that end in narrow panels, several blocks of steps, one thread and two."""
    assert kernels.gradient_in_panels(max(D, H), np.dtype(dtype).itemsize, 0)
    p = checks.random_problem(rng, reset_after, sizes=(11, 6, D, H))
    _, _, tape = reference.forward(p.x, p.kernel, p.recurrent_kernel, p.bias, p.h0, reset_after)
    expected = reference.backward(p.dy, p.dh, tape)
    p = checks.Problem(*(array.astype(dtype) for array in p))
    weights = recurrence.prepare(p.kernel, p.recurrent_kernel, p.bias, reset_after=reset_after)
    for threads, large_rows in ((1, 512), (2, 25)):
        with limits(threads, large_rows=large_rows):
            _, tape = recurrence.forward(weights, p.x, p.h0, scheduling.schedule(11, 6), training=True)
            assert_gradients_close(recurrence.backward(p.dy, p.dh, tape), expected, dtype)
