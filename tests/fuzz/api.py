"""Random programs over the whole API, against the same programs with plain arguments.

    python tests/fuzz/api.py [SECONDS [SEED]]         from a seed that is printed
    CGRU_FUZZ_SEED=gru-123 python tests/fuzz/api.py   one program, and what is left of it when it is simplified

Each call runs twice: with its arguments in any form (strides, byte order, types, owners, wrong ones), on any number of
threads; and with copies that are contiguous, on one thread, on an object of its own. Then

* it raises a TypeError or ValueError that names an argument, or gives the same bits;
* it warns of nothing, and leaves its arguments as they were;
* a call that raised has changed nothing: the object goes on as its twin, which was not asked;
* calls that change nothing give the same on several threads of Python at once.
"""

import concurrent.futures
import contextlib
import copy
import os
import random
import re
import sys
import time
import traceback
import warnings

import numpy as np
import programs
from calling import same_arrays
from draw import Draw, clean

import cgru
from cgru import kernels, recomputing

# Errors of users: "name: what was expected". Who has no model to ask gets a RuntimeError that says so.
# The last line is in scikit-learn's own words.
NAMED = re.compile(
    r"^[\w\[\]., '*-]+: ?\S|[Ee]xpected|should (be|have)|give |was built for|is not finite|are finite|"
    r"is required|requires y|^Input \w+ contains|Complex data not supported|Convert your data to numeric", re.DOTALL,
)  # fmt: skip
INSIDE = re.compile(
    r"object has no attribute|object is not|unsupported operand|could not be broadcast|could not broadcast|ufunc|"
    r"buffer|truth value|out of bounds|cannot reshape|not subscriptable|not iterable|positional argument|Cython|"
    r"itemsize|setting an array element|invalid literal|can't convert|cannot convert|inhomogeneous|memoryview|"
    r"ndarray is not",
    re.IGNORECASE,
)
THREADS = (1, 2, 3)


class Found(Exception):
    """What a program is not supposed to do."""


