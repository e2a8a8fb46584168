"""Snapshots from files of any origin."""

import checks
import numpy as np
import pytest

import cgru


@pytest.mark.parametrize(
    "name, value",
    [
        ("keys", np.array([0x7F7F7F7F], np.uint32).view("U1")),  # no character
        ("model", np.array([0x7F7F7F7F], np.uint32).view("U1")[0:1].reshape(())),
        ("model", "[" * 100_000),
        ("model", '{"layers": [1], "weights": ""}'),
        ("model", '{"layers": [[]], "weights": ""}'),
        ("model", "[]"),
        ("model", np.ones(3)),
        ("model", None),
    ],
)
def test_snapshots_of_any_origin_are_refused_in_words(name, value):
    streams = cgru.Streams(cgru.GRU(3, input_size=2, seed=0))
    streams.feed({"a": np.ones((2, 2))})
    before = streams.snapshot()
    with pytest.raises(ValueError, match=rf"snapshot\['{name}'\]: expected"):
        streams.restore(before | {name: value})
    checks.assert_same_arrays(streams.snapshot()["layer0"], before["layer0"])
