"""One object of streams in the hands of several threads, and of a forked child."""

import os
import threading

import checks
import children
import numpy as np
import pytest

import cgru

THREADS, D = 8, 4


def model():
    layers = [cgru.GRU(6, return_sequences=True), cgru.GRU(5, return_sequences=True), cgru.Dense(3)]
    return cgru.Sequential(layers, seed=0).build(D)


def run_threads(work):
    errors = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[i], daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(children.PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_eight_threads_with_streams_of_their_own(rng):
    """In slots that come and go, beside snapshots and drops: the bits of each whole sequence."""
    shared, x = model(), rng.standard_normal((THREADS, 3, 40, D)).astype(np.float32)
    streams = cgru.Streams(shared, max_streams=3 * THREADS + 1)

    def work(i):
        order, done, found = np.random.default_rng(i), np.zeros(3, int), [[], [], []]
        while (done < 40).any():
            some = [j for j in range(3) if done[j] < 40 and order.random() < 0.8]
            if order.random() < 0.3:
                pieces = {(i, j): x[i, j, done[j] : done[j] + 5] for j in some}
                for (_, j), y in streams.feed(pieces).items():
                    found[j] += list(y)
                    done[j] += len(y)
            else:
                for j, y in zip(some, streams.step([(i, j) for j in some], x[i, some, done[some]]), strict=True):
                    found[j].append(y)
                done[some] += 1
            if order.random() < 0.1:
                streams.feed({"one that all want": x[0, 0, :1]})
                streams.drop([(i, "nobody"), "one that all want"])
                assert len(streams.snapshot()["keys"]) <= 3 * THREADS + 1
        for j in range(3):
            checks.assert_same_arrays(np.stack(found[j]), shared(x[i, j][None])[0])
        streams.drop([(i, j) for j in range(3)])

    run_threads(work)
    assert len(streams) <= 1


def test_eight_threads_with_the_same_streams(rng):
    """Their steps come one after the other: of equal inputs, it does not matter whose came when."""
    shared, x = model(), rng.standard_normal(D).astype(np.float32)
    streams = cgru.Streams(shared, max_streams=2)

    def work(i):
        for n in range(10):
            keys = ["a", "b"] if (i + n) % 2 else ["b", "a"]
            streams.step(keys, [x, x])

    run_threads(work)
    expected = shared(np.tile(x, (1, 10 * THREADS + 1, 1)))[0, -1]
    for y in streams.step(["a", "b"], [x, x]):
        checks.assert_same_arrays(y, expected)


def test_eight_threads_for_two_slots(rng):
    """Streams give way to others when the calls that use them have ended, and no call fails."""
    shared, x = model(), rng.standard_normal((THREADS, D)).astype(np.float32)
    streams = cgru.Streams(shared, max_streams=2, when_full="replace")

    def work(i):
        for n in range(15):
            y = streams.step([(i, n)], x[i : i + 1])
            checks.assert_same_arrays(y[0], shared(x[None, i : i + 1])[0, 0])

    run_threads(work)
    assert len(streams) == 2
    with pytest.raises(RuntimeError, match="max_streams=2 streams, got 3 new"):
        streams.step(["c", "d", "e"], x[:3])


class Waiting(cgru.Dense):
    """Waits in a pass of one row until it may go on."""

    entered, leave = threading.Event(), threading.Event()

    def step_rows(self, x):
        if len(x) == 1:
            self.entered.set()
            assert self.leave.wait(children.PATIENCE)
        return super().step_rows(x)


def test_only_calls_about_the_same_stream_wait(rng, monkeypatch):
    monkeypatch.setattr(Waiting, "entered", threading.Event())
    monkeypatch.setattr(Waiting, "leave", threading.Event())
    shared = cgru.Sequential([cgru.GRU(5, return_sequences=True), Waiting(2)], seed=0).build(D)
    streams, x = cgru.Streams(shared, max_streams=3, when_full="replace"), rng.standard_normal((3, D))
    streams.step(["a", "b", "c"], x)
    slow = threading.Thread(target=streams.step, args=(["a"], x[:1]), daemon=True)
    slow.start()
    assert Waiting.entered.wait(children.PATIENCE)
    before = streams.snapshot()
    streams.step(["b", "c"], x[:2])
    streams.step(["d", "e"], x[:2])  # a is in use, so others give way
    assert set(streams) == {"a", "d", "e"}
    with pytest.raises(RuntimeError, match="got 4 new beside 3"):
        streams.step(["f", "g", "h", "i"], x[[0, 1, 2, 0]])
    calls = [
        lambda: streams.step(["d", "a"], x[:2]),
        lambda: streams.drop(["a"]),
        lambda: streams.restore(before),
        lambda: streams.step(["f", "g", "h"], x),  # a has to give way
    ]
    waiting = []
    for call in calls:
        waiting.append(threading.Thread(target=call, daemon=True))
        waiting[-1].start()
        waiting[-1].join(0.05)
        assert waiting[-1].is_alive()
    Waiting.leave.set()
    for thread in (slow, *waiting):
        thread.join(children.PATIENCE)
        assert not thread.is_alive(), "a thread hangs"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_the_streams_as_they_were():
    """Also those of a call that was running, whose thread the child does not have."""
    done = children.python(
        "-c",
        """
import os, threading, warnings
import numpy as np
import cgru

warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
entered, leave = threading.Event(), threading.Event()

class Waiting(cgru.Dense):
    def step_rows(self, x):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait()
        return super().step_rows(x)

model = cgru.Sequential([cgru.GRU(5, return_sequences=True), Waiting(2)], seed=0).build(3)
streams, x = cgru.Streams(model, max_streams=3), np.ones((2, 3), np.float32)
streams.step(["a"], x[:1])
thread = threading.Thread(target=streams.step, args=(["a", "new"], x), daemon=True)
thread.start()
assert entered.wait(300)
pid = os.fork()
if pid == 0:
    status = 1
    try:
        assert list(streams) == ["a"]
        streams.step(["b", "c"], x)
        np.testing.assert_array_equal(streams.step(["a"], x[:1])[0], model(np.ones((1, 2, 3)))[0, -1])
        status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
leave.set()
thread.join()
assert list(streams) == ["a", "new"]
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
