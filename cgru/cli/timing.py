"""How times are taken, for `cgru bench` and for benchmarks/ alike.

What is compared takes turns for some rounds, in another order each round, since what ran before leaves its caches and
the machine's speed drifts. A figure is the median over the rounds of the medians within. Where each round is one pair
of calls, the ratios of the pairs say how sure their median is.
"""

import contextlib
import gc
import itertools
import math
import statistics
import time

WARM_UP = 0.2  # of a burst's time
REST = 0.02  # s without processor time after which a process is asleep: pools spin after work, OpenBLAS's for 45 ms


def turns(things, count):
    """The order of round `count`: forwards and backwards by turns, and rotated, so that neighbours change as well."""
    things = list(things)
    start = count // 2 % max(len(things), 1)
    order = things[start:] + things[:start]
    return order[::-1] if count % 2 else order


def single_calls(call, seconds, least, before=None):
    """Nanoseconds of single calls, for some seconds and at least `least` of them; `before` runs untimed before each."""
    clock, times = time.perf_counter_ns, []
    end = clock() + seconds * 1e9
    while len(times) < least or clock() < end:
        if before is not None:
            before()
        start = clock()
        call()
        times.append(clock() - start)
    return times


def burst(call, seconds, calls=None, before=None):
    """Nanoseconds of single calls without the clock's own cost, for some seconds or a number of calls, after a warm-up.

    `before` runs untimed before each of them.
    """
    with _no_collector():
        single_calls(call, seconds * WARM_UP, 1, before)
        times = single_calls(call, 0 if calls else seconds, calls or 1, before)
        cost = statistics.median(single_calls(lambda: None, 0, 1000))
    return [max(each - cost, 1) for each in times]


def interleave(calls, rounds, seconds=0):
    """[ns of the rounds] for each of several calls of one process: one call of each a round, at least so many rounds
    and for so many seconds."""
    found = [[] for _ in calls]
    with _no_collector():
        end = time.perf_counter() + seconds
        for count in itertools.count():
            if count >= rounds and time.perf_counter() >= end:
                return found
            for index in turns(range(len(calls)), count):
                found[index] += single_calls(calls[index], 0, 1)


@contextlib.contextmanager
def _no_collector():
    """Python's garbage collector waits."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def lower_bound(values, confidence=0.95):
    """The largest of `values` that the median of what they are drawn from exceeds with this confidence.

    An order statistic: the k-th smallest of n lies above the median if fewer than k lie below it, whose probability is
    that of fewer than k heads in n tosses. -inf where there are too few values.
    """
    values, n = sorted(values), len(values)
    chance, bound = 0.0, -math.inf
    for k in range(n):
        chance += math.comb(n, k) / 2**n
        if chance > 1 - confidence:
            break
        bound = values[k]
    return bound


def chosen_and_scored(runs, ours):
    """(the better of the others, ours over it): chosen on one half of the rounds by the medians, scored on the other by
    the median of the paired ratios. So the better one is not the one that was lucky where it is compared.

    Parameters
    ----------
    runs : dict name -> sequence of float
        The times of the rounds, one of each name in each round; at least four rounds.
    ours : str
        Which is compared with the others.
    """
    rounds = range(len(runs[ours]))
    # Two rounds by turns: `turns` goes forwards and backwards within each two.
    first = [count for count in rounds if count // 2 % 2 == 0]
    second = [count for count in rounds if count // 2 % 2]
    others = [name for name in runs if name != ours]
    better = min(others, key=lambda name: statistics.median(runs[name][count] for count in first))
    return better, statistics.median(runs[ours][count] / runs[better][count] for count in second)


def rest():
    """Wait until the threads of this process sleep, half a second at most."""
    for _ in range(int(0.5 / REST)):
        used = time.process_time()
        time.sleep(REST)
        if time.process_time() - used < REST / 20:
            break
