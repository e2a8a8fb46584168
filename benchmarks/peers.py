"""The contestants: those of `cgru bench` (cgru/cli/contestants.py), with whole models, and others."""

from functools import partial

import numpy as np
from models import Cgru, Numpy, Torch

from cgru.cli import contestants
from cgru.cli.case import oriented, valid
from cgru.cli.contestants import Contestant, cells, fastest, named, regate, zrh_weights


class CgruBlas(Cgru):
    """Cgru with the products of BLAS."""

    name = "cgru.blas"

    def __init__(self, threads):
        super().__init__(threads)
        self.cgru.set_backend("blas")


class CgruSmall(Cgru):
    """Cgru with weights of 16 or 8 bits."""

    modes = ("inference", "step")

    def _layer(self, case, arrays):
        return self.cgru.quantize(super()._layer(case, arrays), self.name.partition(".")[2])


class CgruFloat16(CgruSmall):
    name = "cgru.float16"


class CgruBfloat16(CgruSmall):
    name = "cgru.bfloat16"


class CgruInt8(CgruSmall):
    name = "cgru.int8"


class CgruTorch(Torch):
    """Torch after cgru.torch.replace_gru."""

    name = "cgru.torch"
    packages = ("torch", "scipy")
    modes = ("inference", "training", "recordings", "words")

    def __init__(self, threads):
        super().__init__(threads)
        import cgru.torch
        from cgru import kernels

        self.replace_gru, self.isa = cgru.torch.replace_gru, kernels.isa
        cgru.set_num_threads(threads)

    def versions(self):
        return super().versions() | {"isa": self.isa}

    def _module(self, case, arrays):
        return self.replace_gru(super()._module(case, arrays))


class OpenVino(Contestant):
    """A model of GRUSequence operators, in float32; the operator is batch-major, else the model transposes."""

    name = "openvino"
    packages = ("openvino",)
    modes = ("inference",)
    float64 = False

    def __init__(self, threads):
        super().__init__(threads)
        import openvino
        from openvino import opset13

        self.openvino, self.opset, self.core = openvino, opset13, openvino.Core()

    def inference(self, case, arrays):
        openvino, opset, directions = self.openvino, self.opset, len(case.directions)
        told = case.shortest is not None and not case.padded
        inputs = [oriented(arrays["x"], case), *([arrays["lengths"]] if told else [])]
        types = (openvino.Type.f32, openvino.Type.i32)
        parameters = [opset.parameter(array.shape, kind) for array, kind in zip(inputs, types, strict=False)]
        x = parameters[0].output(0)
        lengths = parameters[1].output(0) if told else opset.constant(np.full(case.N, case.T, np.int32))
        x = opset.transpose(x, [1, 0, 2]) if case.layout == "time" else x
        h0 = opset.constant(np.zeros((case.N, directions, case.H), np.float32))
        for layer, (W, R, b, c) in enumerate(zrh_weights(case, arrays)):
            z_r, n = slice(2 * case.H), slice(2 * case.H, None)
            bias = b if not case.reset_after else np.concatenate([(b + c)[:, z_r], b[:, n], c[:, n]], axis=1)
            y = opset.gru_sequence(
                x, h0, lengths, *(opset.constant(np.ascontiguousarray(array)) for array in (W, R, bias)), case.H,
                "bidirectional" if case.bidirectional else "forward", linear_before_reset=case.reset_after,
            ).output(0)  # fmt: skip
            time = case.layout == "time" and layer == case.layers - 1
            # y is (N, directions, T, H)
            if directions == 1:
                x = opset.squeeze(y, opset.constant(np.array([1])))
                x = opset.transpose(x, [1, 0, 2]) if time else x
            else:
                x = opset.transpose(y, [2, 0, 1, 3] if time else [0, 2, 1, 3])
                x = opset.reshape(x, [0, 0, directions * case.H], special_zero=True)
        model = openvino.Model([x], parameters)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        request = self.core.compile_model(model, "CPU", settings).create_infer_request()
        tensors = [openvino.Tensor(array, shared_memory=True) for array in inputs]
        for i, tensor in enumerate(tensors):
            request.set_input_tensor(i, tensor)

        def queued(inputs=inputs):  # the tensors do not own their memory
            request.start_async()
            request.wait()
            return request

        def direct(inputs=inputs):
            request.infer(share_outputs=True)
            return request

        return fastest(queued, direct), lambda request: {"y": request.get_output_tensor(0).data}


