"""The layer protocol, and the layers around a GRU: Embedding, Dense, Dropout.

A layer maps a `Batch` of sequences, (N, T, F) with its lengths or mask, or of vectors, (N, F), to another one. What
`backward_batch` needs travels in a tape that belongs to the caller, so a layer holds nothing but its parameters and any
number of threads may use it. What lies outside lengths or mask is never read: `Dense` and `Embedding` work on the
(M, F) rows of the valid steps alone.
"""

import numbers
import operator
import threading
from collections.abc import MutableMapping
from contextlib import contextmanager

import numpy as np

from cgru import initializers, kernels


def check_int(value, name, minimum=0):
    """Return `value` as an int of at least `minimum`; TypeError or ValueError names the argument."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number


def check_bool(value, name):
    """Return `value` as a bool; anything but True and False is a TypeError that names the argument."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_dtype(dtype):
    """Return np.dtype float32 or float64; anything else is a ValueError."""
    try:
        checked = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # the last of "f4,,f4", which NumPy parses as Python
        checked = None
    if dtype is None or checked not in (np.float32, np.float64):  # np.dtype(None) is float64
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return checked


def check_rate(rate, name):
    """Return `rate` as a float with 0 <= rate < 1; TypeError or ValueError names the argument."""
    if isinstance(rate, (bool, np.bool_)) or not isinstance(rate, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {rate!r}")
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: expected a number of at least 0 and less than 1, got {rate!r}")
    return float(rate)


def check_initializer(value, name):
    """Return `value` if it is the name of an initializer; the ValueError names the argument."""
    initializers.get(value, name)
    return value


class _Writable(MutableMapping):
    """Parameters by name; `p[name] = value` and `p.update` write into the arrays, so that no assignment gets lost."""

    def __init__(self, arrays):
        self._arrays = arrays

    def __getitem__(self, name):
        return self._arrays[name]

    def __setitem__(self, name, value):
        array = self._arrays[name]
        try:
            array[...] = value
        except ValueError:
            raise ValueError(f"{name} must fit shape {array.shape}, got {np.shape(value)}") from None

    def __delitem__(self, name):
        raise TypeError(f"{name} cannot be deleted: the parameters of a layer are fixed")

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self):
        return len(self._arrays)


