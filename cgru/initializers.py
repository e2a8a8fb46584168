"""Initial values of the parameters: functions of (shape, dtype, rng), looked up by name.

The draws are made in float64 and rounded once: a seed gives a float32 layer the rounded weights of its float64 twin.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import DTypeLike

from cgru.checks import check_name
from cgru.typing import Array, Initializer, InitializerName, Shape


def zeros(shape: Shape, dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """Zeros of `shape`; `rng` is not used."""
    return np.zeros(shape, dtype)


def uniform(shape: Shape, dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """Uniform on [-0.05, 0.05), the usual start of an embedding."""
    return rng.uniform(-0.05, 0.05, shape).astype(dtype)


def glorot_uniform(shape: Shape, dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """Uniform on [-a, a) with a = sqrt(6 / (rows + columns)); `shape` is (rows, columns).

    X. Glorot and Y. Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks".
    """
    rows, columns = shape
    limit = np.sqrt(6.0 / max(1, rows + columns))
    return rng.uniform(-limit, limit, shape).astype(dtype)


def orthogonal(shape: Shape, dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """A random matrix with orthonormal rows (or columns, whichever are fewer); `shape` is (rows, columns).

    For a recurrent kernel (H, 3H) the H rows are orthonormal over the whole matrix, not gate by gate, as in Keras.
    A. M. Saxe, J. L. McClelland and S. Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks".
    """
    rows, columns = shape
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    # SciPy's QR, not NumPy's: the library wakes no thread pool but SciPy's. The signs make the distribution uniform.
    q, r = scipy.linalg.qr(tall, mode="economic", check_finite=False)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(q if rows >= columns else q.T, dtype)


_INITIALIZERS = {function.__name__: function for function in (glorot_uniform, orthogonal, uniform, zeros)}


def get(name: InitializerName, argument: str = "initializer") -> Initializer:
    """Return the initializer called `name`.

    Parameters
    ----------
    name : str
        "glorot_uniform", "orthogonal", "uniform" or "zeros".
    argument : str
        What the error message calls it.

    Returns
    -------
    callable
        A function of (shape, dtype, rng) that returns a new, C-contiguous array.

    Raises
    ------
    ValueError
        If there is no such initializer; the message lists the names.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import initializers
    >>> initializers.get("zeros")((2, 3), np.float32, np.random.default_rng(0)).shape
    (2, 3)
    """
    return _INITIALIZERS[check_name(name, argument, _INITIALIZERS)]


def check(name: InitializerName, argument: str) -> InitializerName:
    """Return `name` if an initializer is called so; the ValueError calls it `argument` and lists the names."""
    known: InitializerName = check_name(name, argument, _INITIALIZERS)
    return known
