"""The checks of arguments that everybody uses: each returns the checked value, and its error names the argument as the
caller knows it, what was expected and what came."""

import math
import numbers
import operator

import numpy as np


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


def check_name(value, name, allowed):
    """Return `value` if it is one of the strings `allowed`; the ValueError names the argument and lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {sorted(allowed)}, got {value!r}")
    return value


def check_number(value, name):
    """Return `value`, a real number and no bool, as a float; TypeError or ValueError names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in the range of float64, got one beyond it") from None


def check_positive(value, name):
    """Return `value` as a positive, finite float; TypeError or ValueError names the argument."""
    if not 0 < check_number(value, name) < math.inf:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")
    return float(value)


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
    if not 0 <= check_number(rate, name) < 1:
        raise ValueError(f"{name}: expected a number of at least 0 and less than 1, got {rate!r}")
    return float(rate)
