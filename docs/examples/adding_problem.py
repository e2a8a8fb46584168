"""
The adding problem, and how far gradients reach
===============================================

A sequence has a number between 0 and 1 at each of its T steps, and a mark at two of them, one in each half. The answer
is the sum of the two marked numbers. Hochreiter and Schmidhuber (1997) set this problem in a like form to show what
their LSTM can learn and a plain recurrent network cannot: nothing helps but to keep a number for hundreds of steps.
Who always answers 1 has a mean squared error of 0.167; below 0.001 the problem counts as solved.

The text that this library implements credits the GRU with solving the vanishing gradients of the LSTM. That is wrong
twice. Vanishing gradients are the trouble of the plain network, h' = tanh(x W + h U + b), and the LSTM was made against
them; the GRU does the same with fewer gates. And neither is free of them by its equations, as the second part measures:
how much of the gradient of the last state arrives at the states before. With biases of zero a gate keeps about half of
a unit's state at each step, and 100 steps before, some 10^-20 of the gradient is left, in the LSTM and in the GRU
alike. What counts is where the bias of that gate starts, the forget gate there, the update gate here. In this library
h' = (1 - z) h + z n: z weighs the new candidate, so units that should remember start with a *negative* bias of z. Where
z weighs the old state, as in PyTorch and Keras, it is a positive one. Below, the bias of each unit is -log(u) with u
uniform between 1 and T - 1, so that units remember for about u steps (Tallec and Ollivier 2018, "Can recurrent neural
networks warp time?").

Gates move, though. From biases of zero the GRU learns T = 200 and 600 as well, in somewhat more updates, and once it
has learned them its gradients reach, too; so do the LSTM's. The tanh network learns nothing, and its gradients vanish
even where an orthogonal start had kept some. In ``recombination_rates.py`` the start decides more.

::

    python adding_problem.py            T = 200 and 600, three seeds each: five minutes of one core
    python adding_problem.py --quick    T = 40 with one seed, some seconds

With PyTorch, which need not be installed, the tanh network and the LSTM are trained beside it, three minutes more.
"""

import importlib.util
import time

import numpy as np
import reporting

import cgru

GOAL, GUESSING = 1e-3, 1 / 6  # mean squared errors: solved; always the answer 1
BATCH, RATE, CLIP = 64, 4e-3, 1.0  # chosen with other seeds than those of the results

# %%
# The problem
# -----------
# Every batch is new: nothing is seen twice.


def sequences(rng, count, steps):
    """Return sequences (count, steps, 2) of numbers and marks, and the sums of the marked numbers (count, 1)."""
    x = np.zeros((count, steps, 2), np.float32)
    x[:, :, 0] = rng.random((count, steps))
    rows, half = np.arange(count), steps // 2
    first, second = rng.integers(0, half, count), rng.integers(half, steps, count)
    x[rows, first, 1] = x[rows, second, 1] = 1
    return x, (x[rows, first, 0] + x[rows, second, 0])[:, None]


# %%
# Where the biases start
# ----------------------


def remembering(longest):
    """Return an initializer of the GRU's bias, under which units remember for 1 to `longest` - 1 steps."""

    def bias(shape, dtype, rng):
        values = np.zeros(shape, dtype)
        _, z, _ = np.split(values, 3, axis=-1)
        first = (0,) * (z.ndim - 1)  # with reset_after there is a second row of biases, which is added
        z[first] = -np.log(rng.uniform(1, longest - 1, z.shape[-1]))
        return values

    return bias


def network(units, bias="zeros", seed=0):
    """Return a GRU and a linear output for the sum; the recurrent kernel starts orthogonal, as always here."""
    model = cgru.Sequential([cgru.GRU(units, bias_initializer=bias), cgru.Dense(1)], seed=seed)
    model.compile(cgru.optimizers.Adam(RATE, global_clipnorm=CLIP), loss="mse")
    return model.build(2)


# %%
# Training
# --------
# The error on fresh sequences that nobody trains with is looked at every 200 updates; well below the goal it is enough.


