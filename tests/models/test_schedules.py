"""Schedules of the learning rate: their formulas, their ends, and what they refuse."""

import json
import math
import re

import numpy as np
import pytest

from cgru import schedules
from cgru.schedules import CosineDecay, ExponentialDecay, PiecewiseConstantDecay


def test_exponential():
    smooth, stairs = ExponentialDecay(0.3, 7, 0.6), ExponentialDecay(0.3, 7, 0.6, staircase=True)
    for step in range(30):
        assert math.isclose(smooth(step), 0.3 * 0.6 ** (step / 7), rel_tol=1e-15)
        assert math.isclose(stairs(step), 0.3 * 0.6 ** (step // 7), rel_tol=1e-15)
    assert smooth(10**7) == 0 and ExponentialDecay(1.0, 1, 2.0)(10**6) == math.inf


def test_cosine():
    schedule = CosineDecay(0.4, 10, alpha=0.25)
    for step in range(15):
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / 10, 1)))
        assert math.isclose(schedule(step), 0.4 * (0.75 * cosine + 0.25), rel_tol=1e-14)
    assert schedule(0) == 0.4 and schedule(10) == schedule(1000) == 0.1
    assert CosineDecay(0.4, 10)(10) == 0


def test_cosine_with_warm_up():
    schedule = CosineDecay(0.1, 10, warmup_target=0.5, warmup_steps=4)
    np.testing.assert_allclose([schedule(step) for step in range(5)], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-15)
    plain = CosineDecay(0.5, 10)
    assert [schedule(step + 4) for step in range(20)] == [plain(step) for step in range(20)]
    assert CosineDecay(0.0, 10, warmup_target=0.5, warmup_steps=4)(0) == 0
    assert CosineDecay(0.0, 10, warmup_target=0.5)(0) == 0.5  # no step of warm-up


def test_piecewise():
    schedule = PiecewiseConstantDecay(np.array([0, 3, 5]), (0.4, 0.3, 0.2, np.float32(0)))
    assert [schedule(step) for step in range(8)] == [0.4, 0.3, 0.3, 0.3, 0.2, 0.2, 0.0, 0.0]
    assert PiecewiseConstantDecay([], [0.1])(5) == 0.1


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (ExponentialDecay, (0, 1, 0.5), ValueError, "initial_learning_rate: expected a positive, finite number, got 0"),
        (ExponentialDecay, (1, 0, 0.5), ValueError, "decay_steps: expected at least 1, got 0"),
        (ExponentialDecay, (1, 1.5, 0.5), TypeError, "decay_steps: expected an integer, got 1.5"),
        (ExponentialDecay, (1, 1, -0.5), ValueError, "decay_rate: expected a positive, finite number, got -0.5"),
        (ExponentialDecay, (1, 1, 0.5, 1), TypeError, "staircase: expected True or False, got 1"),
        (CosineDecay, (0.0, 10), ValueError, "initial_learning_rate: expected a positive, finite number, got 0.0"),
        (CosineDecay, (1, 10, 1.5), ValueError, "alpha: expected a number from 0 to 1, got 1.5"),
        (CosineDecay, (1, 10, "a"), TypeError, "alpha: expected a number, got 'a'"),
        (CosineDecay, (1, -3), ValueError, "decay_steps: expected at least 1, got -3"),
        (PiecewiseConstantDecay, ([1], [0.1]), ValueError, "values: expected one more than the 1 boundaries, got 1"),
        (PiecewiseConstantDecay, ([3, 3], [1, 1, 1]), ValueError, "expected each larger than the one before, got 3 at"),
        (PiecewiseConstantDecay, ([-1], [1, 1]), ValueError, "boundaries[0]: expected at least 0, got -1"),
        (PiecewiseConstantDecay, ([1.5], [1, 1]), TypeError, "boundaries[0]: expected an integer, got 1.5"),
        (PiecewiseConstantDecay, ([1], [1, -1]), ValueError, "values[1]: expected a finite number of at least 0, got"),
        (PiecewiseConstantDecay, (5, [1, 1]), TypeError, "boundaries: expected a flat list of numbers, got 5"),
        (PiecewiseConstantDecay, ([1], "ab"), TypeError, "values: expected a flat list of numbers, got 'ab'"),
    ],
)
def test_schedules_refuse(make, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(*arguments)


def test_warm_up_refuses():
    with pytest.raises(ValueError, match="warmup_target: expected a number beside warmup_steps=3, got None"):
        CosineDecay(0.1, 10, warmup_steps=3)
    with pytest.raises(ValueError, match="initial_learning_rate: expected a finite number of at least 0, got -1"):
        CosineDecay(-1, 10, warmup_target=1.0)
    with pytest.raises(ValueError, match="warmup_target: expected a positive, finite number, got 0"):
        CosineDecay(0.1, 10, warmup_target=0)


@pytest.mark.parametrize(
    "schedule",
    [
        ExponentialDecay(0.1, 10, 0.5, staircase=True),
        CosineDecay(0.1, 10),
        CosineDecay(0.0, 10, 0.5, warmup_target=0.3, warmup_steps=2),
        PiecewiseConstantDecay([1, 5], [0.3, 0.2, 0.1]),
    ],
    ids=repr,
)
def test_schedules_are_saved_and_refuse_wrong_steps(schedule):
    config = json.loads(json.dumps(schedules.to_config(schedule)))
    again = schedules.from_config(config)
    assert type(again) is type(schedule) and repr(again) == repr(schedule) and schedules.to_config(again) == config
    assert [again(np.int64(step)) for step in range(15)] == [schedule(step) for step in range(15)]
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="step: expected"):
            schedule(wrong)
    with pytest.raises(AttributeError, match="is read-only after construction"):
        setattr(schedule, next(iter(schedule.get_config())), 1)
