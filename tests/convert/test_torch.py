"""PyTorch's state_dict, on plain arrays; tests/parity/test_torch.py has the real thing."""

import checks
import children
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, to_torch

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def state_dict(rng, num_layers=1, bidirectional=False, bias=True, prefix="", units=H, dtype="float64"):
    """Random arrays under torch.nn.GRU's names."""
    result = {}
    for layer in range(num_layers):
        features = units * (1 + bidirectional) if layer else D
        for direction in ("", "_reverse")[: 1 + bidirectional]:
            suffix = f"_l{layer}{direction}"
            result[f"{prefix}weight_ih{suffix}"] = rng.standard_normal((3 * units, features)) / 3
            result[f"{prefix}weight_hh{suffix}"] = rng.standard_normal((3 * units, units)) / 3
            if bias:
                result[f"{prefix}bias_ih{suffix}"] = rng.standard_normal(3 * units)
                result[f"{prefix}bias_hh{suffix}"] = rng.standard_normal(3 * units)
    return {name: array.astype(dtype) for name, array in result.items()}


def run(arrays, suffix, x, h0):
    """One cell by the equations in PyTorch's documentation."""

    def parts(name):
        return {gate: part.T for gate, part in zip("rzn", np.split(arrays[name + suffix], 3), strict=True)}

    zeros = dict.fromkeys("rzn", np.zeros(H))
    b, c = (parts(name) if name + suffix in arrays else zeros for name in ("bias_ih", "bias_hh"))
    return checks.foreign_gru(
        x, h0, parts("weight_ih"), parts("weight_hh"), b, c, reset_after=True, z_weighs="old"
    )


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_the_formula(rng, bias):
    arrays = state_dict(rng, 2, True, bias)
    x, h0 = rng.standard_normal((N, T, D)), rng.uniform(-1, 1, (4, N, H))
    y, h = cgru.from_torch(arrays)(x, initial_state=h0)
    expected, finals = x, []
    for layer in range(2):
        forward = run(arrays, f"_l{layer}", expected, h0[2 * layer])
        backward = run(arrays, f"_l{layer}_reverse", expected[:, ::-1], h0[2 * layer + 1])
        finals += [forward[:, -1], backward[:, -1]]
        expected = np.concatenate([forward, backward[:, ::-1]], axis=2)
    checks.assert_close(y, expected, 1e-13)
    checks.assert_close(h, np.stack(finals), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (3, False), (1, True), (2, True)])
def test_round_trip_to_the_bit(rng, num_layers, bidirectional, bias, dtype):
    arrays = state_dict(rng, num_layers, bidirectional, bias, dtype=dtype)
    layer = cgru.from_torch(arrays)
    assert (layer.num_layers, layer.bidirectional, layer.use_bias, layer.dtype.name) == (
        num_layers, bidirectional, bias, dtype
    )  # fmt: skip
    assert layer.reset_after and layer.return_sequences and layer.return_state and not layer.time_major
    back = to_torch(layer)
    assert list(back) == list(arrays)  # the order is PyTorch's too
    checks.assert_same_arrays(back, arrays)
    again = cgru.from_torch(back)
    checks.assert_same_arrays(again.get_weights(), layer.get_weights())


def test_half_precision_widens(rng):
    arrays = {name: array.astype("float16") for name, array in state_dict(rng).items()}
    layer = cgru.from_torch(arrays)
    assert layer.dtype == "float32"
    checks.assert_same_arrays(to_torch(layer), {name: array.astype("float32") for name, array in arrays.items()})


