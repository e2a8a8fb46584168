"""The layer protocol: parameters, their construction and update, and the two passes over a batch.

A layer maps a `Batch` of sequences, (N, T, F) with its lengths or mask, or of vectors, (N, F), to another one. What
`backward_batch` needs travels in a tape that belongs to the caller, so a layer holds nothing but its parameters and any
number of threads may use it. What lies outside lengths or mask is never read: layers without a state work on the (M, F)
rows of the valid steps alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import initializers, masks
from cgru.checks import as_array, check_bool, check_dtype, check_int
from cgru.configured import Configured
from cgru.layers.options import Optioned, in_config, kind_of, role
from cgru.layers.stored import Stored
from cgru.layers.writable import Writable
from cgru.locks import Locked, owned
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, BoolArray, DType, Initializer, Key, Shape

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer(Stored, Optioned, Locked, Configured):
    """Base class of the layers: parameters, their construction and their update.

    A subclass implements `parameter_shapes`, `_initial`, `forward_batch`, `backward_batch` and `output_size`, and lists
    its options in `_options`; one that derives something from its parameters (a packed form) drops it in `_changed`.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Type of parameters and results. Inputs of another type are converted on entry.
    seed : int, optional
        Seed of the initial parameters. Without it they are drawn from the seed of the `Sequential` that the layer is
        in, or else from the operating system.
    trainable : bool
        Whether `Sequential.fit` changes the parameters.

    Raises
    ------
    ValueError, TypeError
        If `dtype` is not one of the two, `seed` is not an integer of at least 0, or `trainable` is no bool.
    """

    dtype: np.dtype[Any] | None
    seed: int | None
    _options: tuple[str, ...] = ("dtype", "seed")
    _has_dtype = True  # False: results have the type of the inputs
    _takes_sequences = False  # True: data (N, T, F) alone
    _has_step_state = False  # True: `step(x_t, state)` returns (y_t, state)
    _step_start = 0.0  # what fills that state where sequences start

    @property
    def draws(self) -> bool:
        """Whether outputs in training are others than in inference, because something is drawn for them."""
        return True

    @property
    def recomputes(self) -> bool:
        """Whether `forward_batch` takes `recompute`: of how many steps there is a tape at a time, see `GRU.forward`."""
        return False

    def __init__(self, dtype: DType = "float32", seed: SupportsIndex | None = None, trainable: bool = True) -> None:
        super().__init__()
        self.dtype = check_dtype(dtype) if self._has_dtype else None
        self.seed = None if seed is None else check_int(seed, "seed")
        self.trainable = trainable
        self._inherited_seed: np.random.SeedSequence | None = None
        # Whoever writes parameters makes new arrays and a new dict.
        self._parameters: dict[str, Array] | None = None
        self._written: Writable | None = None  # inside `update`
        self._input_size: int | None = None
        self._own_key: masks.Key | None = None  # of the next call in training that is given none

    # -- what a subclass implements

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        """Yield (name, shape) of each parameter for `input_size` input features; nothing is allocated for it."""
        raise NotImplementedError

    def _initial(self, name: str) -> Initializer:
        """Return the initializer, a function of (shape, dtype, rng), of the parameter called `name`."""
        return initializers.get(self._option_for(name, "initializer"))

    def _inputs_of_an_output(self, input_size: int) -> int:
        """What `initializers.PyTorch` has under the root."""
        return input_size

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, Array | None, float, Any]:
        """Return (Batch of outputs, state, penalty, tape).

        Parameters
        ----------
        batch : Batch
            Its data are (N, T, F) or (N, F). The layer is built if it was not.
        state : ndarray, optional
            What the sequences start from, where the layer has a state (a `GRU`: of the shape of `initial_state`); None
            is its own beginning. Layers without one do not look at it.
        key : masks.Key, optional
            What the random choices of training are drawn from: the same key, the same choices, row by row. Without it
            the layer has keys of its own, another one at each call.
        training : bool
            Whether dropout acts, and whether the tape can be used.

        Returns
        -------
        batch : Batch
        state : ndarray or None
            The state after the last valid step of each sequence; None from a layer without one. Nothing is kept in the
            layer: who runs a stateful one says afterwards what to keep (`GRU.reset_states`).
        penalty : float
            What the regularizer of the activity adds to the loss: its penalty on the outputs at the valid steps, by the
            number of rows. Those of the parameters are in `penalty()`, once for an update.
        tape : object
            What `backward_batch` needs. It belongs to the caller.
        """
        raise NotImplementedError

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, Array | None, dict[str, Array]]:
        """Return (gradient of the inputs, gradient of the state, dict name -> gradient of the parameter). The gradient
        of the activity's penalty is in them, that of the parameters' (`penalty_gradients`) is not.

        Parameters
        ----------
        d_out : ndarray
            Gradient of the data that `forward_batch` returned, of their shape. Invalid steps are not read.
        d_state : ndarray or None
            Gradient of the state that it returned; None is zero.
        tape : object
            What it returned. It is only read.
        need_dx : bool
            Whether the gradient of the inputs is wanted.
        need_grads : bool
            Whether the gradients of the parameters are wanted: a frozen layer passes gradients on and needs none.

        Returns
        -------
        d_in : ndarray or None
            Of the shape of the inputs, zero at invalid steps; None unless `need_dx`, and for inputs that are ids.
        d_state : ndarray or None
            Gradient of the state that went in; None from a layer without one.
        grads : dict
            Empty unless `need_grads`.
        """
        raise NotImplementedError

    def record_batch(self, batch: Batch, state: Array | None = None) -> tuple[Batch, Array | None, float, Any]:
        """As `forward_batch` in inference, nothing dropped, with a tape for `backward_batch`: what it computes can be
        looked into. A layer that does something else in training than in inference says here how to do without; the
        gradient of the activity's penalty is taken off the tape, where that has it by this name."""
        out, state, _, tape = self.forward_batch(batch, state, training=True)
        return out, state, 0.0, tape._replace(d_penalty=None) if hasattr(tape, "d_penalty") else tape

    def step_rows(self, x: AnyArray) -> Array:
        """Return the outputs for one time step of N sequences, (N, F) or ids (N,), as `forward_batch` has them in
        inference. Models call it once a step: a layer that has a shorter way to them takes it here."""
        return self.forward_batch(Batch(x))[0].data

    def refuses_steps(self) -> str | None:
        """Return None if the layer can run step by step, else what would be expected, in words."""
        return None

    def refuses_resets(self) -> str | None:
        """Return None if the layer knows what resets within a row are, else what would be expected, in words. One that
        looks from step to step looks across no reset; one with a single output for a row has that of its last
        segment."""
        return None

    def refuses_training(self) -> str | None:
        """Return None if the layer can be trained, else why not and what to do instead, in words."""
        return None

    def restarted(self, state: Any, resets: BoolArray) -> Any:
        """Return the state of `step` with the rows where `resets` (N,) at their beginning; None is all of them."""
        if state is None:
            return None
        raise NotImplementedError(f"{type(self).__name__} has no method restarted, which resets need")

    def output_size(self, input_size: Any) -> Any:
        """Return the number of output features for inputs of `input_size` features."""
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the outputs for data of `shape`, in which names like "N" may stand for sizes."""
        return (*shape[:-1], self.output_size(shape[-1]))

    def expected_shape(self, shape: Shape) -> str | None:
        """Return None if data of `shape` will do, else which shape they should have, in words."""
        return None

    def masked(self, batch: Batch) -> Batch:
        """Return the batch of inputs without the steps that the layer takes for padding because of their values."""
        return batch

    def output_steps(self, batch: Batch) -> Batch:
        """Return which steps of the outputs are valid, for inputs whose steps are those of `batch`: a batch of their
        lengths or mask, whose data are (N, T, 0), or (N, 0) for vectors."""
        return batch

    def check_values(self, batch: Batch, name: str) -> None:
        """Raise for values at valid steps that the layer cannot take; `name` is what the caller calls them."""

    def _changed(self) -> None:
        """Called whenever parameters were written."""

    # -- configuration

    @property
    def trainable(self) -> bool:
        """Whether `Sequential.fit` changes the parameters; the one option that may be set at any time."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = check_bool(value, "trainable")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as a dict that JSON can hold."""
        config = {name: in_config(name, value) for name, value in super().get_config().items()}
        dtype = config.pop("dtype")
        return config | ({"dtype": dtype.name} if self._has_dtype else {}) | {"trainable": self.trainable}

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) if kind_of(name) else value for name, value in self.get_config().items()}

    def _instead_of_change(self, name: str, value: str) -> str:
        return f"with_options({name}={value}) makes a layer with the same weights and other options"

    def with_options(self, **options: Any) -> Self:
        """Return a new layer of the same weights under other options; this one stays as it is.

        The new layer has a copy of the weights, converted if `dtype` is another; training one leaves the other alone.

        Parameters
        ----------
        **options
            Arguments of the constructor; the others stay. `input_size` is not one of them.

        Raises
        ------
        RuntimeError
            If the layer is not built.
        TypeError, ValueError
            If there is no such option, its value is wrong, or the parameters would get other names or shapes.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> layer = cgru.GRU(4, return_sequences=True, seed=0)
        >>> layer(np.ones((2, 5, 3))).shape
        (2, 5, 4)
        >>> layer.with_options(return_sequences=False)(np.ones((2, 5, 3))).shape
        (2, 4)
        """
        self._built_parameters()
        config = self.get_config()
        for name in options:
            if name not in config:
                raise TypeError(f"{name}: expected one of {type(self).__name__}'s options, {', '.join(config)}")
        other = self.from_config(config | options)
        own, new = (dict(layer.parameter_shapes(self.input_size)) for layer in (self, other))
        differing = sorted(name for name in own.keys() | new.keys() if own.get(name) != new.get(name))
        if differing:
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            was, becomes = (shapes.get(differing[0], "missing") for shapes in (own, new))
            raise ValueError(
                f"{', '.join(options)}: expected options under which the parameters stay the same, got {given}, with "
                f"which {differing[0]} is {becomes} instead of {was}"
            )
        if own and self.input_size is not None:
            self._hand_over(other)
        return other

    def _hand_over(self, other: Self) -> None:
        """Give the weights to another layer, which has none yet."""
        assert self.input_size is not None
        other.build_from(self.input_size, self.get_weights())

    # -- construction

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a new layer from what `get_config` returned; parameters are not part of it."""
        if not isinstance(config, dict):
            raise TypeError(f"config: expected a dict of {cls.__name__}'s arguments, got {type(config).__name__}")
        if "input_size" in config:  # it would build the layer
            raise ValueError("config: expected no 'input_size', which get_config does not give; call build(input_size)")
        return cls(**config)

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

    def _next_key(self) -> masks.Key:
        """A key of the layer's own, another one at each call."""
        with self._lock:
            key = self._own_key
            if key is None:
                key = masks.Key(int(self._generator().integers(2**64, dtype=np.uint64)))
            self._own_key = key._replace(update=key.update + 1)
        return key

    def _inherit_seed(self, seed: np.random.SeedSequence) -> None:
        """Take a SeedSequence for what the layer will draw if it has no seed of its own; the first one stays."""
        if self._inherited_seed is None:
            self._inherited_seed = seed

    # -- parameters

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


def expected_sequences(shape: Shape, input_size: int | None, F: str = "F") -> str | None:
    """What `Layer.expected_shape` returns for layers of sequences (N, T, F), built for `input_size` features or not."""
    if len(shape) == 3 and shape[2] == (input_size or max(1, shape[2])):
        return None
    size = input_size or (f"{F} >= 1" if len(shape) == 3 else F)
    return f"(N, T, {size}) or a list of (T_i, {size}) arrays"


def expected_vectors(shape: Shape, input_size: int | None) -> str | None:
    """The same for layers of vectors (N, F), or of the vectors of every step."""
    if len(shape) in (2, 3) and shape[-1] == (input_size or max(1, shape[-1])):
        return None
    size = input_size or ("F >= 1" if len(shape) in (2, 3) else "F")
    return f"(N, {size}) or (N, T, {size})"


def check_gradient(d_out: AnyArray, shape: Shape) -> None:
    if d_out.shape != shape:
        raise ValueError(f"d_out: expected the shape of the outputs, {shape}, got {d_out.shape}")
