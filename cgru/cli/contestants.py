"""The contestants. Each imports its library when it is made, in a process of its own (worker.py), and turns a `Case`
and its arrays into a callable without arguments, to be timed, and a function from that callable's result to named
arrays in cgru's form, to be checked.

Inputs are in the library's own array type before the clock runs, and each library is called in the way that it runs
fastest.
"""

import importlib.metadata
import statistics
from functools import partial

import numpy as np

from cgru.cli import timing
from cgru.cli.case import oriented, weight_names


def regate(array, source, target):
    """Gate blocks of the last axis from one order to another; z negated: cgru's weighs the new candidate, all other
    libraries' the old state."""
    blocks = dict(zip(source, np.split(np.asarray(array), 3, axis=-1), strict=True))
    blocks["z"] = -blocks["z"]
    return np.concatenate([blocks[gate] for gate in target], axis=-1)


def cells(case, arrays):
    """[(kernel, recurrent_kernel, bias)] in the order of layers and directions."""
    flat = [arrays[name] for name in weight_names(case)]
    return [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]


def named(case, gradients):
    """The gradients of `cells` under their names."""
    return dict(zip(weight_names(case), (array for cell in gradients for array in cell), strict=True))


def fastest(*runs, seconds=0.1):
    """The callable with the least median time, tried in turn: some libraries have two ways to be called, and which is
    faster depends on sizes."""
    for run in runs:
        run()
    times = timing.interleave(runs, 3, seconds)
    return min(zip(runs, times, strict=True), key=lambda pair: statistics.median(pair[1]))[0]


class Contestant:
    """One library. `packages` are imported by name for versions, `modes` is what `prepare` takes."""

    name = ""
    packages: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("inference", "training")
    before = True  # has reset_after=False
    float64 = True
    lengths = True
    deep = True  # has several layers and directions

    def __init__(self, threads):
        self.threads = threads

    @classmethod
    def refuses(cls, case):
        """Why this library cannot run the case, or None. Asked before anything is imported."""
        missing = {
            case.mode: case.mode not in cls.modes,
            "reset before": not (case.reset_after or cls.before),
            "float64": case.dtype == "float64" and not cls.float64,
            "lengths": case.shortest is not None and not case.padded and not cls.lengths,
            "stacks": (case.layers > 1 or case.bidirectional) and not cls.deep,
        }
        return ", ".join(what for what, lacking in missing.items() if lacking) or None

    def versions(self):
        return {package: importlib.metadata.version(package) for package in ("numpy", *self.packages)}

    def prepare(self, case, arrays):
        """Return (run, results): `results(run())` is a dict of y, dx and the weights' gradients, y and dx in the layout
        of the case; or the product, or the new state."""
        return getattr(self, case.mode)(case, arrays)


class Cgru(Contestant):
    name = "cgru"
    packages = ("scipy",)
    modes = ("inference", "training", "step")

    def __init__(self, threads):
        super().__init__(threads)
        import cgru
        from cgru import kernels

        self.cgru, self.isa = cgru, kernels.isa
        if hasattr(cgru, "set_num_threads"):
            cgru.set_num_threads(threads)

    def versions(self):
        return super().versions() | {"cgru": self.cgru.__version__, "isa": self.isa}

    def _layer(self, case, arrays):
        layer = self.cgru.GRU(
            case.H, return_sequences=True, reset_after=case.reset_after, num_layers=case.layers,
            bidirectional=case.bidirectional, time_major=case.layout == "time", dtype=case.dtype, input_size=case.D,
        )  # fmt: skip
        layer.set_weights([arrays[name] for name in weight_names(case)])
        return layer

    def inference(self, case, arrays):
        lengths = None if case.padded else arrays.get("lengths")
        return partial(self._layer(case, arrays), oriented(arrays["x"], case), lengths=lengths), lambda y: {"y": y}

    def training(self, case, arrays):
        layer, x, dy = self._layer(case, arrays), oriented(arrays["x"], case), oriented(arrays["dy"], case)
        lengths = None if case.padded else arrays.get("lengths")

        def run():
            y, _, tape = layer.forward(x, lengths=lengths, training=True)
            dx, _, gradients = layer.backward(dy, tape)
            return y, dx, gradients

        def results(raw):
            y, dx, gradients = raw
            return {"y": y, "dx": dx} | dict(zip(weight_names(case), gradients.values(), strict=True))

        return run, results

    def step(self, case, arrays):
        x, h = arrays["x"][:, 0], np.zeros((case.N, case.H), case.dtype)
        return partial(self._layer(case, arrays).step, x, h, out=h), lambda h: {"h": h}


