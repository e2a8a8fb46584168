"""GRU.forward(recompute=k): gradients by tapes of few steps at a time, with the bits of one tape of all steps."""

import os
import threading

import checks
import children
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import kernels, recomputing

N, T, D, H = 3, 11, 2, 7  # distinct and odd; with `limits`, blocks of backward have two packed rows
BLOCKS = {"large_rows": 2, "block_rows": 3}


@pytest.fixture(autouse=True)
def no_least_tape(native, monkeypatch):
    monkeypatch.setattr(recomputing, "LEAST_TAPE", 0)


def pieces(tape):
    """How many of each cell."""
    return [len(cell.states) if isinstance(cell, recomputing.Outline) else 1 for cell in tape.cells]


def validity_of(rng, kind):
    if kind == "lengths":
        return {"lengths": np.array([T - 3, T, 0])}
    return {"mask": rng.random((N, T)) < 0.7} if kind == "mask" else {}


# -- the chain of trust: finite differences, the reference, then bits

KINDS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "reverse": {"return_sequences": True, "reverse": True},
    "go_backwards": {"return_sequences": True, "go_backwards": True},
    "stack": {"num_layers": 2, "return_sequences": True, "layer_norm": True},
    "both": {"bidirectional": True, "merge_mode": "mul", "learn_initial_state": True, "zero_output_for_mask": False},
}


@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", ["all", "lengths", "mask", "resets"])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_and_the_reference(rng, limits, kind, batch, reset_after):
    limits(**BLOCKS)
    layer = checks.random_layer(rng, H, dtype="float64", input_size=D, reset_after=reset_after, **KINDS[kind])
    options = validity_of(rng, batch)
    resets = rng.random((N, T)) < 0.15 if batch == "resets" else None
    x, h0 = rng.uniform(-1, 1, (N, T, D)), rng.uniform(-1, 1, layer._state_shape(N))
    y, h, tape = layer.forward(x, h0, training=True, resets=resets, recompute=3, **options)
    assert min(pieces(tape)) >= 2
    dy, dh = rng.standard_normal(y.shape), rng.standard_normal(h.shape)
    dx, dh0, grads = layer.backward(dy, tape, dh)
    before = layer.get_weights()

    cells = (len(layer._prefixes), N, H)
    theirs = [h0.reshape(cells), dy, dh.reshape(cells)]
    ref_y, ref_h, expected = checks.reference_layer(layer, x, *theirs, resets=resets, **options)
    checks.assert_close(y, ref_y, 1e-13, "y")
    checks.assert_close(h.reshape(cells), ref_h, 1e-13, "h")
    checks.assert_close(dx, expected["dx"], 1e-12, "dx")
    checks.assert_close(dh0.reshape(cells), expected["dh0"], 1e-12, "dh0")
    for name in grads:
        if name in expected:
            checks.assert_close(grads[name], expected[name], 1e-12, name)

    def loss(arrays):
        layer.set_weights([arrays[name] for name in layer.parameters])
        y, h, _ = layer.forward(arrays["x"], arrays["h0"], resets=resets, **options)
        return (dy * y).sum() + (dh * h).sum()

    arrays = {"x": x, "h0": h0} | dict(zip(layer.parameters, before, strict=True))
    checks.assert_gradients(loss, arrays, {"x": dx, "h0": dh0} | grads, rng, tolerance=1e-8, step=3e-4)


def options_of_layers():
    names = ("dropout", "recurrent_dropout", "layer_dropout", "zoneout")
    flags = ("return_sequences", "reset_after", "layer_norm", "learn_initial_state", "time_major", "use_bias")
    return st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.0, 0.3]) for name in names} | {name: st.booleans() for name in flags}
        | {
            "dtype": st.sampled_from(["float32", "float64"]),
            "num_layers": st.integers(1, 2),
            "activity_regularizer": st.sampled_from([None, None, "l2"]),
            "zero_output_for_mask": st.booleans(),
            "direction": st.sampled_from(["", "", "bidirectional", "reverse", "go_backwards"]),
            "merge_mode": st.sampled_from(["concat", "sum", "mul", "ave"]),
        }
    )  # fmt: skip


