"""More threads than processors: what a call costs then, on two processors.

* One process: 4,100,64,128 forward and backward with four threads against one. Of each turn the first ten calls are not
  counted, by then the library should have seen that its threads do not run at once. The median should be at most 1.3
  times one thread's, no single call more than 20 ms above it.
* Four processes of two threads each, at once, against four of one thread: at most 1.3 times their time.

    python benchmarks/oversubscription.py --json benchmarks/results/oversubscription.json
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from default_threads import call_of
from report import Record, progress, table

import cgru
from cgru.cli import timing
from cgru.cli.case import Case

CASE = Case(4, 100, 64, 128, "training")
PROCESSORS, THREADS, PROCESSES = 2, 4, 4
SETTLE = 10  # calls that are not counted
READY, GO = "ready\n", "go\n"


def alone(rounds, calls):
    """{threads: ns of the calls that count} of one process, the two numbers of threads by turns."""
    call, times = call_of(CASE), {1: [], THREADS: []}
    for count in range(rounds):
        progress(f"one process, round {count + 1}/{rounds}")
        for threads in timing.turns(times, count):
            cgru.set_num_threads(threads)
            times[threads] += timing.single_calls(call, 0, SETTLE + calls)[SETTLE:]
    return times


def at_once(rounds, calls):
    """{threads: [seconds of each process in each round]} of processes that run at once."""
    times = {1: [], 2: []}
    for count in range(rounds):
        for threads in timing.turns(times, count):
            progress(f"{PROCESSES} processes of {threads} threads, round {count + 1}/{rounds}")
            times[threads] += race(threads, calls)
    return times


def race(threads, calls):
    """Seconds that each of the processes takes for so many calls; all start at once."""
    command = [sys.executable, __file__, "--child", str(threads), "--calls", str(calls)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    try:
        for child in children:
            assert child.stdout.readline() == READY
        for child in children:
            child.stdin.write(GO)
            child.stdin.flush()
        return [float(child.stdout.readline()) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def child(threads, calls):
    cgru.set_num_threads(threads)
    call = call_of(CASE)
    timing.single_calls(call, 0, SETTLE)
    print(READY, end="", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    timing.single_calls(call, 0, calls)
    print(time.perf_counter() - start, flush=True)
    sys.stdin.readline()  # until all have ended


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    made.add_argument("--calls", type=int, default=300, help="of a process in a round (default: 300)")
    made.add_argument("--quick", action="store_true", help="few rounds and calls: does it run? The figures are rough")
    made.add_argument("--json", metavar="FILE", help="write everything that was measured, with versions and machine")
    made.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.child:
        child(options.child, options.calls)
        return
    if options.quick:
        options.rounds, options.calls = 2, 20
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])
    record = Record(__file__, options)
    record.print_conditions()
    times = alone(options.rounds, options.calls)
    record.add("one process", {threads: [ns / 1e6 for ns in each] for threads, each in times.items()})
    medians = {threads: statistics.median(each) / 1e6 for threads, each in times.items()}
    print(f"{CASE.size}, forward and backward, one process; ms")
    rows = [
        [threads, medians[threads], max(each) / 1e6, f"{medians[threads] / medians[1]:.2f}",
         max(each) / 1e6 - medians[1]]
        for threads, each in times.items()
    ]  # fmt: skip
    table(["threads", "median", "worst", "median ratio", "worst above one thread's median"], rows)
    races = at_once(options.rounds, options.calls)
    record.add("processes at once", races)
    medians = {threads: statistics.median(each) for threads, each in races.items()}
    print(f"\n{PROCESSES} processes at once, {options.calls} calls each; s")
    rows = [[n, medians[n], max(each), f"{medians[n] / medians[1]:.2f}"] for n, each in races.items()]
    table(["threads each", "median", "worst", "ratio"], rows)


if __name__ == "__main__":
    main()
