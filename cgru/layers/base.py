"""The layer protocol: options, and the two passes over a batch.

A layer maps a `Batch` of sequences, (N, T, F) with its lengths or mask, or of vectors, (N, F), to another one. What
`backward_batch` needs travels in a tape that belongs to the caller, so a layer holds nothing but its parameters and any
number of threads may use it. What lies outside lengths or mask is never read: layers without a state work on the (M, F)
rows of the valid steps alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from cgru import masks
from cgru.checks import check_bool, check_dtype, check_int
from cgru.configured import Configured
from cgru.layers.options import Optioned, in_config, kind_of
from cgru.layers.stored import Stored
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, BoolArray, DType, Key, Shape

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer(Stored, Optioned, Configured):
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
        self._own_key: masks.Key | None = None  # of the next call in training that is given none

    # -- what a subclass implements

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

    def _next_key(self) -> masks.Key:
        """A key of the layer's own, another one at each call."""
        with self._lock:
            key = self._own_key
            if key is None:
                key = masks.Key(int(self._generator().integers(2**64, dtype=np.uint64)))
            self._own_key = key._replace(update=key.update + 1)
        return key

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
