"""
Nine speakers, in a pipeline of scikit-learn
============================================

Japanese Vowels once more (Kudo, Toyama and Shimbo 1999): 270 utterances to learn from, 370 to be tested with, each 7 to
29 frames of twelve numbers, by nine speakers. Here the GRU is an estimator among those of scikit-learn, and a pipeline
holds what scales the features and the model, so that each fold of the search is scaled by what it learns from. The
width is chosen by cross-validation; the best pipeline is trained on all 270 and tested once. The authors of the data
reached 94.1 % with a method of their own, and 96.2 % with a hidden Markov model of five states.

::

    pip install "cgru[sklearn]"
    python estimators.py            four widths, three folds each: ten seconds of one core
    python estimators.py --quick    two widths, two folds, few epochs: does it run?

``search.py`` searches more, by a loop of its own.
"""

import warnings

import numpy as np
import reporting

import cgru

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    from cgru.sklearn import GRUClassifier, SequenceScaler
except ImportError:
    raise SystemExit('scikit-learn 1.6 or later is wanted: pip install "cgru[sklearn]"') from None

SEED = 0
FULL = {"widths": (8, 16, 32, 64), "folds": 3, "epochs": 40}
QUICK = {"widths": (8, 16), "folds": 2, "epochs": 4}

# %%
# Pipeline and search
# -------------------
# Sequences of unequal lengths are a list of arrays (T_i, 12), which scikit-learn splits as it splits rows. It names a
# setting by its step: ``model__hidden_size``.


def pipeline(epochs):
    """Return the untrained pipeline."""
    model = GRUClassifier(
        bidirectional=True, pooling="mean", dropout=0.3, learning_rate_init=5e-3, batch_size=16, max_iter=epochs,
        random_state=SEED,
    )  # fmt: skip
    return Pipeline([("scale", SequenceScaler()), ("model", model)])


def search(x, y, widths, folds, epochs):
    """Return the fitted search over `widths`; its best pipeline is trained on all of x."""
    grid = {"model__hidden_size": list(widths)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are as many as we want
        return GridSearchCV(pipeline(epochs), grid, cv=folds, verbose=2).fit(x, y)


def rows(found):
    """Return (width, mean accuracy, its deviation over the folds, seconds a fold) for each point of the search."""
    names = ("param_model__hidden_size", "mean_test_score", "std_test_score", "mean_fit_time")
    return [tuple(float(v) for v in row) for row in zip(*(found.cv_results_[name] for name in names), strict=True)]


if __name__ == "__main__":
    chosen = reporting.options(__doc__)
    settings = QUICK if chosen.quick else FULL
    data = cgru.datasets.load_japanese_vowels()
    report = reporting.Report("estimators", {"quick": chosen.quick, "seed": SEED} | settings)
    found = search(data.x_train, data.y_train, **settings)
    for width, mean, deviation, seconds in rows(found):
        report.curve("widths", width=width, accuracy=mean, deviation=deviation, seconds=seconds)
        print(f"hidden_size {width:3.0f}: {mean:.1%} +- {deviation:.1%}, {seconds:.1f} s a fold")
    print("the best, by cross-validation:", found.best_params_)

# %%
# The best one, tested once
# -------------------------
# A search that is fitted predicts as its best pipeline does.

if __name__ == "__main__":
    predicted = found.predict(data.x_test)
    source = "Kudo, Toyama and Shimbo 1999, Pattern Recognition Letters 20:1103"
    report.add("right of the 370 test utterances", 100 * np.mean(predicted == data.y_test), 94.1, source, "%", 1)
    report.print()
    report.save(chosen.json)

# %%
# The model alone
# ---------------
# ``model_`` is a ``cgru.Sequential``: it can be saved, explained and, where it runs forward alone, fed step by step.
# Outside of the pipeline it wants features that are scaled.

if __name__ == "__main__":
    model = found.best_estimator_["model"].model_
    print(model.predict(found.best_estimator_["scale"].transform(data.x_test[:1])).round(2))

# %%
# Widths, and who is taken for whom
# ---------------------------------

if __name__ == "__main__" and (plt := reporting.plotting()):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    widths, means, deviations, _ = np.transpose(rows(found))
    left.errorbar(widths, 100 * means, 100 * deviations, marker="o", capsize=3)
    left.set(xscale="log", xlabel="hidden_size", ylabel="right in cross-validation (%)", title="mean and deviation")
    left.set_xticks(widths, [f"{width:.0f}" for width in widths], minor=False)
    left.minorticks_off()
    counts = cgru.metrics.confusion_matrix(data.y_test, predicted, 9)
    right.imshow(counts, cmap="Blues")
    for true, said in np.argwhere(counts):
        ink = "white" if counts[true, said] > counts.max() / 2 else "black"
        right.text(said, true, counts[true, said], ha="center", va="center", color=ink)
    ticks, names = range(9), range(1, 10)
    right.set_xticks(ticks, names)
    right.set_yticks(ticks, names)
    right.set(xlabel="said speaker", ylabel="true speaker", title="test utterances")
    reporting.picture(figure, chosen.pictures, "estimators")
