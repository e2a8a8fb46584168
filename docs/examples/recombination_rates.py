"""
Recombination rates from simulated genomes
==========================================

How often a stretch of genome recombines is written into the differences between individuals: where it seldom does,
neighbouring sites tell the same family tree; where it often does, the tree changes every few sites. ReLERNN (Adrion,
Galloway and Kern 2020, Molecular Biology and Evolution 37:1790) learns to read the rate from windows that msprime
simulates with known rates: a bidirectional GRU of 84 units goes over the sites of a window, and dense layers follow.
This is its task with msprime's populations of constant size: 20 haplotypes, windows of about 500 to 1500 sites,
recombination and mutation rates uniform as ReLERNN draws them.

The network is ReLERNN's ``GRU_TUNED84`` but for the positions. There they are a second input, a vector padded to the
longest window. Here the distance to the site before is one more feature of each site, which is the same knowledge
without padding and without a second input; nothing else depends on the number of sites. As there, haplotypes come in
a new random order whenever a window is seen, because their order means nothing.

What is measured: R² on windows that nothing was chosen by, and the time of an epoch beside the same network, with the
same weights, in PyTorch and in Keras. Windows have unequal numbers of sites. Here they are a list of arrays; PyTorch
and Keras pad them, with masking or without, and the fastest way of each counts. A user of ReLERNN without
a graphics card reports 250 s an epoch and three days for a chromosome (its issue 67 on GitHub).

::

    pip install msprime
    python recombination_rates.py                          simulates and trains, three minutes of one core each
    python recombination_rates.py --save-data windows.npz  the same, and keeps the windows for --data
    python recombination_rates.py --quick                  no msprime: a mosaic of known answer, some seconds

``--quick``, or a Python without msprime, takes mosaics of a few templates after Li and Stephens (2003): each haplotype
copies one of two templates and changes to the other at a rate that is the target. There the answer is known: somebody
who saw the changes themselves would estimate the rate by counting them.
"""

import contextlib
import importlib.util
import itertools
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import reporting
from adding_problem import remembering

import cgru

SIZE = 16  # windows a batch

# %%
# Windows
# -------
# Alleles are 0 (as the ancestor) and 1 (derived), positions are shares of the window's length.


@dataclass
class Windows:
    """Windows of aligned genomes: `alleles` a list of (sites, haplotypes) int8, `positions` of (sites,), `rates` (N,).

    `best` is the rate that somebody would estimate who saw every event, where that is known: (N,) or None.
    """

    made: str
    alleles: list
    positions: list
    rates: np.ndarray
    best: np.ndarray | None = None

    def __len__(self):
        return len(self.rates)

    def take(self, rows):
        """Return these windows alone; `rows` is a slice."""
        best = None if self.best is None else self.best[rows]
        return Windows(self.made, self.alleles[rows], self.positions[rows], self.rates[rows], best)

    def sites(self):
        """Return the number of sites of each, (N,)."""
        return np.array([len(positions) for positions in self.positions])


def simulate(count, seed=1, threads=1, population=20_000, length=3.5e5, highest=5e-8, haplotypes=20):
    """Return windows by msprime: the rate uniform up to `highest`, mutations uniform in 0.66 to 1.33 of 1e-8."""
    import msprime

    rng = np.random.default_rng(seed)
    rates, mutations = rng.uniform(0, highest, count), rng.uniform(0.66e-8, 1.33e-8, count)
    seeds = rng.integers(1, 2**31, count)

    def one(i):
        trees = msprime.sim_ancestry(
            haplotypes // 2, population_size=population, sequence_length=length, recombination_rate=rates[i],
            random_seed=seeds[i],
        )  # fmt: skip
        trees = msprime.sim_mutations(trees, mutations[i], random_seed=seeds[i], model=msprime.BinaryMutationModel())
        return trees.genotype_matrix().astype(np.int8), (trees.sites_position / length).astype(np.float32)

    begun, alleles, positions = time.perf_counter(), [], []
    with ThreadPoolExecutor(threads) as pool:
        for found, places in pool.map(one, range(count)):
            alleles.append(found)
            positions.append(places)
            if len(alleles) % 500 == 0 or len(alleles) == count:
                print(f"{len(alleles)} of {count} windows simulated, {time.perf_counter() - begun:.0f} s", flush=True)
    return Windows(f"msprime {msprime.__version__}", alleles, positions, rates)


