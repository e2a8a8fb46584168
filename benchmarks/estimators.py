"""What a user would pick for sequences and labels, or for a series: how right it is, and how long fit and predict take.

Beside cgru.sklearn: PyTorch's GRU in a plain loop, the same through skorch, sktime's GRUClassifier, ROCKET and the
nearest neighbour by dynamic time warping of aeon; for a series the seasonal naive forecast and an ARIMA of
statsmodels. Every GRU has one layer of 64 units, the state after the last step before the output, Adam at 0.003,
batches of 8 (sktime's default) and as many epochs; what else is written in a row is said there. PyTorch gets batches
padded to their longest sequence and picks the states at the ends, which is faster here than packed sequences. Features
are scaled by the training sequences for all.

Times are processor seconds of one thread, compilation left out: each contestant runs on a few sequences before. Means
are over the seeds. aeon ships three of the data sets, statsmodels the series; what is not installed is left out.

    python benchmarks/estimators.py --json estimators.json
    python benchmarks/estimators.py --sets italy_power_demand --seeds 1
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import time
import warnings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402

import cgru  # noqa: E402
from cgru.sequences import pad  # noqa: E402

UNITS, RATE, BATCH = 64, 0.003, 8
PACKAGES = ("numpy", "scikit-learn", "torch", "skorch", "sktime", "aeon", "numba", "statsmodels")
WINDOW, HORIZON, SEASON, TEST = 33, 5, 11, 50  # of the sunspots, in years
SERIES_EPOCHS, SERIES_BATCH = 10, 16  # chosen, as the window, on the 50 years before the test part


# -- what is classified


def _of_aeon(name):
    from aeon import datasets

    parts = []
    for split in ("train", "test"):
        x, y = getattr(datasets, name)(split=split)
        parts += [[np.asarray(row, "float32").T for row in x], np.asarray(y)]
    return parts


def _of_cgru():
    data = cgru.datasets.load_japanese_vowels()
    return data.x_train, data.y_train, data.x_test, data.y_test


SETS = {
    "japanese_vowels": _of_cgru,
    "basic_motions": lambda: _of_aeon("load_basic_motions"),
    "italy_power_demand": lambda: _of_aeon("load_italy_power_demand"),
    "pickup_gesture": lambda: _of_aeon("load_pickup_gesture_wiimoteZ"),
}


def scaled(x, x_test):
    from cgru.sklearn import SequenceScaler

    scaler = SequenceScaler().fit(x)
    return [[row.astype("float32") for row in scaler.transform(part)] for part in (x, x_test)]


def channels(x):
    """(N, F, T) of sequences of one length."""
    return np.stack([row.T for row in x])


def equal(x):
    return len({len(row) for row in x}) == 1


# -- who classifies: each takes sequences, labels from 0 on, a seed and epochs, and returns a function that predicts


def ours(x, y, seed, epochs, **options):
    from cgru.sklearn import GRUClassifier

    model = GRUClassifier(
        UNITS, learning_rate_init=RATE, batch_size=BATCH, max_iter=epochs, tol=0, n_iter_no_change=epochs,
        random_state=seed, **options,
    ).fit(x, y)  # fmt: skip
    return model.predict


def ours_mean(x, y, seed, epochs):
    return ours(x, y, seed, epochs, pooling="mean")


def _module(features, outputs):
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(features, UNITS, batch_first=True)
            self.out = torch.nn.Linear(UNITS, outputs)

        def forward(self, x, lengths=None):
            if lengths is None:
                return self.out(self.gru(x)[1][-1])
            states = self.gru(x[:, : lengths.max()])[0]
            return self.out(states[torch.arange(len(x)), lengths - 1])

    return Net


def plain_torch(x, y, seed, epochs):
    import torch

    torch.manual_seed(seed)
    net, same = _module(x[0].shape[1], y.max() + 1)(), equal(x)
    optimizer, loss = torch.optim.Adam(net.parameters(), RATE), torch.nn.CrossEntropyLoss()

    def tensors(x):
        padded, lengths = pad(x)
        return torch.from_numpy(padded), None if same else torch.from_numpy(lengths)

    def of_rows(padded, lengths, rows):
        return padded[rows], None if lengths is None else lengths[rows]

    padded, lengths = tensors(x)
    labels = torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss(net(*of_rows(padded, lengths, rows)), labels[rows]).backward()
            optimizer.step()

    def predict(x):
        given = tensors(x)
        with torch.no_grad():
            parts = [net(*of_rows(*given, rows)).argmax(1) for rows in torch.arange(len(x)).split(256)]
        return torch.cat(parts).numpy()

    return predict


def skorch(x, y, seed, epochs):
    import torch
    from skorch import NeuralNetClassifier

    torch.manual_seed(seed)
    same = equal(x)

    def given(x):
        padded, lengths = pad(x)
        return {"x": padded} if same else {"x": padded, "lengths": lengths}

    net = NeuralNetClassifier(
        _module(x[0].shape[1], y.max() + 1), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=RATE,
        batch_size=BATCH, max_epochs=epochs, train_split=None, iterator_train__shuffle=True, verbose=0,
    ).fit(given(x), y)  # fmt: skip
    return lambda x: net.predict(given(x))


def sktime(x, y, seed, epochs):
    from sktime.classification.deep_learning.gru import GRUClassifier

    model = GRUClassifier(
        hidden_dim=UNITS, n_layers=1, batch_first=True, num_epochs=epochs, batch_size=BATCH, lr=RATE, random_state=seed
    ).fit(channels(x), y)
    return lambda x: model.predict(channels(x))


def rocket(x, y, seed, epochs):
    from aeon.classification.convolution_based import RocketClassifier

    longest = max(map(len, x))

    def given(x):
        padded, _ = pad([row[:longest] for row in x])
        return np.pad(padded, ((0, 0), (0, longest - padded.shape[1]), (0, 0))).swapaxes(1, 2)

    model = RocketClassifier(random_state=seed, n_jobs=1).fit(given(x), y)
    return lambda x: model.predict(given(x))


def neighbour(x, y, seed, epochs):
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

    def given(x):
        return channels(x) if equal(x) else [np.ascontiguousarray(row.T, np.float64) for row in x]

    model = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw").fit(given(x), y)
    return lambda x: model.predict(given(x))


CLASSIFIERS = {
    "cgru GRUClassifier": ours,
    "cgru, pooling='mean'": ours_mean,
    "PyTorch, plain loop": plain_torch,
    "skorch": skorch,
    "sktime GRUClassifier": sktime,
    "aeon ROCKET": rocket,
    "aeon 1-NN DTW": neighbour,
}
ONE_LENGTH = ("sktime GRUClassifier",)  # of sequences; the others are told the lengths
PADDED = ("aeon ROCKET",)  # takes one length only: gets zeros behind the end
SURE = ("aeon 1-NN DTW",)  # without chance: one run


# -- who forecasts: each takes the series up to the test part, a seed and epochs, and returns a function of all origins


def our_forecaster(y, seed, epochs):
    from cgru.sklearn import GRUForecaster

    model = GRUForecaster(
        UNITS, window=WINDOW, horizon=HORIZON, learning_rate_init=RATE, batch_size=SERIES_BATCH, max_iter=epochs,
        tol=0, n_iter_no_change=epochs, random_state=seed,
    ).fit(y)  # fmt: skip
    return lambda histories: model.predict(y=histories)


def torch_forecaster(y, seed, epochs):
    import torch

    torch.manual_seed(seed)
    mean, deviation = y.mean(), y.std()

    def given(windows):
        return torch.from_numpy(((windows - mean) / deviation).astype("float32"))

    net, loss = _module(1, HORIZON)(), torch.nn.MSELoss()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    windows = given(np.lib.stride_tricks.sliding_window_view(y, WINDOW + HORIZON))
    for _ in range(epochs):
        for rows in torch.randperm(len(windows)).split(SERIES_BATCH):
            optimizer.zero_grad()
            part = windows[rows]
            loss(net(part[:, :WINDOW, None]), part[:, WINDOW:]).backward()
            optimizer.step()

    def predict(histories):
        with torch.no_grad():
            out = net(given(np.stack([h[-WINDOW:] for h in histories]))[..., None]).numpy()
        return out * deviation + mean

    return predict


def naive(y, seed, epochs):
    return lambda histories: np.stack([h[-SEASON : HORIZON - SEASON] for h in histories])


def arima(y, seed, epochs):
    from statsmodels.tsa.arima.model import ARIMA

    fitted = ARIMA(y, order=(9, 0, 0)).fit()
    return lambda histories: np.stack([fitted.apply(h).forecast(HORIZON) for h in histories])


FORECASTERS = {
    "cgru GRUForecaster": our_forecaster,
    "PyTorch, plain loop": torch_forecaster,
    "statsmodels ARIMA(9, 0, 0)": arima,
    "seasonal naive, 11 years": naive,
}


# -- the runs


def seconds(call):
    begin = time.process_time()
    result = call()
    return result, time.process_time() - begin


def classify(name, data, seeds, epochs, few):
    x, y, x_test, y_test = data
    classes, y = np.unique(y, return_inverse=True)
    y_test = np.searchsorted(classes, y_test)
    x, x_test = scaled(x, x_test)
    lengths = f"{min(map(len, x))} to {max(map(len, x))}" if not equal(x) else str(len(x[0]))
    print(f"\n{name}: {len(x)} + {len(x_test)} sequences of {lengths} steps, {x[0].shape[1]} features, "
          f"{len(classes)} classes, {epochs} epochs\n")  # fmt: skip

    def run(contestant, seed):
        contestant(x[:few], np.arange(few) % 2, seed, 1)(x_test[:2])
        predict, fit = seconds(lambda: contestant(x, y, seed, epochs))
        found, predicted = seconds(lambda: predict(x_test))
        return {"score": float((found == y_test).mean()), "fit": fit, "predict": predicted}

    left_out = [] if equal(x) else list(ONE_LENGTH)
    return table(CLASSIFIERS, run, seeds, "accuracy", left_out, [] if equal(x) else PADDED)


def forecast(seeds, epochs):
    from statsmodels.datasets import sunspots

    y = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
    train = y[:-TEST]
    origins = range(len(train), len(y) - HORIZON + 1)
    true = np.stack([y[i : i + HORIZON] for i in origins])
    print(f"\nsunspots: {len(train)} years, then forecasts of {HORIZON} years from each of {len(origins)} origins, "
          f"{epochs} epochs\n")  # fmt: skip

    def run(contestant, seed):
        contestant(train[: 3 * WINDOW], seed, 1)([train[: 2 * WINDOW]] * 2)
        predict, fit = seconds(lambda: contestant(train, seed, epochs))
        found, predicted = seconds(lambda: predict([y[:i] for i in origins]))
        return {"score": float(np.sqrt(((found - true) ** 2).mean())), "fit": fit, "predict": predicted}

    return table(FORECASTERS, run, seeds, "RMSE", [], [])


def table(contestants, run, seeds, score, left_out, padded):
    print(f"| | {score} | of the seeds | fit, s | predict, s | fit against ours |\n|---|---|---|---|---|---|")
    results = {}
    for name, contestant in contestants.items():
        if name in left_out:
            print(f"| {name} | | takes sequences of one length only | | | |")
            continue
        try:
            sure = name in SURE or contestant in (naive, arima)
            runs = [run(contestant, seed) for seed in (range(1) if sure else seeds)]
        except ImportError as error:
            print(f"| {name} | | not installed: {error.name} | | | |")
            continue
        results[name] = runs
        mean = {key: float(np.mean([r[key] for r in runs])) for key in runs[0]}
        ours_fit = np.mean([r["fit"] for r in next(iter(results.values()))])
        scores = [r["score"] for r in runs]
        spread = f"{min(scores):.3g} to {max(scores):.3g}" if len(runs) > 1 else "no chance in it" if sure else ""
        note = ", padded with zeros" if name in padded else ""
        shown = f"{mean['score']:.3f}" if score == "accuracy" else f"{mean['score']:.1f}"
        print(f"| {name}{note} | {shown} | {spread} | {mean['fit']:.3g} | {mean['predict']:.3g} | "
              f"{mean['fit'] / ours_fit:.1f} |", flush=True)  # fmt: skip
    return results


def versions():
    found = {"cgru": cgru.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sets", default=",".join([*SETS, "sunspots"]), help="(default: %(default)s)")
    made.add_argument("--seeds", type=int, default=5, help="(default: 5)")
    made.add_argument("--epochs", type=int, default=50, help="of the GRUs that classify (default: 50)")
    made.add_argument("--quick", action="store_true", help="one seed, two epochs: does it run? No figures to keep")
    made.add_argument("--json", metavar="FILE", help="write every run, with versions and machine")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 2
    warnings.simplefilter("ignore")
    cgru.set_num_threads(1)
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    head = {"date": datetime.date.today().isoformat(), "versions": versions(), "cpu": _cpu()}
    print(f"{head['date']}, {head['cpu']}, one thread; "
          + ", ".join(f"{name} {version}" for name, version in head["versions"].items()))  # fmt: skip
    results = {}
    names = options.sets.split(",")
    for name in names:
        if name not in (*SETS, "sunspots"):
            made.error(f"--sets: expected names among {[*SETS, 'sunspots']}, got {name!r}")
    seeds, epochs = range(options.seeds), options.epochs
    for name in names:
        if name == "sunspots":
            results[name] = _or_left_out(name, lambda: forecast(seeds, min(epochs, SERIES_EPOCHS)))
        else:
            results[name] = _or_left_out(name, lambda name=name: classify(name, SETS[name](), seeds, epochs, 12))
        if options.json:  # after each set: the next one takes its time
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(head | {"epochs": options.epochs, "results": results}, file, indent=1)


def _or_left_out(name, run):
    try:
        return run()
    except ImportError as error:
        print(f"\n{name}: left out, {error.name} is not installed")
        return None


def _cpu():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
