"""A GRU as an object: its parameters, seeds, configuration and copies; many threads at once; fork and Ctrl-C."""

import copy
import functools
import json
import os
import pickle
import signal
import sys
import textwrap
import threading

import children
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import cgru
from cgru import kernels

N, T, D, H = 3, 6, 2, 4
x = np.random.default_rng(0).standard_normal((N, T, D)).astype(np.float32)

OPTIONS = [
    {},
    {"reset_after": True, "dtype": "float64", "return_sequences": True},
    {"num_layers": 2, "bidirectional": True, "merge_mode": "mul"},
    {"num_layers": 2, "learn_initial_state": True, "use_bias": False},
]
every_layer = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")


def gru(**options):
    return cgru.GRU(**{"units": H, "seed": 7, "input_size": D, **options})


def randomised(layer, seed=1):
    """Random values for every parameter, biases and initial states included."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.5, w.shape).astype(layer.dtype) for w in layer.get_weights()]


def same_weights(a, b):
    return all(v.dtype == w.dtype and np.array_equal(v, w) for v, w in zip(a, b, strict=True))


# ---- parameters


def test_names_and_shapes():
    assert {k: v.shape for k, v in gru().parameters.items()} == {
        "kernel": (D, 3 * H),
        "recurrent_kernel": (H, 3 * H),
        "bias": (3 * H,),
    }
    layer = gru(num_layers=2, bidirectional=True, reset_after=True, learn_initial_state=True)
    shapes = {k: v.shape for k, v in layer.parameters.items()}
    names = ["kernel", "recurrent_kernel", "bias", "initial_state"]
    cells = ["l0.forward", "l0.backward", "l1.forward", "l1.backward"]
    assert list(shapes) == [f"{cell}.{name}" for cell in cells for name in names]
    assert shapes["l0.backward.kernel"] == (D, 3 * H) and shapes["l1.forward.kernel"] == (2 * H, 3 * H)
    assert shapes["l1.backward.bias"] == (2, 3 * H) and shapes["l1.backward.initial_state"] == (H,)
    summed = gru(num_layers=2, bidirectional=True, merge_mode="sum", use_bias=False)
    assert summed.parameters["l1.forward.kernel"].shape == (H, 3 * H)
    assert "l0.forward.bias" not in summed.parameters


def test_built_at_the_first_call_or_before():
    layer = cgru.GRU(H)
    assert not layer.built and layer.input_size is None
    layer(x)
    assert layer.built and layer.input_size == D
    step = cgru.GRU(H)
    step.step(x[:, 0])
    assert step.built and gru().built
    before = layer.get_weights()
    layer.build(D)
    assert same_weights(before, layer.get_weights())


@every_layer
def test_parameters_are_read_only_views(options):
    layer = gru(**options)
    for name, view in layer.parameters.items():
        assert not view.flags.writeable and view.dtype == layer.dtype
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
        before = view.copy()
        with layer.update() as p:
            p[name][...] = 3
        assert (layer.parameters[name] == 3).all()
        assert_array_equal(view, before)  # a view that is held keeps its values


@every_layer
def test_get_weights_copies_and_set_weights_copies(options):
    layer = gru(**options)
    new = randomised(layer)
    layer.set_weights(new)
    y = layer(x)
    got = layer.get_weights()
    assert same_weights(got, new) and same_weights(list(layer.parameters.values()), new)
    for a in (*got, *new):
        a[...] = 99
    layer._changed()  # nothing but the layer's own arrays is read when the packed form is made again
    assert_array_equal(layer(x), y)


@every_layer
def test_set_weights_converts(options):
    layer = gru(**options)
    layer.set_weights([np.asfortranarray(w.astype(np.float64)) for w in randomised(layer)])
    assert same_weights(layer.get_weights(), randomised(layer))
    layer.set_weights([w.tolist() for w in randomised(layer, 2)])
    assert same_weights(layer.get_weights(), randomised(layer, 2))
    layer.set_weights(tuple(np.ones(w.shape, int) for w in layer.get_weights()))
    assert all(w.dtype == layer.dtype and (w == 1).all() for w in layer.get_weights())


@every_layer
@pytest.mark.parametrize("how", ["set_weights", "update", "item"])
def test_writing_drops_the_packed_form(options, how):
    layer = gru(**options)
    layer(x)
    new = randomised(layer)
    if how == "set_weights":
        layer.set_weights(new)
    else:
        with layer.update() as p:
            assert list(p) == list(layer.parameters)
            for name, value in zip(p, new, strict=True):
                if how == "item":
                    p[name] = value
                else:
                    p[name][...] = value
    fresh = gru(**options)
    fresh.set_weights(new)
    assert_array_equal(layer(x), fresh(x))
    if not layer.bidirectional:
        assert_array_equal(layer.step(x[:, 0]), fresh.step(x[:, 0]))


def test_writing_drops_the_packed_form_after_an_error():
    layer = gru()
    layer(x)
    with pytest.raises(RuntimeError, match="stop"), layer.update() as p:
        p["kernel"] *= 2
        raise RuntimeError("stop")
    fresh = gru()
    fresh.set_weights(layer.get_weights())
    assert_array_equal(layer(x), fresh(x))


# ---- seeds


@every_layer
def test_a_seed_makes_the_weights(options):
    first = gru(**options).get_weights()
    assert same_weights(first, gru(**options).get_weights())
    assert not same_weights(first, gru(**options, seed=8).get_weights())
    late = cgru.GRU(**{"units": H, "seed": 7, **options})
    late(x)
    assert same_weights(first, late.get_weights())


def test_without_a_seed_the_weights_differ():
    assert not same_weights(gru(seed=None).get_weights(), gru(seed=None).get_weights())


def test_cells_of_a_stack_differ():
    matrices = [
        v for k, v in gru(num_layers=3, bidirectional=True).parameters.items() if k.endswith("recurrent_kernel")
    ]
    assert not any(np.array_equal(a, b) for i, a in enumerate(matrices) for b in matrices[:i])


@every_layer
def test_float32_weights_are_the_rounded_float64_ones(options):
    options = {k: v for k, v in options.items() if k != "dtype"}
    single, double = (gru(**options, dtype=dtype).get_weights() for dtype in ("float32", "float64"))
    assert same_weights(single, [w.astype(np.float32) for w in double])


def test_initial_values():
    layer = gru(units=40, input_size=30, dtype="float64", learn_initial_state=True)
    p = layer.parameters
    limit = np.sqrt(6 / (30 + 120))
    assert np.abs(p["kernel"]).max() <= limit and np.abs(p["kernel"]).max() > 0.99 * limit
    np.testing.assert_allclose(p["recurrent_kernel"] @ p["recurrent_kernel"].T, np.eye(40), atol=1e-12)
    assert not p["bias"].any() and not p["initial_state"].any()


# ---- configuration and copies


def test_get_config_round_trip():
    arguments = {
        "units": 3,
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": False,
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "reverse": False,
        "stateful": True,
        "kernel_initializer": "orthogonal",
        "recurrent_initializer": "glorot_uniform",
        "bias_initializer": "uniform",
        "kernel_regularizer": None,
        "recurrent_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "recurrent_constraint": None,
        "bias_constraint": None,
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "layer_dropout": 0.3,
        "zoneout": 0.4,
        "layer_norm": True,
        "reset_after": True,
        "num_layers": 2,
        "bidirectional": False,
        "merge_mode": "ave",
        "learn_initial_state": True,
        "time_major": True,
        "zero_output_for_mask": False,
        "trainable": False,
        "dtype": "float64",
        "seed": 5,
    }
    config = cgru.GRU(**arguments).get_config()
    assert config == arguments
    again = cgru.GRU.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    again.build(D)
    other = cgru.GRU(**arguments, input_size=D)
    assert same_weights(again.get_weights(), other.get_weights())


def test_get_config_of_numpy_scalars_is_json():
    json.dumps(cgru.GRU(np.int64(3), reset_after=np.True_, seed=np.uint32(1), dtype=np.float64).get_config())


COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "old pickle": lambda layer: pickle.loads(pickle.dumps(layer, protocol=2)),
    "deepcopy": copy.deepcopy,
}


@every_layer
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies(options, copied):
    layer = gru(**options)
    layer.set_weights(randomised(layer))
    y = layer(x)
    other = copied(layer)
    assert other.get_config() == layer.get_config() and other.input_size == layer.input_size
    assert_array_equal(other(x), y)
    assert not any(
        np.shares_memory(a, b) for a, b in zip(layer.parameters.values(), other.parameters.values(), strict=True)
    )
    with other.update() as p:
        for value in p.values():
            value *= 2
    assert_array_equal(layer(x), y)
    assert not np.array_equal(other(x), y)
    with layer.update() as p:
        for value in p.values():
            value *= 2
    assert_array_equal(layer(x), other(x))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_an_unbuilt_layer(copied):
    other = copied(cgru.GRU(H, seed=7))
    assert not other.built
    other(x)
    assert same_weights(other.get_weights(), gru().get_weights())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_a_stateful_layer(copied):
    layer = gru(stateful=True)
    layer(x)
    other = copied(layer)
    second = layer(x)
    assert_array_equal(other(x), second)
    layer.reset_states()
    third = layer(x)
    assert not np.array_equal(third, second)
    assert not np.array_equal(other(x), third)


def test_a_copy_trains_on():
    """The packed form, and the lock, are made anew."""
    layer = pickle.loads(pickle.dumps(gru()))
    y, _, tape = layer.forward(x, training=True)
    _, _, grads = layer.backward(np.ones_like(y), tape)
    with layer.update() as p:
        for name, gradient in grads.items():
            p[name] -= gradient
    assert not np.array_equal(layer(x), y)


# ---- threads


def in_threads(functions):
    """Run them all at once and return their results; an exception in one is raised here."""
    results, errors = [None] * len(functions), []
    barrier = threading.Barrier(len(functions))

    def work(i):
        try:
            barrier.wait(children.PATIENCE)
            results[i] = functions[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(children.PATIENCE)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    return results


@every_layer
def test_many_threads_call_one_layer(options):
    """Calls, training passes and steps of different sizes give what they give alone, to the bit."""
    layer = gru(**options)
    layer.set_weights(randomised(layer))

    def job(i):
        def run():
            rng = np.random.default_rng(i)
            inputs = rng.standard_normal((1 + i % 5, 5 + 3 * i, D))
            lengths = rng.integers(0, inputs.shape[1] + 1, len(inputs)) if i % 2 else None
            results = []
            for _ in range(5):
                y, h, tape = layer.forward(inputs, lengths=lengths, training=True)
                dx, dh0, grads = layer.backward(np.ones_like(y), tape, dh=h)
                results += [y, h, dx, dh0, *grads.values(), layer(inputs, lengths=lengths)]
                if not layer.bidirectional:
                    results.append(layer.step(inputs[:, 0], h))
            return results

        return run

    jobs = [job(i) for i in range(8)]
    serial = [run() for run in jobs]
    for _ in range(3):
        for got, expected in zip(in_threads(jobs), serial, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.fixture
def threads():
    """A function that sets the number of threads, undone after the test."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"reset_after": True, "return_sequences": True}, {"num_layers": 2}])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_results_do_not_depend_on_the_number_of_threads(options, rows, threads):
    """To the bit, at sizes where threads share a call and where they do not."""
    layer = gru(units=150, input_size=70, **options)
    rng = np.random.default_rng(0)
    inputs, lengths = rng.standard_normal((rows, 50, 70)).astype(np.float32), rng.integers(0, 51, rows)

    def run(n):
        threads(n)
        assert kernels.get_num_threads() == n
        results = []
        for valid in ({}, {"lengths": lengths}):
            y, h, tape = layer.forward(inputs, training=True, **valid)
            dx, dh0, grads = layer.backward(np.ones_like(y), tape, dh=h)
            results += [y, h, dx, dh0, *grads.values(), layer(inputs, **valid)]
        return [*results, layer.step(inputs[:, 0], h), layer.step(inputs[:, 0], h, out=np.empty_like(h))]

    alone = run(1)
    for n in (3, 6):
        assert all(np.array_equal(a, b) for a, b in zip(run(n), alone, strict=True))