class Numpy(Contestant):
    """cgru/reference.py; nothing compiled of ours is in this process."""

    name = "numpy"
    modes = ("inference", "training", "step", "gemm")

    def __init__(self, threads):
        super().__init__(threads)
        from cgru import reference

        self.reference = reference

    def _forward(self, case, x, lengths, weights, h0):
        """Return (y, tapes) of the stack, batch-major."""
        tapes = []
        for _ in range(case.layers):
            outputs = []
            for direction in case.directions:
                y, _, tape = self.reference.forward(
                    x, *weights[len(tapes)], h0, case.reset_after, lengths=lengths, reverse=direction == "backward"
                )
                outputs.append(y)
                tapes.append(tape)
            x = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
        return x, tapes

    def _backward(self, case, dy, tapes):
        """Return (dx, gradients in the order of `cells`)."""
        gradients, step = [], len(case.directions)
        for first in reversed(range(0, len(tapes), step)):
            parts = np.split(dy, step, axis=-1)
            found = [self.reference.backward(part, None, tapes[first + d]) for d, part in enumerate(parts)]
            dy = sum(part["dx"] for part in found)
            gradients[:0] = [tuple(part[name] for name in ("kernel", "recurrent_kernel", "bias")) for part in found]
        return dy, gradients

    def inference(self, case, arrays):
        weights, lengths = cells(case, arrays), None if case.padded else arrays.get("lengths")
        h0 = np.zeros((case.N, case.H), case.dtype)
        x = oriented(arrays["x"], case)

        def run():
            y, _ = self._forward(case, x if case.layout == "batch" else x.swapaxes(0, 1), lengths, weights, h0)
            return oriented(y, case)

        return run, lambda y: {"y": y}

    def training(self, case, arrays):
        weights, lengths = cells(case, arrays), None if case.padded else arrays.get("lengths")
        h0 = np.zeros((case.N, case.H), case.dtype)
        x, dy = arrays["x"], arrays["dy"]

        def run():
            y, tapes = self._forward(case, x, lengths, weights, h0)
            return (y, *self._backward(case, dy, tapes))

        def results(raw):
            y, dx, gradients = raw
            return {"y": oriented(y, case), "dx": oriented(dx, case)} | named(case, gradients)

        return run, results

    def step(self, case, arrays):
        """One row, as fast as NumPy allows: vectors, everything written in place, sigmoid as a tanh."""
        H = case.H
        (kernel, recurrent, bias), x = cells(case, arrays)[0], arrays["x"][0, 0]
        half = np.asarray(0.5, case.dtype)
        scale = np.concatenate([np.full(2 * H, half), np.ones(H, case.dtype)])  # of sigmoid(a) = (tanh(a/2) + 1) / 2
        kernel, recurrent = np.ascontiguousarray(kernel * scale), np.ascontiguousarray(recurrent * scale)
        b, c = bias * scale if case.reset_after else (bias * scale, np.zeros_like(bias))
        U_rz, U_n = np.ascontiguousarray(recurrent[:, : 2 * H]), np.ascontiguousarray(recurrent[:, 2 * H :])
        h, xg, hg = np.zeros(H, case.dtype), np.empty(3 * H, case.dtype), np.empty(3 * H, case.dtype)
        rz, r, z, xn, hn = xg[: 2 * H], xg[:H], xg[H : 2 * H], xg[2 * H :], hg[2 * H :]
        b = np.concatenate([(b + c)[: 2 * H], b[2 * H :]])  # the recurrent bias of r and z joins the input's
        c = c[2 * H :]
        hrz = hg[: 2 * H]
        dot, add, multiply, subtract, tanh = np.dot, np.add, np.multiply, np.subtract, np.tanh

        def gates():
            add(rz, hrz, rz)
            tanh(rz, rz)
            multiply(rz, half, rz)
            add(rz, half, rz)

        def update():
            add(xn, hn, xn)
            tanh(xn, xn)
            subtract(xn, h, xn)
            multiply(xn, z, xn)
            add(h, xn, h)
            return h

        def after():
            dot(x, kernel, xg)
            add(xg, b, xg)
            dot(h, recurrent, hg)
            gates()
            add(hn, c, hn)
            multiply(hn, r, hn)
            return update()

        def before():
            dot(x, kernel, xg)
            add(xg, b, xg)
            dot(h, U_rz, hrz)
            gates()
            multiply(r, h, r)
            dot(r, U_n, hn)
            return update()

        return after if case.reset_after else before, lambda h: {"h": h[None]}

    def gemm(self, case, arrays):
        out = np.empty((case.N, case.H), case.dtype)
        return partial(np.matmul, arrays["x"], arrays["kernel"], out=out), lambda product: {"product": product}