def test_one_gru_in_a_bigger_model_is_found(rng):
    gru = state_dict(rng, prefix="encoder.gru.")
    others = {"fc.weight": np.ones((3, 3)), "encoder.gru.scale": np.ones(1), "step": np.array(3)}
    lstm = {"lstm.weight_ih_l0": np.ones((4 * H, D)), "lstm.weight_hh_l0": np.ones((4 * H, H))}
    with pytest.warns(PartialConversionWarning) as caught:
        layer = cgru.from_torch(others | lstm | gru)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert str(caught[0].message) == (
        "from_torch: only the GRU 'encoder.gru' was converted; left out: fc.weight, encoder.gru.scale, step, "
        "lstm.weight_ih_l0, lstm.weight_hh_l0. prefix='encoder.gru' says that this is meant"
    )
    checks.assert_same_arrays(to_torch(layer, "encoder.gru"), gru)
    checks.assert_same_arrays(to_torch(cgru.from_torch(gru, "encoder.gru."), "encoder.gru."), gru)
    cgru.from_torch(others | gru, "encoder.gru")  # the choice was made: no warning


def test_of_several_one_is_chosen(rng):
    arrays = {}
    for name in ("encoder", "decoder"):
        arrays |= state_dict(rng, prefix=f"{name}.")
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['encoder.', 'decoder.'\].*got None"):
        cgru.from_torch(arrays)
    decoder = to_torch(cgru.from_torch(arrays, "decoder"), "decoder")
    checks.assert_same_arrays(decoder, {k: v for k, v in arrays.items() if k.startswith("decoder")})
    with pytest.raises(ValueError, match=r"^state_dict: expected an array 'gru.weight_hh_l0', got encoder.weight_ih"):
        cgru.from_torch(arrays, "gru")


def test_cells(rng):
    """torch.nn.GRUCell has the same arrays without a suffix; a list of them is a stack."""
    cell = {name.removesuffix("_l0"): array for name, array in state_dict(rng).items()}
    x = rng.standard_normal((N, T, D))
    y, _ = cgru.from_torch(cell)(x)
    checks.assert_close(y, run(cell, "", x, np.zeros((N, H))), 1e-14)
    top = {
        "weight_ih": rng.standard_normal((15, H)), "weight_hh": rng.standard_normal((15, 5)),
        "bias_ih": rng.standard_normal(15), "bias_hh": rng.standard_normal(15),
    }  # fmt: skip
    model = cgru.from_torch([cell, top])
    assert isinstance(model, cgru.Sequential) and [layer.units for layer in model.layers] == [H, 5]
    with pytest.raises(ValueError, match=r"^torch.nn.GRU: cannot convert a Sequential of several GRUs exactly"):
        to_torch(model)
    second = state_dict(rng) | {"weight_ih_l0": rng.standard_normal((3 * H, H))}
    assert cgru.from_torch([state_dict(rng), second]).num_layers == 2


