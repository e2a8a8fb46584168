"""What a file holds of training beside the parameters: everything that `fit` needs to go on to the bit.

That is a dict of numbers, texts, lists and dicts, in which arrays stand for tensors of the file (`packed`, `unpacked`).
Reading trusts nothing: classes are those of this library, by name, and arrays have the shapes of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import losses, metrics, optimizers
from cgru.checks import check_int
from cgru.models.history import History
from cgru.models.loop import Course
from cgru.models.runs import Totals
from cgru.optimizers import State
from cgru.typing import AnyArray

if TYPE_CHECKING:
    from cgru.models.training import Trainable

PREFIX = "training."  # of the names of its tensors
_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


# -- a model


def check(model: Trainable) -> None:
    """Raise where the training of this model cannot be saved, whatever state it is in.

    Raises
    ------
    ValueError
        If a layer cannot be trained.
    RuntimeError
        If `compile` was not called.
    TypeError
        If optimizer, loss or a metric is not of this library.
    """
    model._check_trainable("training_state")
    if model.loss is None:
        raise RuntimeError("training_state: expected a model that is compiled: call compile(optimizer, loss) first")
    _compiled_state(model)


def state_of(model: Trainable) -> dict[str, Any]:
    """Return the state of a model's training; its arrays are the model's own.

    Raises
    ------
    RuntimeError, TypeError
        As `check`.
    """
    check(model)
    optimizer = None
    if model._states is not None:
        current = model._states[0]
        slots = [[i, name, list(arrays)] for (i, name), arrays in (current.resting | current.slots).items()]
        optimizer = {"iterations": current.iterations, "slots": slots}
    return {
        "compile": _compiled_state(model),
        "seed": model._training_seed,
        "optimizer": optimizer,
        "states": [getattr(layer, "_state", None) for layer in model.layers],
        "run": None if model._course is None else _run_state(model, model._course),
    }


def restore(model: Trainable, state: Any) -> None:
    """Bring a model that has its parameters into a state that `state_of` returned.

    Raises
    ------
    TypeError, ValueError
        If it is the state of another model, or was altered.
    """
    try:
        _restore(model, state)
    except (LookupError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"training: not a state of training: {type(error).__name__} {error}") from None


def _restore(model: Trainable, state: Any) -> None:
    made = {name: _made(name, state["compile"][name]) for name in ("optimizer", "loss")}
    model.compile(**made, metrics=[_made("metrics", entry) for entry in state["compile"]["metrics"]])
    model._training_seed = check_int(state["seed"], "training: seed")
    if state["optimizer"] is not None:
        model._states = _optimizer_states(model, state["optimizer"])
        places = list(model._states[0].slots)
        model._proposed = {(i, name): np.empty_like(model.layers[i]._built_parameters()[name]) for i, name in places}
    if len(state["states"]) != len(model.layers):
        raise ValueError(f"training: expected {len(model.layers)} states of layers, got {len(state['states'])}")
    for layer, kept in zip(model.layers, state["states"], strict=True):
        if kept is not None:
            layer.reset_states(kept)
    if state["run"] is not None:
        model._course = _run(model, state["run"])
        model.history = model._course.history


# -- what `compile` chose

_ROOMS = {
    "optimizer": (optimizers, optimizers.Optimizer),
    "loss": (losses, losses.Loss),
    "metrics": (metrics, metrics.Metric),
}


def _compiled_state(model: Trainable) -> dict[str, Any]:
    return {
        "optimizer": _entry("optimizer", model.optimizer),
        "loss": _entry("loss", model.loss),
        "metrics": [_entry("metrics", metric) for metric in model.metrics],
    }


def _entry(room: str, thing: Any) -> dict[str, Any]:
    name = type(thing).__name__
    if _class_of(room, name) is not type(thing):
        raise TypeError(
            f"training_state: expected {room} of cgru.{_ROOMS[room][0].__name__.rpartition('.')[2]}, got {thing!r}, "
            "which the file could not bring back: save without training_state"
        )
    return {"class": name, "config": thing.get_config()}


def _class_of(room: str, name: Any) -> Any:
    module, base = _ROOMS[room]
    found = getattr(module, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, base) else None


def _made(room: str, entry: Any) -> Any:
    cls = _class_of(room, entry["class"])
    if cls is None:
        raise ValueError(f"training: expected {room} of this library, got {entry['class']!r}")
    if not isinstance(entry["config"], dict):
        raise ValueError(f"training: expected the options of {room} as a dict, got {entry['config']!r}")
    return cls.from_config(entry["config"]) if hasattr(cls, "from_config") else cls(**entry["config"])


def _optimizer_states(model: Trainable, state: Any) -> tuple[State, State]:
    parameters = {}
    for i, name, _ in state["slots"]:
        i = check_int(i, "training: layer")
        parameters[i, str(name)] = model.layers[i]._built_parameters()[name]
    states = model.optimizer.start(parameters), model.optimizer.start(parameters)
    states[0].iterations = check_int(state["iterations"], "training: iterations")
    for i, name, arrays in state["slots"]:
        own = states[0].slots[i, name]
        if len(arrays) != len(own):
            raise ValueError(f"training: expected {len(own)} arrays of {name} of layer {i}, got {len(arrays)}")
        for array, target in zip(arrays, own, strict=True):
            if not isinstance(array, np.ndarray) or array.shape != target.shape or array.dtype != target.dtype:
                raise ValueError(f"training: expected arrays of shape {target.shape} of {name} of layer {i}")
            target[...] = array
    return states


# -- a run of `fit`


def _run_state(model: Trainable, course: Course) -> dict[str, Any]:
    batches, part = course.done
    callbacks = course.callback_states()
    for entry in callbacks:
        packed(entry["state"], {}, f"callbacks: {entry['class']}.get_state")
    ended = course.epoch - course.first  # a run that was interrupted may have entered one epoch more
    return {
        "settings": course.settings,
        "first": course.first,
        "epoch": course.epoch,
        "order": course.order,
        "batches": batches,
        "part": None if part is None else {"step": part[0], "states": part[1]},
        "begun": list(course.begun),
        "results": course.history._results[:ended],
        "totals": None if course.totals is None else course.totals.get_state(),
        "stopped": course.stopped,
        "callbacks": callbacks,
    }


def _run(model: Trainable, state: Any) -> Course:
    first, epoch = check_int(state["first"], "training: first"), check_int(state["epoch"], "training: epoch")
    order, batches = check_int(state["order"], "training: order"), check_int(state["batches"], "training: batches")
    settings, results, callbacks = state["settings"], state["results"], state["callbacks"]
    begun = state["begun"]
    if not isinstance(settings, dict) or not isinstance(callbacks, list) or len(begun) != len(model.layers):
        raise ValueError("training: expected the settings, the callbacks and the states of a run")
    if not all(isinstance(c, dict) and c.keys() == {"class", "state"} for c in callbacks):
        raise ValueError("training: expected callbacks with class and state")
    if len(results) != epoch - first or not all(_is_result(result) for result in results):
        raise ValueError(f"training: expected the figures of {epoch - first} epochs, got {len(results)}")
    part = state["part"]
    if part is not None:
        part = check_int(part["step"], "training: step", 1), part["states"]
        if part[1] is not None and len(part[1]) != len(model.layers):
            raise ValueError(f"training: expected {len(model.layers)} states of layers, got {len(part[1])}")
    course = Course(settings, first, order, begun)
    course.epoch, course.done = epoch, (batches, part)
    course.history = History(first, results)
    course.stopped, course.callbacks = bool(state["stopped"]), callbacks
    if state["totals"] is not None:
        course.totals = Totals(model)
        course.totals.set_state(state["totals"])
    elif course.within_epoch:
        raise ValueError("training: expected the figures of the epoch that ran")
    return course


def _is_result(result: Any) -> bool:
    return isinstance(result, dict) and all(isinstance(value, float) for value in result.values())


# -- texts and tensors


def packed(value: Any, tensors: dict[str, AnyArray], what: str = "training_state") -> Any:
    """Return `value` as JSON has it, and add its arrays to `tensors`; errors call it `what`.

    Raises
    ------
    TypeError
        If something in it is neither a number, a text, an array, nor a list or dict of them.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.newbyteorder("=").str[1:] in _KINDS:
        name = f"{PREFIX}{len(tensors)}"
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, (list, tuple)):
        return [packed(item, tensors, what) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) and name[:1] != "$" for name in value):
        return {name: packed(item, tensors, what) for name, item in value.items()}
    raise TypeError(f"{what}: expected numbers, texts, arrays, lists and dicts of them, got {type(value).__name__}")


def unpacked(value: Any, tensors: Mapping[str, AnyArray]) -> Any:
    """Return what `packed` was given; tuples come back as lists."""
    if isinstance(value, list):
        return [unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$float"}:
        return float(value["$float"])
    if value.keys() == {"$tensor"}:
        if value["$tensor"] not in tensors:
            raise ValueError(f"training: expected a tensor {value['$tensor']!r}, got none")
        return tensors[value["$tensor"]]
    return {name: unpacked(item, tensors) for name, item in value.items()}
