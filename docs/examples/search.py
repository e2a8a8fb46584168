"""
Nine speakers: a search for the best model
==========================================

Which model tells nine speakers apart best? Japanese Vowels (Kudo, Toyama and Shimbo 1999) come with the library: 270
utterances to learn from, 370 to be tested with, each 7 to 29 frames of twelve numbers. Of the former every fifth of
each speaker is kept apart, and models of different width, depth, direction and convolution are compared on those. The
best one is then trained on all 270 and tested once. The authors of the data reached 94.1 % with a method of their own,
and 96.2 % with a hidden Markov model of five states.

::

    python search.py            24 models, a second or two each
    python search.py --quick    4 models, two epochs: does it run?
"""

import itertools
import time

import numpy as np
import reporting

import cgru

SEED, EPOCHS, BATCH = 0, 30, 16
GRID = {"width": (16, 32, 64), "depth": (1, 2), "directions": (1, 2), "convolution": (0, 3)}
QUICK = {"width": (8, 16), "depth": (1,), "directions": (1, 2), "convolution": (3,)}

# %%
# The model of one point of the grid
# ----------------------------------


def model_of(width, depth, directions, convolution):
    """The untrained model of one point of the grid; `convolution` is the size of its window, 0 for none."""
    layers = []
    if convolution:
        layers.append(
            cgru.Conv1D(width, convolution, padding="same", activation="relu", kernel_initializer="he_uniform")
        )
    for _ in range(depth):
        layers.append(cgru.GRU(width, bidirectional=directions == 2, return_sequences=True))
    layers += [cgru.GlobalAveragePooling1D(), cgru.Dropout(0.3), cgru.Dense(9, activation="softmax")]
    model = cgru.Sequential(layers, seed=SEED)
    model.compile(cgru.optimizers.Adam(5e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %%
# What is kept apart, and how recordings are scaled
# -------------------------------------------------
# The scale comes of what a model learns from, never of what it is tested with.


def split(y, every=5):
    """Return (indices to train with, indices to compare with): of each class every fifth is kept apart."""
    number = np.empty(len(y), int)
    for label in np.unique(y):
        number[y == label] = np.arange((y == label).sum())
    kept = number % every == every - 1
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def standardised(x, like):
    """The sequences with the mean 0 and deviation 1 that each feature has over all frames of `like`."""
    frames = np.concatenate(like)
    return [(row - frames.mean(axis=0)) / frames.std(axis=0) for row in x]


# %%
# The search
# ----------


def search(x, y, grid, epochs):
    """Return rows of (point, parameters, loss and accuracy on what was kept apart, seconds), the best one first."""
    train, kept = split(y)
    x = standardised(x, [x[i] for i in train])
    known, apart = ([x[i] for i in rows] for rows in (train, kept))
    rows = []
    print(f"{'  '.join(f'{name:>11}' for name in grid)}  {'parameters':>10}  {'loss':>5}  accuracy  seconds")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        model, begun = model_of(**point), time.perf_counter()
        model.fit(known, y[train], epochs=epochs, batch_size=BATCH, verbose=0)
        found = model.evaluate(apart, y[kept])
        size = sum(p.size for p in model.parameters.values())
        rows.append((point, size, found["loss"], found["accuracy"], time.perf_counter() - begun))
        print(line(rows[-1]), flush=True)
    return sorted(rows, key=lambda row: (-row[3], row[2]))


def line(row):
    """A row of the table."""
    point, size, loss, accuracy, seconds = row
    values = "  ".join(f"{value:>11}" for value in point.values())
    return f"{values}  {size:>10,}  {loss:.3f}  {accuracy:8.1%}  {seconds:5.1f}"


if __name__ == "__main__":
    chosen = reporting.options(__doc__)
    grid, epochs = (QUICK, 2) if chosen.quick else (GRID, EPOCHS)
    data = cgru.datasets.load_japanese_vowels()
    report = reporting.Report("search", {"quick": chosen.quick, "grid": grid, "epochs": epochs, "batch": BATCH})
    rows = search(data.x_train, data.y_train, grid, epochs)
    for point, size, loss, accuracy, _ in rows:
        report.curve("models", **point, parameters=size, loss=loss, accuracy=accuracy)
    print(f"\nthe best, by what was kept apart:\n{line(rows[0])}")

# %%
# The best one, tested once
# -------------------------

if __name__ == "__main__":
    model = model_of(**rows[0][0])
    model.fit(standardised(data.x_train, data.x_train), data.y_train, epochs=epochs, batch_size=BATCH, verbose=0)
    accuracy = model.evaluate(standardised(data.x_test, data.x_train), data.y_test)["accuracy"]
    source = "Kudo, Toyama and Shimbo 1999, Pattern Recognition Letters 20:1103"
    report.add("right of the 370 test utterances", 100 * accuracy, 94.1, source, "%", 1)
    report.print()
    report.save(chosen.json)

# %%
# What a larger model is good for
# -------------------------------

if __name__ == "__main__" and (plt := reporting.plotting()):
    figure, axes = plt.subplots(figsize=(6, 4))
    for directions, marker in ((1, "o"), (2, "s")):
        shown = [row for row in rows if row[0]["directions"] == directions]
        label = "forward" if directions == 1 else "both directions"
        axes.scatter([row[1] for row in shown], [100 * row[3] for row in shown], marker=marker, label=label)
    axes.set(xscale="log", xlabel="parameters", ylabel="right of what was kept apart (%)")
    axes.legend()
    reporting.picture(figure, chosen.pictures, "search")
