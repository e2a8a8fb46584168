"""What PyTorch's exporter makes of its GRU, with sizes that are fixed or not: from_onnx gives the layer whose outputs
ONNX Runtime has."""

import importlib.util
import logging
import warnings

import checks
import numpy as np
import pytest

import cgru

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

if importlib.util.find_spec("onnxscript") is None:
    pytest.skip("the exporter needs onnxscript", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own
N, T, D, H = 2, 7, 3, 5


class Net(torch.nn.Module):
    def __init__(self, linear=False, **options):
        super().__init__()
        self.gru = torch.nn.GRU(D, H, **options)
        self.linear = torch.nn.Linear(D, D) if linear else None

    def forward(self, x):
        return self.gru(x if self.linear is None else torch.relu(self.linear(x)))


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("options", "dynamic"),
    [
        ({"num_layers": 2, "batch_first": True}, (0, 1)),
        ({"num_layers": 2, "batch_first": True, "bidirectional": True}, (0, 1)),
        ({"num_layers": 2, "batch_first": True, "bidirectional": True}, (0,)),
        ({"num_layers": 2}, (0,)),
        ({"num_layers": 2}, (1,)),
        ({"num_layers": 3, "bidirectional": True, "batch_first": True, "linear": True}, (0, 1)),
        ({"num_layers": 2, "bias": False, "batch_first": True}, ()),
    ],
    ids=str,
)
def test_the_default_exporter(rng, tmp_path, options, dynamic, optimize):
    logging.disable(logging.CRITICAL)
    try:
        torch.manual_seed(0)
        net, x = Net(**options).eval(), torch.randn(N, T, D)
        sizes = {axis: torch.export.Dim("nt"[axis]) for axis in dynamic}
        program = torch.onnx.export(
            net, (x,), dynamo=True, optimize=optimize, verbose=False, dynamic_shapes=(sizes or None,)
        )
    finally:
        logging.disable(logging.NOTSET)
    path = tmp_path / "model.onnx"
    onnx.save(program.model_proto, path)
    layer = cgru.from_onnx(path)
    assert isinstance(layer, cgru.GRU) and layer.num_layers == options["num_layers"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = rng.standard_normal((N, T, D)).astype("float32")
    expected = session.run(None, {session.get_inputs()[0].name: x})
    if options.get("linear"):  # what comes before the GRU is the caller's, and the layer takes what the node takes
        x = torch.relu(net.linear(torch.from_numpy(x))).detach().numpy()
        assert layer.time_major
        y, h = layer(x.swapaxes(0, 1))
        y = y.swapaxes(0, 1)
    else:
        assert layer.time_major != options.get("batch_first", False)
        y, h = layer(x)
    checks.assert_close(y, expected[0], 1e-6)
    checks.assert_close(h, expected[1], 1e-6)


@pytest.mark.parametrize("opset", [11, 14])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_exporter_of_before(rng, tmp_path, opset, bidirectional):
    net = Net(num_layers=2, batch_first=True, bidirectional=bidirectional).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        net, (torch.randn(N, T, D),), path, dynamo=False, opset_version=opset, input_names=["x"],
        dynamic_axes={"x": {0: "n", 1: "t"}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = rng.standard_normal((3, 4, D)).astype("float32")
    expected = session.run(None, {"x": x})
    y, h = cgru.from_onnx(path)(x)
    checks.assert_close(y, expected[0], 1e-6)
    checks.assert_close(h, np.asarray(expected[1]), 1e-6)
