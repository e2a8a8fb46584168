"""
Sentiment of film reviews, and what dropout does to overfitting
===============================================================

Is a sentence from a film review praise or blame? Pang and Lee collected 5,331 of each (2005, "Seeing stars", ACL), and
ever since methods are compared on them by ten-fold cross-validation. The sentences have 21 words on average, and of the
21,401 different ones more than half occur once. A model can learn all sentences by heart, and does, if it is let.

Here a bidirectional GRU reads vectors of words that start at random; the largest value of each feature over the
sentence goes into one output. Known results, in percent of the sentences that are right: 76.1 for a convolutional
network that starts from random vectors as well, 81.0 to 81.5 for the same with vectors that were made of 100 billion
words of news (Kim 2014, "Convolutional Neural Networks for Sentence Classification", EMNLP, Table 2); 79.4 for a
support vector machine over pairs of words, weighted by naive Bayes (Wang and Manning 2012, ACL).

In each of the ten rounds one fold is tested, once. Words are those of the other nine, and what is tested may hold
words that the model does not know. A tenth of the nine is the development part: training stops when its loss no longer
falls. Sizes and rates were chosen with the training part of the first round, cut into nine pieces, three of which
were development parts in turn; other rounds test sentences of that part, as in every such comparison.

The sentences have no licence that lets others ship them. Two files, ``rt-polarity.pos`` and ``rt-polarity.neg``, are in
the repository yoonkim/CNN_sentence on GitHub, among other places::

    python docs/examples/sentiment.py --data FOLDER     ten folds and the curves: ten minutes on one busy core, 76.5 %
    python docs/examples/sentiment.py                   made-up sentences, whose best accuracy is known
    python docs/examples/sentiment.py --quick           few of those: does it run?
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from reporting import Report, options, picture, plotting

import cgru

FILES = ("rt-polarity.neg", "rt-polarity.pos")  # labels 0 and 1
FOLDS, SEED = 10, 0
SETTINGS = {
    "embedding": 100,
    "units": 64,
    "dropout": 0.5,
    "learning_rate": 1e-3,
    "batch_size": 32,
    "epochs": 12,
    "patience": 2,
    "least_count": 2,
}
SMALL = SETTINGS | {"embedding": 16, "units": 32, "dropout": 0.2, "learning_rate": 1e-2, "epochs": 20, "patience": 6}
RATES = (0.0, 0.4, 0.8)  # of dropout, for the curves
UNKNOWN = 0  # the id of words that were not seen, or too rarely

# %%
# Sentences
# ---------
#
# Real ones come from a folder. Made-up ones consist of three clauses, such as "the plot is not good": a word of praise
# or blame, sometimes negated. Most of the clauses decide, and then one label in ten is turned round: nobody can be
# right more often than those who know the rule, 90 % of the time.


def read(folder):
    """Return (sentences as lists of words, labels of 0 and 1) of the two files."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        sys.exit(
            f"--data: expected a folder with {' and '.join(FILES)}, got {folder} without {' and '.join(missing)}; "
            "they are in the repository yoonkim/CNN_sentence on GitHub"
        )
    texts, labels = [], []
    for label, name in enumerate(FILES):
        found = [line.split() for line in (folder / name).read_text(encoding="latin-1").split("\n") if line.strip()]
        texts += found
        labels += [label] * len(found)
    return texts, np.array(labels)


PRAISE = "good great moving funny clever fresh warm brilliant charming honest".split()
BLAME = "bad dull weak silly stale cold clumsy boring shallow awful".split()
NEGATIONS = ["not", "never", "hardly"]
SUBJECTS = "plot cast film script music ending camera pace dialogue story".split()


def made_up(count, seed=SEED, noise=0.1):
    """Return (sentences, labels, what the rule says of each); one label in 1 / `noise` is not what the rule says."""
    rng = np.random.default_rng(seed)

    def one_of(words):
        return words[rng.integers(len(words))]

    texts, rule = [], np.empty(count, int)
    for i in range(count):
        words, balance = [], 0
        for _ in range(3):
            praised, negated = rng.random() < 0.5, rng.random() < 0.4
            words += ["the", one_of(SUBJECTS), "is", *([one_of(NEGATIONS)] if negated else [])]
            words.append(one_of(PRAISE if praised else BLAME))
            balance += 1 if praised != negated else -1
        texts.append(words)
        rule[i] = balance > 0
    return texts, np.where(rng.random(count) < noise, 1 - rule, rule), rule


