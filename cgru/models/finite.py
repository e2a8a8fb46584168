"""Numbers that are not finite: a cheap look at each update, and the search for their origin when one is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgru.models import examples, stateful
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, IntArray, Parameter, States

if TYPE_CHECKING:
    from cgru.models.targets import Targets
    from cgru.models.updates import Updatable


class Place(NamedTuple):
    """Where in the training a batch stands."""

    epoch: int  # from 1
    batch: int  # from 1
    rows: IntArray  # of x, in the batch's order
    examples: IntArray  # their numbers in the data, which random choices follow
    step: int = 0  # with which the batch begins

    def take(self, rows: IntArray) -> Place:
        """The same of these rows of the batch."""
        return self._replace(rows=self.rows[rows], examples=self.examples[rows])

    def __str__(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch}"


def all_finite(arrays: Iterable[AnyArray], squares: bool = False) -> bool:
    """Whether all elements of the arrays are finite numbers, and with `squares` their squares too."""
    # A sum of squares that is finite has finite terms; one that is not may have overflowed, so that is looked at again.
    # np.dot is the faster one where BLAS wakes no threads for it.
    for array in arrays:
        flat = array.reshape(-1)
        total = flat.dot(flat) if flat.size < 4096 else np.einsum("i,i->", flat, flat)
        if not math.isfinite(total) and not np.isfinite(flat * flat if squares else flat).all():
            return False
    return True


def input_error(batch: Batch, place: Place, name: str = "x") -> ValueError | None:
    """A ValueError that names the first number at a valid step that is not finite; None if there is none."""
    data = batch.data
    if data.dtype.kind != "f":
        return None
    wrong = ~np.isfinite(data)
    if batch.valid is not None:
        wrong &= batch.valid.reshape(batch.valid.shape + (1,) * (data.ndim - 2))
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0].tolist())
    names = ("row", "step", "feature") if data.ndim == 3 else ("row", "feature")
    first = (0, place.step, 0) if data.ndim == 3 else (0, 0)
    shown = zip(names, (place.rows[at[0]], *at[1:]), first, strict=True)
    where = ", ".join(f"{name} {i + begin}" for name, i, begin in shown)
    return ValueError(
        f"{name}: expected finite numbers in {data.dtype}, got an input of {data[at]} in {where} ({place}); "
        "no update was made with it"
    )


def loss_error(model: Updatable, batch: Batch, row_losses: Iterable[float], place: Place) -> Exception:
    """The error for a batch whose loss is not finite: its input's, the parameters', or the loss' own."""
    error = input_error(batch, place, model._inputs) or _parameter_error(model, place)
    if error is not None:
        return error
    for row, value in zip(place.rows, row_losses, strict=True):
        if not np.isfinite(value):
            return FloatingPointError(
                f"the loss of row {row} of {model._inputs} is {value} in {place}, though input and parameters are "
                "finite; no update was made with it"
            )
    return FloatingPointError(f"the sum of the losses is not finite in {place}; no update was made with it")


def gradient_error(
    model: Updatable, batch: Batch, targets: Targets, gradients: Mapping[Parameter, Array], place: Place,
    states: States | None,
) -> Exception:  # fmt: skip
    """The error for a batch whose gradients, or their squares, are not finite."""
    error = input_error(batch, place, model._inputs) or _parameter_error(model, place)
    if error is not None:
        return error
    names = [_name(model, p) for p, gradient in gradients.items() if not all_finite([gradient], squares=True)]
    if not names:  # of these rows; but there are other ranks
        return FloatingPointError(
            f"the gradient of all ranks together, or its square, is not finite in {place}; no update was made with it"
        )
    for i, row in enumerate(place.rows):
        part, own = model._rows_of(batch, targets, np.array([i]))
        begun = stateful.states_of_row(model.layers, i, states)
        key = model._key(place.take(np.array([i])))
        if not all_finite(model._gradients(part, own, begun, key).values(), squares=True):
            because = f" because of row {row} of {model._inputs}"
            break
    else:
        because = ""
    return FloatingPointError(
        f"the gradient of {' and '.join(names[:2])}, or its square, is not finite in {place}{because}, "
        "though the loss is; no update was made with it"
    )


def update_error(model: Updatable, proposed: Mapping[Parameter, Array], place: Place) -> FloatingPointError:
    """The error for new parameters that are not finite."""
    names = [_name(model, key) for key, array in proposed.items() if not all_finite([array])]
    return FloatingPointError(
        f"the update of {' and '.join(names[:2])} is not finite in {place}, though the gradient is: "
        f"{model.optimizer!r} is too much; it was not made"
    )


def _parameter_error(model: Updatable, place: Place) -> FloatingPointError | None:
    for i, layer in enumerate(model.layers):
        for name, array in layer.parameters.items():
            if not all_finite([array]):
                value = array[~np.isfinite(array)][0]
                return FloatingPointError(
                    f"{_name(model, (i, name))} holds {value} before the update of {place}, which was not made"
                )
    return None


def _name(model: Updatable, key: Parameter) -> str:
    return f"{key[1]} of {examples.title(model.layers, key[0])}"