def mosaic(count, seed=1, sites=(40, 120), haplotypes=4, highest=0.2):
    """Return windows whose haplotypes copy, with errors, a template of ancestral alleles or one of derived ones.

    Before each site but the first a haplotype changes the template with a probability, the window's rate.
    """
    rng = np.random.default_rng(seed)
    rates, best = rng.uniform(0, highest, count), np.empty(count)
    alleles, positions = [], []
    for i, steps in enumerate(rng.integers(sites[0], sites[1], count, endpoint=True)):
        changes = rng.random((steps, haplotypes)) < rates[i]
        changes[0] = rng.random(haplotypes) < 0.5  # where they start
        best[i] = changes[1:].mean()
        copied = np.cumsum(changes, axis=0) % 2
        alleles.append((copied ^ (rng.random(copied.shape) < 0.02)).astype(np.int8))
        positions.append(((np.arange(steps) + 0.5) / steps).astype(np.float32))
    return Windows("mosaics of two templates", alleles, positions, rates, best)


def save_windows(windows, path):
    """Write windows to a .npz file that `load_windows` reads."""
    arrays = {"made": windows.made, "rates": windows.rates, "sites": windows.sites()}
    arrays |= {"haplotypes": windows.alleles[0].shape[1], "positions": np.concatenate(windows.positions)}
    arrays["alleles"] = np.packbits(np.concatenate(windows.alleles).ravel())
    if windows.best is not None:
        arrays["best"] = windows.best
    np.savez_compressed(path, **arrays)