def test_the_number_of_threads_may_change_while_others_compute(threads):
    layer = gru(units=64, input_size=32, return_sequences=True)
    inputs = np.random.default_rng(0).standard_normal((24, 20, 32)).astype(np.float32)
    expected = layer(inputs)

    def change():
        for n in range(200):
            threads(1 + n % 5)

    def read():
        return all(np.array_equal(layer(inputs), expected) for _ in range(30))

    assert all(in_threads([change, read, read, read])[1:])


def test_many_threads_make_the_first_call():
    for _ in range(20):
        layer = cgru.GRU(H, num_layers=2)
        results = in_threads([lambda layer=layer: layer(x)] * 8)
        assert all(np.array_equal(y, results[0]) for y in results)
        assert_array_equal(layer(x), results[0])


def test_many_threads_build_for_different_sizes():
    """One wins, the others are refused."""
    layer = cgru.GRU(H)

    def build(size):
        try:
            layer.build(size)
        except ValueError as error:
            assert "was built for" in str(error)
            return None
        return size

    built = [size for size in in_threads([lambda size=size: build(size) for size in range(1, 9)]) if size]
    assert built == [layer.input_size] and layer.parameters["kernel"].shape[0] == layer.input_size


@pytest.mark.parametrize("how", ["set_weights", "update"])
@pytest.mark.parametrize(
    "options", [{"return_sequences": True}, {"num_layers": 3, "learn_initial_state": True}], ids=["plain", "stack"]
)
def test_readers_see_whole_weights_while_a_writer_writes(options, how):
    layer = gru(**options)
    sets = [randomised(layer, seed) for seed in (1, 2)]
    allowed = []
    for weights in sets:
        layer.set_weights(weights)
        allowed.append((layer(x), layer.step(x[:, 0])))
    stop, seen = threading.Event(), [set() for _ in range(3)]

    def write():
        count = 0
        while not stop.is_set() and (count < 400 or len(set().union(*seen)) < 2):
            weights = sets[count % 2]
            if how == "set_weights":
                layer.set_weights(weights)
            else:
                with layer.update() as p:
                    for name, value in zip(p, weights, strict=True):
                        p[name] = value
            assert np.array_equal(layer(x), allowed[count % 2][0]), "the writer reads what was before"
            count += 1

    def read(mine):
        while not stop.is_set():
            y, h = layer(x), layer.step(x[:, 0])
            which = [i for i in range(2) if np.array_equal(y, allowed[i][0])]
            assert which, "a mixture of two weight sets"
            assert any(np.array_equal(h, allowed[i][1]) for i in range(2)), "a mixture of two weight sets in a step"
            got = layer.get_weights()
            assert any(same_weights(got, weights) for weights in sets), "a mixture of two weight sets in get_weights"
            mine.update(which)

    def until_one_ends(function, *arguments):
        try:
            function(*arguments)
        finally:
            stop.set()

    readers = [functools.partial(until_one_ends, read, mine) for mine in seen]
    in_threads([functools.partial(until_one_ends, write), *readers])


