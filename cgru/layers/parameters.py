"""The parameters of a layer: drawn or given once, read by many, and written as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import initializers
from cgru.checks import as_array, check_int
from cgru.layers.writable import Writable
from cgru.locks import Locked, owned
from cgru.typing import Array, Initializer, Shape


def role(name: str) -> str:
    """What the options for a parameter begin with: of "l0.forward.recurrent_kernel" recurrent_initializer and so on."""
    return name.rpartition(".")[2].removesuffix("_kernel")


class Parameterized(Locked):
    """Base of what has parameters. Whoever writes them makes new arrays and a new dict, so that a reader has those of
    one moment."""

    dtype: np.dtype[Any] | None
    seed: int | None

    def __init__(self) -> None:
        super().__init__()
        self._parameters: dict[str, Array] | None = None
        self._written: Writable | None = None  # inside `update`
        self._input_size: int | None = None
        self._inherited_seed: np.random.SeedSequence | None = None

    # -- what a subclass implements

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        """Yield (name, shape) of each parameter for `input_size` input features; nothing is allocated for it."""
        raise NotImplementedError

    def _initial(self, name: str) -> Initializer:
        """Return the initializer, a function of (shape, dtype, rng), of the parameter called `name`."""
        raise NotImplementedError

    def _inputs_of_an_output(self, input_size: int) -> int:
        """What `initializers.PyTorch` has under the root."""
        return input_size

    def _changed(self) -> None:
        """Called whenever parameters were written."""

    # -- construction

    @property
    def built(self) -> bool:
        """Whether the parameters exist."""
        return self._parameters is not None

    @property
    def input_size(self) -> int | None:
        """Number of input features that the layer was built for; None before."""
        return self._input_size

    def build(self, input_size: SupportsIndex) -> None:
        """Create the parameters for inputs of `input_size` features, once; any number of threads may call.

        Raises
        ------
        TypeError, ValueError
            If `input_size` is not a positive integer, or the layer was built for another size.
        """
        input_size = check_int(input_size, "input_size", 1)
        if not self.built:
            with self._lock:
                if not self.built:
                    self._adopt(input_size, self._create(input_size, self._generator()))
        self._check_input_size(input_size)

    def build_from(self, input_size: SupportsIndex, weights: Sequence[ArrayLike]) -> None:
        """Build with these parameters instead of random ones, which for a large layer take seconds to draw.

        Parameters
        ----------
        input_size : int
        weights : list of array_like
            As for `set_weights`.

        Raises
        ------
        TypeError, ValueError
            As for `build` and `set_weights`; a layer that was not built is then not built.
        """
        input_size = check_int(input_size, "input_size", 1)
        with self._lock:
            if self.built:
                self._check_input_size(input_size)
                self.set_weights(weights)
            else:
                self._adopt(input_size, self._checked_weights(weights, dict(self.parameter_shapes(input_size))))

    def _create(self, input_size: int, rng: np.random.Generator) -> dict[str, Array]:
        created, dtype = {}, self.dtype or np.dtype("float32")
        for name, shape in self.parameter_shapes(input_size):
            initial = self._initial(name)
            if isinstance(initial, initializers.PyTorch):
                initial = initial.within(self._inputs_of_an_output(input_size))
            created[name] = initializers.called(initial, shape, dtype, rng, f"{role(name)}_initializer")
        return created

    def _adopt(self, input_size: int | None, parameters: dict[str, Array]) -> None:
        """Take new parameters, dict name -> C-contiguous array of `self.dtype`, of the shapes for `input_size`."""
        self._input_size = input_size
        self._parameters = parameters  # last: whoever sees it sees a whole layer

    def _check_input_size(self, input_size: int) -> None:
        if self._input_size != input_size:
            raise ValueError(f"{type(self).__name__} was built for {self._input_size} input features, got {input_size}")

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._inherited_seed if self.seed is None else self.seed)

    def _inherit_seed(self, seed: np.random.SeedSequence) -> None:
        """Take a SeedSequence for what the layer will draw if it has no seed of its own; the first one stays."""
        if self._inherited_seed is None:
            self._inherited_seed = seed

    # -- reading and writing

    def _built_parameters(self) -> dict[str, Array]:
        parameters = self._parameters
        if parameters is None:
            raise RuntimeError(f"{type(self).__name__} has no parameters yet: call build(input_size) or use it on data")
        return parameters

    @property
    def parameters(self) -> dict[str, Array]:
        """dict name -> read-only view of the parameter; RuntimeError before the layer is built."""
        views = {}
        for name, array in self._built_parameters().items():
            views[name] = array.view()
            views[name].flags.writeable = False
        return views

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters in memory; RuntimeError before the layer is built."""
        return sum(parameter.nbytes for parameter in self._built_parameters().values())

    def get_weights(self) -> list[Array]:
        """Return copies of the parameters, a list in the order of `parameters`."""
        with self._lock:
            return [array.copy() for array in self._built_parameters().values()]

    def _publish(self, parameters: dict[str, Array]) -> None:
        """Take these arrays, dict name -> array, for the parameters. Doing it twice is doing it once."""
        with self._lock:
            try:
                self._parameters = parameters
            finally:
                self._changed()

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Copy `weights`, a list in the order of `parameters`, into the layer: all of them or, on an error, none.

        Raises
        ------
        RuntimeError
            If the layer is not built.
        TypeError, ValueError
            If the number, a shape or the type of the arrays is wrong; the message names the parameter.
        """
        self._publish(self._checked_weights(weights))

    def _checked_weights(
        self, weights: Sequence[ArrayLike], shapes: dict[str, Shape] | None = None
    ) -> dict[str, Array]:
        if shapes is None:
            shapes = {name: array.shape for name, array in self._built_parameters().items()}
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
        if len(weights) != len(shapes):
            names = ", ".join(shapes) or "none"
            raise ValueError(f"weights: expected {len(shapes)} arrays ({names}), got {len(weights)}")
        new = {}
        for (name, shape), value in zip(shapes.items(), weights, strict=True):
            array = as_array(value, name, f"an array of shape {shape}")
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
            new[name] = np.array(array, dtype=self.dtype, order="C")
        return new

    @contextmanager
    def update(self) -> Iterator[Writable]:
        """Context in which the parameters may be written: a mapping name -> writable array.

        The arrays are copies, which become the parameters at the end, also after an error.

        Examples
        --------
        >>> from cgru import Dense
        >>> layer = Dense(3)
        >>> layer.build(2)
        >>> with layer.update() as p:
        ...     p["bias"] += 1
        >>> layer.parameters["bias"]
        array([1., 1., 1.], dtype=float32)
        """
        with self._lock:
            outer = self._written
            if outer is not None:  # which publishes
                yield outer
                return
            arrays = {name: array.copy() for name, array in self._built_parameters().items()}
            self._written = Writable(arrays)
            try:
                yield self._written
            finally:
                self._written = None
                self._publish(arrays)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._parameters is not None:
            self._parameters = {name: owned(array) for name, array in self._parameters.items()}
