"""Digests of what the kernels compute for many random problems, to the bit.

    python tests/kernels/digests.py            print those of the build in use, as JSON
    python tests/kernels/digests.py --write    write them to digests.json: after a change that is meant to change bits

There are two sets: "fused", of all builds that fuse multiplications with additions (kernels.fuses), whatever the
machine and the width of its vectors, and "separate", of those that cannot. test_digests.py compares. Inputs come from
integer arithmetic, so that no library's version matters; values stay away from the denormal numbers.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

import cgru
from cgru import kernels, masks
from cgru.sequences import as_batch

FILE = Path(__file__).with_name("digests.json")
PROBLEMS, OPTIONS, MODELS = 48, 16, 20
SMALL = ("float16", "bfloat16", "int8")  # kinds of small weights, of layers and models of float32
ACTIVATIONS = ("tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "hard_sigmoid_keras2")
# Of N, T, D and H: from, to.
SIZES = {
    "small": ((1, 21), (1, 13), (1, 40), (1, 70)),
    "large": ((30, 40), (18, 20), (60, 90), (130, 160)),
    "far": ((3, 16), (4, 7), (380, 420), (390, 430)),
}


class Stream:
    """Numbers from a counter (SplitMix64 of Steele, Lea and Flood 2014)."""

    def __init__(self, seed):
        self.next = seed << 32

    def integers(self, count):
        """(count,) uint64."""
        z = np.arange(self.next, self.next + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self.next += count
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def choice(self, options):
        return options[int(self.integers(1)[0] % np.uint64(len(options)))]

    def values(self, shape, dtype, exponent):
        """Multiples of 2^(exponent - 20) within +-2^exponent, exact in both types."""
        integers = (self.integers(int(np.prod(shape))) >> np.uint64(43)).astype(np.int64) - 2**20
        return np.ldexp(integers.astype(dtype), exponent - 20).reshape(shape)


def random_problem(number):
    """(name, layer, arrays of `both_passes`, validity), decided by the number alone."""
    draw = Stream(number + 1)
    kind = "small" if number % 8 < 6 else ("large", "far")[number // 8 % 2]
    dtype = ("float32", "float64")[number % 2]
    # Several blocks of steps, panels and pieces of panels; and gradients that backward keeps in panels.
    N, T, D, H = (draw.choice(range(*sizes)) for sizes in SIZES[kind])
    options = {
        "reset_after": bool(number // 2 % 2),
        "activation": draw.choice(("tanh", *ACTIVATIONS)),
        "recurrent_activation": draw.choice(("sigmoid", "sigmoid", *ACTIVATIONS)),
        "num_layers": draw.choice((1, 1, 2)),
        **draw.choice(({}, {}, {"reverse": True}, {"bidirectional": True})),
    }
    layer = cgru.GRU(
        H, input_size=D, dtype=dtype, return_sequences=True, return_state=True, recurrent_initializer="zeros", **options
    )
    # Sums below one, or less where a gate may be negative: nothing saturates, no state runs away.
    exponent = -(max(D, H).bit_length() // 2) - (3 if options["recurrent_activation"] in ("linear", "tanh") else 1)
    layer.set_weights([draw.values(w.shape, dtype, exponent) for w in layer.get_weights()])
    y, h = layer(np.zeros((N, T, D), dtype))
    arrays = [draw.values(shape, dtype, 0) for shape in ((N, T, D), h.shape, y.shape, h.shape)]
    validity = {}
    kind = draw.choice(("all", "all", "lengths", "mask"))
    if kind == "lengths":
        validity["lengths"] = (draw.integers(N) % np.uint64(T + 1)).astype(np.intp)
    elif kind == "mask":
        validity["mask"] = draw.integers(N * T).reshape(N, T) % np.uint64(4) > 0
    said = " ".join(f"{name}={value}" for name, value in options.items())
    return f"{number:02} {dtype} N,T,D,H={N},{T},{D},{H} {kind} {said}", layer, arrays, validity


def both_passes(layer, x, h0, dy, dh, validity):
    """(outputs, gradients): lists of arrays."""
    y, h, tape = layer.forward(x, h0, training=True, **validity)
    dx, dh0, gradients = layer.backward(dy, tape, dh)
    assert np.array_equal(layer(x, h0, **validity)[0], y), "inference differs from training"
    return [y, h], [dx, dh0, *gradients.values()]


def random_options(number):
    """(name, layer, arrays of a pass in training, validity) with dropout, zoneout and normalised products, decided by
    the number alone."""
    draw = Stream(2000 + number)
    dtype = ("float32", "float64")[number % 2]
    N, T, D, H = (draw.choice(range(*sizes)) for sizes in SIZES["small"])
    options = {"reset_after": bool(number // 2 % 2), "num_layers": draw.choice((1, 2))}
    options |= {name: draw.choice((0.0, 0.25)) for name in ("dropout", "recurrent_dropout", "layer_dropout", "zoneout")}
    options |= {"layer_norm": number % 8 < 4, **draw.choice(({}, {"reverse": True}, {"bidirectional": True}))}
    layer = cgru.GRU(H, input_size=D, dtype=dtype, return_sequences=True, recurrent_initializer="zeros", **options)
    layer.set_weights([draw.values(w.shape, dtype, -1) for w in layer.get_weights()])
    y, h, _ = layer.forward(np.zeros((N, T, D), dtype))
    arrays = [draw.values(shape, dtype, 0) for shape in ((N, T, D), h.shape, y.shape, h.shape)]
    lengths = (draw.integers(N) % np.uint64(T + 1)).astype(np.intp)
    said = " ".join(f"{name}={value}" for name, value in options.items())
    return f"options {number:02} {dtype} N,T,D,H={N},{T},{D},{H} {said}", layer, arrays, {"lengths": lengths}


def passes_with_options(layer, x, h0, dy, dh, validity):
    """(outputs in inference and in training, gradients): lists of arrays."""
    key = masks.Key(7, update=3, layer=1)
    y, h, tape = layer.forward(x, h0, training=True, seed=key, **validity)
    dx, dh0, gradients = layer.backward(dy, tape, dh)
    return [*layer.forward(x, h0, **validity)[:2], y, h], [dx, dh0, *gradients.values()]


def step_by_step(layer, x, h0):
    ys = []
    for t in range(x.shape[1]):
        h0 = layer.step(np.ascontiguousarray(x[:, t]), h0)
        ys.append(h0 if h0.ndim == 2 else h0[-1])
    return [np.stack(ys, axis=1), h0]


def random_model(number):
    """(name, model, ids, gradient of its outputs), decided by the number alone."""
    draw = Stream(1000 + number)
    dtype = ("float32", "float64")[number % 2]
    N, T, V, E, H, F, K = (draw.choice(range(1, 40)) for _ in range(7))
    if number % 4 == 3:  # several blocks of rows, columns and terms
        N, T, F, K = draw.choice(range(40, 60)), 12, draw.choice(range(520, 560)), draw.choice(range(70, 160))
    activation = ("softmax", "linear", "relu", "sigmoid", "tanh")[number % 5]
    layers = [
        cgru.Embedding(V, E, dtype=dtype),
        cgru.GRU(H, return_sequences=True, dtype=dtype),
        cgru.Dense(F, "tanh", dtype=dtype),
        cgru.Dense(K, activation, dtype=dtype),
    ]
    model = cgru.Sequential(layers).build()
    model.set_weights([draw.values(w.shape, dtype, -(len(w).bit_length() // 2) - 1) for w in model.get_weights()])
    ids = (draw.integers(N * T) % np.uint64(V)).astype(np.intp).reshape(N, T)
    name = f"model {number:02} {dtype} N,T,V,E,H,F,K={N},{T},{V},{E},{H},{F},{K} {activation}"
    return name, model, ids, draw.values((N, T, K), dtype, 0)


def passes_of_model(model, ids, d_out):
    """(outputs, gradients): lists of arrays."""
    outputs, _, tapes, _ = model._forward(as_batch(ids), training=True)
    assert np.array_equal(model(ids), outputs.data), "inference differs from training"
    return [outputs.data], list(model._backward(d_out, tapes, at_logits=False).values())


def small_outputs(number, kind):
    """(name, outputs) of a layer or, from PROBLEMS on, of a model with small weights."""
    if number >= PROBLEMS:
        name, model, ids, _ = random_model(number - PROBLEMS)
        return f"{kind} {name}", [cgru.quantize(model, kind)(ids)]
    name, layer, (x, h0, *_), validity = random_problem(number)
    small = cgru.quantize(layer, kind)
    outputs = list(small(x, h0, **validity))
    if not validity and not layer.bidirectional and not layer.reverse:
        assert digest(step_by_step(small, x, h0)) == digest(outputs), f"{kind} {name}: step by step differs"
    return f"{kind} {name}", outputs


EXACT = {"beta_1": 0.875, "beta_2": 1 - 2.0**-10}  # whose powers are the same in every C library
OPTIMIZERS = {
    "SGD": {},
    "SGD momentum": {"momentum": 0.75},
    "SGD nesterov": {"momentum": 0.75, "nesterov": True, "clipvalue": 0.5},
    "RMSprop": {"weight_decay": 0.25},
    "RMSprop momentum": {"momentum": 0.75, "global_clipnorm": 30.0},
    "RMSprop centered": {"centered": True, "epsilon": 2.0**-10},
    "RMSprop centered momentum": {"centered": True, "momentum": 0.75, "epsilon": 2.0**-10},
    "Adam": {"clipnorm": 30.0, **EXACT},
    "Adam amsgrad": {"amsgrad": True, "beta_1": 0.75, "beta_2": 0.875},
    "AdamW": EXACT,
}


def updates(kind, dtype):
    """Parameters, and what is remembered of them, after three updates: a list of arrays."""
    draw, optimizer = Stream(2000 + list(OPTIMIZERS).index(kind)), getattr(cgru.optimizers, kind.split()[0])
    optimizer = optimizer(2.0**-6, **OPTIMIZERS[kind])
    parameters = {"kernel": draw.values((150, 131), dtype, 0), "bias": draw.values((67,), dtype, 0)}
    proposed = {name: np.empty_like(array) for name, array in parameters.items()}
    states = [optimizer.start(parameters), optimizer.start(parameters)]
    for _ in range(3):
        gradients = {name: draw.values(array.shape, dtype, 1) for name, array in parameters.items()}
        assert optimizer.propose(parameters, gradients, states[0], proposed, states[1])
        parameters, proposed = proposed, parameters
        states.reverse()
    return [*parameters.values(), *(array for slots in states[0].slots.values() for array in slots)]


def digest(arrays):
    """The first 16 digits of the SHA-256 of the arrays' little-endian bytes."""
    hashed = hashlib.sha256()
    for array in arrays:
        assert np.isfinite(array).all()
        tiny = np.abs(array[array != 0])
        assert not tiny.size or tiny.min() > 1e6 * np.finfo(array.dtype).tiny, "too near the denormal numbers"
        hashed.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return hashed.hexdigest()[:16]