def train(update, error, steps, seed, most, name, report, every=200):
    """Make updates with fresh batches until `error(x, y)` is half of the goal, `most` at most; return how many."""
    drawn, (x, y) = np.random.default_rng([seed, steps]), sequences(np.random.default_rng(99), 500, steps)
    begun = time.perf_counter()
    for made in range(1, most + 1):
        update(*sequences(drawn, BATCH, steps))
        if made % every == 0 or made == most:
            found, seconds = float(error(x, y)), time.perf_counter() - begun
            print(f"{name}: {made} updates, mean squared error {found:.5f}, {seconds:.0f} s", flush=True)
            report.curve(name, updates=made, mse=found, seconds=seconds)
            if found < GOAL / 2:
                break
    return made


def unseen(steps):
    """Return the sequences that the results are from: 2000, drawn for this alone."""
    return sequences(np.random.default_rng([2000, steps]), 2000, steps)


def gru_error(model):
    """Return the function (x, y) -> mean squared error of a model."""
    return lambda x, y: model.evaluate(x, y, batch_size=250)["loss"]


# %%
# How far gradients reach
# -----------------------
# The gradient of the last state's projection on some direction is followed back from state to state. Of the GRU the
# library does it: the sequence goes through the layer in chunks that hand on the state, and backward goes through them
# from the last to the first. The tanh network and the LSTM are not in this library; a step of each in NumPy suffices.
# (`cgru.interpret.gradient_norm_by_distance` has the gradient of a model's output with respect to its inputs.)


def gru_norms(layer, x, direction, chunk=5):
    """Return (distances, norms): of the gradient of h_T's projection with respect to h_(T - distance)."""
    layer = layer.with_options(return_sequences=False, dtype="float64")
    ends = range(x.shape[1], 0, -chunk)[::-1]
    tapes, h = [], None
    for end in ends:
        _, h, tape = layer.forward(x[:, max(0, end - chunk) : end], initial_state=h, training=True)
        tapes.append(tape)
    gradients = [np.broadcast_to(direction, h.shape).astype(h.dtype)]
    for tape in reversed(tapes):
        _, dh, _ = layer.backward(None, tape, dh=gradients[-1], need_dx=False)
        gradients.append(dh)
    distances = x.shape[1] - np.array([*reversed(ends), 0])
    return distances, np.array([typical(g) for g in gradients])


def typical(gradients):
    """Return the median over rows of the norm; in logarithms, as vanished gradients differ by orders of magnitude."""
    return np.median(np.linalg.norm(gradients.astype(float), axis=1))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class Tanh:
    """h' = tanh(x W + h U + b), with weights (W (D, H), U (H, H), b (H,))."""

    def __init__(self, weights):
        self.kernel, self.recurrent_kernel, self.bias = weights
        self.units = len(self.recurrent_kernel)

    def step(self, x, state):
        """Return the next state (h,) and what `back` needs."""
        (h,) = state
        h = np.tanh(x @ self.kernel + h @ self.recurrent_kernel + self.bias)
        return (h,), h

    def back(self, gradient, held):
        """Return the gradient of the state before."""
        (dh,) = gradient
        return ((dh * (1 - held**2)) @ self.recurrent_kernel.T,)


class LSTM(Tanh):
    """The LSTM with forget gate, blocks of columns in the order input, forget, candidate, output."""

    def step(self, x, state):
        """Return the next state (h, c) and what `back` needs."""
        h, c = state
        gates = np.split(x @ self.kernel + h @ self.recurrent_kernel + self.bias, 4, axis=1)
        i, f, g, o = sigmoid(gates[0]), sigmoid(gates[1]), np.tanh(gates[2]), sigmoid(gates[3])
        new = f * c + i * g
        return (o * np.tanh(new), new), (i, f, g, o, c, np.tanh(new))

    def back(self, gradient, held):
        """Return the gradients of h and c before."""
        (dh, dc), (i, f, g, o, c, squashed) = gradient, held
        dc = dc + dh * o * (1 - squashed**2)
        do = dh * squashed * o * (1 - o)
        blocks = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), do]
        return np.concatenate(blocks, axis=1) @ self.recurrent_kernel.T, dc * f


