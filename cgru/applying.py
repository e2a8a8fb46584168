"""Updates of layers by an optimizer, in a loop of one's own: which gradient is whose, and an exchange of parameters
that is whole or has not happened.

Layers and models are known by what they have, `parameters` and `layers`: nothing here imports them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import constraints
from cgru.checks import shape_text
from cgru.locks import unshared
from cgru.sequences import as_numeric
from cgru.typing import Array, Parameter

if TYPE_CHECKING:
    from cgru.descent import Optimizer, State


class Memory:
    """What an optimizer remembers of layers that it updates together. It holds none of them."""

    def __init__(self, layers: Sequence[Any], forget: Callable[[Any], None]) -> None:
        """`forget` is called when one of the layers is gone."""
        self._references = [weakref.ref(layer, forget) for layer in layers]
        self._states: tuple[State, State] | None = None  # the current one and the spare
        self._proposed: dict[Parameter, Array] = {}  # new parameters, computed aside

    def update(self, optimizer: Optimizer, layers: Sequence[Any], gradients: Mapping[Parameter, Array]) -> None:
        """One update of the trainable layers by gradients of all their parameters; the layers may come in another order
        than before."""
        places = {id(layer): i for i, layer in enumerate(layers)}
        order = [places[id(reference())] for reference in self._references]
        known_as = {place: i for i, place in enumerate(order)}
        layers = [layers[place] for place in order]
        gradients = {(known_as[place], name): gradient for (place, name), gradient in gradients.items()}
        parameters = {(i, name): layers[i]._built_parameters()[name] for i, name in gradients}
        self._states, self._proposed = ready(optimizer, parameters, self._states, self._proposed)
        current, spare = self._states
        proposed = self._proposed = unshared(self._proposed)
        with np.errstate(all="ignore"):  # what is not finite is looked for
            known = optimizer.propose(parameters, gradients, current, proposed, spare)
            known = not constraints.act(layers, proposed) and known
            wrong = None if known else _error(optimizer, layers, order, gradients, proposed)
        if wrong is not None:
            raise wrong
        new = by_layer(layers, proposed)
        try:
            self._exchange(layers, new, parameters, (spare, current))
        except KeyboardInterrupt:
            self._exchange(layers, new, parameters, (spare, current))
            raise

    def _exchange(
        self,
        layers: Sequence[Any],
        new: Mapping[int, dict[str, Array]],
        old: dict[Parameter, Array],
        states: tuple[State, State],
    ) -> None:
        """Doing it twice is doing it once."""
        for i, parameters in new.items():
            layers[i]._publish(parameters)
        self._proposed, self._states = old, states


def ready(
    optimizer: Optimizer,
    parameters: Mapping[Parameter, Array],
    states: tuple[State, State] | None,
    proposed: dict[Parameter, Array],
) -> tuple[tuple[State, State], dict[Parameter, Array]]:
    """What an update of these parameters writes and reads: (the current state and the spare, arrays for the new
    parameters). That is what is given, or new ones that go on from it where other parameters are trainable now."""
    if states is None or not states[0].fits(parameters) or proposed.keys() != parameters.keys():
        before, states = states, (optimizer.start(parameters), optimizer.start(parameters))
        if before is not None:
            states[0].take_over(before[0])
        proposed = {key: np.empty_like(array) for key, array in parameters.items()}
    return states, proposed


def by_layer(layers: Sequence[Any], proposed: Mapping[Parameter, Array]) -> dict[int, dict[str, Array]]:
    """All parameters of the layers that get new ones: dict index of the layer -> dict name -> array."""
    new: dict[int, dict[str, Array]] = {}
    for (i, name), array in proposed.items():
        new.setdefault(i, dict(layers[i]._built_parameters()))[name] = array
    return new


def _error(
    optimizer: Optimizer,
    layers: Sequence[Any],
    order: Sequence[int],
    gradients: Mapping[Parameter, Array],
    proposed: Mapping[Parameter, Array],
) -> FloatingPointError | None:
    """What is not finite in an update, if anything is; `order` has the numbers of the layers that the caller knows."""

    def names(keys: Sequence[Parameter]) -> str:
        return " and ".join(f"{name} of layer {order[i]} ({type(layers[i]).__name__})" for i, name in keys[:2])

    wrong = [key for key, gradient in gradients.items() if not np.isfinite(gradient * gradient).all()]
    if wrong:
        return FloatingPointError(
            f"the gradient of {names(wrong)}, or its square, is not finite; no update was made with it"
        )
    wrong = [key for key, array in proposed.items() if not np.isfinite(array).all()]
    if wrong:
        return FloatingPointError(
            f"the update of {names(wrong)} is not finite, though the gradient is: {optimizer!r} is too much; "
            "it was not made"
        )
    return None


# -- what was passed


def layers_and_gradients(target: Any, gradients: Any) -> tuple[list[Any], dict[Parameter, Array]]:
    """Return the layers of `target`, a model, a layer or a list of them, and the gradients of all parameters of those
    that are trainable, checked: dict (index of the layer, parameter name) -> array.

    Raises
    ------
    RuntimeError
        If a layer is not built.
    TypeError, ValueError
        If something is of the wrong type, missing, or of another name or shape.
    """
    layers, parts = _parts(target, gradients)
    checked = {}
    for i, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        parameters, who = layer._built_parameters(), f"layer {i} ({type(layer).__name__})"
        if part and (refused := layer.refuses_training()) is not None:
            raise ValueError(f"gradients: expected none of {who}, got {', '.join(part)}: {refused}")
        for name in part:
            if name not in parameters:
                raise ValueError(
                    f"gradients: expected parameters of {who}, {', '.join(parameters) or 'none'}; got {name!r}"
                )
        for name, parameter in parameters.items() if layer.trainable else ():
            if part.get(name) is None:
                raise ValueError(
                    f"gradients: expected one for each parameter, got none for {name} of {who}; trainable=False leaves "
                    "a layer as it is"
                )
            gradient = as_numeric(part[name], parameter.dtype, f"gradient of {name} of {who}")
            if gradient.shape != parameter.shape:
                expected = shape_text(parameter.shape)
                raise ValueError(f"gradient of {name} of {who}: expected shape {expected}, got {gradient.shape}")
            checked[i, name] = np.ascontiguousarray(gradient)
    return layers, checked


def _parts(target: Any, gradients: Any) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Return (list of layers, list of dicts name -> gradient, one for each layer)."""
    several = isinstance(target, (list, tuple))
    targets = list(target) if several else [target]
    for one in targets:
        if not _is_model(one) and not hasattr(one, "_built_parameters"):
            raise TypeError(
                f"model_or_layers: expected a model, a layer or a list of them, got {type(one).__name__}"
                f"{' in the list' if several else ''}"
            )
    if several and (not isinstance(gradients, (list, tuple)) or len(gradients) != len(targets)):
        got = f"{len(gradients)} of them" if isinstance(gradients, (list, tuple)) else type(gradients).__name__
        raise TypeError(f"gradients: expected a list of {len(targets)} dicts, one for each in the list, got {got}")
    layers, parts = [], []
    for one, part in zip(targets, gradients if several else [gradients], strict=True):
        own = list(one.layers) if _is_model(one) else [one]
        layers += own
        parts += _split(part, len(own)) if _is_model(one) else [_named(part)]
    if len({id(layer) for layer in layers}) != len(layers):
        raise ValueError("model_or_layers: expected each layer once, got one twice")
    return layers, parts


def _is_model(target: Any) -> bool:
    return isinstance(getattr(target, "layers", None), (list, tuple))


def _named(part: Any) -> Mapping[str, Any]:
    if not isinstance(part, Mapping):
        raise TypeError(f"gradients: expected a dict of a layer's, name -> array, got {type(part).__name__}")
    return part


def _split(gradients: Any, count: int) -> list[Mapping[str, Any]]:
    """A model's gradients, layer by layer."""
    if not isinstance(gradients, Mapping):
        raise TypeError(f'gradients: expected a dict, "0.kernel" -> array, got {type(gradients).__name__}')
    parts: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in gradients.items():
        i, name = key if isinstance(key, tuple) and len(key) == 2 else _parsed(key)
        if not isinstance(i, (int, np.integer)) or not 0 <= i < count:
            raise ValueError(f'gradients: expected keys like "0.kernel", of layers 0 to {count - 1}, got {key!r}')
        if name in parts[i]:
            raise ValueError(f"gradients: expected one for each parameter, got two for {name} of layer {i}")
        parts[i][name] = value
    return list(parts)


def _parsed(key: Any) -> tuple[int | None, str]:
    number, _, name = str(key).partition(".")
    return (int(number) if number.isdecimal() else None), name