# ---- processes


def python(code, **environment):
    """Run `code` in a new process; return its exit code, output and errors."""
    done = children.python("-c", textwrap.dedent(code), env=children.environment(**environment))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "another thread computes"])
def test_fork_after_use(busy):
    if busy and cgru.get_backend() == "blas":
        pytest.skip("OpenBLAS hangs in a child that was forked while another thread was in it")
    code, out, err = python(
        f"""
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        import numpy as np, cgru
        from cgru import kernels
        kernels.set_num_threads(3)
        layer = cgru.GRU(200, return_sequences=True, seed=0)
        x = np.random.default_rng(0).standard_normal((32, 6, 64)).astype(np.float32)  # large enough to share
        y, _, tape = layer.forward(x, training=True)
        dx, _, _ = layer.backward(y, tape)
        h = layer.step(x[:, 0])
        stop = threading.Event()
        def compute():
            while not stop.is_set():
                assert np.array_equal(layer(x), y)
        other = threading.Thread(target=compute)
        if {busy}:
            other.start()
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                same = np.array_equal(layer(x), y) and np.array_equal(layer.step(x[:, 0]), h)
                same = same and np.array_equal(layer.backward(y, tape)[0], dx)
                layer.set_weights(layer.get_weights())
                os._exit(0 if same and np.array_equal(layer(x), y) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert np.array_equal(layer(x), y)
        stop.set()
        if {busy}:
            other.join()
        print("done")
        """
    )
    assert (code, out, err) == (0, "done\n", "")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
@pytest.mark.parametrize("what", ["inference", "training", "backward"])
def test_ctrl_c_stops_a_long_call(what):
    """Signals are seen several times within a call; one whose handler raises ends it. The layer works afterwards."""
    code, out, err = python(
        f"""
        import signal, sys
        import numpy as np, cgru
        from cgru import kernels
        before = kernels.tune(signal_work=10_000_000)
        assert before["signal_work"] <= 10**9  # multiplications: less than 0.1 s of them
        what, seen = {what!r}, 0
        layer = cgru.GRU(64, seed=0, dtype="float32")
        x = np.zeros((1, 150_000, 4), np.float32)
        before = layer(x[:, :10])
        if what == "backward":
            y, _, tape = layer.forward(x, training=True)

        def handler(number, frame):
            global seen
            seen += 1
            if seen == 5:  # who sees signals after a call alone sees one
                raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        try:
            for _ in range(50):  # a call that is done before starts again
                seen = 0
                if what == "backward":
                    layer.backward(y, tape)
                else:
                    layer.forward(x, training=what == "training")
            sys.exit("it was never stopped")
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert np.array_equal(layer(x[:, :10]), before)
        """
    )
    assert (code, out, err) == (0, "", "")