def digests():
    """name: "digest of the outputs, digest of the gradients", which no number of threads and no cut changes."""
    before, threads = kernels.tune(thread_work=0, small_work=0, team_work=0, measured=0), kernels.get_num_threads()
    found = {}
    try:
        for number in range(PROBLEMS):
            name, layer, arrays, validity = random_problem(number)
            ways = []
            for count in (1, 2):
                kernels.set_num_threads(count)
                outputs, gradients = both_passes(layer, *arrays, validity)
                ways.append(f"{digest(outputs)} {digest(gradients)}")
                if not validity and not layer.bidirectional and not layer.reverse:
                    steps = step_by_step(layer, *arrays[:2])
                    assert digest(steps) == digest(outputs), f"{name}: step by step differs"
            assert ways[0] == ways[1], f"{name}: two threads differ from one"
            found[name] = ways[0]
        for number in range(OPTIONS):
            name, layer, arrays, validity = random_options(number)
            ways = []
            for count in (1, 2):
                kernels.set_num_threads(count)
                outputs, gradients = passes_with_options(layer, *arrays, validity)
                ways.append(f"{digest(outputs)} {digest(gradients)}")
            assert ways[0] == ways[1], f"{name}: two threads differ from one"
            found[name] = ways[0]
        for number in range(MODELS):
            name, model, ids, d_out = random_model(number)
            ways = []
            for count in (1, 2):
                kernels.set_num_threads(count)
                outputs, gradients = passes_of_model(model, ids, d_out)
                ways.append(f"{digest(outputs)} {digest(gradients)}")
            assert ways[0] == ways[1], f"{name}: two threads differ from one"
            found[name] = ways[0]
        for number in range(0, PROBLEMS + MODELS, 2):
            for kind in SMALL:
                ways = []
                for count in (1, 2):
                    kernels.set_num_threads(count)
                    name, outputs = small_outputs(number, kind)
                    ways.append(digest(outputs))
                assert ways[0] == ways[1], f"{name}: two threads differ from one"
                found[name] = ways[0]
        for kind in OPTIMIZERS:
            for dtype in ("float32", "float64"):
                ways = []
                for count in (1, 2):
                    kernels.set_num_threads(count)
                    ways.append(digest(updates(kind, dtype)))
                assert ways[0] == ways[1], f"{kind}: two threads differ from one"
                found[f"updates {dtype} {kind}"] = ways[0]
    finally:
        kernels.tune(**before)
        kernels.set_num_threads(threads)
    return found


def main():
    found = {"fused" if kernels.fuses else "separate": digests()}
    if "--write" not in sys.argv:
        print(json.dumps(found))
        return
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**kept, **found}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
