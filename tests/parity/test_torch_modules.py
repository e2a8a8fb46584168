"""PyTorch's modules and programs as people have them: with norms, pruning and hooks, compiled, traced, scripted and
exported, in something bigger, and whole models."""

import copy
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, from_torch_embedding, from_torch_linear, to_torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn.utils import parametrizations, prune

    from cgru.torch import replace_gru

N, T, D, H = checks.N, checks.T, checks.D, checks.H
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation")]
TOLERANCE = 5e-6
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@pytest.fixture(autouse=True)
def one_thread(rng):
    torch.manual_seed(int(rng.integers(2**31)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomized(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    return module


def same_outputs(layer, gru, rng, time_major=True):
    """The layer computes what the module does in evaluation mode, and the module is left as it was."""
    before = {name: tensor.clone() for name, tensor in gru.state_dict().items()}
    dtype = next(gru.parameters()).dtype
    tolerance = 1e-11 if dtype == torch.float64 else TOLERANCE
    x = rng.standard_normal((T, N, gru.input_size) if time_major else (N, T, gru.input_size))
    x = x.astype(str(dtype).removeprefix("torch."))
    y, h = layer(x)
    training = gru.training
    with torch.no_grad():
        expected_y, expected_h = gru.eval()(torch.from_numpy(x))
    gru.train(training)
    checks.assert_close(y, expected_y, tolerance, "y")
    checks.assert_close(np.reshape(h, expected_h.shape), expected_h, tolerance, "h")
    for name, tensor in gru.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def old_weight_norm(gru, name):
    nn.utils.weight_norm(gru, name)
    with torch.no_grad():  # what an optimizer or load_state_dict does: the array itself follows at the next call
        getattr(gru, name + "_g").mul_(1.5)


def new_weight_norm(gru, name):
    parametrizations.weight_norm(gru, name)
    with torch.no_grad():
        gru.parametrizations[name].original0.mul_(1.5)


def pruned(gru, name):
    prune.random_unstructured(gru, name, 0.5)
    with torch.no_grad():
        getattr(gru, name + "_orig").mul_(1.5)


def pruned_twice(gru, name):
    pruned(gru, name)
    prune.l1_unstructured(gru, name, 0.2)


CHANGES = {
    "weight norm": old_weight_norm,
    "weight norm as a parametrization": new_weight_norm,
    "spectral norm": lambda gru, name: nn.utils.spectral_norm(gru, name),
    "spectral norm as a parametrization": lambda gru, name: parametrizations.spectral_norm(gru, name),
    "pruning": pruned,
    "pruning, twice": pruned_twice,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_arrays_under_norms_and_pruning(rng, change, name, bias, training):
    """One layer or direction alone is changed: none is missing, and none is taken as it was before the norm."""
    gru = randomized(nn.GRU(D, H, num_layers=2, bidirectional=True, bias=bias).double()).train(training)
    change(gru, name)
    layer = cgru.from_torch(gru)
    assert (layer.num_layers, layer.bidirectional, layer.use_bias, layer.time_major) == (2, True, bias, True)
    same_outputs(layer, gru, rng)
    holder = nn.ModuleDict({"encoder": gru})
    checks.assert_same_arrays(cgru.from_torch(holder).get_weights(), layer.get_weights())


@pytest.mark.parametrize("norm", [None, old_weight_norm, new_weight_norm], ids=["", "norm", "parametrization"])
@pytest.mark.parametrize("names", [NAMES[2:], NAMES[2:3], NAMES], ids=["biases", "one bias", "all"])
def test_pruned_biases_are_biases(rng, names, norm):
    gru = randomized(nn.GRU(D, H, batch_first=True).double())
    for name in names:
        pruned(gru, name)
    if norm is not None and "weight_hh_l0" not in names:
        norm(gru, "weight_hh_l0")
    layer = cgru.from_torch(gru)
    assert layer.use_bias
    same_outputs(layer, gru, rng, time_major=False)


def test_a_cell_under_a_norm(rng):
    cell = randomized(nn.GRUCell(D, H))
    new_weight_norm(cell, "weight_hh")
    pruned(cell, "bias_ih")
    x, h = (rng.standard_normal((N, size)).astype("float32") for size in (D, H))
    with torch.no_grad():
        expected = cell(torch.from_numpy(x), torch.from_numpy(h))
    checks.assert_close(cgru.from_torch(cell).step(x, h), expected, TOLERANCE)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_state_dict_in_disguise_is_refused(change):
    gru = nn.GRU(D, H, num_layers=2, bias=False)
    change(gru, "weight_hh_l1")
    holder = nn.ModuleDict({"encoder": gru})
    for arrays, prefix in ((gru.state_dict(), None), (holder.state_dict(), None), (holder.state_dict(), "encoder")):
        with pytest.raises(ValueError, match=r"^state_dict: cannot convert '.*weight_hh_l1.*Pass the module itself"):
            cgru.from_torch(arrays, prefix)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_of_two_grus_one_under_a_norm_is_seen(change):
    model = nn.ModuleDict({"plain": nn.GRU(D, H), "changed": nn.GRU(D, H), "lstm": nn.LSTM(D, H), "rnn": nn.RNN(D, H)})
    change(model["changed"], "weight_hh_l0")
    for source in (model, model.state_dict()):
        with pytest.raises(ValueError, match=r"^prefix: expected one of \['plain.', 'changed.'\]"):
            cgru.from_torch(source)
        cgru.from_torch(source, "plain")
    cgru.from_torch(model, "changed")


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_gru_is_seen_and_refused():
    class Model(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.one, self.other = nn.GRU(D, size), nn.GRU(D, size)

    model = Model(H)
    if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
        pytest.skip("this PyTorch has no quantised kernels")
    model.one = torch.ao.quantization.quantize_dynamic(nn.ModuleList([model.one]), {nn.GRU})[0]
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['one.', 'other.'\]"):
        cgru.from_torch(model)
    with pytest.raises(ValueError, match=r"cannot convert the quantised one exactly: .*The float module"):
        cgru.from_torch(model, "one")
    with pytest.raises(ValueError, match=r"cannot convert the quantised GRU exactly"):
        cgru.from_torch(model.one)
    checks.assert_same_arrays(
        cgru.from_torch(model, "other").get_weights(), cgru.from_torch(model.other).get_weights()
    )
    cells = torch.ao.quantization.quantize_dynamic(nn.ModuleList([nn.GRUCell(D, H)]), {nn.GRUCell})
    with pytest.raises(ValueError, match=r"cannot convert the quantised 0 exactly"):
        cgru.from_torch(cells)


def test_one_gru_under_two_names_is_one():
    gru = nn.GRU(D, H)
    model = nn.ModuleDict({"encoder": gru, "decoder": gru})
    for prefix in (None, "encoder", "decoder"):
        checks.assert_same_arrays(cgru.from_torch(model, prefix).get_weights(), cgru.from_torch(gru).get_weights())


# -- traced, scripted, exported, compiled, wrapped


class Tagger(nn.Module):
    def __init__(self, batch_first=False, **options):
        super().__init__()
        self.embed = nn.Embedding(9, D)
        self.encoder = randomized(nn.GRU(D, H, batch_first=batch_first, **options))
        self.head = nn.Linear(H * (1 + self.encoder.bidirectional), 4)

    def forward(self, ids):
        y, _ = self.encoder(self.embed(ids))
        return self.head(y)


def traced(module, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(module, inputs)


def through_a_file(script, path):
    torch.jit.save(script, path)
    return torch.jit.load(path)


@pytest.mark.parametrize("loaded", [False, True], ids=["", "loaded"])
@pytest.mark.parametrize("form", ["trace", "script", "freeze"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_torchscript(rng, tmp_path, options, batch_first, form, loaded):
    gru = randomized(nn.GRU(D, H, batch_first=batch_first, **options)).eval()
    script = traced(gru, torch.zeros(T, N, D)) if form == "trace" else torch.jit.script(gru)
    script = torch.jit.freeze(script) if form == "freeze" else script
    script = through_a_file(script, tmp_path / "script.pt") if loaded else script
    layer = cgru.from_torch(script)
    assert layer.time_major != batch_first
    same_outputs(layer, gru, rng, not batch_first)


@pytest.mark.parametrize("loaded", [False, True], ids=["", "loaded"])
@pytest.mark.parametrize("form", ["trace", "script"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchscript_of_something_bigger(rng, tmp_path, batch_first, form, loaded):
    model = Tagger(batch_first).eval()
    script = traced(model, torch.zeros(T, N, dtype=torch.long)) if form == "trace" else torch.jit.script(model)
    script = through_a_file(script, tmp_path / "script.pt") if loaded else script
    with pytest.warns(PartialConversionWarning, match=r"left out: embed.weight, head.weight, head.bias\. "):
        layer = cgru.from_torch(script)
    same_outputs(layer, model.encoder, rng, not batch_first)
    same_outputs(cgru.from_torch(script, "encoder"), model.encoder, rng, not batch_first)
    same_outputs(cgru.from_torch(script.encoder), model.encoder, rng, not batch_first)


def test_a_frozen_trace_has_no_arrays():
    script = torch.jit.freeze(traced(nn.GRU(D, H).eval(), torch.zeros(T, N, D)))
    with pytest.raises(ValueError, match=r"^state_dict: expected an array 'weight_hh_l0', got none"):
        cgru.from_torch(script)


def test_a_trace_that_does_not_tell_the_order(rng):
    """Of packed sequences; the answer may be given."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = randomized(nn.GRU(D, H))

        def forward(self, data, sizes):
            return self.gru(nn.utils.rnn.PackedSequence(data, sizes))[1]

    model = Packed()
    script = traced(model, torch.zeros(5, D), torch.tensor([3, 2]))
    with pytest.raises(ValueError, match=r"^time_major: expected True or False, because .* of gru, got None"):
        cgru.from_torch(script)
    same_outputs(cgru.from_torch(script, time_major=True), model.gru, rng)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_first", [False, True])
def test_exported_programs(rng, batch_first):
    model = Tagger(batch_first, num_layers=2).eval()
    program = torch.export.export(model, (torch.zeros(T, N, dtype=torch.long),))
    for source in (program, program.module()):
        same_outputs(cgru.from_torch(source, "encoder"), model.encoder, rng, not batch_first)
    with pytest.warns(PartialConversionWarning, match=r"left out: embed.weight, head.weight, head.bias\. "):
        cgru.from_torch(program)
    alone = torch.export.export(model.encoder, (torch.zeros(T, N, D),))
    same_outputs(cgru.from_torch(alone), model.encoder, rng, not batch_first)
    same_outputs(cgru.from_torch(torch.fx.symbolic_trace(model), "encoder"), model.encoder, rng, not batch_first)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_programs_of_norms_and_pruning_are_refused(change):
    """Their arrays are computed in the program; a GRU beside them is not taken for the only one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.changed = nn.GRU(D, D), nn.GRU(D, D)

        def forward(self, x):
            return self.changed(self.plain(x)[0])

    model = Model().eval()
    change(model.changed, "weight_hh_l0")
    x = torch.zeros(T, N, D)
    sources = [traced(model, x)]
    if "parametrization" in str([*model.state_dict()]):
        program = torch.export.export(model, (x,))
        sources += [program, program.module()]
    for source in sources:
        with pytest.raises(ValueError, match=r"^prefix: expected one of \['plain.', 'changed.'\]"):
            cgru.from_torch(source)
        with pytest.raises(ValueError, match=r"^state_dict: cannot convert 'changed.*Pass the module itself"):
            cgru.from_torch(source, "changed")
        assert cgru.from_torch(source, "plain").time_major


@pytest.mark.filterwarnings("ignore")
def test_programs_of_cells(rng):
    cell = randomized(nn.GRUCell(D, H))
    x, h = (rng.standard_normal((N, size)).astype("float32") for size in (D, H))
    with torch.no_grad():
        expected = cell(torch.from_numpy(x), torch.from_numpy(h))
    inputs = (torch.zeros(N, D), torch.zeros(N, H))
    for source in (torch.jit.script(cell), traced(cell, *inputs), torch.export.export(cell, inputs)):
        checks.assert_close(cgru.from_torch(source).step(x, h), expected, TOLERANCE)


def test_wrappers():
    model = Tagger(batch_first=True)
    compiled, parallel = torch.compile(model), nn.DataParallel(model)
    expected = cgru.from_torch(model.encoder).get_weights()
    for wrapped in (compiled, parallel, torch.compile(parallel)):
        layer = cgru.from_torch(wrapped, "encoder")  # as the names are in the model
        assert not layer.time_major
        checks.assert_same_arrays(layer.get_weights(), expected)
        with pytest.warns(PartialConversionWarning, match=r"left out: .*embed.weight, .*head.weight"):
            cgru.from_torch(wrapped)
        checks.assert_same_arrays(cgru.from_torch(wrapped.state_dict(), "encoder").get_weights(), expected)
    for wrapped in (torch.compile(model.encoder), nn.DataParallel(model.encoder)):
        checks.assert_same_arrays(cgru.from_torch(wrapped).get_weights(), expected)
        checks.assert_same_arrays(cgru.from_torch(wrapped.state_dict(), "").get_weights(), expected)


@pytest.mark.filterwarnings("ignore:When using ``NO_SHARD``")
def test_sharded_modules():
    """FSDP in both forms, in a group of one process: names and arrays are those of the state_dict."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        expected = cgru.from_torch(model := Tagger(), "encoder").get_weights()
        checkpointed = nn.ModuleDict({"encoder": checkpoint_wrapper(model.encoder)})
        checks.assert_same_arrays(cgru.from_torch(checkpointed).get_weights(), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for original in (True, False):
                options = {"use_orig_params": original, "device_id": torch.device("cpu")}
                sharded = FullyShardedDataParallel(copy.deepcopy(model), **options)
                checks.assert_same_arrays(cgru.from_torch(sharded, "encoder").get_weights(), expected)
        with pytest.warns(PartialConversionWarning, match=r"GRU 'encoder' .*: embed.weight, head.weight, head.bias\. "):
            cgru.from_torch(sharded)
        sharded = fully_shard(copy.deepcopy(model), mesh=mesh)
        checks.assert_same_arrays(cgru.from_torch(sharded, "encoder").get_weights(), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_modules_of_another_class_with_the_same_arrays(rng):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            for name, parameter in nn.GRU(D, H).named_parameters():
                self.register_parameter(name, parameter)

    with pytest.raises(ValueError, match=r"^time_major: expected True or False"):
        cgru.from_torch(Own())
    assert cgru.from_torch(Own(), time_major=True).time_major

    class Derived(nn.GRU):
        pass

    gru = randomized(Derived(D, H))
    same_outputs(cgru.from_torch(gru), gru, rng)
    model = Tagger()
    replace_gru(model)
    same_outputs(cgru.from_torch(model, "encoder"), model.encoder, rng)


def test_weights_that_a_wrapper_writes():
    """As a dropout of weights does: the module has the array that it computed with last."""

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.GRU(D, H)
            self.weight_hh_l0_raw = nn.Parameter(self.module.weight_hh_l0.detach().clone())
            del self.module._parameters["weight_hh_l0"]
            self.module.weight_hh_l0 = self.weight_hh_l0_raw * 0.5

    wrapper = Wrapper()
    with pytest.warns(PartialConversionWarning, match=r"'module' was converted; left out: weight_hh_l0_raw\. "):
        layer = cgru.from_torch(wrapper)
    np.testing.assert_array_equal(to_torch(layer)["weight_hh_l0"], wrapper.module.weight_hh_l0.detach())
    with pytest.raises(ValueError, match=r"^state_dict: cannot convert 'weight_hh_l0_raw'"):
        cgru.from_torch(wrapper.state_dict())


def test_hooks_and_forwards_of_ones_own_are_told():
    def doubled(module, inputs, outputs):
        return outputs[0] * 2, outputs[1]

    gru = nn.GRU(D, H)
    gru.register_forward_hook(doubled)
    with pytest.warns(PartialConversionWarning, match=r"doubled") as caught:
        cgru.from_torch(gru)
    assert caught[0].filename == __file__

    class Doubled(nn.GRU):
        def forward(self, *arguments):
            return doubled(self, arguments, super().forward(*arguments))

    with pytest.warns(PartialConversionWarning, match=r"Doubled.forward"):
        cgru.from_torch(Doubled(D, H))


def test_tensors_without_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^weight_hh_l0: expected an array, got a tensor without data"):
        cgru.from_torch(nn.GRU(D, H, device="meta"))
    with pytest.raises(ValueError, match=r"^weight: expected an array, got a parameter without a shape"):
        cgru.from_torch(nn.LazyLinear(3))
    sparse = {name: tensor.to_sparse() for name, tensor in nn.GRU(D, H).state_dict().items()}
    with pytest.raises(TypeError, match=r"^weight_hh_l0: expected a dense array .* layout torch.sparse_coo"):
        cgru.from_torch(sparse)


def test_what_is_no_gru_is_said():
    gru = nn.GRU(D, H)
    for wrong, message in [
        (nn.LSTM(D, H), r"^state_dict: expected weight_hh_l0 .*; a GRU's weight_hh_l0 has 3H rows"),
        ({"model": gru.state_dict(), "epoch": 3}, r"^state_dict: expected .*; give the .* such as weights\['model'\]"),
        (nn.Conv1d(D, H, 1), r"^state_dict: expected weight_hh_l0 and the other arrays of a GRU, got weight, bias$"),
        (traced(nn.Embedding(3, 3), torch.zeros(2).long()), r"^torch.nn.Embedding: cannot convert .* traced"),
    ]:
        with pytest.raises(ValueError, match=message):
            cgru.from_torch(wrong)
    with pytest.raises(TypeError, match=r"^weights: expected a module or a state_dict, got the class GRU"):
        cgru.from_torch(nn.GRU)
    with pytest.raises(TypeError, match=r"^prefix: expected a str, got int"):
        cgru.from_torch(nn.ModuleList([gru, gru]), 0)


def test_what_a_call_returns(rng):
    gru = randomized(nn.GRU(D, H, batch_first=True, num_layers=2))
    x = rng.standard_normal((N, T, D)).astype("float32")
    with torch.no_grad():
        y, h = gru(torch.from_numpy(x))
    last = cgru.from_torch(gru, return_sequences=False, return_state=False)(x)
    checks.assert_close(last, h[-1], TOLERANCE)
    checks.assert_close(cgru.from_torch(gru, return_state=False)(x), y, TOLERANCE)
    stack = cgru.from_torch([nn.GRU(D, H), nn.GRU(H, 5)], return_sequences=False)
    assert [layer.return_sequences for layer in stack.layers] == [True, False]
    with pytest.raises(TypeError, match=r"^return_sequences: expected True or False, got 'no'"):
        cgru.from_torch(gru, return_sequences="no")


# -- layers around a GRU, and whole models


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_dense(rng, bias, dtype):
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    linear = nn.Linear(5, 3, bias=bias, dtype=getattr(torch, dtype))
    x = rng.standard_normal((N, T, 5)).astype(dtype)
    with torch.no_grad():
        expected = linear(torch.from_numpy(x)).numpy()
    arrays = {f"fc.{name}": tensor for name, tensor in linear.state_dict().items()}
    for layer in (cgru.from_torch(linear), from_torch_linear(linear), from_torch_linear(arrays, "fc")):
        assert (layer.units, layer.input_size, layer.use_bias, layer.dtype) == (3, 5, bias, dtype)
        checks.assert_close(cgru.Sequential([layer]).predict(x), expected, tolerance)
    new_weight_norm(linear, "weight")
    with torch.no_grad():
        expected = linear(torch.from_numpy(x)).numpy()
    checks.assert_close(cgru.Sequential([cgru.from_torch(linear)]).predict(x), expected, tolerance)


def test_embedding(rng):
    embedding = nn.Embedding(9, 4, padding_idx=0)
    ids = rng.integers(0, 9, (N, T))
    expected = embedding(torch.from_numpy(ids)).detach().numpy()
    for layer in (cgru.from_torch(embedding), from_torch_embedding({"weight": embedding.weight})):
        np.testing.assert_array_equal(cgru.Sequential([layer]).predict(ids), expected)
    with pytest.raises(ValueError, match=r"^torch.nn.Embedding: cannot convert max_norm=1.0 exactly"):
        cgru.from_torch(nn.Embedding(9, 4, max_norm=1.0))


def predictions(model, module, x):
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x))
    expected = expected[0] if isinstance(expected, tuple) else expected
    checks.assert_close(model.predict(x), expected, TOLERANCE)


def test_whole_sequentials(rng):
    ids, x = rng.integers(0, 9, (N, T)), rng.standard_normal((N, D)).astype("float32")
    encoder = nn.Sequential(nn.Embedding(9, D), nn.Dropout(0.5), nn.Identity(), nn.GRU(D, H, batch_first=True))
    model = cgru.from_torch(randomized(encoder))
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding", "Dropout", "GRU"]
    predictions(model, encoder, ids)
    last = cgru.from_torch(encoder, return_sequences=False)
    checks.assert_close(last.predict(ids), model.predict(ids)[:, -1], 0)
    mlp = nn.Sequential(nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Dropout(0.2)), nn.Linear(6, 5), nn.Sigmoid(),
                        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softmax(dim=-1))  # fmt: skip
    model = cgru.from_torch(randomized(mlp))
    assert [layer.activation for layer in model.layers if isinstance(layer, cgru.Dense)] == [
        "relu", "sigmoid", "tanh", "softmax"
    ]  # fmt: skip
    predictions(model, mlp, x)
    compiled = torch.compile(nn.ModuleDict({"inner": mlp, "gru": nn.GRU(D, H)}))
    predictions(cgru.from_torch(compiled, "inner"), mlp, x)
    assert isinstance(cgru.from_torch(compiled, "inner.1"), cgru.Dense)
    shared = randomized(nn.Linear(D, D))
    twice = nn.Sequential(shared, nn.Tanh(), shared)
    predictions(cgru.from_torch(twice), twice, x)
    alone = nn.Sequential(randomized(nn.GRU(D, H)))
    same_outputs(cgru.from_torch(alone), alone[0], rng)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear(3, 3), nn.LayerNorm(3)], r"1 \(LayerNorm\) exactly: there is no such layer"),
        ([nn.Linear(3, 3), nn.Softmax(dim=1)], r"1 \(Softmax\) exactly: its axis is 1"),
        ([nn.ReLU(), nn.Linear(3, 3)], r"0 \(ReLU\) where no Dense .* activations are those of a Dense"),
        ([nn.Linear(3, 3), nn.ReLU(), nn.Tanh()], r"2 \(Tanh\) where no Dense without activation"),
        ([nn.Linear(3, 3), nn.Sequential(nn.Flatten())], r"1.0 \(Flatten\) exactly"),
        ([nn.Linear(3, 3), nn.Dropout(1.0)], r"1 \(Dropout\) exactly: it drops everything"),
    ],
    ids=lambda value: "",
)
def test_sequentials_that_cannot_be(modules, message):
    with pytest.raises(ValueError, match=rf"^torch.nn.Sequential: cannot convert {message}"):
        cgru.from_torch(nn.Sequential(*modules))


@pytest.mark.parametrize(
    "modules",
    [
        [nn.Embedding(9, D), nn.GRU(D, H)],  # time-major
        [nn.GRU(D, H, batch_first=True), nn.Linear(H, 3)],  # PyTorch cannot run it
        [nn.Embedding(9, D), nn.LayerNorm(D), nn.GRU(D, H, batch_first=True)],
    ],
    ids=["time-major", "pair", "norm"],
)
def test_a_sequential_that_cannot_be_gives_its_gru_and_says_so(modules):
    with pytest.warns(PartialConversionWarning, match=r"only the GRU '\d' was converted; left out: "):
        layer = cgru.from_torch(nn.Sequential(*modules))
    assert isinstance(layer, cgru.GRU)


def test_a_time_major_model_in_the_other_order(rng):
    module = nn.Sequential(nn.Embedding(9, D), randomized(nn.GRU(D, H)))
    model = cgru.from_torch(module, time_major=False)
    ids = rng.integers(0, 9, (N, T))
    with torch.no_grad():
        expected, _ = module(torch.from_numpy(ids.T.copy()))
    checks.assert_close(model.predict(ids), expected.swapaxes(0, 1), TOLERANCE)


def test_modules_without_parameters_are_named_where_they_are_left_out():
    """What follows a GRU, or stands before it, changes its numbers with arrays of its own and without."""

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.drop = torch.nn.GRU(3, 4, batch_first=True), torch.nn.Dropout()
            self.act, self.loss = torch.nn.Tanh(), torch.nn.CrossEntropyLoss()

    gru = torch.nn.GRU(3, 4, batch_first=True)
    for module, left in ((Own(), r"act \(Tanh\)"), (torch.nn.Sequential(torch.nn.Tanh(), gru), r"0 \(Tanh\)")):
        with pytest.warns(cgru.convert.PartialConversionWarning, match=rf"was converted; left out: {left}\. prefix="):
            cgru.from_torch(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cgru.from_torch(Own(), "rnn")
        cgru.from_torch(torch.nn.ModuleDict({"rnn": gru, "drop": torch.nn.Dropout()}))
