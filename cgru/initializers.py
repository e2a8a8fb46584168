"""Initial values of the parameters: named as Keras names them, objects with settings, or functions of (shape, dtype,
rng).

The draws are made in float64 and rounded once: a seed gives a float32 layer the rounded weights of its float64 twin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, SupportsIndex

import numpy as np
import scipy.linalg
from numpy.typing import DTypeLike

from cgru.checks import check_finite, check_int, check_name, check_positive
from cgru.configured import Configured
from cgru.named import Kind
from cgru.typing import Array, InitializerLike, Shape

__all__ = [
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "Initializer", "LecunNormal",
    "LecunUniform", "Ones", "Orthogonal", "PerGate", "PyTorch", "RandomNormal", "RandomUniform", "TruncatedNormal",
    "VarianceScaling", "Zeros", "get",
]  # fmt: skip

_TRUNCATED = 0.87962566103423978  # the standard deviation of a standard normal that is cut off at -2 and 2


class Initializer(Configured):
    """Base class of the initializers: callables of (shape, dtype, rng) that return a new, C-contiguous array.

    A subclass implements `draw`.

    Parameters
    ----------
    seed : int, optional
        The object then draws from this, whatever generator it is called with: each call gives the same values, also in
        another layer. Without it they follow from the seed of the layer or model.

    Raises
    ------
    TypeError, ValueError
        If `seed` is not an integer of at least 0.
    """

    _options: tuple[str, ...] = ("seed",)

    def __init__(self, seed: SupportsIndex | None = None) -> None:
        self.seed = None if seed is None else check_int(seed, "seed")

    def __call__(self, shape: Shape, dtype: DTypeLike = "float32", rng: np.random.Generator | None = None) -> Array:
        """Return an array of `shape` and `dtype`; without a seed of its own from `rng`, or afresh if that is None."""
        rng = self._generator(np.random.default_rng() if rng is None else rng)
        return np.ascontiguousarray(self.draw(shape, rng), dtype)

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        """Return an array of `shape`, float64, from this generator."""
        raise NotImplementedError

    def _generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng if self.seed is None else np.random.default_rng(self.seed)


class _Seedless(Initializer):
    """One that draws nothing."""

    def __init__(self) -> None:
        super().__init__()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["seed"]
        return config


class Zeros(_Seedless):
    """Zeros."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.zeros(shape)