class Layer:
    """Base class of the layers: parameters, their construction and their update.

    A subclass implements `parameter_shapes`, `_initial`, `forward_batch`, `backward_batch`, `output_size` and
    `get_config`; one that derives something from its parameters (a packed form) drops it in `_changed`.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Type of parameters and results. Inputs of another type are converted on entry.
    seed : int, optional
        Seed of the initial parameters. Without it they are drawn from the seed of the `Sequential` that the layer is
        in, or else from the operating system.

    Raises
    ------
    ValueError, TypeError
        If `dtype` is not one of the two, or `seed` is not an integer of at least 0.
    """

    def __init__(self, dtype="float32", seed=None):
        self.dtype = check_dtype(dtype)
        self.seed = None if seed is None else check_int(seed, "seed")
        self._inherited_seed = None
        self._parameters = None
        self._input_size = None
        self._lock = threading.RLock()

    # -- what a subclass implements

    def parameter_shapes(self, input_size):
        """Yield (name, shape) of each parameter for `input_size` input features; nothing is allocated for it."""
        raise NotImplementedError

    def _initial(self, name):
        """Return the initializer, a function of (shape, dtype, rng), of the parameter called `name`."""
        raise NotImplementedError

    def forward_batch(self, batch, training=False):
        """Return (Batch of outputs, tape).

        Parameters
        ----------
        batch : Batch
            Its data are (N, T, F) or (N, F). The layer is built if it was not.
        training : bool
            Whether dropout acts.
        """
        raise NotImplementedError

    def backward_batch(self, d_out, tape, need_dx=True):
        """Return (gradient of the inputs or None, dict name -> gradient of the parameter); the tape is only read.

        Parameters
        ----------
        d_out : ndarray
            Gradient of the data that `forward_batch` returned, of their shape. Invalid steps are not read.
        tape : object
            What `forward_batch` returned.
        need_dx : bool
            Whether the gradient of the inputs, an ndarray of their shape and zero at invalid steps, is wanted.
        """
        raise NotImplementedError

    def output_size(self, input_size):
        """Return the number of output features for inputs of `input_size` features."""
        raise NotImplementedError

    def get_config(self):
        """Return the arguments of the constructor as a dict that JSON can hold."""
        return {"dtype": self.dtype.name, "seed": self.seed}

    def _changed(self):
        """Called whenever parameters were written."""

    # -- construction

    @classmethod
    def from_config(cls, config):
        """Return a new layer from what `get_config` returned; parameters are not part of it."""
        if not isinstance(config, dict):
            raise TypeError(f"config: expected a dict of {cls.__name__}'s arguments, got {type(config).__name__}")
        if "input_size" in config:  # it would build the layer
            raise ValueError("config: expected no 'input_size', which get_config does not give; call build(input_size)")
        return cls(**config)

    @property
    def built(self):
        """Whether the parameters exist."""
        return self._parameters is not None

    @property
    def input_size(self):
        """Number of input features that the layer was built for; None before."""
        return self._input_size

    def build(self, input_size):
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

    def build_from(self, input_size, weights):
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

    def _create(self, input_size, rng):
        return {name: self._initial(name)(shape, self.dtype, rng) for name, shape in self.parameter_shapes(input_size)}

    def _adopt(self, input_size, parameters):
        """Take new parameters, dict name -> C-contiguous array of `self.dtype`, of the shapes for `input_size`."""
        self._input_size = input_size
        self._parameters = parameters  # last: whoever sees it sees a whole layer

    def _check_input_size(self, input_size):
        if self._input_size != input_size:
            raise ValueError(f"{type(self).__name__} was built for {self._input_size} input features, got {input_size}")

    def _generator(self):
        return np.random.default_rng(self._inherited_seed if self.seed is None else self.seed)

    def _inherit_seed(self, seed):
        """Take a SeedSequence for what the layer will draw if it has no seed of its own; the first one stays."""
        if self._inherited_seed is None:
            self._inherited_seed = seed

    # -- parameters

    def _built_parameters(self):
        parameters = self._parameters
        if parameters is None:
            raise RuntimeError(f"{type(self).__name__} has no parameters yet: call build(input_size) or use it on data")
        return parameters

    @property
    def parameters(self):
        """dict name -> read-only view of the parameter; RuntimeError before the layer is built."""
        views = {}
        for name, array in self._built_parameters().items():
            views[name] = array.view()
            views[name].flags.writeable = False
        return views

    def get_weights(self):
        """Return copies of the parameters, a list in the order of `parameters`."""
        with self._lock:
            return [array.copy() for array in self._built_parameters().values()]

    def _write(self, values):
        """Copy `values`, dict name -> array, into the parameters in place. Doing it twice is doing it once."""
        with self._lock:
            try:
                for name, array in self._parameters.items():
                    np.copyto(array, values[name])
            finally:
                self._changed()

    def set_weights(self, weights):
        """Copy `weights`, a list in the order of `parameters`, into the layer: all of them or, on an error, none.

        Raises
        ------
        RuntimeError
            If the layer is not built.
        TypeError, ValueError
            If the number, a shape or the type of the arrays is wrong; the message names the parameter.
        """
        new = self._checked_weights(weights)
        with self._lock:
            try:
                self._parameters = new
            finally:
                self._changed()

    def _checked_weights(self, weights, shapes=None):
        if shapes is None:
            shapes = {name: array.shape for name, array in self._built_parameters().items()}
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
        if len(weights) != len(shapes):
            names = ", ".join(shapes) or "none"
            raise ValueError(f"weights: expected {len(shapes)} arrays ({names}), got {len(weights)}")
        new = {}
        for (name, shape), value in zip(shapes.items(), weights, strict=True):
            try:
                array = np.asarray(value)
            except ValueError:  # nested lists of unequal lengths
                raise ValueError(f"{name}: expected an array of shape {shape}, got a ragged list") from None
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
            new[name] = np.array(array, dtype=self.dtype, order="C")
        return new

    @contextmanager
    def update(self):
        """Context in which the parameters may be written: a mapping name -> writable array.

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
            try:
                yield _Writable(self._built_parameters())
            finally:
                self._changed()

    # -- pickle, deepcopy: the lock stays behind

    def __getstate__(self):
        with self._lock:
            state = self.__dict__.copy()
        del state["_lock"]
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.RLock()


# -- rows of the valid steps


def _valid_rows(data, valid, dtype):
    """Return the valid steps of `data` (..., F) as C-contiguous rows (M, F) of `dtype`; valid None means every step."""
    rows = data.reshape(-1, data.shape[-1]) if valid is None else data[valid]
    return np.ascontiguousarray(rows, dtype)


def _from_valid_rows(rows, leading, valid):
    """Return (*leading, F) with `rows` (M, F) at the valid steps and zero elsewhere; valid None means every step."""
    shape = (*leading, rows.shape[-1])
    if valid is None:
        return rows.reshape(shape)
    data = np.zeros(shape, rows.dtype)
    data[valid] = rows
    return data


def _check_gradient(d_out, shape):
    if d_out.shape != shape:
        raise ValueError(f"d_out: expected the shape of the outputs, {shape}, got {d_out.shape}")


# -- activations of Dense: in place on rows (M, K), and the gradient from the activated rows


def _softmax(y):
    with np.errstate(invalid="ignore"):  # inf - inf: that row becomes NaN, the others do not
        y -= y.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)


def _sigmoid(y):
    import scipy.special  # here, because few need it and it is most of an import of cgru

    scipy.special.expit(y, out=y)


_ACTIVATIONS = {
    "linear": (lambda y: None, lambda d, y: d),
    "relu": (lambda y: np.maximum(y, 0, out=y), lambda d, y: d * (y > 0)),
    "sigmoid": (_sigmoid, lambda d, y: d * (y * (1 - y))),
    "softmax": (_softmax, lambda d, y: y * (d - np.einsum("mk,mk->m", d, y)[:, None])),
    "tanh": (lambda y: np.tanh(y, out=y), lambda d, y: d * (1 - y * y)),
}


class Dense(Layer):
    """y = activation(x W + b) for every vector, or every valid step, of the batch.

    Parameters
    ----------
    units : int
        Number of output features.
    activation : {"linear", "relu", "sigmoid", "softmax", "tanh"}
        Applied to the output; None is "linear". softmax is over the features.
    use_bias : bool
        Whether there is a bias b.
    kernel_initializer, bias_initializer : str
        Names from `cgru.initializers`.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, out of range, or not among the names above.

    Notes
    -----
    Parameters: `kernel` (F, units) and `bias` (units,).

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.Dense(3, activation="softmax", seed=0)
    >>> layer.build(5)
    >>> {name: array.shape for name, array in layer.parameters.items()}
    {'kernel': (5, 3), 'bias': (3,)}
    """

    def __init__(
        self,
        units,
        activation="linear",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        dtype="float32",
        seed=None,
    ):
        super().__init__(dtype, seed)
        self.units = check_int(units, "units", 1)
        self.activation = "linear" if activation is None else activation
        if not isinstance(self.activation, str) or self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation: expected one of {sorted(_ACTIVATIONS)}, got {activation!r}")
        self.use_bias = check_bool(use_bias, "use_bias")
        self.kernel_initializer = check_initializer(kernel_initializer, "kernel_initializer")
        self.bias_initializer = check_initializer(bias_initializer, "bias_initializer")

    def get_config(self):
        return {
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            **super().get_config(),
        }

    def output_size(self, input_size):
        return self.units

    def parameter_shapes(self, input_size):
        yield "kernel", (input_size, self.units)
        if self.use_bias:
            yield "bias", (self.units,)

    def _initial(self, name):
        return initializers.get(self.bias_initializer if name == "bias" else self.kernel_initializer)

    def forward_batch(self, batch, training=False):
        x = batch.data
        if x.ndim not in (2, 3):
            raise ValueError(f"Dense: expected data of shape (N, F) or (N, T, F), got {x.shape}")
        self.build(x.shape[-1])
        parameters = self._built_parameters()
        valid = batch.valid
        rows = _valid_rows(x, valid, self.dtype)
        y = kernels.gemm(rows, parameters["kernel"])  # (M, K) = (M, F)(F, K)
        if self.use_bias:
            y += parameters["bias"]
        _ACTIVATIONS[self.activation][0](y)
        return batch.with_data(_from_valid_rows(y, x.shape[:-1], valid)), (rows, y, x.shape[:-1], valid)

    def backward_batch(self, d_out, tape, need_dx=True, at_logits=False):
        """As `Layer.backward_batch`; with `at_logits`, `d_out` is the gradient at the input of the activation."""
        x, y, leading, valid = tape
        _check_gradient(d_out, (*leading, self.units))
        d = _valid_rows(d_out, valid, self.dtype)
        if not at_logits:
            d = _ACTIVATIONS[self.activation][1](d, y)
        grads = {"kernel": kernels.gemm(x, d, transpose_a=True)}  # (F, K) = (F, M)(M, K)
        if self.use_bias:
            grads["bias"] = d.sum(axis=0)
        if not need_dx:
            return None, grads
        dx = kernels.gemm(d, self._built_parameters()["kernel"], transpose_b=True)  # (M, F) = (M, K)(K, F)
        return _from_valid_rows(dx, leading, valid), grads


class Embedding(Layer):
    """Rows of a table, chosen by integer ids: (N, T) ids to (N, T, output_dim), or (N,) to (N, output_dim).

    Parameters
    ----------
    input_dim : int
        Number of ids; an id is at least 0 and less than this.
    output_dim : int
        Number of output features.
    embeddings_initializer : str
        Name from `cgru.initializers`.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; at use, if the ids are not integers or one of them, at a
        valid step, is out of range. What lies outside lengths or mask may hold anything.

    Notes
    -----
    Parameter: `embeddings` (input_dim, output_dim).
    """

    def __init__(self, input_dim, output_dim, embeddings_initializer="uniform", dtype="float32", seed=None):
        super().__init__(dtype, seed)
        self.input_dim = check_int(input_dim, "input_dim", 1)
        self.output_dim = check_int(output_dim, "output_dim", 1)
        self.embeddings_initializer = check_initializer(embeddings_initializer, "embeddings_initializer")

    def get_config(self):
        return {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": self.embeddings_initializer,
            **super().get_config(),
        }

    def build(self, input_size=None):
        """Create the table, once; an id has no features, so `input_size` does not matter."""
        super().build(1)

    def output_size(self, input_size):
        return self.output_dim

    def parameter_shapes(self, input_size):
        yield "embeddings", (self.input_dim, self.output_dim)

    def _initial(self, name):
        return initializers.get(self.embeddings_initializer)

    def forward_batch(self, batch, training=False):
        if batch.data.ndim not in (1, 2):
            raise ValueError(f"Embedding: expected ids of shape (N,) or (N, T), got {batch.data.shape}")
        if batch.data.dtype.kind not in "iu":
            raise TypeError(f"Embedding: expected integer ids, got dtype {batch.data.dtype}")
        self.build()
        valid = batch.valid
        ids = batch.data.reshape(-1) if valid is None else batch.data[valid]
        if ids.size and (ids.min() < 0 or ids.max() >= self.input_dim):
            wrong = ids[(ids < 0) | (ids >= self.input_dim)][0]
            raise ValueError(f"ids: expected at least 0 and less than input_dim = {self.input_dim}, got {wrong}")
        rows = self._built_parameters()["embeddings"][ids]
        return batch.with_data(_from_valid_rows(rows, batch.data.shape, valid)), (ids, batch.data.shape, valid)

    def backward_batch(self, d_out, tape, need_dx=True):
        """As `Layer.backward_batch`; ids have no gradient, so the first result is always None."""
        ids, leading, valid = tape
        _check_gradient(d_out, (*leading, self.output_dim))
        d = _valid_rows(d_out, valid, self.dtype)
        gradient = np.zeros((self.input_dim, self.output_dim), self.dtype)
        if ids.size:
            # Sums over equal ids, neighbours after the sort.
            order = np.argsort(ids, kind="stable")
            starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
            gradient[ids[order[starts]]] = np.add.reduceat(d[order], starts, axis=0)
        return None, {"embeddings": gradient}


class Dropout(Layer):
    """In training, zero each feature with probability `rate` and scale the others by 1 / (1 - rate).

    Parameters
    ----------
    rate : float
        From 0 up to, but not including, 1.
    seed : int, optional
        Seed of the masks.

    Raises
    ------
    TypeError, ValueError
        If `rate` is not a number in that range.

    Notes
    -----
    Results have the type of the inputs. There are no parameters; the random generator is the layer's, so the masks of a
    training run follow from the seed.
    """

    def __init__(self, rate, seed=None):
        super().__init__(seed=seed)
        self.dtype = None
        self.rate = check_rate(rate, "rate")
        self._parameters = {}
        self._masks = None

    def get_config(self):
        return {"rate": self.rate, "seed": self.seed}

    def build(self, input_size):
        """Nothing to create; inputs of any size will do."""
        check_int(input_size, "input_size", 1)

    def output_size(self, input_size):
        return input_size

    def parameter_shapes(self, input_size):
        return iter(())

    def forward_batch(self, batch, training=False):
        x = batch.data
        if x.dtype.kind != "f":
            raise TypeError(f"Dropout: expected floating-point data, got dtype {x.dtype}")
        scale = self._scale(x.shape, x.dtype) if training and self.rate else None
        valid = batch.valid
        return batch.with_data(_times(x, scale, valid)), (scale, valid, x.shape)

    def backward_batch(self, d_out, tape, need_dx=True):
        scale, valid, shape = tape
        _check_gradient(d_out, shape)
        return (_times(d_out, scale, valid) if need_dx else None), {}

    def _scale(self, shape, dtype):
        with self._lock:
            if self._masks is None:
                self._masks = self._generator()
            kept = self._masks.random(shape, dtype=np.float32) >= np.float32(self.rate)
        return kept * dtype.type(1 / (1 - self.rate))


def _times(data, scale, valid):
    """data * scale, zero at invalid steps, whatever `data` hold there; scale None means 1, valid None every step."""
    if valid is None:
        return data if scale is None else data * scale
    out = np.zeros_like(data)
    where = np.broadcast_to(valid.reshape(valid.shape + (1,) * (data.ndim - valid.ndim)), data.shape)
    return np.multiply(data, 1 if scale is None else scale, out=out, where=where)