@checks.examples(300)
@given(
    sizes=st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 6), st.integers(1, 19)),
    options=options_of_layers(), kind=st.sampled_from(["all", "lengths", "mask"]), cut=st.booleans(),
    k=st.sampled_from(["auto", 1, 2, 3, 7, 20, 100]), low=st.tuples(*[st.sampled_from([1, 2, 5, 13, 512])] * 2),
    threads=st.tuples(*[st.integers(1, 3)] * 2), form=st.sampled_from(["C", "F", "strided"]),
    start=st.booleans(), given=st.sampled_from(["both", "dy", "dh"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_bits_of_one_tape(sizes, options, kind, cut, k, low, threads, form, start, given, seed):
    rng = np.random.default_rng(seed)
    (n, t, d, units), own = sizes, dict(options)
    direction = own.pop("direction")
    layer = checks.random_layer(rng, units, input_size=d, **own, **({direction: True} if direction else {}))
    x = rng.standard_normal((n, t, d)).astype(layer.dtype)
    if form == "strided":
        x = rng.standard_normal((n, 2 * t, d)).astype(layer.dtype)[:, ::2]
    elif form == "F":
        x = np.asfortranarray(x)
    fields = checks.random_validity(rng, kind, n, t)
    if cut:
        fields["resets"] = rng.random((n, t)) < 0.1
    if layer.time_major:
        x, fields = x.swapaxes(0, 1), {name: value.T for name, value in fields.items()}
    if start:
        fields["initial_state"] = rng.standard_normal(layer._state_shape(n))
    limits = {"large_rows": low[0], "block_rows": low[1], "thread_work": 1, "small_work": 1, "measured": 0}
    before, most = kernels.tune(**limits), cgru.get_num_threads()
    try:
        cgru.set_num_threads(threads[0])
        y, h, tape = layer.forward(x, training=True, seed=3, **fields)
        cgru.set_num_threads(threads[1])
        again, h_again, outline = layer.forward(x, training=True, seed=3, recompute=k, **fields)
        dy = None if given == "dh" else rng.standard_normal(y.shape).astype(layer.dtype)
        dh = None if given == "dy" else rng.standard_normal(h.shape).astype(layer.dtype)
        expected = layer.backward(dy, tape, dh)
        assert outline.penalty == tape.penalty
        checks.assert_same_arrays([again, h_again], [y, h], "outputs")
        for _ in range(2):  # the tape is only read
            checks.assert_same_arrays(layer.backward(dy, outline, dh), expected, "gradients")
        assert layer.backward(dy, outline, dh, need_dx=False)[0] is None
    finally:
        kernels.tune(**before)
        cgru.set_num_threads(most)


@pytest.mark.parametrize("rows", [1, 3, 600])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_as_they_are(rng, rows, dtype):
    """With the limits of every day, and more rows than a block has."""
    layer = checks.random_layer(rng, 33, dtype=dtype, input_size=5, return_sequences=True)
    steps = 9 if rows == 600 else 2111 // rows
    x = rng.standard_normal((rows, steps, 5)).astype(dtype)
    lengths = rng.integers(steps // 2, steps + 1, rows)
    for fields in ({}, {"lengths": lengths}):
        y, _, tape = layer.forward(x, training=True, **fields)
        expected = layer.backward(y, tape)
        for k in (1, 4, 513, "auto"):
            _, _, outline = layer.forward(x, training=True, recompute=k, **fields)
            assert k == 513 or pieces(outline)[0] > 1
            checks.assert_same_arrays(layer.backward(y, outline), expected, f"k={k}")


def test_pieces_are_whole_blocks_from_the_end(rng, limits):
    limits(large_rows=6)
    layer = checks.random_layer(rng, H, input_size=D)
    x = rng.standard_normal((2, 20, D))
    assert layer.forward(x, training=True, recompute=4)[2].cells[0].starts == [0, 2, 8, 14, 20]
    assert layer.forward(x, training=True, recompute=1)[2].cells[0].starts == [0, 2, 5, 8, 11, 14, 17, 20]
    assert layer.forward(x, training=True, recompute="auto")[2].cells[0].starts == [0, 2, 8, 14, 20]  # the root is 5
    ragged = layer.forward(x, lengths=[20, 12], training=True, recompute=5)[2].cells[0].starts
    assert ragged == [0, 4, 10, 20]  # blocks start at 14, 10 (2 steps of one row, 2 of both), 7, 4, 1 and 0
    for k in (18, 20, 21, 10**9):
        whole = layer.forward(x, training=True, recompute=k)[2]
        assert pieces(whole) == [1 if k >= 20 else 2]


@pytest.mark.parametrize(("recompute", "rows"), [(1, 10), (40, 40), ("auto", 30)])
def test_segments_take_the_memory_of_steps(rng, limits, recompute, rows):
    """Resets cut the end of a row into short segments, which take their few steps side by side: at first ten of them in
    one step. The states that are kept are those of segments that go on."""
    limits(large_rows=2)
    layer = checks.random_layer(rng, H, input_size=D)
    resets = np.zeros((1, 180), bool)
    resets[:, 90::10] = True
    _, _, tape = layer.forward(rng.standard_normal((1, 180, D)), training=True, resets=resets, recompute=recompute)
    [cell] = tape.cells
    found = np.diff(cell.plan.plan.offsets[cell.starts])
    assert found.max() < rows + 10
    assert [len(states) for states in cell.states] == [10 if start < 10 else 1 for start in cell.starts[:-1]]


def test_few_steps_of_small_layers_count_as_a_tape_of_some_size(rng, limits, monkeypatch):
    limits(large_rows=6)
    layer = checks.random_layer(rng, H, input_size=D)
    x = rng.standard_normal((2, 200, D))
    [cell] = layer.forward(x, training=True)[2].cells
    monkeypatch.setattr(recomputing, "LEAST_TAPE", 50 * 2 * (cell.gates[0].nbytes + cell.states[0].nbytes))
    for k in ("auto", 1):
        assert layer.forward(x, training=True, recompute=k)[2].cells[0].starts == [0, 47, 98, 149, 200]
    assert layer.forward(x, training=True, recompute=99)[2].cells[0].starts == [0, 2, 101, 200]
    assert layer.forward(x[:, :50], training=True, recompute="auto")[2].cells[0].gates.shape[0] == 100


def test_integers_of_numpy_count(rng, limits):
    limits(**BLOCKS)
    layer = checks.random_layer(rng, H, input_size=D)
    x = rng.standard_normal((N, T, D))
    _, _, tape = layer.forward(x, training=True, recompute=np.int32(5))
    assert tape.cells[0].starts == layer.forward(x, training=True, recompute=5)[2].cells[0].starts


# -- what it is for

GROWTH = """
import re
import numpy as np
import cgru

def peak():  # of this program: getrusage counts what its parent had when it was started, too
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])

T, H = 200_000, 128
layer = cgru.GRU(H, input_size=4, seed=0)
x = np.zeros((1, T, 4), np.float32)
layer.backward(*layer.forward(x[:, :100], training=True)[::2])
before = peak()
y, h, tape = layer.forward(x, training=True, recompute="auto")
layer.backward(y, tape)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell the peak of memory")
def test_a_long_sequence_takes_little_memory():
    """The tape alone is 400 MB."""
    assert int(children.printed("-c", GROWTH)) < 40 * 1024


# -- beside what else there is


def test_the_blas_backend(rng, limits):
    limits(**BLOCKS, blas_rows=4)
    layer = checks.random_layer(rng, H, dtype="float64", input_size=D, return_sequences=True)
    x = rng.standard_normal((N, T, D))
    with cgru.backend("blas"):
        y, _, tape = layer.forward(x, training=True)
        _, _, outline = layer.forward(x, training=True, recompute=2)
        assert pieces(outline)[0] > 2
        expected, found = layer.backward(y, tape), layer.backward(y, outline)
    for one, other in zip(checks.arrays_in(found), checks.arrays_in(expected), strict=True):
        checks.assert_close(one, other, 1e-12)


def test_a_stateful_layer_goes_on(rng, limits):
    limits(**BLOCKS)
    x = rng.standard_normal((N, 2 * T, D))
    layer = checks.random_layer(rng, H, input_size=D, stateful=True, return_sequences=True)
    other = layer.with_options(stateful=True)
    for part in (x[:, :T], x[:, T:]):
        y, h, tape = layer.forward(part, training=True)
        again, h_again, outline = other.forward(part, training=True, recompute=2)
        checks.assert_same_arrays([again, h_again], [y, h])
        checks.assert_same_arrays(other.backward(y, outline), layer.backward(y, tape))


def test_threads_share_a_layer(rng, limits):
    limits(**BLOCKS)
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True, zoneout=0.2)
    xs = rng.standard_normal((4, N, T, D))
    expected = [layer.backward(*layer.forward(x, training=True, seed=i)[::2]) for i, x in enumerate(xs)]
    found = {}

    def work(i):
        for _ in range(20):
            found[i] = layer.backward(*layer.forward(xs[i], training=True, seed=i, recompute=2)[::2])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        checks.assert_same_arrays(found[i], expected[i])


@pytest.mark.parametrize("at", [1, 2, 5, 6])
def test_an_interrupt_leaves_everything_as_it_was(rng, limits, monkeypatch, at):
    limits(**BLOCKS)
    layer = checks.random_layer(rng, H, input_size=D, return_sequences=True, stateful=True)
    x = rng.standard_normal((N, T, D))
    y, _, tape = layer.forward(x, training=True, recompute=2)
    expected, weights = layer.backward(y, tape), layer.get_weights()
    state, kept = layer._state.copy(), [array.copy() for array in checks.arrays_in(tape)]
    run_calls, count = kernels.run_calls, [0]

    def interrupted(calls, threads):
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        run_calls(calls, threads)

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "run_calls", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer.backward(y, tape)
        count[0] = 0
        with pytest.raises(KeyboardInterrupt):
            layer.forward(x, training=True, recompute=2)
    checks.assert_same_arrays([layer.get_weights(), layer._state], [weights, state])
    checks.assert_same_arrays(tape, kept)
    checks.assert_same_arrays(layer.backward(y, tape), expected)


# -- bad input


@pytest.mark.parametrize("wrong", [0, -1, "many", True, False, 2.0, np.float64(3), np.nan, [4], np.array([4, 4])])
def test_what_recompute_may_not_be(rng, wrong):
    layer = cgru.GRU(H, stateful=True)
    with pytest.raises((TypeError, ValueError), match="recompute: expected a number of steps, at least 1, 'auto' or"):
        layer.forward(rng.standard_normal((N, T, D)), training=True, recompute=wrong)
    assert not layer.built and layer._state is None


def test_auto_in_any_case(rng):
    layer, x = cgru.GRU(H, seed=0), rng.standard_normal((N, T, D))
    for auto in ("auto", "AUTO", np.str_("Auto")):
        y, _, tape = layer.forward(x, training=True, recompute=auto)
        checks.assert_same_arrays(y, layer(x))
        checks.assert_same_arrays(layer.backward(y, tape)[0], layer.backward(y, layer.forward(x, training=True)[2])[0])


def test_recompute_without_training(rng):
    layer = cgru.GRU(H)
    for recompute in (5, "auto"):
        with pytest.raises(ValueError, match=f"recompute: expected None beside training=False.* got {recompute!r}"):
            layer.forward(rng.standard_normal((N, T, D)), recompute=recompute)
    assert not layer.built
