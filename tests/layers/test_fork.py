"""A fork while another thread is inside a layer: the child has no such thread, and no lock of its."""

import os

import children
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

COMMON = """
import os, sys, threading, time, warnings
import numpy as np
import cgru
from cgru import recurrence

warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
x = np.ones((2, 3, 4), np.float32)
entered, leave = threading.Event(), threading.Event()

def blocked(function):
    def replacement(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait()
        return function(*arguments, **options)
    return replacement

def in_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
        os._exit(status)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, status
            return
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise SystemExit("the child hangs")
"""


def run(script):
    done = children.python("-c", f"PATIENCE = {children.PATIENCE / 2}\n" + COMMON + script)
    assert done.returncode == 0, done.stdout + done.stderr


BLOCKED = {
    "build": """
class Slow(cgru.GRU):
    def _initial(self, name):
        return blocked(super()._initial)(name)
layer, expected = Slow(5, seed=0), cgru.GRU(5, seed=0)(x)
inside = lambda: layer.build(4)
""",
    "the first call": """
layer, expected = cgru.GRU(5, seed=0, input_size=4), cgru.GRU(5, seed=0)(x)
recurrence.prepare = blocked(recurrence.prepare)
inside = lambda: layer(x)
""",
    "set_weights": """
class Slow(cgru.GRU):
    _changed = blocked(cgru.GRU._changed)
layer, expected = Slow(5, seed=0, input_size=4), cgru.GRU(5, seed=0)(x)
inside = lambda: layer.set_weights(layer.get_weights())
""",
    "update": """
layer, expected = cgru.GRU(5, seed=0, input_size=4), cgru.GRU(5, seed=0)(x)
layer(x)
def inside():
    with layer.update():
        entered.set()
        leave.wait()
""",
}


@pytest.mark.parametrize("where", BLOCKED)
def test_a_fork_while_a_thread_holds_the_lock(where):
    run(
        BLOCKED[where]
        + """
thread = threading.Thread(target=inside)
thread.start()
assert entered.wait(PATIENCE)

def work():
    np.testing.assert_array_equal(layer(x), expected)
    layer.set_weights(layer.get_weights())
    with layer.update() as parameters:
        parameters["bias"] += 0
    np.testing.assert_array_equal(layer(x), expected)
    in_child(lambda: layer(x))  # and again

in_child(work)
leave.set()
thread.join()
np.testing.assert_array_equal(layer(x), expected)
"""
    )


def test_a_fork_by_the_thread_that_holds_the_lock():
    """Its block goes on in parent and child, and gives the lock back in both."""
    run("""
layer = cgru.GRU(5, seed=0, input_size=4)
expected = layer(x)

def work():
    with layer.update() as parameters:
        parameters["bias"] += 0

with layer.update() as parameters:
    pid = os.fork()
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
thread = threading.Thread(target=work, daemon=True)
thread.start()
thread.join(PATIENCE)
os._exit(int(thread.is_alive()))
""")


def test_a_fork_during_fit_sees_a_whole_update():
    """The weights in the child are those after some update, in all layers."""
    run("""
cgru.locks._PATIENCE = PATIENCE  # on a busy machine a fork may wait for long until nobody writes
rng = np.random.default_rng(0)
data, labels = rng.standard_normal((60, 3, 4)).astype("float32"), rng.integers(0, 3, 60)

def new_model():
    layers = [cgru.Dense(6) for _ in range(12)]
    model = cgru.Sequential([*layers, cgru.GRU(5), cgru.Dense(3, activation="softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.build(4)
    return model

def fit(model):
    model.fit(data, labels, batch_size=2, epochs=6, shuffle=False, verbose=0)

def weights_of(model):
    return b"".join(array.tobytes() for array in model.get_weights())

reference = new_model()
seen = {weights_of(reference)}
for _ in range(6):
    for start in range(0, 60, 2):
        reference.fit(data[start : start + 2], labels[start : start + 2], shuffle=False, verbose=0)
        seen.add(weights_of(reference))
assert len(seen) == 181

sys.setswitchinterval(1e-5)

def work():
    weights = weights_of(model)
    y = model.predict(data[:2])
    fresh = new_model()
    fresh.set_weights(model.get_weights())
    np.testing.assert_array_equal(y, fresh.predict(data[:2]))
    assert weights in seen

forks = 0
while forks < 8:
    model = new_model()
    thread = threading.Thread(target=fit, args=[model])
    thread.start()
    while thread.is_alive():
        in_child(work)
        forks += 1
    thread.join()
    assert weights_of(model) == weights_of(reference)
""")


def test_a_fork_does_not_wait_for_one_who_waits_for_it():
    """Two locks taken in either order by others, one of whom waits for the child: the fork goes on after a while."""
    run("""
layers = [cgru.GRU(5, seed=0, input_size=4) for _ in range(2)]
forked = threading.Event()

def holder():
    with layers[0].update(), layers[1].update():
        entered.set()
        forked.wait()

thread = threading.Thread(target=holder)
thread.start()
assert entered.wait(PATIENCE)
in_child(lambda: [layer(x) for layer in layers])
forked.set()
thread.join()
""")