class Jax(Contestant):
    """jit of lax.scan, the input projection of all steps before it."""

    name = "jax"
    packages = ("jax", "jaxlib")

    def __init__(self, threads):
        super().__init__(threads)
        import jax

        self.jax = jax
        jax.config.update("jax_enable_x64", True)  # float64 cells; the types of arrays decide
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # half the time at N, T, D, H = 1, 1, 32, 32

    def _function(self, case):
        """The function (x, lengths, weights) -> y, in the layout of the case."""
        jax, H, np = self.jax, case.H, self.jax.numpy
        told = case.shortest is not None and not case.padded

        def direction(x, lengths, kernel, recurrent, bias, reverse):
            b, c = bias if case.reset_after else (bias, None)
            xg = x @ kernel + b
            U_rz, U_n = recurrent[:, : 2 * H], recurrent[:, 2 * H :]

            def step(h, inputs):
                g, t = inputs
                if case.reset_after:
                    hg = h @ recurrent + c
                    rz = jax.nn.sigmoid(g[:, : 2 * H] + hg[:, : 2 * H])
                    n = np.tanh(g[:, 2 * H :] + rz[:, :H] * hg[:, 2 * H :])
                else:
                    rz = jax.nn.sigmoid(g[:, : 2 * H] + h @ U_rz)
                    n = np.tanh(g[:, 2 * H :] + (rz[:, :H] * h) @ U_n)
                new = h + rz[:, H:] * (n - h)
                if told:
                    new = np.where((t < lengths)[:, None], new, h)
                return new, new

            h0 = np.zeros((case.N, H), x.dtype)
            return jax.lax.scan(step, h0, (xg, np.arange(case.T)), reverse=reverse)[1]

        def function(x, lengths, weights):
            x = x.swapaxes(0, 1) if case.layout == "batch" else x
            for layer in range(case.layers):
                outputs = []
                for d, name in enumerate(case.directions):
                    cell = weights[layer * len(case.directions) + d]
                    outputs.append(direction(x, lengths, *cell, reverse=name == "backward"))
                x = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
            return x.swapaxes(0, 1) if case.layout == "batch" else x

        return function

    def _inputs(self, case, arrays):
        lengths = arrays.get("lengths", np.zeros(0, np.int32))
        return self.jax.device_put((oriented(arrays["x"], case), lengths, cells(case, arrays)))

    def inference(self, case, arrays):
        function, inputs = self.jax.jit(self._function(case)), self._inputs(case, arrays)
        return lambda: function(*inputs).block_until_ready(), lambda y: {"y": np.asarray(y)}

    def training(self, case, arrays):
        function, inputs = self._function(case), self._inputs(case, arrays)
        dy = self.jax.device_put(oriented(arrays["dy"], case))

        @self.jax.jit
        def both(x, lengths, weights, dy):
            y, pull = self.jax.vjp(lambda x, weights: function(x, lengths, weights), x, weights)
            return y, *pull(dy)

        def results(raw):
            y, dx, gradients = self.jax.tree.map(np.asarray, raw)
            return {"y": y, "dx": dx} | named(case, gradients)

        return lambda: self.jax.block_until_ready(both(*inputs, dy)), results


class Keras(Contestant):
    """keras.layers.GRU over TensorFlow; batch-major, else the function transposes."""

    name = "keras"
    packages = ("keras", "tensorflow-cpu")

    def __init__(self, threads):
        super().__init__(threads)
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        import keras

        self.tensorflow, self.keras = tensorflow, keras

    def _call(self, case, arrays):
        """Return (function from x to y, variables)."""
        layers, tf = self.keras.layers, self.tensorflow
        stack, flat = [], cells(case, arrays)
        for i in range(case.layers):
            layer = layers.GRU(case.H, return_sequences=True, reset_after=case.reset_after, dtype=case.dtype)
            if case.bidirectional:
                layer = layers.Bidirectional(layer, dtype=case.dtype)
            layer.build((case.N, case.T, case.D if i == 0 else case.H * len(case.directions)))
            here = flat[i * len(case.directions) : (i + 1) * len(case.directions)]
            layer.set_weights([regate(array, "rzn", "zrn") for cell in here for array in cell])
            stack.append(layer)
        told = case.shortest is not None and not case.padded
        mask = tf.constant(valid(arrays["lengths"], case.T)) if told else None

        def call(x):
            x = tf.transpose(x, [1, 0, 2]) if case.layout == "time" else x
            for layer in stack:
                x = layer(x, mask=mask)
            return tf.transpose(x, [1, 0, 2]) if case.layout == "time" else x

        return call, [variable for layer in stack for variable in layer.trainable_variables]

    def inference(self, case, arrays):
        call, _ = self._call(case, arrays)
        x = self.tensorflow.constant(oriented(arrays["x"], case))
        return self._compiled(call, x), lambda y: {"y": y.numpy()}

    def _compiled(self, function, *arguments):
        """A call of a tf.function, through XLA where that is faster."""
        plain, xla = (self.tensorflow.function(function, jit_compile=jit) for jit in (None, True))
        return fastest(partial(plain, *arguments), partial(xla, *arguments))

    def training(self, case, arrays):
        tf = self.tensorflow
        call, variables = self._call(case, arrays)
        x, dy = tf.constant(oriented(arrays["x"], case)), tf.constant(oriented(arrays["dy"], case))
        values = [variable.value for variable in variables]

        def both(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = call(x)
            return y, tape.gradient(y, [x, *values], dy)

        def results(raw):
            y, (dx, *flat) = raw
            flat = [regate(array.numpy(), "zrn", "rzn") for array in flat]
            return {"y": y.numpy(), "dx": dx.numpy()} | named(case, [flat[i : i + 3] for i in range(0, len(flat), 3)])

        return self._compiled(both, x, dy), results


OTHERS = (Cgru, CgruBlas, CgruFloat16, CgruBfloat16, CgruInt8, Numpy, Torch, CgruTorch, OpenVino, Jax, Keras)
CONTESTANTS = contestants.CONTESTANTS | {kind.name: kind for kind in OTHERS}