class Ones(_Seedless):
    """Ones."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape)


class Constant(_Seedless):
    """One number everywhere.

    Parameters
    ----------
    value : float

    Examples
    --------
    >>> from cgru import initializers
    >>> initializers.Constant(0.5)((2, 2))
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """

    _options = ("value",)

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = check_finite(value, "value")

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, self.value)


class Identity(_Seedless):
    """`gain` on the main diagonal of a matrix, zeros elsewhere; ``PerGate(Identity())`` has a diagonal in each gate.

    Parameters
    ----------
    gain : float
    """

    _options = ("gain",)

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = check_finite(gain, "gain")

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        if len(shape) != 2:
            raise ValueError(f"Identity: expected a matrix, got weights of shape {shape}")
        return self.gain * np.eye(*shape)


class RandomUniform(Initializer):
    """Uniform on [minval, maxval); as "uniform" the usual start of an embedding.

    Parameters
    ----------
    minval, maxval : float
    seed : int, optional
    """

    _options = ("minval", "maxval")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: SupportsIndex | None = None) -> None:
        super().__init__(seed)
        self.minval, self.maxval = check_finite(minval, "minval"), check_finite(maxval, "maxval")
        if self.minval > self.maxval:
            raise ValueError(f"minval: expected at most maxval = {self.maxval}, got {self.minval}")

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.uniform(self.minval, self.maxval, shape)


class RandomNormal(Initializer):
    """Normal with this mean and standard deviation.

    Parameters
    ----------
    mean, stddev : float
    seed : int, optional
    """

    _options = ("mean", "stddev")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: SupportsIndex | None = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = check_finite(mean, "mean"), check_finite(stddev, "stddev", 0)

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """Normal, but values more than two standard deviations from the mean are drawn again, as Keras does. So the
    standard deviation of what comes is 0.88 `stddev`.

    Parameters
    ----------
    mean, stddev : float
    seed : int, optional
    """

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        return self.mean + self.stddev * _truncated(shape, rng)


class VarianceScaling(Initializer):
    """Random values whose variance is `scale` / n, where n follows from the shape of the weights.

    Of a matrix (rows, columns) fan_in is the rows and fan_out the columns; of the kernel of a convolution both are
    multiplied with its size; of a vector both are its length.

    Parameters
    ----------
    scale : float
    mode : {"fan_in", "fan_out", "fan_avg"}
        What n is.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        Truncated as in `TruncatedNormal`, but of the wanted variance.
    seed : int, optional

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, out of range or unknown.
    """

    _options = ("scale", "mode", "distribution")

    def __init__(
        self,
        scale: float = 1.0,
        mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in",
        distribution: Literal["truncated_normal", "untruncated_normal", "uniform"] = "truncated_normal",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(seed)
        self.scale = check_positive(scale, "scale")
        self.mode = check_name(mode, "mode", ("fan_in", "fan_out", "fan_avg"))
        self.distribution = check_name(
            distribution, "distribution", ("truncated_normal", "untruncated_normal", "uniform")
        )

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        fan_in, fan_out = _fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * self.scale / max(1.0, n))
            return rng.uniform(-limit, limit, shape)
        if self.distribution == "truncated_normal":
            return math.sqrt(variance) / _TRUNCATED * _truncated(shape, rng)
        return rng.normal(0.0, math.sqrt(variance), shape)


class _Scaled(VarianceScaling):
    """A `VarianceScaling` that has a name, and a seed as its one option."""

    _settings: tuple[float, Any, Any]

    def __init__(self, seed: SupportsIndex | None = None) -> None:
        super().__init__(*self._settings, seed)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


class GlorotUniform(_Scaled):
    """Uniform on [-a, a) with a = sqrt(6 / (fan_in + fan_out)); also called "xavier_uniform".

    X. Glorot and Y. Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks".
    """

    _settings = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Scaled):
    """Truncated normal of variance 2 / (fan_in + fan_out); also called "xavier_normal"."""

    _settings = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Scaled):
    """Uniform on [-a, a) with a = sqrt(6 / fan_in).

    K. He, X. Zhang, S. Ren and J. Sun (2015), "Delving deep into rectifiers".
    """

    _settings = (2.0, "fan_in", "uniform")


class HeNormal(_Scaled):
    """Truncated normal of variance 2 / fan_in."""

    _settings = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """Uniform on [-a, a) with a = sqrt(3 / fan_in)."""

    _settings = (1.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """Truncated normal of variance 1 / fan_in."""

    _settings = (1.0, "fan_in", "truncated_normal")


class Orthogonal(Initializer):
    """A random matrix with orthonormal rows (or columns, whichever are fewer), times `gain`.

    For a recurrent kernel (H, 3H) the H rows are orthonormal over the whole matrix, as in Keras;
    ``PerGate(Orthogonal())``, or "orthogonal_per_gate", has an orthogonal matrix in each gate. The axes of a
    convolution's kernel but the last one count as one.

    A. M. Saxe, J. L. McClelland and S. Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks".

    Parameters
    ----------
    gain : float
    seed : int, optional
    """

    _options = ("gain",)

    def __init__(self, gain: float = 1.0, seed: SupportsIndex | None = None) -> None:
        super().__init__(seed)
        self.gain = check_finite(gain, "gain")

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: expected weights of two axes or more, got shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
        # SciPy's QR, not NumPy's: no thread pool but SciPy's is woken. The signs make the distribution uniform.
        q, r = scipy.linalg.qr(tall, mode="economic", check_finite=False)
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


class PyTorch(Initializer):
    """Uniform on [-a, a) with a = 1 / sqrt(n), as PyTorch starts all kernels and biases of a layer.

    n is what PyTorch has there: the units of a GRU, for all of its parameters; the inputs of an output in Dense and
    Conv1D, for both. An Embedding starts from a normal distribution of variance 1, as there.

    Parameters
    ----------
    n : int, optional
        Without it the layer says it; where there is no layer, it is fan_in of the shape.
    seed : int, optional
    """

    _options = ("n",)

    def __init__(self, n: SupportsIndex | None = None, seed: SupportsIndex | None = None) -> None:
        super().__init__(seed)
        self.n = None if n is None else check_int(n, "n", 1)

    def within(self, n: int) -> PyTorch:
        """The same for a layer whose n this is, unless it has one of its own."""
        return PyTorch(n, self.seed) if self.n is None else self

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        limit = 1.0 / math.sqrt(self.n or max(1, _fans(shape)[0]))
        return rng.uniform(-limit, limit, shape)


class PerGate(Initializer):
    """Another initializer for each gate by itself, the blocks of columns of a GRU's kernels.

    Parameters
    ----------
    initializer : str, Initializer or callable
    gates : int
        Number of blocks.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.GRU(4, recurrent_initializer="orthogonal_per_gate", input_size=3, seed=0)
    >>> r, z, n = np.split(layer.parameters["recurrent_kernel"], 3, axis=1)
    >>> bool(np.allclose(r @ r.T, np.eye(4), atol=1e-6))
    True
    """

    _options = ("initializer", "gates")

    def __init__(self, initializer: InitializerLike = "orthogonal", gates: SupportsIndex = 3) -> None:
        super().__init__()
        nested = isinstance(initializer, Mapping) and "PerGate" in initializer.values()  # which may be very deep
        if nested or isinstance(get(initializer, "initializer"), PerGate):
            raise ValueError("initializer: expected one for a gate, got PerGate within PerGate")
        self.initializer = check(initializer, "initializer")
        self.gates = check_int(gates, "gates", 1)

    def draw(self, shape: Shape, rng: np.random.Generator) -> Array:
        if not shape or shape[-1] % self.gates:
            raise ValueError(f"PerGate: expected a multiple of {self.gates} columns, got shape {shape}")
        part, inner = (*shape[:-1], shape[-1] // self.gates), get(self.initializer)
        if not isinstance(inner, Initializer):
            return np.concatenate([called(inner, part, np.float64, rng) for _ in range(self.gates)], axis=-1)
        rng = inner._generator(rng)
        return np.concatenate([inner.draw(part, rng) for _ in range(self.gates)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"initializer": _KIND.config_of(self.initializer), "gates": self.gates}


# -- by name

_KNOWN: dict[str, Any] = {
    "constant": Constant, "zeros": Zeros, "ones": Ones, "identity": Identity,
    "glorot_normal": GlorotNormal, "glorot_uniform": GlorotUniform,
    "xavier_normal": GlorotNormal, "xavier_uniform": GlorotUniform,
    "he_normal": HeNormal, "he_uniform": HeUniform, "lecun_normal": LecunNormal, "lecun_uniform": LecunUniform,
    "normal": RandomNormal, "random_normal": RandomNormal, "truncated_normal": TruncatedNormal,
    "uniform": RandomUniform, "random_uniform": RandomUniform, "variance_scaling": VarianceScaling,
    "orthogonal": Orthogonal, "orthogonal_per_gate": PerGate, "identity_per_gate": lambda: PerGate("identity"),
    "pytorch": PyTorch,
}  # fmt: skip


def check(value: InitializerLike, argument: str) -> Any:
    """Return what an option keeps: the name, the object, or the function; the error calls it `argument` and lists the
    names."""
    return _KIND.check(value, argument)


def get(value: InitializerLike, argument: str = "initializer") -> Any:
    """Return the initializer that a name means; objects and functions are returned as they are.

    Parameters
    ----------
    value : str, Initializer, dict or callable
        A name, in any case, with or without "_": those of Keras; "xavier_uniform" and "xavier_normal", which are
        Glorot's; "pytorch"; and "orthogonal_per_gate" and "identity_per_gate". A dict is one of a configuration.
    argument : str
        What the error message calls it.

    Returns
    -------
    callable
        A function of (shape, dtype, rng) that returns a new, C-contiguous array.

    Raises
    ------
    TypeError, ValueError
        If there is no such initializer; the message lists the names.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import initializers
    >>> initializers.get("zeros")((2, 3), np.float32, np.random.default_rng(0)).shape
    (2, 3)
    """
    if value is None:
        check(value, argument)
    return _KIND.get(value, argument)


def called(
    function: Any, shape: Shape, dtype: DTypeLike, rng: np.random.Generator, argument: str = "initializer"
) -> Array:
    """What an initializer gives, and what a function of the user's gives, checked; errors call it `argument`."""
    try:
        array = np.asarray(function(shape, dtype, rng))
    except ValueError as error:
        if not isinstance(function, Initializer):
            raise  # in a function of the user's, where it is to be found
        raise ValueError(f"{argument}: {error}") from None
    if array.dtype.kind not in "fiu" or array.shape != tuple(shape):
        raise ValueError(
            f"{argument}: expected a function of (shape, dtype, rng) that returns numbers of shape {tuple(shape)}, got "
            f"shape {array.shape}, dtype {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: expected a function that returns finite numbers, got others")
    return np.array(array, dtype, order="C")


_KIND = Kind(Initializer, "an Initializer", _KNOWN, "(shape, dtype, rng)")
config_of = _KIND.config_of
zeros, ones, uniform = Zeros(), Ones(), RandomUniform()
glorot_uniform, orthogonal = GlorotUniform(), Orthogonal()


# -- numbers


def _fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of weights."""
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    size = math.prod(shape[:-2])
    return shape[-2] * size, shape[-1] * size


def _truncated(shape: Shape, rng: np.random.Generator) -> Array:
    """Standard normal values of at most 2, either way."""
    values = rng.standard_normal(shape)
    flat = values.reshape(-1)
    wrong = np.flatnonzero(np.abs(flat) > 2)
    while len(wrong):
        flat[wrong] = rng.standard_normal(len(wrong))
        wrong = wrong[np.abs(flat[wrong]) > 2]
    return values

