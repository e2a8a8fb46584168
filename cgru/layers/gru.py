"""GRU: the options of the recurrent layer, and what they mean. Its calls are in calls.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np

from cgru import recurrence
from cgru.checks import check_bool, check_int, check_name, check_rate
from cgru.layers.calls import Calls
from cgru.typing import Activation, ConstraintLike, DType, InitializerLike, MergeMode, RegularizerLike

MERGE_MODES = ("concat", "sum", "mul", "ave")


class GRU(Calls):
    """Gated recurrent unit: layers and directions of it, forward, backward and step by step.

    Parameters
    ----------
    units : int
        Size H of the state of one layer in one direction.
    activation, recurrent_activation : str
        g of the candidate and f of the gates: "sigmoid", "tanh", "relu", "linear", "hard_sigmoid" (clip(x/6 + 0.5, 0,
        1), Keras 3) or "hard_sigmoid_keras2" (clip(0.2 x + 0.5, 0, 1), Keras 2 and ONNX).
    use_bias : bool
        Whether there are biases.
    return_sequences : bool
        Whether a call returns the outputs of all steps, (N, T, H), or those of the last, (N, H).
    return_state : bool
        Whether a call returns the final state as well.
    go_backwards : bool
        Read the input from its end and return the outputs in that order, the last step's first, as Keras does.
        **Outputs are not in the order of the input**; `reverse` is what most people want. A stack is flipped once,
        before its first layer.
    reverse : bool
        Run from each row's last valid step to its first; outputs in the order of the input.
    stateful : bool
        Start each call from the state that the last one left, until `reset_states`.
    kernel_initializer, recurrent_initializer, bias_initializer : str, Initializer or callable
        From `cgru.initializers`.
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : str or Regularizer, optional
        From `cgru.regularizers`: what the parameters, in every layer and direction, and the outputs add to the loss of
        a model.
    kernel_constraint, recurrent_constraint, bias_constraint : str, Constraint or callable, optional
        From `cgru.constraints`: what is done with the parameters after each update.
    dropout : float
        In training, the probability with which a feature of the input of the first layer is dropped: one choice a
        sequence, for all steps, gates and directions. Here and below what is kept is scaled, so that means stay.
    recurrent_dropout : float
        In training, the probability with which a unit is dropped from the state that the products read, in every layer
        and direction: one choice a sequence. What the update gate keeps of the state is not touched.
    layer_dropout : float
        In training, the probability with which an output of a layer is dropped before the next layer reads it: a choice
        for every element.
    zoneout : float
        The probability with which a unit keeps its old state at a step of training; in inference each state is the
        expectation, ``zoneout * h + (1 - zoneout) * h'``.
    layer_norm : bool
        Whether the products with the kernels are normalised, see the notes; each cell then has a parameter `gain`.
    reset_after : bool
        Whether the reset gate acts after the product with the recurrent kernel (PyTorch, cuDNN, Keras' default) or
        before it.
    num_layers : int
        Layers; each reads the merged outputs of the one below.
    bidirectional : bool
        Whether every layer also runs from the end to the start.
    merge_mode : {"concat", "sum", "mul", "ave"}
        How the outputs of the two directions become one.
    learn_initial_state : bool
        Whether each cell has a parameter `initial_state` (H,), used where a call gives none; it starts at zero.
    time_major : bool
        Whether arrays are (T, N, .) instead of (N, T, .).
    zero_output_for_mask : bool
        Whether outputs at steps that are not valid are zero, or repeat the last output before them in processing order
        (zero where there is none).
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Of parameters, state and results; inputs of another type are converted once.
    seed : int, optional
        Of the initial parameters.
    input_size : int, optional
        Number D of input features; with it the parameters are built now, else at the first call.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, unknown or out of range; the message names it.

    Notes
    -----
    With sigmoid f and tanh g, one step is (reset_after=False: K. Cho et al. 2014, arXiv:1406.1078, in the form of J.
    Chung et al. 2014, arXiv:1412.3555)::

        r  = f(x W_r + h U_r + b_r)
        z  = f(x W_z + h U_z + b_z)
        n  = g(x W_n + (r * h) U_n + b_n)         reset_after: g(x W_n + b_n + r * (h U_n + c_n))
        h' = (1 - z) * h + z * n

    Parameters of one cell, gate blocks in the order r, z, n: `kernel` (D, 3H), `recurrent_kernel` (H, 3H), `bias`
    (3H,), or (2, 3H) with reset_after: row 0 of the input, row 1 recurrent; with `layer_norm` a `gain` (2, 3H) as well,
    which starts at one. With several layers or directions their names are "l0.forward.kernel", "l0.backward.kernel" and
    so on.

    With `layer_norm` (J. L. Ba et al. 2016, arXiv:1607.06450) each of the products x W_rz, x W_n, h U_rz and h U_n
    (without reset_after: (r * h) U_n) is replaced by LN of it, before biases are added::

        LN(v) = gain * (v - mean(v)) / sqrt(var(v) + 1e-5)

    over the 2H columns of r and z together and over the H of n. Row 0 of `gain` is of the input, row 1 recurrent.

    What dropout and zoneout (D. Krueger et al. 2017, arXiv:1606.01305) choose in training follows from the key of the
    pass (`cgru.masks`): from the seed, the update, the example, the layer, the direction, the step and the unit. It
    depends on no other row, on no padding and on no thread.

    The state is (N, H) for one layer in one direction, else (num_layers * directions, N, H), forward before backward
    within a layer.

    Resets cut a row into segments, whose outputs have the bits of each run by itself. A given initial state is only
    where the row starts, and a reset at its first step overrides it. One at a step that is not valid acts before the
    row's next valid step, and never changes the final state, which is that of the row's last segment. In a reverse
    direction a reset acts between the same two steps; `go_backwards` flips resets with the input. Gradients stop there:
    they go to the learned initial state, or nowhere. Dropout and zoneout choose as they would without resets.

    Any number of threads may call one layer at once, unless it is stateful. Bool, integer and half-precision inputs are
    converted.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.GRU(4, return_sequences=True, return_state=True, seed=0)
    >>> y, h = layer(np.ones((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h.shape
    ((2, 5, 4), (2, 4))
    >>> bool((y[1, 2:] == 0).all() and (h[1] == y[1, 1]).all())
    True
    """

    _options: tuple[str, ...] = (
        *("units", "activation", "recurrent_activation", "use_bias", "return_sequences", "return_state"),
        *("go_backwards", "reverse", "stateful", "kernel_initializer", "recurrent_initializer", "bias_initializer"),
        *("kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "activity_regularizer"),
        *("kernel_constraint", "recurrent_constraint", "bias_constraint"),
        *("dropout", "recurrent_dropout", "layer_dropout", "zoneout", "layer_norm"),
        *("reset_after", "num_layers", "bidirectional", "merge_mode", "learn_initial_state", "time_major"),
        "zero_output_for_mask",
    )

    def __init__(
        self,
        units: SupportsIndex,
        activation: Activation = "tanh",
        *,
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        reverse: bool = False,
        stateful: bool = False,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        recurrent_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        layer_dropout: float = 0.0,
        zoneout: float = 0.0,
        layer_norm: bool = False,
        reset_after: bool = False,
        num_layers: SupportsIndex = 1,
        bidirectional: bool = False,
        merge_mode: MergeMode = "concat",
        learn_initial_state: bool = False,
        time_major: bool = False,
        zero_output_for_mask: bool = True,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
        input_size: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.units = check_int(units, "units", 1)
        if isinstance(activation, (int, np.integer)) and not isinstance(activation, bool):
            raise TypeError(
                f"activation: expected a name, got {activation}: "
                f"PyTorch's GRU({self.units}, {activation}) is GRU({activation}, input_size={self.units}) here"
            )
        self.activation = check_name(activation, "activation", recurrence.ACTIVATIONS)
        self.recurrent_activation = check_name(recurrent_activation, "recurrent_activation", recurrence.ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self.return_sequences = check_bool(return_sequences, "return_sequences")
        self.return_state = check_bool(return_state, "return_state")
        self.go_backwards = check_bool(go_backwards, "go_backwards")
        self.reverse = check_bool(reverse, "reverse")
        self.stateful = check_bool(stateful, "stateful")
        self._keep(kernel_initializer=kernel_initializer, kernel_regularizer=kernel_regularizer)
        self._keep(recurrent_initializer=recurrent_initializer, recurrent_regularizer=recurrent_regularizer)
        self._keep(bias_initializer=bias_initializer, bias_regularizer=bias_regularizer)
        self._keep(activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint)
        self._keep(recurrent_constraint=recurrent_constraint, bias_constraint=bias_constraint)
        self.dropout = check_rate(dropout, "dropout")
        self.recurrent_dropout = check_rate(recurrent_dropout, "recurrent_dropout")
        self.layer_dropout = check_rate(layer_dropout, "layer_dropout")
        self.zoneout = check_rate(zoneout, "zoneout")
        self.layer_norm = check_bool(layer_norm, "layer_norm")
        self.reset_after = check_bool(reset_after, "reset_after")
        self.num_layers = check_int(num_layers, "num_layers", 1)
        self.bidirectional = check_bool(bidirectional, "bidirectional")
        self.merge_mode = check_name(merge_mode, "merge_mode", MERGE_MODES)
        self.learn_initial_state = check_bool(learn_initial_state, "learn_initial_state")
        self.time_major = check_bool(time_major, "time_major")
        self.zero_output_for_mask = check_bool(zero_output_for_mask, "zero_output_for_mask")
        for name in ("go_backwards", "reverse"):
            if getattr(self, name) and self.bidirectional:
                raise ValueError(f"{name}: expected False beside bidirectional=True, got True")
        if self.go_backwards and self.reverse:
            raise ValueError("go_backwards, reverse: give one of the two, got both")
        self._prepared = None
        self._state = None
        self._directions = ("forward", "backward") if self.bidirectional else ("forward",)
        self._state_is_flat = self.num_layers == 1 and not self.bidirectional
        self._runs_forward = not (self.bidirectional or self.reverse or self.go_backwards)
        special = self.stateful or self.learn_initial_state
        self._check_axes()
        self._is_plain = self._state_is_flat and self._runs_forward and not special
        if input_size is not None:
            self.build(input_size)

    def _shown(self) -> Iterator[str]:
        yield from super()._shown()
        if self.built:
            yield f"input_size={self.input_size}"