# %%
# Folds and words
# ---------------


def folds(labels, count, seed=SEED):
    """Return the number of the fold of each example, 0 to `count` - 1: drawn, with each label spread evenly."""
    rng, number = np.random.default_rng(seed), np.empty(len(labels), int)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        number[places] = np.arange(len(places)) % count
    return number


class Vocabulary:
    """The words that occur at least `least` times in these sentences, as ids from 1; all others are one unknown word.

    So the model meets the unknown word while it learns, in the place of the rare ones.
    """

    def __init__(self, texts, least=1):
        counts = Counter(word for text in texts for word in text)
        self.words = sorted(word for word, count in counts.items() if count >= least)
        self.size = 1 + len(self.words)
        self._ids = {word: i for i, word in enumerate(self.words, 1)}

    def ids(self, texts):
        """Return an integer array for each sentence."""
        return [np.array([self._ids.get(word, UNKNOWN) for word in text]) for text in texts]


class Part:
    """Examples for `fit`: the sentences of these numbers, as ids of a vocabulary, and their labels."""

    def __init__(self, vocabulary, texts, labels, rows):
        self.x, self.y = vocabulary.ids([texts[i] for i in rows]), labels[rows]


def parts_of(texts, labels, tested, settings):
    """Return (vocabulary, training, development and test part) where `tested` says which sentences are the test.

    A tenth of the others is the development part. The words are those of the training part alone.
    """
    known = np.flatnonzero(~tested)
    developing = folds(labels[known], 10, seed=SEED + 1) == 0
    rows = known[~developing], known[developing], np.flatnonzero(tested)
    vocabulary = Vocabulary([texts[i] for i in rows[0]], settings["least_count"])
    return vocabulary, *(Part(vocabulary, texts, labels, part) for part in rows)


# %%
# The model
# ---------
#
# Sentences are lists of arrays, of any length; nothing is padded by hand. Dropout acts on the vectors of the words and
# on what the sentence has become.


def model_of(words, settings, dropout=None, seed=SEED):
    """Return the compiled model for so many words."""
    rate = settings["dropout"] if dropout is None else dropout
    model = cgru.Sequential(
        [
            cgru.Embedding(words, settings["embedding"]),
            cgru.Dropout(rate),
            cgru.GRU(settings["units"], bidirectional=True, return_sequences=True),
            cgru.GlobalMaxPooling1D(),
            cgru.Dropout(rate),
            cgru.Dense(1, activation="sigmoid"),
        ],
        seed=seed,
    )
    model.compile(cgru.optimizers.Adam(settings["learning_rate"]), "binary_crossentropy", metrics=["accuracy"])
    return model


def cross_validate(texts, labels, settings, count=FOLDS):
    """Yield (share of the tested fold that is right, history) for each of the folds."""
    number = folds(labels, count)
    for fold in range(count):
        vocabulary, train, develop, test = parts_of(texts, labels, number == fold, settings)
        model = model_of(vocabulary.size, settings, seed=SEED + fold)
        stop = cgru.callbacks.EarlyStopping("val_loss", patience=settings["patience"], restore_best_weights=True)
        history = model.fit(
            train.x, train.y, epochs=settings["epochs"], batch_size=settings["batch_size"],
            validation_data=(develop.x, develop.y), callbacks=[stop], verbose=2,
        )  # fmt: skip
        yield model.evaluate(test.x, test.y)["accuracy"], history


