"""Fit the polynomial in cgru/kernels/activations.pxd.

The kernels write exp(r) = 1 + r + r^2 q(r), or without the 1, for |r| <= ln(2) / 2. This script finds
q by the Remez exchange algorithm so that the largest relative error of exp(r) - 1 is least; the relative error of
exp(r) is then smaller still. It prints the coefficients, lowest order first, rounded to the type that will hold them,
and the error that remains with these rounded coefficients.

    python benchmarks/fit_activations.py             both types, as in the kernels
    python benchmarks/fit_activations.py --dtype float32 --degree 3
"""

import argparse

import mpmath as mp
import numpy as np

DEGREES = {"float32": 4, "float64": 9}  # of q; exp(r) then has two more


def target(r):
    """q(r) = (exp(r) - 1 - r) / r^2, the function to fit; the limit at 0."""
    return (mp.expm1(r) - r) / r**2 if r else mp.mpf(1) / 2


def weight(r):
    """Turn an error of q into the relative error of exp(r) - 1: r^2 / |exp(r) - 1|; 0 at 0.

    Positive on both sides, or the exchange would follow a change of sign at 0 that is not an alternation.
    """
    return abs(r**2 / mp.expm1(r)) if r else mp.mpf(0)


def evaluate(coefficients, r):
    """Value of the polynomial, coefficients lowest order first."""
    return mp.polyval(coefficients[::-1], r)


def relative_error(coefficients, r):
    """Error of q, weighted: the relative error of r + r^2 q(r) as exp(r) - 1."""
    return (evaluate(coefficients, r) - target(r)) * weight(r)


def extrema(coefficients, grid):
    """Points of `grid` where the error has a local extremum, signs alternating; of two of one sign the larger."""
    errors = [relative_error(coefficients, r) for r in grid]
    chosen = []
    for i in range(len(grid)):
        around = errors[max(i - 1, 0) : i + 2]
        if errors[i] and abs(errors[i]) == max(map(abs, around)):
            if chosen and errors[chosen[-1]] * errors[i] > 0:
                if abs(errors[i]) > abs(errors[chosen[-1]]):
                    chosen[-1] = i
            else:
                chosen.append(i)
    return [grid[i] for i in chosen]


def remez(degree, bound, points=4001, rounds=30):
    """Minimax coefficients of q on [-bound, bound].

    Parameters
    ----------
    degree : int
        Degree of q.
    bound : mpf
        Half width of the interval.
    points : int
        Size of the grid on which extrema are sought.
    rounds : int
        Largest number of exchanges.

    Returns
    -------
    list of mpf
        The degree + 1 coefficients, lowest order first.
    """
    grid = [-bound * mp.cos(mp.pi * i / points) for i in range(points + 1)]
    n = degree + 2
    nodes = [-bound * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / n) for i in range(n)]
    nodes = [r if abs(r) > bound / 100 else bound / 100 for r in nodes]
    for _ in range(rounds):
        system = mp.matrix(n, n)
        values = mp.matrix(n, 1)
        for i, r in enumerate(nodes):
            for j in range(degree + 1):
                system[i, j] = r**j
            system[i, degree + 1] = (-1) ** i / weight(r)
            values[i] = target(r)
        solution = mp.lu_solve(system, values)
        coefficients, level = list(solution)[:-1], abs(solution[n - 1])
        nodes = extrema(coefficients, grid)
        while len(nodes) > n:  # drop the weaker end
            first, last = (abs(relative_error(coefficients, nodes[i])) for i in (0, -1))
            nodes.pop(0 if first < last else -1)
        if len(nodes) < n:
            raise RuntimeError(f"Remez lost its alternation at degree {degree}: {len(nodes)} extrema, {n} needed")
        worst = max(abs(relative_error(coefficients, r)) for r in nodes)
        if worst - level < level / 10**4:
            break
    return coefficients


def rounded_to(coefficients, dtype):
    """Coefficients rounded to `dtype`, as mpf again."""
    return [mp.mpf(float(np.dtype(dtype).type(mp.nstr(c, 30)))) for c in coefficients]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DEGREES, help="only this type")
    parser.add_argument("--degree", type=int, help="degree of q (default: that of the kernels)")
    arguments = parser.parse_args()
    mp.mp.dps = 50
    for dtype in [arguments.dtype] if arguments.dtype else DEGREES:
        degree = DEGREES[dtype] if arguments.degree is None else arguments.degree
        # a little wider than ln(2) / 2: the rounding of x / ln(2) may fall on the other side of a half
        bound = mp.log(2) / 2 * (1 + mp.mpf(2) ** -12)
        exact = remez(degree, bound)
        rounded = rounded_to(exact, dtype)
        grid = [bound * i / 2000 for i in range(-2000, 2001) if i]
        unit = mp.mpf(float(np.finfo(dtype).eps)) / 2
        print(f"{dtype}: q of degree {degree}, |r| <= {mp.nstr(bound, 8)}; u = eps / 2 = {mp.nstr(unit, 4)}")
        for i, c in enumerate(rounded):
            print(f"  c{i} = {np.dtype(dtype).type(c)!s}")
        for label, fit in (("exact", exact), ("rounded", rounded)):
            minus_one = max(abs(relative_error(fit, r)) for r in grid)
            plain = max(abs(relative_error(fit, r) * mp.expm1(r) / mp.exp(r)) for r in grid)
            print(f"  {label} coefficients: relative error of expm1 {mp.nstr(minus_one / unit, 3)} u, ", end="")
            print(f"of exp {mp.nstr(plain / unit, 3)} u")


if __name__ == "__main__":
    main()
