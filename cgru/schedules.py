"""Schedules: the learning rate of each update.

A schedule is a function of the number of updates that were made before: 0 at the first one. Any callable of that number
will do where an optimizer takes a learning rate; those of this module can be saved as well.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from cgru.checks import check_bool, check_finite, check_int, check_number, check_positive
from cgru.configured import Configured, made_from

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CosineDecay", "ExponentialDecay", "PiecewiseConstantDecay", "Schedule", "from_config", "to_config",
]  # fmt: skip


class Schedule(Configured):
    """Base class of the schedules. A subclass implements `__call__`."""

    def __call__(self, step: SupportsIndex) -> float:
        """Return the learning rate of the update before which `step` others were made: 0 is the first.

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer of at least 0.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new schedule from what `get_config` returned."""
        return cls(**config)


class ExponentialDecay(Schedule):
    """initial_learning_rate * decay_rate ^ (step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
        Number of updates after which the rate is multiplied by `decay_rate`.
    decay_rate : float
        Positive.
    staircase : bool
        Whether step / decay_steps is rounded down, so that the rate falls in stairs.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.

    Examples
    --------
    >>> from cgru.schedules import ExponentialDecay
    >>> schedule = ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5, staircase=True)
    >>> schedule(0), schedule(99), schedule(100)
    (0.1, 0.1, 0.05)
    """

    _options = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self, initial_learning_rate: float, decay_steps: SupportsIndex, decay_rate: float, staircase: bool = False
    ) -> None:
        self.initial_learning_rate = check_positive(initial_learning_rate, "initial_learning_rate")
        self.decay_steps = check_int(decay_steps, "decay_steps", 1)
        self.decay_rate = check_positive(decay_rate, "decay_rate")
        self.staircase = check_bool(staircase, "staircase")

    def __call__(self, step: SupportsIndex) -> float:
        step = check_int(step, "step")
        power = step // self.decay_steps if self.staircase else step / self.decay_steps
        try:
            return self.initial_learning_rate * float(self.decay_rate**power)
        except OverflowError:  # of a rate that grows; the optimizer refuses it
            return math.inf


class CosineDecay(Schedule):
    """Half a cosine, down from the initial rate to `alpha` times it; with warm-up, a straight line up comes before it.

    After I. Loshchilov and F. Hutter (2017), "SGDR: Stochastic gradient descent with warm restarts", without restarts.

    Parameters
    ----------
    initial_learning_rate : float
        Rate of the first update; with `warmup_target` it may be 0.
    decay_steps : int
        Number of updates that the cosine takes, warm-up not counted. The rate stays at its end.
    alpha : float
        Share of the rate at the top of the cosine that is left at its end; from 0 to 1.
    warmup_target : float, optional
        Rate at the end of the warm-up, the top of the cosine. Without it there is no warm-up.
    warmup_steps : int
        Number of updates of the warm-up.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.

    Examples
    --------
    >>> from cgru.schedules import CosineDecay
    >>> schedule = CosineDecay(0.0, decay_steps=100, warmup_target=0.5, warmup_steps=10)
    >>> [round(schedule(step), 3) for step in (0, 5, 10, 60, 110, 1000)]
    [0.0, 0.25, 0.5, 0.25, 0.0, 0.0]
    """

    _options = ("initial_learning_rate", "decay_steps", "alpha", "warmup_target", "warmup_steps")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: SupportsIndex,
        alpha: float = 0.0,
        *,
        warmup_target: float | None = None,
        warmup_steps: SupportsIndex = 0,
    ) -> None:
        if warmup_target is None:
            check_positive(initial_learning_rate, "initial_learning_rate")
        self.initial_learning_rate = check_finite(initial_learning_rate, "initial_learning_rate", 0)
        self.decay_steps = check_int(decay_steps, "decay_steps", 1)
        if not 0 <= check_number(alpha, "alpha") <= 1:
            raise ValueError(f"alpha: expected a number from 0 to 1, got {alpha!r}")
        self.alpha = float(alpha)
        self.warmup_target = None if warmup_target is None else check_positive(warmup_target, "warmup_target")
        self.warmup_steps = check_int(warmup_steps, "warmup_steps")
        if self.warmup_steps and self.warmup_target is None:
            raise ValueError(f"warmup_target: expected a number beside warmup_steps={self.warmup_steps}, got None")

    def __call__(self, step: SupportsIndex) -> float:
        step = check_int(step, "step")
        if self.warmup_target is None:
            top = self.initial_learning_rate
        elif step < self.warmup_steps:
            rise = self.warmup_target - self.initial_learning_rate
            return self.initial_learning_rate + rise * (step / self.warmup_steps)
        else:
            top, step = self.warmup_target, step - self.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, self.decay_steps) / self.decay_steps))
        return top * ((1 - self.alpha) * cosine + self.alpha)


class PiecewiseConstantDecay(Schedule):
    """values[0] up to and with step boundaries[0], then values[1] up to and with boundaries[1], and so on.

    Parameters
    ----------
    boundaries : list of int
        At least 0, each larger than the one before.
    values : list of float
        Learning rates, one more than boundaries.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range, or their lengths do not fit.

    Examples
    --------
    >>> from cgru.schedules import PiecewiseConstantDecay
    >>> schedule = PiecewiseConstantDecay([100, 200], [0.1, 0.05, 0.01])
    >>> schedule(100), schedule(101), schedule(5000)
    (0.1, 0.05, 0.01)
    """

    _options = ("boundaries", "values")

    def __init__(self, boundaries: Sequence[SupportsIndex], values: Sequence[float]) -> None:
        self.boundaries = tuple(check_int(b, f"boundaries[{i}]") for i, b in _listed(boundaries, "boundaries"))
        self.values = tuple(check_finite(v, f"values[{i}]", 0) for i, v in _listed(values, "values"))
        for i, (before, after) in enumerate(zip(self.boundaries, self.boundaries[1:], strict=False), start=1):
            if after <= before:
                raise ValueError(f"boundaries: expected each larger than the one before, got {after} at index {i}")
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected one more than the {len(self.boundaries)} boundaries, got {len(self.values)}"
            )

    def __call__(self, step: SupportsIndex) -> float:
        return self.values[bisect.bisect_left(self.boundaries, check_int(step, "step"))]

    def get_config(self) -> dict[str, Any]:
        return {"boundaries": list(self.boundaries), "values": list(self.values)}


SCHEDULES = {schedule.__name__: schedule for schedule in (CosineDecay, ExponentialDecay, PiecewiseConstantDecay)}


def to_config(schedule: Callable[[int], float]) -> dict[str, Any]:
    """Return {"class": name, "config": dict} of a schedule of this module, a dict that JSON can hold.

    Raises
    ------
    TypeError
        If it is another callable: a function can be called, but not be saved.
    """
    if type(schedule) not in SCHEDULES.values():
        raise TypeError(
            f"learning_rate: expected a number or one of cgru.schedules' {', '.join(SCHEDULES)} where the optimizer is "
            f"to be saved, got {schedule!r}, of which only its own code knows how to make it again"
        )
    return {"class": type(schedule).__name__, "config": schedule.get_config()}  # type: ignore[attr-defined]


def from_config(config: Mapping[str, Any]) -> Schedule:
    """Return a new schedule from what `to_config` returned.

    Raises
    ------
    TypeError, ValueError
        If it is not of that form, or names another class.

    Examples
    --------
    >>> from cgru import schedules
    >>> schedules.from_config(schedules.to_config(schedules.CosineDecay(0.1, 100)))
    CosineDecay(0.1, 100)
    """
    schedule: Schedule = made_from(config, SCHEDULES, "schedule")
    return schedule


def _listed(values: Any, name: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(values, (list, tuple, np.ndarray)) or np.ndim(values) != 1:
        raise TypeError(f"{name}: expected a flat list of numbers, got {values!r}")
    return enumerate(values)