def mean_and_error(values):
    """Return the mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


# %%
# Overfitting
# -----------
#
# The same model, on the training and the development part of the first round, with more or less dropout and without an
# early stop. While it learns, dropout acts: what `fit` reports of the training part is not what the model can do. So a
# callback asks it, without dropout, for as many sentences of the training part as there are in the development part.


def overfitting(texts, labels, settings, rates=RATES, count=FOLDS):
    """Return dict rate -> history, each with `loss` and `accuracy` of the training part without dropout."""
    vocabulary, train, develop, _ = parts_of(texts, labels, folds(labels, count) == 0, settings)
    sample = np.random.default_rng(SEED).permutation(len(train.y))[: len(develop.y)]
    x, y = [train.x[i] for i in sample], train.y[sample]
    found = {}
    for rate in rates:
        print(f"dropout {rate}", flush=True)
        model, known = model_of(vocabulary.size, settings, dropout=rate), []
        ask = cgru.callbacks.LambdaCallback(on_epoch_end=lambda *_, m=model, k=known: k.append(m.evaluate(x, y)))
        history = model.fit(
            train.x, train.y, epochs=settings["epochs"], batch_size=settings["batch_size"],
            validation_data=(develop.x, develop.y), callbacks=[ask], verbose=2,
        )  # fmt: skip
        found[rate] = history.history | {name: [row[name] for row in known] for name in ("loss", "accuracy")}
    return found


def draw_overfitting(plt, curves):
    """Return a figure: loss and accuracy by epoch, of training and development part, a colour for each rate."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, name, words in zip(panels, ("loss", "accuracy"), ("loss (nats)", "sentences right (%)"), strict=True):
        scale = 100 if name == "accuracy" else 1
        for i, (rate, history) in enumerate(curves.items()):
            epochs = 1 + np.arange(len(history[name]))
            for key, style, part in ((name, "--", "training"), (f"val_{name}", "o-", "development")):
                label = f"dropout {rate}, {part} part"
                axes.plot(epochs, scale * np.array(history[key]), style, ms=4, color=f"C{i}", label=label)
        axes.set(xlabel="epoch", ylabel=words)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False)
    return figure


# %%
# Ten folds
# ---------

if __name__ == "__main__":
    chosen = options(__doc__, data=f"the folder of {FILES[0]} and {FILES[1]} (default: made-up sentences)")
    real, count = chosen.data is not None, 3 if chosen.quick else FOLDS
    settings = SMALL if chosen.quick or not real else SETTINGS
    if real:
        texts, labels = read(Path(chosen.data))
        if chosen.quick:
            texts, labels = texts[::12], labels[::12]
        best, source = 76.1, "CNN from random vectors, Kim 2014"
    else:
        texts, labels, rule = made_up(2000 if chosen.quick else 3000)
        best, source = 100 * np.mean(rule == labels), "the rule by which these sentences were made"
        print("no --data: made-up sentences, with a rule that is right in 90 % of them; this says nothing of reviews")
    report = Report("sentiment", settings | {"folds": count, "seed": SEED, "sentences": len(texts), "real": real})

    accuracies = []
    for fold, (accuracy, history) in enumerate(cross_validate(texts, labels, settings, count)):
        accuracies.append(100 * accuracy)
        print(f"fold {fold + 1} of {count}: {accuracies[-1]:.1f} % right after {report.seconds():.0f} s", flush=True)
        for epoch, row in enumerate(zip(*history.history.values(), strict=True), 1):
            report.curve(f"fold {fold + 1}", epoch=epoch, **dict(zip(history.history, row, strict=True)))
    mean, error = mean_and_error(accuracies)
    report.add("sentences right, mean of the folds", mean, best, source, "%")
    report.add("its standard error", error, unit="%")
    report.add("lowest and highest fold", f"{min(accuracies):.1f} to {max(accuracies):.1f} %")
    if real and not chosen.quick:
        report.add("the mean is above 76.1 less one standard error", "yes" if mean >= 76.1 - error else "no", "yes")

# %%
# The curves
# ----------
#
# Without dropout the training part is known by heart after a few epochs, and the loss of the development part, which
# punishes being sure and wrong, rises from the first epoch on: from 0.49 to 1.76. With a rate of 0.8 it is lowest in
# the third, at 0.48, and rises to 0.72. Dropout puts overfitting off and makes it milder; it does not take the place of
# stopping. The share of sentences that are right hardly shows any of this: it moves by three points.

if __name__ == "__main__":
    curves = overfitting(texts, labels, settings, count=count, rates=RATES[:2] if chosen.quick else RATES)
    for rate, history in curves.items():
        for epoch, row in enumerate(zip(*history.values(), strict=True), 1):
            report.curve(f"dropout {rate}", epoch=epoch, **dict(zip(history, row, strict=True)))
        losses = history["val_loss"]
        lowest = int(np.argmin(losses))
        report.add(f"dropout {rate}: development loss, lowest, epoch {lowest + 1}", losses[lowest], digits=3)
        report.add(f"dropout {rate}: development loss, last, epoch {len(losses)}", losses[-1], digits=3)
        report.add(f"dropout {rate}: training part right, last", 100 * history["accuracy"][-1], unit="%")
    report.print()
    report.save(chosen.json)
    if (plt := plotting()) is not None:
        picture(draw_overfitting(plt, curves), chosen.pictures, "sentiment_overfitting")
