"""Resets in the NumPy reference: against the segments run apart, and finite differences of every element."""

import checks
import numpy as np
import pytest

from cgru import reference

N, T, D, H = checks.N, checks.T, checks.D, checks.H
RESETS = np.array([[0, 1, 0, 1, 0], [1, 0, 1, 1, 1], [1, 0, 0, 1, 0]], bool)
NAMES = ("x", "kernel", "recurrent_kernel", "bias", "h0")
CHANCE = {
    "plain": lambda rng: {},
    "layer_norm": lambda rng: {"gain": rng.uniform(0.5, 1.5, (2, 3 * H))},
    "recurrent_dropout": lambda rng: {"recurrent_dropout": rng.choice([0, 2.0], (N, H))},
    "zoneout": lambda rng: {"zones": rng.choice([0.0, 1.0], (N, T, H))},
}


def segments(resets, valid):
    """The valid steps of one row between its resets, in order, and whether a reset comes before the first of them."""
    found, due, fresh = [[]], False, False
    for t in range(len(valid)):
        due = due or resets[t]
        if not valid[t]:
            continue
        if due and found[-1]:
            found.append([])
        fresh = fresh or (due and found == [[]])
        found[-1].append(t)
        due = False
    return found, fresh


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("validity", checks.VALIDITY)
@pytest.mark.parametrize("chance", CHANCE)
def test_every_element_by_finite_differences(rng, reverse, reset_after, validity, chance):
    problem = checks.random_problem(rng, reset_after)
    options = {"reset_after": reset_after, "reverse": reverse, "resets": RESETS} | checks.VALIDITY[validity]
    options |= CHANCE[chance](rng)
    arrays = {name: getattr(problem, name) for name in NAMES} | {"initial_state": rng.uniform(-1, 1, H)}
    if chance == "layer_norm":
        arrays |= {name: checks.away_from_zero(rng, arrays[name].shape) for name in ("x", "h0", "initial_state")}
        arrays["gain"] = options.pop("gain")

    def run(arrays):
        beside = {name: array for name, array in arrays.items() if name not in NAMES}
        return reference.forward(*(arrays[name] for name in NAMES), **options, **beside)

    def loss(arrays):
        y, h, _ = run(arrays)
        return (problem.dy * y).sum() + (problem.dh * h).sum()

    gradients = reference.backward(problem.dy, problem.dh, run(arrays)[2])
    gradients["x"], gradients["h0"] = gradients.pop("dx"), gradients.pop("dh0")
    assert (gradients["initial_state"] != 0).all()
    tolerance, step = (1e-8, 1.5e-4) if chance == "layer_norm" else (2e-10, 1e-3)
    all_directions = (chance, validity) == ("plain", "mask")
    checks.assert_gradients(loss, arrays, gradients, None if all_directions else rng, tolerance, step)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("validity", checks.VALIDITY)
def test_is_the_segments_run_apart(rng, reverse, validity):
    problem = checks.random_problem(rng, True)
    start = rng.uniform(-1, 1, H)
    valid = checks.valid_steps(N, T, **checks.VALIDITY[validity])
    y, h, tape = reference.forward(
        *problem[:5], True, reverse=reverse, resets=RESETS, initial_state=start, **checks.VALIDITY[validity]
    )
    gradients = reference.backward(problem.dy, problem.dh, tape)
    totals = dict.fromkeys(("kernel", "recurrent_kernel", "bias"), 0)
    dinitial = np.zeros(H)
    for i in range(N):
        parts, fresh = segments(RESETS[i], valid[i])
        if not parts[0]:
            assert (h[i] == problem.h0[i]).all() and (gradients["dh0"][i] == problem.dh[i]).all()
            continue
        begins, ends = (parts[-1], parts[0]) if reverse else (parts[0], parts[-1])
        for part in parts:
            goes_on = part is begins and not (fresh and not reverse)
            h0 = problem.h0[i] if goes_on else start
            y_part, h_part, own = reference.forward(
                problem.x[i : i + 1, part], *problem[1:4], h0[None], True, reverse=reverse
            )
            checks.assert_close(y[i, part], y_part[0], 1e-14)
            dh = None
            if part is ends:
                checks.assert_close(h[i], h_part[0], 1e-14)
                dh = problem.dh[i : i + 1]
            g = reference.backward(problem.dy[i : i + 1, part], dh, own)
            checks.assert_close(gradients["dx"][i, part], g["dx"][0], 1e-13)
            totals = {name: total + g[name] for name, total in totals.items()}
            if goes_on:
                checks.assert_close(gradients["dh0"][i], g["dh0"][0], 1e-13)
            else:
                dinitial += g["dh0"][0]
        if fresh and not reverse:
            assert (gradients["dh0"][i] == 0).all()
    for name, total in totals.items():
        checks.assert_close(gradients[name], total, 1e-12, name)
    checks.assert_close(gradients["initial_state"], dinitial, 1e-12)


def test_where_a_reset_acts():
    """Before the next valid step; behind the last one, and in reverse before the first one, nowhere."""
    mask = np.array([[0, 1, 0, 0, 1, 0]], bool)
    for t, forward, reverse in ((0, 1, None), (1, 1, None), (2, 4, 1), (3, 4, 1), (4, 4, 1), (5, None, None)):
        resets = np.arange(6)[None] == t
        for backwards, step in ((False, forward), (True, reverse)):
            expected = np.arange(6)[None] == (-1 if step is None else step)
            assert (reference._starts(resets, mask, backwards) == expected).all(), (t, backwards)
