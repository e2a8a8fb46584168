"""What a GRU decided at every step, from the tape of a forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cgru import recurrence
from cgru.scheduling import Schedule
from cgru.typing import Array


class Gates(NamedTuple):
    """Gates, candidate and state of one layer in one direction, each (N, T, H), or (T, N, H) with time_major.

    They are in the order of the outputs, and zero where a row takes no step.
    """

    r: Array  # reset gate: how much of the old state the candidate sees
    z: Array  # update gate: what the candidate weighs in the new state; the old state weighs 1 - z
    n: Array  # candidate
    h: Array  # state after the step


GatesOrDict: TypeAlias = Gates | Any  # a dict of Gates with several layers or directions


def of_tape(tape: recurrence.Tape) -> Gates:
    """Return the `Gates` of one pass, batch-major."""
    plan, (N, T, _), H = tape.plan, tape.x.shape, tape.weights.H
    cut = None if isinstance(plan, Schedule) else plan
    plan = plan if cut is None else cut.plan
    M, Hp = plan.steps, tape.weights.Hp
    # (M, 4, H): r z n h of the packed rows
    states = tape.states[len(tape.states) - M :, None]
    packed = np.concatenate([tape.gates[:, : 3 * Hp].reshape(M, 3, Hp), states], axis=1)[:, :, :H]
    if cut is not None:
        found = [cut.empty(H, packed.dtype) for _ in Gates._fields]
        for gate, array in enumerate(found):
            cut.view(array)[0, plan.times] = packed[:, gate]
        return Gates(*found)
    if plan.offsets is None:
        steps = packed.reshape(T, N, 4, H)
        whole = np.ascontiguousarray(steps[::-1] if plan.flip else steps).transpose(2, 1, 0, 3)
        return Gates(*map(np.ascontiguousarray, whole))
    k = np.repeat(np.arange(len(plan.offsets) - 1), np.diff(plan.offsets))  # of each packed row: its step
    i = np.arange(M) - plan.offsets[k]  # and its place in it
    rows = i if plan.rows is None else plan.rows[i]
    times = k if plan.times is None else plan.times
    spread = np.zeros((4, N, T, H), packed.dtype)
    spread[:, rows, times] = packed.swapaxes(0, 1)
    return Gates(*spread)