def attempt(call, made, arguments, named):
    """(result, None) or (None, the error of a user)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Maximum iterations|integrated_gradients")  # our own
            return call.function(made, *arguments, **named), None
    except (TypeError, ValueError, RuntimeError, FloatingPointError) as error:
        text = str(error)
        kept = not isinstance(error, RuntimeError) or "expected" in text or "has no parameters yet" in text
        if not kept or not (NAMED.search(text) or "parameters yet" in text) or INSIDE.search(text):
            raise Found(f"{type(error).__name__}: {text}\n{traceback.format_exc(limit=-4)}") from None
        return None, error
    except Exception as error:
        raise Found(f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}") from None


def fingerprint(value):
    """What must stay as it was."""
    if isinstance(value, np.ndarray) and value.dtype != object and not isinstance(value, np.ma.MaskedArray):
        return value.shape, value.dtype, clean(value).tobytes()
    if isinstance(value, dict):
        return {key: fingerprint(part) for key, part in value.items()}
    return [fingerprint(part) for part in value] if type(value) in (list, tuple) else None


@contextlib.contextmanager
def short_pieces(rows):
    """Context in which short sequences are cut, too, where steps are computed again: in blocks of so many rows."""
    least, before = recomputing.LEAST_TAPE, kernels.tune(large_rows=rows)
    recomputing.LEAST_TAPE = 0
    try:
        yield
    finally:
        recomputing.LEAST_TAPE = least
        kernels.tune(**before)


def run(draw, kind):
    """Run the program that `draw` makes; Found says what is wrong."""
    program = programs.KINDS[kind][0](draw)
    threads = draw.pick(*THREADS)
    backend = draw.pick("native", "blas", weight=0.1)
    exact = backend == "native"
    told = []
    with cgru.backend(backend), short_pieces(draw.pick(512, 3, 20)):
        made, twin = program.make(), program.make()
        quiet = []
        for call in program.calls:
            told.append(describe(call))
            named = call.named or {}
            before = fingerprint((call.arguments, named))
            plain, plain_named = clean(call.arguments), clean(named)
            with cgru.limit_threads(threads):
                result, error = attempt(call, made, call.arguments, named)
            if fingerprint((call.arguments, named)) != before:
                raise Found("an argument was written to\n" + "\n".join(told))
            # Training that met numbers that are not finite keeps the updates before them.
            other = twin if error is None or "no update was made with it" in str(error) else copy.deepcopy(twin)
            with cgru.limit_threads(1):
                expected, other_error = attempt(call, other, plain, plain_named)
            if error is not None and not call.same_errors:
                continue
            if "parameters yet" in str(other_error) and error is None:  # a call that failed has built the other
                continue
            if type(error) is not type(other_error):
                raise Found(f"{error!r} in this form, {other_error!r} in the plain one\n" + "\n".join(told))
            if exact or all(known.name != "set_weights" for known in program.calls):  # they amplify rounding
                compare(result, expected, exact, told)
            if error is not None and getattr(made, "built", True) != getattr(twin, "built", True):
                break  # what came before the error has settled sizes
            if error is None and not call.changes:
                quiet.append((call, result))
        if program.shared and quiet and draw.flag(0.3) and exact:  # other threads have another backend
            together(made, quiet[-1:], threads, exact, told)
    return len(program.calls)


def compare(result, expected, exact, told):
    try:
        same_arrays(result, expected, "in this form and in the plain one", exact)
    except AssertionError as error:
        raise Found(f"{error}\n" + "\n".join(told)) from None


def together(made, calls, threads, exact, told):
    """The calls, by several threads of Python at once, after all that changed something."""
    for call, _ in calls:
        with cgru.limit_threads(1):
            expected, _ = attempt(call, made, call.arguments, call.named or {})

        def one(_, call=call):
            with cgru.limit_threads(threads):
                return attempt(call, made, call.arguments, call.named or {})[0]

        if call.name in ("there and back", "gemm"):
            continue  # they write to one file, into one array
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for found in pool.map(one, range(3)):
                compare(found, expected, exact, [*told, "at once"])


def describe(call):
    def text(value):
        if isinstance(value, np.ndarray):
            return f"{type(value).__name__} {value.dtype.str}{value.shape} strides {value.strides}"
        return f"[{', '.join(map(text, value))}]" if type(value) is list and len(value) < 5 else repr(value)[:80]

    named = [f"{name}={text(value)}" for name, value in (call.named or {}).items()]
    return f"  {call.name}({', '.join([*map(text, call.arguments), *named])})"


def kind_of(seed):
    names = list(programs.KINDS)
    return random.Random(seed ^ 0x5EED).choices(names, [weight for _, weight in programs.KINDS.values()])[0]


def once(kind, seed, plain=frozenset()):
    """(calls, what was found or None, the choices) of the program of a seed."""
    draw = Draw(seed, plain)
    try:
        return run(draw, kind), None, draw
    except Found as found:
        return 0, str(found), draw
    except Exception:
        return 0, "the program itself: " + traceback.format_exc(limit=-6), draw


def simplified(kind, seed, found, draw):
    """What is found with as many choices as possible at their plainest."""
    first, plain = headline(found), set()
    for place, taken in reversed(list(enumerate(draw.taken))):
        if taken:
            other = once(kind, seed, frozenset(plain | {place}))[1]
            if other and headline(other) == first:
                plain.add(place)
                found = other
    return found


def headline(found):
    return re.sub(r"[\d.-]+", "#", found.split("\n")[0])[:60]


def main():
    if wanted := os.environ.get("CGRU_FUZZ_SEED"):
        kind, _, seed = wanted.rpartition("-")
        _, found, draw = once(kind, int(seed))
        print("nothing is found" if found is None else simplified(kind, int(seed), found, draw))
        sys.exit(found is not None)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    first = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**31)
    print(f"from seed {first}, {kernels.isa}", flush=True)
    end, seed, calls, wrong, counts = time.monotonic() + seconds, first, 0, {}, {}
    while time.monotonic() < end:
        kind = kind_of(seed)
        made, found, draw = once(kind, seed)
        calls += made
        counts[kind] = counts.get(kind, 0) + 1
        if found is not None:
            seeds = wrong.setdefault(headline(found), [])
            seeds.append(f"{kind}-{seed}")
            if len(seeds) == 1:
                print(f"CGRU_FUZZ_SEED={kind}-{seed}: {simplified(kind, seed, found, draw)}", flush=True)
        seed += 1
    print(f"{seed - first:,} programs, {calls:,} calls, {len(wrong)} kinds of finding;", counts)
    for key, seeds in wrong.items():
        print(f"  {len(seeds)} times, {seeds[:3]}: {key}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