class Torch(Contestant):
    """torch.nn.GRU; lengths through packed sequences; one step through GRUCell."""

    name = "torch"
    packages = ("torch",)
    modes = ("inference", "training", "step", "gemm")
    before = False

    def __init__(self, threads):
        super().__init__(threads)
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def versions(self):
        return super().versions() | {"cpu": self.torch.backends.cpu.get_cpu_capability()}

    def _module(self, case, arrays):
        torch = self.torch
        gru = torch.nn.GRU(
            case.D, case.H, case.layers, batch_first=case.layout == "batch", bidirectional=case.bidirectional,
            dtype=getattr(torch, case.dtype),
        )  # fmt: skip
        flat = []
        for kernel, recurrent, bias in cells(case, arrays):
            flat += [regate(kernel, "rzn", "rzn").T, regate(recurrent, "rzn", "rzn").T, *regate(bias, "rzn", "rzn")]
        with torch.no_grad():
            for parameter, value in zip(gru.parameters(), flat, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        return gru

    def _caller(self, case, arrays):
        """Return the function from x to y."""
        gru, rnn = self._module(case, arrays), self.torch.nn.utils.rnn
        if case.padded or case.shortest is None:
            return gru, lambda x: gru(x)[0]
        first, lengths = case.layout == "batch", self.torch.from_numpy(arrays["lengths"]).long()

        def call(x):
            packed = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
            return rnn.pad_packed_sequence(gru(packed)[0], batch_first=first, total_length=case.T)[0]

        return gru, call

    def _tensor(self, array, case):
        return self.torch.from_numpy(oriented(array, case))

    def prepare(self, case, arrays):
        # Once: a context manager costs a microsecond a call.
        self.torch.set_grad_enabled(case.mode not in ("inference", "step", "gemm"))
        return super().prepare(case, arrays)

    def inference(self, case, arrays):
        _, call = self._caller(case, arrays)
        return partial(call, self._tensor(arrays["x"], case)), lambda y: {"y": y.numpy()}

    def training(self, case, arrays):
        gru, call = self._caller(case, arrays)
        x, dy = self._tensor(arrays["x"], case).requires_grad_(), self._tensor(arrays["dy"], case)
        inputs = [x, *gru.parameters()]

        def run():
            y = call(x)
            return y, self.torch.autograd.grad(y, inputs, dy)

        def results(raw):
            y, (dx, *flat) = raw
            gradients = []
            for i in range(0, len(flat), 4):
                kernel, recurrent, b, c = (array.numpy() for array in flat[i : i + 4])
                bias = np.stack([b, c])
                gradients.append([regate(array, "rzn", "rzn") for array in (kernel.T, recurrent.T, bias)])
            return {"y": y.detach().numpy(), "dx": dx.numpy()} | named(case, gradients)

        return run, results

    def step(self, case, arrays):
        torch = self.torch
        cell = torch.nn.GRUCell(case.D, case.H, dtype=getattr(torch, case.dtype))
        weights = self._module(case, arrays).state_dict().values()
        cell.load_state_dict(dict(zip(cell.state_dict(), weights, strict=True)))
        x, h = torch.from_numpy(arrays["x"][:, 0]), torch.zeros(case.N, case.H, dtype=getattr(torch, case.dtype))

        def run():
            nonlocal h
            h = cell(x, h)
            return h

        return run, lambda h: {"h": h.numpy()}

    def gemm(self, case, arrays):
        a, b = self.torch.from_numpy(arrays["x"]), self.torch.from_numpy(arrays["kernel"])
        out = self.torch.empty(case.N, case.H, dtype=a.dtype)
        return partial(self.torch.mm, a, b, out=out), lambda product: {"product": product.numpy()}


def zrh_weights(case, arrays):
    """For each layer W (directions, 3H, D), R (directions, 3H, H) and the biases b, c (directions, 3H), gates z, r, n
    in rows: what ONNX and OpenVINO start from. Without reset_after c is zero."""
    flat = cells(case, arrays)
    for first in range(0, len(flat), len(case.directions)):
        layer = flat[first : first + len(case.directions)]
        W, R = (np.stack([regate(cell[i], "rzn", "zrn").T for cell in layer]) for i in (0, 1))
        biases = [cell[2] if case.reset_after else (cell[2], np.zeros_like(cell[2])) for cell in layer]
        b, c = (np.stack([regate(bias[i], "rzn", "zrn") for bias in biases]) for i in (0, 1))
        yield W, R, b, c


class OnnxRuntime(Contestant):
    """A model of GRU nodes; the operator is time-major, for batch-major arrays the model transposes."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")
    modes = ("inference", "step")
    float64 = False

    def __init__(self, threads):
        super().__init__(threads)
        import onnx
        import onnxruntime

        self.onnx, self.onnxruntime = onnx, onnxruntime

    def _session(self, case, arrays):
        """A session from x (and lengths, and h for a step) to y (or the new h)."""
        helper, from_array = self.onnx.helper, self.onnx.numpy_helper.from_array
        directions, nodes, constants = len(case.directions), [], {}
        step, told = case.mode == "step", case.shortest is not None and not case.padded
        batch = case.layout == "batch" and not step

        def node(operator, inputs, outputs, **attributes):
            nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
            return outputs[0]

        def constant(name, array):
            constants[name] = np.ascontiguousarray(array)
            return name

        x = node("Transpose", ["x"], ["x_time"], perm=[1, 0, 2]) if batch else "x"
        for layer, (W, R, b, c) in enumerate(zrh_weights(case, arrays)):
            weights = {"W": W, "R": R, "B": np.concatenate([b, c], axis=1)}
            names = [constant(f"{name}{layer}", array) for name, array in weights.items()]
            y = node(
                "GRU", [x, *names, "lengths" if told else "", "h" if step else ""],
                [f"Y{layer}", "h_new" if step else f"H{layer}"], hidden_size=case.H,
                direction="bidirectional" if case.bidirectional else "forward",
                linear_before_reset=int(case.reset_after),
            )  # fmt: skip
            last = layer == case.layers - 1
            # Y is (T, directions, N, H)
            if directions == 1:
                x = node("Squeeze", [y, constant("axis", np.array([1]))], [f"y{layer}"])
                x = node("Transpose", [x], [f"t{layer}"], perm=[1, 0, 2]) if batch and last else x
            else:
                x = node("Transpose", [y], [f"t{layer}"], perm=[2, 0, 1, 3] if batch and last else [0, 2, 1, 3])
                shape = constant("shape", np.array([0, 0, directions * case.H]))
                x = node("Reshape", [x, shape], [f"y{layer}"])

        real, whole = self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.INT32
        inputs = [helper.make_tensor_value_info("x", real, [None] * 3)]
        if told:
            inputs.append(helper.make_tensor_value_info("lengths", whole, [None]))
        if step:
            inputs.append(helper.make_tensor_value_info("h", real, [None] * 3))
        outputs = [helper.make_tensor_value_info("h_new" if step else x, real, [None] * 3)]
        initializers = [from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "gru", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return self.onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def inference(self, case, arrays):
        feed = {"x": oriented(arrays["x"], case)}
        if case.shortest is not None and not case.padded:
            feed["lengths"] = arrays["lengths"]
        return partial(self._session(case, arrays).run, None, feed), lambda outputs: {"y": outputs[0]}

    def step(self, case, arrays):
        session = self._session(case, arrays)
        feed = {"x": np.ascontiguousarray(arrays["x"][None, :, 0]), "h": np.zeros((1, case.N, case.H), case.dtype)}

        def run():
            (feed["h"],) = session.run(None, feed)
            return feed["h"]

        return run, lambda h: {"h": h[0]}


CONTESTANTS = {kind.name: kind for kind in (Cgru, Numpy, Torch, OnnxRuntime)}
