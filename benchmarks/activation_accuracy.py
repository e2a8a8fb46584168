"""Measure how exact the compiled sigmoid and tanh are, in units in the last place (ulp).

float32 is checked exhaustively, all 2^32 values, against double precision; float64 on a dense sample, against the
64-bit significand of x87 long double (skipped where long double is no wider). One process for each instruction set.
Where the exact result is a normal number the error must be at most 4 ulp, elsewhere at most the smallest normal number;
the results must lie within the function's range, NaN must come out as NaN, and infinities must saturate exactly. The
exit status is 1 if any of this fails. All of float32 takes some minutes for each instruction set.

    python benchmarks/activation_accuracy.py
    python benchmarks/activation_accuracy.py --isa avx2 --stride 101
"""

import argparse
import os
import subprocess
import sys

import numpy as np
from scipy.special import expit

ISAS = ("baseline", "avx2", "avx512")
LIMIT = 4.0  # ulp
SKIPPED = 3  # exit status of a process whose instruction set could not be loaded
CHUNK = 1 << 20


def exact_sigmoid(x):
    """1 / (1 + exp(-x)) in the precision of x."""
    if x.dtype == np.float64:
        return expit(x)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


# The kernels' code, the exact function and the lower end of its range; the upper end is 1.
FUNCTIONS = {"sigmoid": (0, exact_sigmoid, 0.0), "tanh": (1, np.tanh, -1.0)}


class Worst:
    """The largest error seen, and where."""

    def __init__(self, dtype):
        info = np.finfo(dtype)
        self.tiny, self.digits = float(info.smallest_normal), info.nmant
        self.ulp, self.at = 0.0, None  # where the exact result is a normal number
        self.absolute, self.absolute_at = 0.0, None  # elsewhere, in units of the smallest normal number

    def add(self, x, y, exact):
        """Compare y with the exact values, which have a wider type; all of shape (n,)."""
        error = np.abs(y - exact)
        error[np.isnan(error)] = np.inf
        magnitude = np.abs(exact)
        unit = np.ldexp(np.ones_like(exact), np.frexp(magnitude)[1] - 1 - self.digits)
        ulp = np.where(magnitude >= self.tiny, error / unit, 0)
        i = int(np.argmax(ulp))
        if ulp[i] > self.ulp:
            self.ulp, self.at = float(ulp[i]), x[i]
        if magnitude.min() < self.tiny:
            absolute = np.where(magnitude < self.tiny, error / self.tiny, 0)
            i = int(np.argmax(absolute))
            if absolute[i] > self.absolute:
                self.absolute, self.absolute_at = float(absolute[i]), x[i]

    @property
    def ok(self):
        return self.ulp <= LIMIT and self.absolute <= 1

    def __str__(self):
        text = f"max {self.ulp:.3f} ulp at x = {self.at!r}"
        if self.absolute_at is not None:
            text += f"; below the normal numbers {self.absolute:.3g} of the smallest, at x = {self.absolute_at!r}"
        return text


def finite_float32(stride):
    """Chunks of every stride-th finite float32 of either sign, the largest of each sign included."""
    end = 0x7F800000  # infinity
    for sign in (0, 0x80000000):
        for start in range(0, end, CHUNK * stride):
            bits = np.arange(start, min(start + CHUNK * stride, end), stride, dtype=np.uint32)
            yield (bits | np.uint32(sign)).view(np.float32)
        yield np.array([(end - 1) | sign], dtype=np.uint32).view(np.float32)


def sample_float64(stride):
    """Chunks of float64: all magnitudes, the interval where the functions move, and the low end of sigmoid."""
    rng = np.random.default_rng(20)
    for _ in range(max(1, 16 // stride)):
        yield rng.choice([-1.0, 1.0], CHUNK) * np.exp2(rng.uniform(-1074, 1024, CHUNK))
        yield rng.choice([-1.0, 1.0], CHUNK) * np.exp2(rng.uniform(-30, 10, CHUNK))
        yield rng.uniform(-40, 40, CHUNK)
        yield rng.uniform(-1, 1, CHUNK)
        yield rng.uniform(-746, -600, CHUNK)


def check_special(activate, name, dtype):
    """Infinities saturate exactly and every NaN stays NaN; in vectors and in the loop's remainder."""
    code, _, low = FUNCTIONS[name]
    x = np.array([np.inf, -np.inf, np.nan, -np.nan, np.finfo(dtype).max, -np.finfo(dtype).max] * 11, dtype=dtype)
    y = np.empty_like(x)
    activate(code, x, y)
    return np.array_equal(y, np.array([1, low, np.nan, np.nan, 1, low] * 11, dtype=dtype), equal_nan=True)


def check(activate, name, dtype, stride):
    """Check one function in one type; print the result, return whether it holds."""
    code, exact, low = FUNCTIONS[name]
    wide = np.float64 if dtype == np.float32 else np.longdouble
    worst, inside, count = Worst(dtype), True, 0
    for x in finite_float32(stride) if dtype == np.float32 else sample_float64(stride):
        y = np.empty_like(x)
        activate(code, x, y)
        worst.add(x, y, exact(x.astype(wide)))
        inside &= bool(y.min() >= low and y.max() <= 1)
        count += x.size
    special = check_special(activate, name, dtype)
    notes = [] if inside else ["LEAVES ITS RANGE"]
    notes += [] if special else ["WRONG AT NAN OR INFINITY"]
    notes += [] if worst.ok else ["TOO LARGE"]
    print("; ".join([f"  {name} {np.dtype(dtype).name}, {count} values: {worst}", *notes]), flush=True)
    return inside and special and worst.ok


def measure(isa, stride):
    """Check everything in this process; returns its exit status."""
    try:
        from cgru import kernels
    except ImportError as error:
        print(f"{isa}: not available: {error}")
        return SKIPPED
    print(f"{isa}:", flush=True)
    dtypes = [np.float32]
    if np.finfo(np.longdouble).nmant >= 63:
        dtypes.append(np.float64)
    else:
        print("  float64 skipped: long double is not wider here")
    results = [check(kernels.activate, name, dtype, stride) for dtype in dtypes for name in FUNCTIONS]
    return 0 if all(results) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=ISAS, help="only this instruction set (default: all that load)")
    parser.add_argument("--stride", type=int, default=1, help="take every STRIDE-th value (default: 1, all)")
    arguments = parser.parse_args()
    if arguments.stride < 1:
        parser.error(f"--stride must be at least 1, got {arguments.stride}")
    if arguments.isa and os.environ.get("CGRU_ISA") == arguments.isa:
        return measure(arguments.isa, arguments.stride)
    # The instruction set is chosen when cgru is imported: run this script again with the choice made.
    statuses = []
    for isa in [arguments.isa] if arguments.isa else ISAS:
        command = [sys.executable, __file__, "--isa", isa, "--stride", str(arguments.stride)]
        statuses.append(subprocess.run(command, env={**os.environ, "CGRU_ISA": isa}, check=False).returncode)
    ran = [status for status in statuses if status != SKIPPED]
    return 1 if not ran or any(ran) else 0


if __name__ == "__main__":
    sys.exit(main())
