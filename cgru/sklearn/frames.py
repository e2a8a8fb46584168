"""Sequences of a data frame in long form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cgru.typing import Array


def sequences(frame: Any, by: Any, time: str | None = None, columns: Sequence[str] | None = None) -> list[Array]:
    """Return the sequences of a data frame in long form, a row a step: what estimators take for X.

    Parameters
    ----------
    frame : pandas.DataFrame
    by : str or list of str
        The column, or columns, that tell to which sequence a row belongs.
    time : str, optional
        The column by which the steps of a sequence are sorted; else they stand as in the frame.
    columns : list of str, optional
        The features. All other columns, unless it is given.

    Returns
    -------
    list of ndarray of shape (T_i, F)
        In the order in which the sequences first appear.

    Raises
    ------
    TypeError, ValueError
        If `frame` is no data frame of pandas, a column is missing or not of numbers, or `by` or `time` does not tell
        where a row belongs.

    Examples
    --------
    >>> import pandas as pd
    >>> from cgru.sklearn import sequences
    >>> frame = pd.DataFrame({"id": ["b", "a", "b"], "t": [2, 1, 1], "speed": [3.0, 4.0, 5.0]})
    >>> sequences(frame, by="id", time="t")
    [array([[5.],
           [3.]]), array([[4.]])]
    >>> labels = frame.groupby("id", sort=False)["speed"].max()  # one for each, in the same order
    """
    if not hasattr(frame, "groupby"):
        raise TypeError(f"frame: expected a DataFrame of pandas, got {type(frame).__name__}")
    if not frame.columns.is_unique:
        raise ValueError(f"frame: expected names of columns that are unique, got {list(frame.columns)}")
    keys = list(by) if isinstance(by, (list, tuple)) else [by]
    if not keys:
        raise ValueError("by: expected at least one column, got none")
    ordered = [] if time is None else [time]
    if columns is None:
        columns = [c for c in frame.columns if c not in (*keys, *ordered)]
    columns = [columns] if isinstance(columns, str) else list(columns)
    for name, names in (("by", keys), ("time", ordered), ("columns", columns)):
        for column in names:
            if isinstance(column, list) or column not in frame.columns:
                raise ValueError(f"{name}: expected a column of the frame, {list(frame.columns)}, got {column!r}")
    if not columns:
        raise ValueError(f"columns: expected at least one feature beside {[*keys, *ordered]}, got none")
    for column in columns:
        if frame[column].dtype.kind not in "fiub":
            raise TypeError(f"columns: expected numbers, got dtype {frame[column].dtype} in {column!r}")
    missing = frame[[*keys, *ordered]].isna().to_numpy()
    if missing.any():
        row = int(missing.any(axis=1).argmax())
        raise ValueError(f"by, time: expected a value in every row, got none in row {row}")
    if ordered and frame.duplicated([*keys, *ordered]).any():
        row = frame[frame.duplicated([*keys, *ordered])].iloc[0]
        raise ValueError(f"time: expected each time once in a sequence, got {row[time]} again in {list(row[keys])}")
    group = frame.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
    places = np.arange(len(frame))
    if ordered:
        places = frame[time].reset_index(drop=True).sort_values(kind="stable").index.to_numpy()
    places = places[group[places].argsort(kind="stable")]
    values = frame[columns].to_numpy()
    if values.dtype == object:  # of columns of several types
        values = frame[columns].to_numpy(np.float64, na_value=np.nan)
    return np.split(values[places], np.cumsum(np.bincount(group))[:-1]) if len(group) else []
