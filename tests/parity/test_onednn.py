"""oneDNN's two GRU primitives, float32 only, called by a small C++ program that is compiled here.

Needs `pip install onednn-devel-cpu-gomp`, which puts a library and its headers into the environment, and a compiler.
"""

import os
import shutil
import sys
from pathlib import Path

import checks
import children
import numpy as np
import pytest

from cgru.convert import from_onednn, to_onednn

INCLUDE, LIBRARY = (Path(sys.prefix) / folder for folder in ("include", "lib"))
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
if COMPILER is None or not (INCLUDE / "dnnl.hpp").exists() or not (LIBRARY / "libdnnl.so").exists():
    pytest.skip("oneDNN and a C++ compiler are not here", allow_module_level=True)

N, T, D, H = checks.N, 11, checks.D, checks.H
DIRECTIONS = {
    "left2right": {},
    "right2left": {"reverse": True},
    "bidirectional_concat": {"bidirectional": True},
    "bidirectional_sum": {"bidirectional": True, "merge_mode": "sum"},
}
CELLS = {"vanilla_gru": False, "lbr_gru": True}

# Sizes and arrays come in by stdin: src_layer, src_iter, weights_layer, weights_iter, bias; dst_layer, dst_iter go out.
SOURCE = r"""
#include <dnnl.hpp>
#include <cstdio>
#include <vector>
using namespace dnnl;
using tag = memory::format_tag;

template <class Primitive>
static void run(engine &cpu, rnn_direction direction, std::vector<memory> &m) {
    auto d = [&](int i) { return m[i].get_desc(); };
    typename Primitive::primitive_desc pd(
        cpu, prop_kind::forward_inference, direction, d(0), d(1), d(2), d(3), d(4), d(5), d(6));
    stream s(cpu);
    Primitive(pd).execute(s, {
        {DNNL_ARG_SRC_LAYER, m[0]}, {DNNL_ARG_SRC_ITER, m[1]}, {DNNL_ARG_WEIGHTS_LAYER, m[2]},
        {DNNL_ARG_WEIGHTS_ITER, m[3]}, {DNNL_ARG_BIAS, m[4]}, {DNNL_ARG_DST_LAYER, m[5]}, {DNNL_ARG_DST_ITER, m[6]}});
    s.wait();
}

int main() {
    int v[9];  // lbr, direction, L, S, T, N, D, H, output features
    if (std::fread(v, sizeof(int), 9, stdin) != 9) return 1;
    long L = v[2], S = v[3], T = v[4], N = v[5], D = v[6], H = v[7], F = v[8];
    engine cpu(engine::kind::cpu, 0);
    std::vector<memory::desc> descs = {
        {{T, N, D}, memory::data_type::f32, tag::tnc}, {{L, S, N, H}, memory::data_type::f32, tag::ldnc},
        {{L, S, D, 3, H}, memory::data_type::f32, tag::ldigo}, {{L, S, H, 3, H}, memory::data_type::f32, tag::ldigo},
        {{L, S, v[0] ? 4 : 3, H}, memory::data_type::f32, tag::ldgo}, {{T, N, F}, memory::data_type::f32, tag::tnc},
        {{L, S, N, H}, memory::data_type::f32, tag::ldnc}};
    std::vector<memory> m;
    for (size_t i = 0; i < descs.size(); i++) {
        m.emplace_back(descs[i], cpu);
        size_t size = descs[i].get_size();
        if (i < 5 && std::fread(m[i].get_data_handle(), 1, size, stdin) != size) return 2;
    }
    const rnn_direction directions[] = {rnn_direction::unidirectional_left2right,
        rnn_direction::unidirectional_right2left, rnn_direction::bidirectional_concat,
        rnn_direction::bidirectional_sum};
    if (v[0]) run<lbr_gru_forward>(cpu, directions[v[1]], m);
    else run<gru_forward>(cpu, directions[v[1]], m);
    for (int i = 5; i < 7; i++) std::fwrite(m[i].get_data_handle(), 1, descs[i].get_size(), stdout);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("onednn") / "gru"
    source = path.with_suffix(".cpp")
    source.write_text(SOURCE, encoding="ascii")
    flags = ["-std=c++11", f"-I{INCLUDE}", f"-L{LIBRARY}", f"-Wl,-rpath,{LIBRARY}", "-o", path]
    children.run(COMPILER, source, *flags, "-ldnnl", check=True)
    return path


def run(program, memory, x, h0):
    """(dst_layer (T, N, F), dst_iter (L, S, N, H)); of several primitives, one after the other."""
    if isinstance(memory, list):
        finals = []
        for part, state in zip(memory, h0, strict=True):
            x, final = run(program, part, x, state[None])
            finals.append(final[0])
        return x, np.stack(finals)
    L, S, D, _, H = memory["weights_layer"].shape
    T, N, _ = x.shape
    features = H * (2 if memory["direction"] == "bidirectional_concat" else 1)
    kind = [memory["cell"] == "lbr_gru", list(DIRECTIONS).index(memory["direction"])]
    sizes = np.array([*kind, L, S, T, N, D, H, features], np.int32)
    arrays = [x, h0, memory["weights_layer"], memory["weights_iter"], memory["bias"]]
    data = sizes.tobytes() + b"".join(array.astype(np.float32).tobytes() for array in arrays)
    environment = children.environment(OMP_NUM_THREADS="1")
    done = children.run(program, input=data, text=False, check=True, env=environment)
    out = np.frombuffer(done.stdout, np.float32)
    return out[: T * N * features].reshape(T, N, features), out[T * N * features :].reshape(L, S, N, H)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "inputs"), [(1, D), (2, D), (2, H)])
def test_outputs(rng, program, cell, direction, layers, inputs):
    options = DIRECTIONS[direction]
    layer = checks.random_layer(
        rng, H, input_size=inputs, num_layers=layers, reset_after=CELLS[cell], time_major=True, return_sequences=True,
        return_state=True, **options,
    )  # fmt: skip
    memory = to_onednn(layer)
    assert isinstance(memory, dict) == (layers == 1 or (inputs == H and not layer.bidirectional))
    x = rng.standard_normal((T, N, inputs)).astype("float32")
    h0 = rng.uniform(-1, 1, layer._state_shape(N)).astype("float32")
    expected, final = run(program, memory, x, h0.reshape(layers, -1, N, H))
    for ours in (layer, from_onednn(memory, time_major=True)):
        y, h = ours(x, h0)
        checks.assert_close(y, expected, 5e-6, "dst_layer")
        checks.assert_close(h, final.reshape(h.shape), 5e-6, "dst_iter")
