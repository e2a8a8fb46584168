"""Numbers that Keras and TensorFlow Lite publish in their own tests (data/README.md)."""

import json
from pathlib import Path

import checks
import numpy as np
import pytest

import cgru

CASES = json.loads((Path(__file__).parents[1] / "data" / "conformance.json").read_text(encoding="utf-8"))["cases"]


def array(tensor, dtype):
    """The array of {"shape", "values"} or {"shape", "constant"}; None of None."""
    if tensor is None:
        return None
    if "constant" in tensor:
        return np.full(tensor["shape"], tensor["constant"], dtype)
    values = np.array(tensor["values"], dtype)
    assert values.shape == tuple(tensor["shape"])
    return values


def from_keras(weights, config):
    return cgru.from_keras(weights, reset_after=config["reset_after"]).parameters


def from_tflite(weights, config):
    """Rows r | u over [x, h], and the candidate's; u weighs the old state."""
    units = len(weights["candidate_bias"])
    r, z = np.split(weights["gate_weight"], 2)
    both = np.concatenate([r, -z, weights["candidate_weight"]]).T  # (D + H, 3H)
    r, z = np.split(weights["gate_bias"], 2)
    return {
        "kernel": both[:-units],
        "recurrent_kernel": both[-units:],
        "bias": np.concatenate([r, -z, weights["candidate_bias"]]),
    }


CONVERTERS = {"keras_gru": from_keras, "tflite_unidirectional_sequence_gru": from_tflite}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_published_numbers(case, dtype):
    x, h0, mask = array(case["input"], dtype), array(case["initial_state"], dtype), array(case["mask"], bool)
    weights = {name: array(v, dtype) for name, v in case["weights"].items()}
    weights = CONVERTERS[case["convention"]](weights, case["config"])
    layer = cgru.GRU(**case["config"], dtype=dtype, input_size=x.shape[-1])
    with layer.update() as parameters:
        assert parameters.keys() == weights.keys()
        for name, value in weights.items():
            parameters[name] = value
    expected, atol = array(case["expected"], "float64"), case["atol"]

    y, h, _ = layer.forward(x, h0, mask=mask)
    if case["config"].get("stateful"):
        y, _, _ = layer.forward(x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=atol)
        layer.reset_states()
        layer(x)
        y, h, _ = layer.forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol)
    if "expected_state" in case:
        np.testing.assert_allclose(h, array(case["expected_state"], "float64"), rtol=0, atol=atol)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case["config"].get("stateful")], ids=lambda case: case["id"]
)
def test_published_numbers_from_the_reference(case):
    x, h0, mask = array(case["input"], "float64"), array(case["initial_state"], "float64"), array(case["mask"], bool)
    weights = {name: array(v, "float64") for name, v in case["weights"].items()}
    weights = CONVERTERS[case["convention"]](weights, case["config"])
    layer = cgru.GRU(**case["config"], dtype="float64", input_size=x.shape[-1])
    layer.set_weights(list(weights.values()))
    if layer.time_major:
        x = x.swapaxes(0, 1)
    h0 = np.zeros((len(x), layer.units)) if h0 is None else h0
    y, _, _ = checks.reference_layer(layer, x, h0[None], **({} if mask is None else {"mask": mask}))
    y = y.swapaxes(0, 1) if layer.time_major else y
    np.testing.assert_allclose(y, array(case["expected"], "float64"), rtol=0, atol=case["atol"])


def test_every_case_is_here():
    assert len(CASES) == 14 and {case["convention"] for case in CASES} == set(CONVERTERS)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["convention"] == "keras_gru"], ids=lambda case: case["id"]
)
def test_published_numbers_of_the_converted_layer(case):
    """from_keras with Keras' options alone: what it returns has every step, of which the case may have the last."""
    options = {key: case["config"][key] for key in ("go_backwards", "stateful", "zero_output_for_mask")}
    weights = {name: array(v, "float64") for name, v in case["weights"].items()}
    layer = cgru.from_keras(weights, reset_after=case["config"]["reset_after"], **options)
    x, h0, mask = array(case["input"], "float64"), array(case["initial_state"], "float64"), array(case["mask"], bool)
    for _ in range(2 if layer.stateful else 1):
        y, _ = layer(x, initial_state=h0, mask=mask)
    y = y if case["config"]["return_sequences"] else y[:, -1]
    np.testing.assert_allclose(y, array(case["expected"], "float64"), rtol=0, atol=case["atol"])