def norms(cell, x, direction, chunk=5):
    """Return (distances, norms) as `gru_norms`, for a cell above; of the LSTM the state is h and c together."""
    zeros = np.zeros((len(x), cell.units))
    state, held = (zeros,) * (2 if isinstance(cell, LSTM) else 1), []
    for t in range(x.shape[1]):
        state, kept = cell.step(x[:, t], state)
        held.append(kept)
    gradient = (np.broadcast_to(direction, zeros.shape), *(zeros for _ in state[1:]))
    found = [typical(np.concatenate(gradient, axis=1))]
    for distance, kept in enumerate(reversed(held), 1):
        gradient = cell.back(gradient, kept)
        if distance % chunk == 0:
            found.append(typical(np.concatenate(gradient, axis=1)))
    return chunk * np.arange(len(found)), np.array(found)


def fresh(kind, units, rng, forget=0.0, recurrent="orthogonal"):
    """Return a `Tanh` or `LSTM` as it starts: Glorot's kernel, an orthogonal recurrent kernel or PyTorch's."""
    columns = units * (4 if kind is LSTM else 1)
    draw = cgru.initializers.get
    kernel = draw("glorot_uniform")((2, columns), np.float64, rng)
    u = draw(recurrent)((units, columns), np.float64, rng)
    bias = np.zeros(columns)
    if kind is LSTM:
        bias[units : 2 * units] = forget
        bias[:units] = -np.asarray(forget) if np.ndim(forget) else 0.0  # what is kept need not be written anew
    return kind((kernel, u, bias))


# %%
# The plain network and the LSTM in PyTorch
# -----------------------------------------


def torch_cell(kind, units, longest, seed):
    """Return (update, error, weights) of a `Tanh` or `LSTM` with a linear output, trained by PyTorch.

    It starts as the GRU does: Glorot's kernel, an orthogonal recurrent kernel, forget gates that remember.
    """
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(cgru.get_num_threads())
    rng = np.random.default_rng(seed)
    start = fresh(kind, units, rng, np.log(rng.uniform(1, longest - 1, units)))
    core = (torch.nn.LSTM if kind is LSTM else torch.nn.RNN)(2, units, batch_first=True)
    arrays = [start.kernel.T, start.recurrent_kernel.T, start.bias, np.zeros_like(start.bias)]
    core.load_state_dict(dict(zip(core.state_dict(), map(torch.tensor, arrays), strict=True)))
    head = torch.nn.Linear(units, 1)
    parameters = [*core.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)

    def loss(x, y):
        outputs, _ = core(torch.from_numpy(x))
        return torch.nn.functional.mse_loss(head(outputs[:, -1]), torch.from_numpy(y))

    def update(x, y):
        optimizer.zero_grad()
        loss(x, y).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()

    def error(x, y):
        with torch.no_grad():
            return loss(x, y).item()

    def cell():
        w, u, b, c = (array.detach().double().numpy() for array in core.parameters())
        return kind((w.T, u.T, b + c))

    return update, error, cell


# %%
# Solving it
# ----------