def load_windows(path):
    """Return what `save_windows` wrote; ValueError if it did not."""
    try:
        with np.load(path) as held:
            found = {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected a file that --save-data wrote, and could not read it ({error})") from None
    missing = {"made", "rates", "sites", "haplotypes", "positions", "alleles"} - set(found)
    if missing:
        raise ValueError(f"{path}: expected a file that --save-data wrote, but it has no {sorted(missing)[0]!r}")
    sites, haplotypes = found["sites"], int(found["haplotypes"])
    total, cuts = int(sites.sum()), np.cumsum(sites)[:-1]
    if len(found["positions"]) != total or len(found["alleles"]) != -(-total * haplotypes // 8):
        raise ValueError(f"{path}: the arrays do not fit together")
    alleles = np.unpackbits(found["alleles"], count=total * haplotypes).reshape(total, haplotypes).view(np.int8)
    cut = np.split(alleles, cuts), np.split(found["positions"], cuts)
    return Windows(str(found["made"]), *cut, found["rates"], found.get("best"))


# %%
# What the network reads
# ----------------------
# One row a site: -1 or 1 for each haplotype, and the distance to the site before, about 1 on average.


def features(alleles, positions, scale, order=None):
    """Return (sites, haplotypes + 1) float32; `order` is a permutation of the haplotypes, `scale` sites a window."""
    rows = np.empty((len(positions), alleles.shape[1] + 1), np.float32)
    rows[:, :-1] = alleles if order is None else alleles[:, order]
    rows[:, :-1] = 2 * rows[:, :-1] - 1
    rows[:, -1] = np.diff(positions, prepend=np.float32(0)) * scale
    return rows


def shuffled(windows, targets, scale, size=SIZE, seed=0):
    """Return a function that yields the batches of an epoch, (list of features, targets), each time in another order.

    Haplotypes come in a new order, too.
    """
    rng = np.random.default_rng(seed)

    def batches():
        order = rng.permutation(len(windows))
        for rows in np.split(order, range(size, len(order), size)):
            yield inputs(windows, rows, scale, rng), targets[rows, None]

    return batches


def inputs(windows, rows, scale, rng=None):
    """Return the features of these windows, a list of arrays; with `rng` the haplotypes are in random order."""
    orders = [None if rng is None else rng.permutation(windows.alleles[i].shape[1]) for i in rows]
    return [
        features(windows.alleles[i], windows.positions[i], scale, order) for i, order in zip(rows, orders, strict=True)
    ]


# %%
# The network
# -----------
# ``reset_after`` is what the GRU of cuDNN computes, and with it those of PyTorch and Keras. Dense layers are linear, as
# ReLERNN has them. What a site tells has to last until the end of the window: the biases start as in the adding
# problem. From biases of zero (``--remember 2``) nothing was learned in the 750 updates after which half of the
# variance was explained so.


def network(units=84, dense=(256, 64), dropout=0.35, longest=300, seed=0):
    """Return ReLERNN's GRU_TUNED84 with the positions as a feature of each site."""
    layers = [cgru.GRU(units, bidirectional=True, reset_after=True, bias_initializer=remembering(longest))]
    for width in dense:
        layers += [cgru.Dense(width), cgru.Dropout(dropout)]
    return cgru.Sequential([*layers, cgru.Dense(1)], seed=seed)


def predict(model, windows, scale, size=64):
    """Return the outputs for these windows, (N,)."""
    rows = np.split(np.arange(len(windows)), range(size, len(windows), size))
    return np.concatenate([model.predict_on_batch(inputs(windows, part, scale))[:, 0] for part in rows])


def r_squared(true, predicted):
    """Return the share of the variance that is explained: 1 is all, 0 no more than by the mean."""
    true, predicted = np.asarray(true, float), np.asarray(predicted, float)
    return 1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum()


# %%
# The same network in PyTorch and Keras
# -------------------------------------
# Each starts from the weights of ours, and gets the same batches. PyTorch and Keras may pad to the longest of a batch
# and let the GRU run over the padding, as ReLERNN does; or leave it out, PyTorch by packing and Keras by masking.
# Packing is not in the rounds: a step's slice of packed data has a gradient of the size of all, so that the time grows
# with the square of the length, and one update took as long as twenty with padding.


def torch_update(model, packed):
    """Return a function of (list of features, targets) that makes one update in PyTorch."""
    import torch

    gru, *rest = model.layers
    torch.set_num_threads(cgru.get_num_threads())
    core = torch.nn.GRU(gru.input_size, gru.units, bidirectional=True)
    core.load_state_dict({name: torch.tensor(array) for name, array in cgru.convert.to_torch(gru).items()})
    head = torch.nn.Sequential()
    for layer in rest:
        dropout = isinstance(layer, cgru.Dropout)
        head.append(torch.nn.Dropout(layer.rate) if dropout else cgru.convert.to_torch_module(layer))
    head.train()
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=1e-3)

    def update(x, y):
        rows = [torch.from_numpy(row) for row in x]
        padded = torch.nn.utils.rnn.pad_sequence(rows)
        if packed:
            lengths = torch.tensor([len(row) for row in rows])
            padded = torch.nn.utils.rnn.pack_padded_sequence(padded, lengths, enforce_sorted=False)
        _, h = core(padded)
        loss = torch.nn.functional.mse_loss(head(torch.cat([h[0], h[1]], 1)), torch.from_numpy(y.astype("float32")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return update


def keras_update(model, masked, compiled):
    """Return a function of (list of features, targets) that makes one update in Keras.

    `compiled` is by XLA, for which every number of sites is another program: batches are padded to a multiple of 256.
    """
    import keras
    import tensorflow

    with contextlib.suppress(RuntimeError):  # TensorFlow has begun, with as many threads as the first time
        tensorflow.config.threading.set_intra_op_parallelism_threads(cgru.get_num_threads())
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    absent, width = 9.0, model.layers[0].input_size
    own = cgru.convert.to_keras_model(model).layers
    peer = keras.Sequential([keras.Input((None, width)), *([keras.layers.Masking(absent)] if masked else []), *own])
    peer.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=compiled)
    multiple = 256 if compiled else 1

    def update(x, y):
        steps = -(-max(map(len, x)) // multiple) * multiple
        padded = np.full((len(x), steps, width), absent if masked else 0, np.float32)
        for row, values in zip(padded, x, strict=True):
            row[: len(values)] = values
        return float(peer.train_on_batch(padded, y.astype("float32")))

    return update


def contestants(model):
    """Return a dict of name -> update(x, y), of what is installed."""
    twin = network(model.layers[0].units, seed=1)
    twin.build(model.layers[0].input_size)
    twin.set_weights(model.get_weights())
    twin.compile(cgru.optimizers.Adam(1e-3), loss="mse")
    found = {"cgru": twin.train_on_batch}
    if importlib.util.find_spec("torch"):
        found["PyTorch, padded"] = torch_update(model, False)
    else:
        print("no times of PyTorch: it is not installed (pip install torch)")
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        found["Keras, padded"] = keras_update(model, False, False)
        found["Keras, masked"] = keras_update(model, True, False)
        found["Keras, padded, XLA"] = keras_update(model, False, True)
    else:
        print("no times of Keras: it is not installed (pip install keras tensorflow-cpu)")
    return found


def times(updates, batches, rounds=4):
    """Return {name: (seconds, seconds of the processor)} to go through the batches, medians of rounds in turn.

    One round more comes first and does not count: compilers work in it. Nor does the update that begins each round:
    then memory is as in the midst of an epoch, not as after the others.
    """
    taken = {name: [] for name in updates}
    for r in range(rounds + 1):
        for name, update in updates.items():
            update(*batches[-1])
            begun, used = time.perf_counter(), time.process_time()
            for x, y in batches:
                update(x, y)
            seconds = time.perf_counter() - begun, time.process_time() - used
            if r:
                taken[name].append(seconds)
            print(f"round {r}: {name}, {seconds[0]:.2f} s, {seconds[1]:.2f} s of the processor", flush=True)
    return {name: tuple(np.median(values, axis=0)) for name, values in taken.items()}


# %%
# The windows, and what they are split into
# -----------------------------------------
# The last eighth is the test part, looked at once; a sixteenth before it is the development part, by which the best
# epoch is chosen.


def options(arguments=None):
    """Return the arguments of the command line."""
    more = [
        (("--save-data",), {"metavar": "FILE.npz", "help": "write the simulated windows there, for --data"}),
        (("--windows",), {"type": int, "default": 5000, "help": "how many to simulate"}),
        (("--epochs",), {"type": int, "default": 8, "help": "how often to go through them"}),
        (("--remember",), {"type": int, "default": 300, "help": "sites that units remember at the start"}),
        (("--only",), {"choices": ["training", "times"], "help": "leave out the other half (default: both)"}),
    ]
    found = reporting.options(__doc__, "windows that --save-data wrote, instead of simulating", more, arguments)
    for name, least in (("windows", 64), ("epochs", 1), ("remember", 2)):
        if getattr(found, name) < least:
            raise SystemExit(f"--{name}: expected at least {least}, got {getattr(found, name)}")
    return found


def windows_of(chosen):
    """Return the windows that the command line asks for."""
    if chosen.data is not None:
        try:
            return load_windows(chosen.data)
        except ValueError as error:
            raise SystemExit(f"--data: {error}") from None
    if not chosen.quick and importlib.util.find_spec("msprime"):
        return simulate(chosen.windows, threads=cgru.get_num_threads())
    if not chosen.quick:
        print("no genomes: msprime is not installed (pip install msprime)")
    print("synthetic windows: mosaics of two templates, whose answer is known")
    return mosaic(1000 if chosen.quick else chosen.windows)


if __name__ == "__main__":
    chosen = options()
    windows = windows_of(chosen)
    if chosen.save_data:
        save_windows(windows, chosen.save_data)
    count, sites = len(windows), windows.sites()
    test, dev = count - count // 8, count - count // 8 - count // 16
    parts = {"train": slice(0, dev), "dev": slice(dev, test), "test": slice(test, count)}
    parts = {name: windows.take(rows) for name, rows in parts.items()}
    print(f"{windows.made}: {', '.join(f'{len(part)} {name}' for name, part in parts.items())}; {sites.min()} to "
          f"{sites.max()} sites, {sites.mean():.0f} on average")  # fmt: skip

# %%
# Training
# --------
# Targets are z-scores of the rate. Batches are small: so many more updates fit into the time. The rate of learning
# falls by a cosine. The weights of the epoch that was best on the development part are kept.

if __name__ == "__main__":
    small = chosen.quick and chosen.data is None
    settings = {"units": 24, "dense": (16,), "dropout": 0.0, "longest": 20} if small else {"longest": chosen.remember}
    epochs, rate = (10, 1e-2) if small else (chosen.epochs, 2e-3)
    report = reporting.Report("recombination_rates", vars(chosen) | settings | {"made": windows.made, "rate": rate})
    mean, spread, scale = parts["train"].rates.mean(), parts["train"].rates.std(), parts["train"].sites().mean()
    targets = {name: (part.rates - mean) / spread for name, part in parts.items()}
    model, true = network(**settings).build(windows.alleles[0].shape[1] + 1), parts["test"].rates
    if chosen.only != "times":
        schedule = cgru.schedules.CosineDecay(rate, decay_steps=-(-len(parts["train"]) // SIZE) * epochs)
        model.compile(cgru.optimizers.Adam(schedule, global_clipnorm=1.0), loss="mse")
        unseen = list(shuffled(parts["dev"], targets["dev"], scale)())
        history = model.fit(
            shuffled(parts["train"], targets["train"], scale, seed=1),
            epochs=epochs,
            validation_data=lambda: unseen,
            callbacks=[cgru.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)],
        ).history
        trained = report.seconds()
        for epoch, losses in enumerate(zip(history["loss"], history["val_loss"], strict=True), 1):
            report.curve("training", epoch=epoch, loss=losses[0], dev_loss=losses[1])
        predicted = predict(model, parts["test"], scale) * spread + mean
        best, whose = parts["test"].best, "who counts the changes, which the network does not see"
        known, whose = (None, "") if best is None else (r_squared(true, best), whose)
        report.add("R² on the test part", r_squared(true, predicted), known, whose, digits=3)
        report.add("mean absolute error / mean rate", np.abs(true - predicted).mean() / true.mean(), digits=3)
        report.add("training", trained, unit="s", digits=0)

# %%
# The time of an epoch
# --------------------
# Batches of 64, as ReLERNN has them. Rounds over the same batches in turn, the median; from them the time for all
# windows of the training part. The batches are those of training, in random order. Who sorts the windows by their
# number of sites pads less: the second set of batches is of windows of like length.

if __name__ == "__main__":
    epoch_times = {}
    if chosen.only != "training" and not chosen.quick:
        train = parts["train"]
        rows = np.split(np.argsort(train.sites(), kind="stable"), range(64, len(train), 64))
        alike = [rows[len(rows) * k // 6] for k in (1, 3, 5)]
        sets = {
            "random order": list(itertools.islice(shuffled(train, targets["train"], scale, 64)(), 3)),
            "like lengths": [(inputs(train, part, scale), targets["train"][part, None]) for part in alike],
        }
        updates = contestants(model)
        for order, batches in sets.items():
            share = len(train) / sum(len(y) for _, y in batches)
            taken = {name: (wall * share, used * share) for name, (wall, used) in times(updates, batches).items()}
            epoch_times = epoch_times or taken
            for name, (wall, used) in taken.items():
                report.curve(f"epochs, {order}", of=name, seconds=wall, processor_seconds=used)
                report.add(f"epoch of {len(train)} windows, {order}: {name}", wall, unit="s", digits=1)
            others = {name: wall for name, (wall, _) in taken.items() if name != "cgru"}
            if others:
                fastest = min(others, key=others.get)
                goal, source = (3, "the goal, where they must pad") if order == "random order" else (None, "")
                report.add(f"{order}: times as fast as {fastest}", others[fastest] / taken["cgru"][0], goal, source)
                least = min(used for name, (_, used) in taken.items() if name != "cgru")
                report.add(f"{order}: the same by processor time", least / taken["cgru"][1], goal, source)
        whose = "a user of ReLERNN without a graphics card, its issue 67; number of windows not told"
        hundred = epoch_times["cgru"][0] / len(train) * 1e5
        report.add("epoch of 100,000 windows, ReLERNN's default", hundred, 250, whose, "s", 0)
    report.print()
    report.save(chosen.json)

# %%
# Pictures
# --------

if __name__ == "__main__" and (plt := reporting.plotting()):
    panels = (chosen.only != "times") + bool(epoch_times)
    figure, axes = plt.subplots(1, panels, figsize=(5.5 * panels, 4.5), squeeze=False, layout="constrained")
    if chosen.only != "times":
        ax = axes[0, 0]
        ax.scatter(true, predicted, s=8, alpha=0.5)
        ax.plot([0, true.max()], [0, true.max()], color="black", linewidth=1, label="the true rate")
        unit = "a site" if small else "a base and generation"
        ax.set(xlabel=f"true rate ({unit})", ylabel=f"predicted rate ({unit})")
        ax.set_title(f"{len(true)} windows of the test part, R² {r_squared(true, predicted):.2f}")
        ax.legend(loc="upper left")
    if epoch_times:
        ax, names = axes[0, -1], sorted(epoch_times, key=epoch_times.get, reverse=True)
        walls = [epoch_times[name][0] for name in names]
        ax.barh(names, walls, color=["C1" if name == "cgru" else "C0" for name in names])
        for i, wall in enumerate(walls):
            ax.text(wall, i, f" {wall:.0f} s", va="center")
        ax.set(
            xlabel=f"time of an epoch (s), threads: {cgru.get_num_threads()}", title=f"{len(parts['train'])} windows"
        )
        ax.margins(x=0.15)
    reporting.picture(figure, chosen.pictures, "recombination_rates")
