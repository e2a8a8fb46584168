"""ncnn's GRU, float32 only: a .param and a .bin file of our layer's weights, run by the library."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_ncnn, to_ncnn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    ncnn = pytest.importorskip("ncnn")

T, D, H = 11, checks.D, checks.H


def write_model(folder, layers, with_state):
    """model.param and model.bin of GRU layers in a row; with_state: the first has a state as its second input."""
    state = [("Input", "state", "0 1 h0")] if with_state else []
    lines, blobs = [("Input", "in", "0 1 x0"), *state], len(layers) + 1 + 2 * with_state
    binary = b""
    for i, weights in enumerate(layers):
        parameters = f"0={weights['num_output']} 1={weights['weight_data_size']} 2={weights['direction']}"
        inputs = f"2 2 x{i} h0 x{i + 1} hn" if with_state and i == 0 else f"1 1 x{i} x{i + 1}"
        lines.append(("GRU", f"gru{i}", f"{inputs} {parameters}"))
        for name in ("weight_xc_data", "bias_c_data", "weight_hc_data"):
            binary += bytes(4) + weights[name].astype("<f4").tobytes()
    text = "\n".join(" ".join(line) for line in lines)
    (folder / "model.param").write_text(f"7767517\n{len(lines)} {blobs}\n{text}\n", encoding="ascii")
    (folder / "model.bin").write_bytes(binary)


def run(folder, x, h0, last):
    """Outputs (T, F) of one sequence, and the final state where there is one."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("packing_layout", "fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    assert net.load_param(str(folder / "model.param")) == 0
    assert net.load_model(str(folder / "model.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("x0", ncnn.Mat(np.ascontiguousarray(x)).clone())
    if h0 is not None:
        extractor.input("h0", ncnn.Mat(np.ascontiguousarray(h0)).clone())
    outputs = [extractor.extract(name) for name in ([f"x{last}"] if h0 is None else [f"x{last}", "hn"])]
    assert all(code == 0 for code, _ in outputs)
    return [np.array(array) for _, array in outputs]


OPTIONS = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}


@pytest.mark.parametrize("direction", OPTIONS)
def test_outputs_from_a_state(rng, tmp_path, direction):
    layer = checks.random_layer(
        rng, H, input_size=D, reset_after=True, return_sequences=True, return_state=True, **OPTIONS[direction]
    )
    x = rng.standard_normal((1, T, D)).astype("float32")
    h0 = rng.uniform(-1, 1, layer._state_shape(1)).astype("float32")
    write_model(tmp_path, [to_ncnn(layer)], with_state=True)
    expected, final = run(tmp_path, x[0], h0.reshape(-1, H), 1)
    y, h = layer(x, h0)
    checks.assert_close(y[0], expected, 5e-6)
    checks.assert_close(h.reshape(-1, H), final.reshape(-1, H), 5e-6)


def test_unequal_layers_in_a_row(rng, tmp_path):
    layers = cgru.Sequential(
        [
            checks.random_layer(rng, 5, input_size=D, reset_after=True, bidirectional=True, return_sequences=True),
            checks.random_layer(rng, 3, input_size=10, reset_after=True, reverse=True, return_sequences=True),
        ]
    )
    weights = to_ncnn(layers)
    x = rng.standard_normal((1, T, D)).astype("float32")
    write_model(tmp_path, weights, with_state=False)
    (expected,) = run(tmp_path, x[0], None, 2)
    checks.assert_close(layers.predict(x)[0], expected, 5e-6)
    checks.assert_close(from_ncnn(weights).predict(x)[0], expected, 5e-6)