@pytest.mark.parametrize("shape", [(2, H), (2, 1, H)], ids=str)
def test_a_learned_initial_state(rng, shape):
    arrays = state_dict(rng, 2) | {"h0": rng.uniform(-1, 1, shape)}
    layer = cgru.from_torch(arrays, initial_state="h0")
    x = rng.standard_normal((N, T, D))
    y, _ = layer(x)
    h0 = arrays["h0"].reshape(2, H)
    below = run(arrays, "_l0", x, np.tile(h0[0], (N, 1)))
    checks.assert_close(y, run(arrays, "_l1", below, np.tile(h0[1], (N, 1))), 1e-14)
    back = to_torch(layer, initial_state="h0")
    checks.assert_same_arrays(back, arrays | {"h0": h0[:, None]})
    with pytest.raises(ValueError, match=r'^torch.nn.GRU: cannot convert a learned initial .* initial_state="h0"'):
        to_torch(layer)
    with pytest.raises(ValueError, match=r"^h0: expected shape \(S, H\) = \(2, 7\), got \(2, 8\)"):
        cgru.from_torch(arrays | {"h0": np.ones((2, 8))}, initial_state="h0")
    with pytest.raises(ValueError, match=r"^state_dict: expected an array 'h_0'"):
        cgru.from_torch(arrays, initial_state="h_0")
    with pytest.raises(ValueError, match=r"^initial_state: expected a layer with learn_initial_state=True"):
        to_torch(cgru.from_torch(state_dict(rng)), initial_state="h0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hh_l1": None}, "state_dict: expected an array 'weight_hh_l1', got weight_ih_l0"),
        ({"weight_hh_l0": None}, "state_dict: expected weight_hh_l0 and the other arrays of a GRU, got weight_ih_l0"),
        ({"bias_hh_l0_reverse": None}, "state_dict: expected an array 'bias_hh_l0_reverse'"),
        ({"weight_ih_l1": np.ones((3 * H, H))}, r"weight_ih_l1: expected shape \(3H, D\) = \(21, 14\), got \(21, 7\)"),
        ({"weight_hh_l0": np.ones((3 * H, 8))}, r"weight_hh_l0: expected shape \(3H, H\) = \(21, 7\), got \(21, 8\)"),
        ({"weight_hh_l0": np.ones((4 * H, H))}, r"weight_hh_l0: expected shape \(3H, H\)"),
        ({"bias_ih_l0": np.ones(20)}, r"bias_ih_l0: expected shape \(3H,\) = \(21,\), got \(20,\)"),
        ({"weight_hr_l0": np.ones(3)}, "state_dict: expected .* and no others, got 'weight_hr_l0'"),
        ({"weight_ih_l3": np.ones((3 * H, H))}, "state_dict: expected an array 'weight_hh_l2'"),
        ({"weight_hh_l99999999999": np.ones((3 * H, H))}, "state_dict: expected an array 'weight_hh_l2'"),
        ({"weight_hh_l1_reverse_orig": np.ones((3 * H, H))}, "state_dict: cannot convert 'weight_hh_l1_reverse_orig'"),
    ],
)
def test_wrong_state_dicts_are_named(rng, change, message):
    arrays = state_dict(rng, 2, True) | change
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_torch({name: array for name, array in arrays.items() if array is not None})


def test_wrong_types_are_named(rng):
    with pytest.raises(TypeError, match=r"^state_dict: expected a mapping of names to arrays, got ndarray"):
        cgru.from_torch(np.ones(3))
    with pytest.raises(TypeError, match=r"^weight_hh_l0: expected floating-point numbers, got dtype int64"):
        cgru.from_torch(state_dict(rng) | {"weight_hh_l0": np.ones((3 * H, H), int)})
    with pytest.raises(ValueError, match=r"^weights: expected at least one GRU"):
        cgru.from_torch([])
    with pytest.raises(ValueError, match=r"^weights: expected GRUs with one direction each or two each"):
        cgru.from_torch([state_dict(rng), state_dict(rng, bidirectional=True)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": False}, "reset_after=False exactly: .*before"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation='hard_sigmoid'"),
        ({"reverse": True}, "reverse=True exactly"),
        ({"go_backwards": True}, "go_backwards=True exactly"),
        ({"bidirectional": True, "merge_mode": "sum"}, "merge_mode='sum'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_it_cannot_hold(options, message):
    layer = cgru.GRU(H, input_size=D, **{"reset_after": True} | options)
    with pytest.raises(ValueError, match=rf"^torch.nn.GRU: cannot convert {message}"):
        to_torch(layer)


def test_torch_is_not_imported():
    """Neither by the converters of arrays, nor by import cgru; and cgru.from_torch is there without them."""
    code = (
        "import sys, numpy as np, cgru\n"
        "assert 'cgru.convert.torch' not in sys.modules\n"
        "cgru.convert.to_torch(cgru.from_torch({'weight_ih_l0': np.ones((6, 3)), 'weight_hh_l0': np.ones((6, 2))}))\n"
        "assert not {'torch', 'onnx', 'keras', 'h5py', 'tensorflow'} & set(sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "try:\n"
        "    cgru.convert.to_torch_module(cgru.GRU(3, reset_after=True, input_size=2))\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = children.python("-c", code)
    assert (done.stdout, done.stderr) == ('to_torch_module needs PyTorch: pip install "cgru[torch]"\n', "")