if __name__ == "__main__":
    more = [(("--steps",), {"type": int, "nargs": "+", "default": [200, 600], "help": "lengths of the sequences"})]
    chosen = reporting.options(__doc__, more=more)
    if min(chosen.steps) < 2:
        raise SystemExit(f"--steps: expected lengths of at least 2, got {min(chosen.steps)}")
    lengths, seeds, most, units = (chosen.steps, (0, 1, 2), 6000, 32) if not chosen.quick else ([40], (0,), 1000, 24)
    settings = {"units": units, "batch": BATCH, "rate": RATE, "clip": CLIP, "seeds": seeds, "most": most}
    report = reporting.Report("adding_problem", vars(chosen) | settings)
    source, trained = "solved, from 0.167 (always the answer 1)", {}
    for steps in lengths:
        solved, x_y = 0, unseen(steps)
        for seed in seeds:
            model = network(units, remembering(steps), seed)
            name = f"GRU, T {steps}, seed {seed}"
            made = train(model.train_on_batch, gru_error(model), steps, seed, most, name, report)
            mse = gru_error(model)(*x_y)
            solved += mse < GOAL
            trained.setdefault(("GRU, remembering", steps), model)
            report.add(f"{name}: error after {made} updates", mse, GOAL, source, digits=5)
            report.save(chosen.json)  # what is known so far
        goal = 2 if len(seeds) == 3 else None
        report.add(f"T {steps}: seeds that solve it, of {len(seeds)}", solved, goal, "the goal", digits=0)
        model = trained["GRU, biases of zero", steps] = network(units, "zeros", seeds[0])
        name = f"GRU, biases of zero, T {steps}"
        made = train(model.train_on_batch, gru_error(model), steps, seeds[0], most // 3, name, report)
        report.add(f"{name}: error after {made} updates", gru_error(model)(*x_y), GOAL, source, digits=5)
        report.save(chosen.json)

# %%
# Gradients at the start and after training
# -----------------------------------------

if __name__ == "__main__":
    steps = lengths[0]
    rng = np.random.default_rng(0)
    x, _ = sequences(rng, 32, steps)
    direction = rng.standard_normal(units)
    direction /= np.linalg.norm(direction)
    memory = np.log(rng.uniform(1, steps - 1, units))
    zero, kept = network(units), network(units, remembering(steps))
    start = {
        "tanh, PyTorch's start": norms(fresh(Tanh, units, rng, recurrent="pytorch"), x, direction),
        "tanh, orthogonal": norms(fresh(Tanh, units, rng), x, direction),
        "LSTM, biases of zero": norms(fresh(LSTM, units, rng), x, direction),
        "LSTM, forget bias 1": norms(fresh(LSTM, units, rng, 1.0), x, direction),
        "LSTM, remembering": norms(fresh(LSTM, units, rng, memory), x, direction),
        "GRU, biases of zero": gru_norms(zero.layers[0], x, direction),
        "GRU, remembering": gru_norms(kept.layers[0], x, direction),
    }
    after = {name: gru_norms(model.layers[0], x, direction) for (name, of), model in trained.items() if of == steps}
    if chosen.quick:
        print("no tanh network and LSTM to train: left out by --quick")
    elif importlib.util.find_spec("torch") is None:
        print("no tanh network and LSTM to train: PyTorch is not installed (pip install torch)")
    else:
        for kind, name in ((Tanh, "tanh, orthogonal"), (LSTM, "LSTM, remembering")):
            update, error, cell = torch_cell(kind, units, steps, seeds[0])
            made = train(update, error, steps, seeds[0], most // 3, f"{name}, T {steps}", report)
            mse = error(*unseen(steps))
            report.add(f"{name}, T {steps}: error after {made} updates", mse, GOAL, source, digits=5)
            after[name] = norms(cell(), x, direction)
    for when, found in (("at the start", start), ("after training", after)):
        for name, (distances, values) in found.items():
            for distance, value in zip(distances, values / values[0], strict=True):
                report.curve(f"gradient {when}: {name}", distance=distance, norm=value)
            share = f"{values[-1] / values[0]:.1e}"
            report.add(f"{name}, {when}: gradient that arrives {distances[-1]} steps before", share)
    report.print()
    report.save(chosen.json)

# %%
# Pictures
# --------

if __name__ == "__main__" and (plt := reporting.plotting()):
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, points in report.curves.items():
        if name.startswith("gradient"):
            continue
        axes[0].plot([p["updates"] for p in points], [p["mse"] for p in points], label=name)
    axes[0].axhline(GUESSING, color="gray", linestyle=":", label="always 1")
    axes[0].axhline(GOAL, color="black", linestyle="--", label="solved")
    axes[0].set(yscale="log", xlabel="updates", ylabel="mean squared error", title="Learning", ylim=(GOAL / 5, 20))
    axes[2].sharey(axes[1])
    colors = {name: f"C{i}" for i, name in enumerate(start)}
    for ax, when, found in zip(axes[1:], ("at the start", "after training"), (start, after), strict=True):
        for name, (distances, values) in found.items():
            ax.plot(distances, values / values[0], color=colors[name], label=name)
        ax.set(yscale="log", xlabel="distance T - t (steps)", ylabel="norm, relative to that at T")
        ax.set_title(f"Gradient of the state at T, {when}")
    for ax in axes:
        ax.legend(fontsize=8, loc="upper right" if ax is axes[0] else "lower left")
    reporting.picture(figure, chosen.pictures, "adding_problem")
