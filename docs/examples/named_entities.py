"""
Named entities in noisy text, from words and their characters
=============================================================

Which words of a tweet or a comment name a person, a place, a company, a group, a product or a work of art? The texts
are those of the shared task of the Workshop on Noisy User-generated Text 2017 (Derczynski, Nichols, van Erp and
Limsopatham, "Results of the WNUT2017 Shared Task on Novel and Emerging Entity Recognition"). It is a hard one: of the
943 different names in the test texts 16 occur in the training texts, which come from other places and years. What
counts is the F1 of spans: a name is found if its first word, its last word and its type are right. The systems of the
task reached 26.3 to 41.9 percent, with vectors of words that were made of billions of other words, some with lists of
names.

Here nothing comes from outside. Names are often unknown words, so the model looks at how a word is written: a GRU
reads its characters in both directions, beside the vector of the word and one of its shape ("Xx" for Paris, "dx" for
4th). A second GRU reads the words of the sentence and gives every word a tag. The two are models of their own, joined
in a loop of one's own. Nearly all words are no names, and a model that seldom dares to say one is mostly right: so the
classes get weights, and the example shows what these do.

Epochs and settings are chosen on the development texts; the test texts are looked at once. The texts are CC BY 4.0, and
200 sentences of the training texts are in ``data/wnut17_sample.conll``. All of them are in the repository
leondz/emerging_entities_17 on GitHub; rename ``wnut17train.conll``, ``emerging.dev.conll`` and
``emerging.test.annotated`` to ``wnut17_train.conll``, ``wnut17_dev.conll`` and ``wnut17_test.conll``::

    python docs/examples/named_entities.py --data FOLDER              three kinds of weights, three seeds each
    python docs/examples/named_entities.py --data FOLDER --seeds 1    one seed each, three minutes on one core
    python docs/examples/named_entities.py                            the sample: too little to learn much from
    python docs/examples/named_entities.py --quick                    one kind of weights on that: does it run?
"""

import re
import sys
import time
from collections import Counter

import numpy as np
from reporting import SHIPPED, Report, options, picture, plotting

import cgru

TYPES = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in TYPES for place in "BI"))
TAG_IDS = {tag: i for i, tag in enumerate(TAGS)}
UNKNOWN = 0  # of words, shapes and characters
SETTINGS = {
    "word": 64,
    "shape": 12,
    "character": 25,
    "character_units": 40,
    "units": 100,
    "dropout": 0.5,
    "recurrent_dropout": 0.25,
    "spelling_dropout": 0.25,
    "unknown_once": 0.6,  # how often a word that occurs once is read as an unknown one in training
    "unknown": 0.2,  # and any other
    "learning_rate": 3e-3,
    "batch_size": 16,
    "epochs": 12,
}
SMALL = SETTINGS | {"units": 64, "dropout": 0.3, "learning_rate": 5e-3, "batch_size": 8, "epochs": 16}  # for the sample
POWERS = {"none": 0.0, "power 0.3": 0.3, "balanced": 1.0}  # of class weights

# %%
# Files
# -----
#
# A word and its tag a line, with a tab between, and a blank line between sentences. B-person begins the name of a
# person, I-person goes on with it, O is no name.


def read_conll(path):
    """Return a list of sentences, (list of words, list of tags) each."""
    sentences, words, tags = [], [], []
    for number, line in enumerate([*path.read_text(encoding="utf-8").split("\n"), ""], 1):
        columns = line.split("\t")
        if line.strip():
            if len(columns) < 2 or columns[1].strip() not in TAG_IDS:
                raise ValueError(f"{path}, line {number}: expected a word, a tab and a tag like B-person, got {line!r}")
            words.append(columns[0])
            tags.append(columns[1].strip())
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


def read_parts(folder):
    """Return (training, development, test sentences): of the folder, or where that is None of the sample."""
    if folder is None:
        sentences = read_conll(SHIPPED / "wnut17_sample.conll")
        return sentences[:140], sentences[140:170], sentences[170:]
    paths = [folder / f"wnut17_{part}.conll" for part in ("train", "dev", "test")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        sys.exit(
            f"--data: expected a folder with {', '.join(path.name for path in paths)}, got {folder} without "
            f"{', '.join(missing)}; the texts are in the repository leondz/emerging_entities_17 on GitHub"
        )
    try:
        return tuple(read_conll(path) for path in paths)
    except ValueError as error:
        sys.exit(f"--data: {error}")


# %%
# Spans
# -----
#
# As the program conlleval of the CoNLL tasks has it: a span begins with B, and also with an I after O or after another
# type. One that has the right words and the wrong type, or one word too many, is wrong.


def spans(tags):
    """Return the set of (type, index of the first word, index behind the last word)."""
    found, kind, first = set(), None, 0
    for i, tag in enumerate([*tags, "O"]):
        if kind is not None and tag != f"I-{kind}":
            found.add((kind, first, i))
            kind = None
        if tag != "O" and kind is None:
            kind, first = tag[2:], i
    return found


def counts_of(true, found):
    """Return int array (types + 1, types + 1) of the spans in lists of tags: rows are the true type, columns the found.

    The last of each is "nothing": a name that was not found, or a find that is no name.
    """
    counts = np.zeros((len(TYPES) + 1, len(TYPES) + 1), int)
    for wanted, got in zip(true, found, strict=True):
        wanted, got = (
            {(first, end): TYPES.index(kind) for kind, first, end in spans(tags)} for tags in (wanted, got)
        )
        for place in wanted.keys() | got.keys():
            counts[wanted.get(place, -1), got.get(place, -1)] += 1
    return counts


def scores_of(counts):
    """Return (precision, recall, F1) in percent, each an array (types + 1,), the last one over all types together."""
    right = np.diag(counts)[:-1]
    right, found, true = (
        np.append(each, each.sum()) for each in (right, counts[:, :-1].sum(axis=0), counts[:-1].sum(axis=1))
    )
    precision, recall = 100 * right / np.maximum(found, 1), 100 * right / np.maximum(true, 1)
    return precision, recall, 100 * 2 * right / np.maximum(found + true, 1)


# %%
# Words as numbers
# ----------------


def normalised(word):
    """The word by which it is looked up: in small letters, every digit a 0, users and links without their names."""
    if word.startswith("@") and len(word) > 1:
        return "@"
    word = word.lower()
    return "http" if word.startswith(("http", "www.")) else re.sub(r"\d", "0", word)


def shape(word):
    """How a word is written: X for capitals, x for small letters, d for digits, each run of them once."""
    kinds = ("X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(kinds))


class Lexicon:
    """The words of the training sentences, and their shapes and characters, those that are not too rare.

    Attributes
    ----------
    words, shapes, characters : dict of str -> id, from 1
    counts : ndarray
        How often the word of each id occurs.
    """

    def __init__(self, sentences, least=3):
        words = [word for sentence, _ in sentences for word in sentence]
        seen = Counter(map(normalised, words))
        self.words = _numbered(seen, 1)
        self.counts = np.array([0, *(seen[word] for word in self.words)])
        self.shapes = _numbered(Counter(map(shape, words)), least)
        self.characters = _numbered(Counter("".join(words)), least)


def _numbered(counts, least):
    return {key: i for i, key in enumerate(sorted(key for key, count in counts.items() if count >= least), 1)}


class Corpus:
    """Sentences as numbers: of each word the number of its form, and of each form what the model reads of it.

    A form is a word as it is written. So a form that occurs ten times in a batch is encoded once.
    """

    def __init__(self, lexicon, sentences):
        forms = {}
        self.sentences = [np.array([forms.setdefault(word, len(forms)) for word in words]) for words, _ in sentences]
        self.tags = [tags for _, tags in sentences]
        self.labels = [np.array([TAG_IDS[tag] for tag in tags]) for tags in self.tags]
        self.words = np.array([lexicon.words.get(normalised(form), UNKNOWN) for form in forms])
        self.shapes = np.array([lexicon.shapes.get(shape(form), UNKNOWN) for form in forms])
        end = len(lexicon.characters) + 1  # a mark before and behind
        self.spellings = [
            np.array([end, *(lexicon.characters.get(c, UNKNOWN) for c in form[:25]), end]) for form in forms
        ]


# %%
# The model
# ---------
#
# Four parts, each a layer or a model with `forward` and `backward`. The first three give a vector of every form of the
# batch. The fourth reads, for each sentence, the vectors of its words: `need_dx=True` asks it for the gradient of
# these, which goes back to the forms, and is cut into the parts of the three.


class Tagger:
    """Tags of words, from words, shapes and characters."""

    def __init__(self, lexicon, settings, seed=0):
        self.settings, self.counts = settings, lexicon.counts
        self.words = cgru.Embedding(1 + len(lexicon.words), settings["word"], seed=seed)
        self.shapes = cgru.Embedding(1 + len(lexicon.shapes), settings["shape"], seed=seed)
        self.spellings = cgru.Sequential(
            [
                cgru.Embedding(2 + len(lexicon.characters), settings["character"]),
                cgru.Dropout(settings["spelling_dropout"]),
                cgru.GRU(settings["character_units"], bidirectional=True),
            ],
            seed=seed,
        )
        rate = settings["recurrent_dropout"]
        self.context = cgru.Sequential(
            [
                cgru.Dropout(settings["dropout"]),
                cgru.GRU(settings["units"], bidirectional=True, return_sequences=True, recurrent_dropout=rate),
                cgru.Dropout(settings["dropout"]),
                cgru.Dense(len(TAGS), activation="softmax"),
            ],
            seed=seed,
        )
        self.parts = [self.words, self.shapes, self.spellings, self.context]
        self.rng = np.random.default_rng(seed)

    def forward(self, corpus, rows, training=False):
        """Return (probabilities (N, T, tags), valid steps (N, T), tape) of these sentences of the corpus."""
        lengths = np.array([len(corpus.sentences[i]) for i in rows])
        valid = np.arange(lengths.max()) < lengths[:, None]
        forms, places = np.unique(np.concatenate([corpus.sentences[i] for i in rows]), return_inverse=True)
        words = corpus.words[forms]
        if training:
            rate = np.where(self.counts[words] == 1, self.settings["unknown_once"], self.settings["unknown"])
            words = np.where(self.rng.random(len(words)) < rate, UNKNOWN, words)
        read = (words, corpus.shapes[forms], [corpus.spellings[form] for form in forms])
        vectors, tapes = zip(
            *(part.forward(x, training=training) for part, x in zip(self.parts, read, strict=False)), strict=True
        )
        encoded = np.concatenate(vectors, axis=1)
        x = np.zeros((*valid.shape, encoded.shape[1]), encoded.dtype)
        x[valid] = encoded[places]
        y, tape = self.context.forward(x, lengths=lengths, training=training)
        cuts = np.cumsum([vector.shape[1] for vector in vectors])[:-1]
        return y, valid, (tapes, tape, (valid, places, len(forms), cuts))

    def backward(self, dy, tape):
        """Return the gradients of the four parts, for the gradient of the probabilities."""
        (words, shapes, spellings), context, (valid, places, count, cuts) = tape
        dx, gradients = self.context.backward(dy, context, need_dx=True)
        d = np.zeros((count, dx.shape[-1]), dx.dtype)
        np.add.at(d, places, dx[valid])
        d_words, d_shapes, d_spellings = np.split(d, cuts, axis=1)
        return [
            self.words.backward(d_words, words)[1],
            self.shapes.backward(d_shapes, shapes)[1],
            self.spellings.backward(d_spellings, spellings),
            gradients,
        ]

    def predict(self, corpus, batch_size=64):
        """Return the tags of each sentence, the best ones that follow each other as tags may."""
        found = [None] * len(corpus.sentences)
        order = np.argsort([len(sentence) for sentence in corpus.sentences], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            y, valid, _ = self.forward(corpus, rows)
            for i, row in enumerate(rows):
                found[row] = best_tags(y[i, valid[i]])
        return found

    def get_weights(self):
        return [part.get_weights() for part in self.parts]

    def set_weights(self, weights):
        for part, arrays in zip(self.parts, weights, strict=True):
            part.set_weights(arrays)


# %%
# A tag for every word by itself may say that a person's name goes on where none has begun. So the best of the sequences
# that are allowed is taken, by Viterbi's algorithm: I-person follows B-person or I-person.


def _goes_on(before, tag):
    return tag[0] != "I" or before in (f"B-{tag[2:]}", tag)


BARRED = np.array([[0.0 if _goes_on(before, tag) else -np.inf for tag in TAGS] for before in ("O", *TAGS)])


def best_tags(probabilities):
    """Return the most probable allowed tags, for probabilities (T, tags) of a sentence."""
    scores = np.log(np.maximum(probabilities, 1e-30))
    best, came = scores[0] + BARRED[0], []
    for row in scores[1:]:
        ways = best[:, None] + BARRED[1:]
        came.append(ways.argmax(axis=0))
        best = ways.max(axis=0) + row
    path = [int(best.argmax())]
    for step in reversed(came):
        path.append(int(step[path[-1]]))
    return [TAGS[i] for i in reversed(path)]


# %%
# Training
# --------
#
# What "balanced" means everywhere is one over the frequency of a class: then 400 words that are no name weigh as much
# as the one that begins a product. A power between 0, no weights, and 1 lies between the two.


def weights_of(labels, power):
    """Return the weight of each tag, (tags,): an equal share by the share that it has, to a power."""
    counts = np.bincount(np.concatenate(labels), minlength=len(TAGS))
    return (counts.sum() / len(TAGS) / np.maximum(counts, 1)) ** power


def train(tagger, corpus, development, power, report=None, name=""):
    """Train, and leave the weights of the epoch that was best on the development part; return its F1."""
    settings, weights = tagger.settings, weights_of(corpus.labels, power)
    loss = cgru.losses.get("sparse_categorical_crossentropy")
    updates = settings["epochs"] * -(-len(corpus.sentences) // settings["batch_size"])
    rate = cgru.schedules.CosineDecay(settings["learning_rate"], decay_steps=updates)
    optimizer = cgru.optimizers.Adam(rate, global_clipnorm=5.0)
    best, kept = -1.0, None
    for epoch in range(settings["epochs"]):
        begun, values = time.perf_counter(), []
        order = tagger.rng.permutation(len(corpus.sentences))
        for start in range(0, len(order), settings["batch_size"]):
            rows = order[start : start + settings["batch_size"]]
            y, valid, tape = tagger.forward(corpus, rows, training=True)
            labels = np.zeros(valid.shape, int)
            labels[valid] = np.concatenate([corpus.labels[i] for i in rows])
            values.append(loss(y, labels, valid, weights[labels]))
            dy = loss.gradient(y, labels, valid, weights[labels])
            optimizer.apply(tagger.parts, tagger.backward(dy, tape))
        precision, recall, f1 = (
            row[-1] for row in scores_of(counts_of(development.tags, tagger.predict(development)))
        )
        if f1 > best:
            best, kept = f1, tagger.get_weights()
        seconds = time.perf_counter() - begun
        print(
            f"{name}, epoch {epoch + 1}/{settings['epochs']}: loss {np.mean(values):.4f}, development precision "
            f"{precision:.1f}, recall {recall:.1f}, F1 {f1:.1f}; {seconds:.1f} s", flush=True,
        )  # fmt: skip
        if report is not None:
            report.curve(name, epoch=epoch + 1, loss=np.mean(values), precision=precision, recall=recall, f1=f1)
    tagger.set_weights(kept)
    return best


def draw_types(plt, figures):
    """Return a figure of the F1 of each type, a bar for each weighting, whose name gives F1 (seeds, types + 1)."""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    places, width = np.arange(len(TYPES) + 1), 0.8 / len(figures)
    for i, (name, f1) in enumerate(figures.items()):
        middle = places + (i - (len(figures) - 1) / 2) * width
        axes.bar(middle, f1.mean(axis=0), width * 0.95, yerr=f1.std(axis=0), label=name, error_kw={"lw": 1})
    axes.set_xticks(places, [*TYPES, "all together"])
    axes.set_ylabel("F1 of spans, test texts (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(title="class weights", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(f"mean and deviation of {len(f1)} seeds" if len(f1) > 1 else "one seed")
    return figure


# %%
# All of it
# ---------

if __name__ == "__main__":
    number = (("--seeds",), {"type": int, "default": 3, "choices": range(1, 11), "help": "runs of each kind"})
    about = "the folder of wnut17_train.conll, _dev and _test (default: a sample of them)"
    chosen = options(__doc__, data=about, more=[number])
    settings = SMALL if chosen.quick or chosen.data is None else SETTINGS
    seeds, powers = ([0], {"power 0.3": 0.3}) if chosen.quick else ([*range(chosen.seeds)], POWERS)
    parts = read_parts(chosen.data)
    if chosen.data is None:
        print("no --data: the sample of 200 sentences, which are too few to learn much from")
    elif chosen.quick:
        parts = [sentences[:300] for sentences in parts]
    lexicon = Lexicon(parts[0])
    corpus, development, test = (Corpus(lexicon, part) for part in parts)
    unseen = np.mean(test.words[np.concatenate(test.sentences)] == UNKNOWN)
    print(f"{' / '.join(str(len(part)) for part in parts)} sentences; {unseen:.0%} of the test's words were not seen")
    report = Report("named_entities", settings | {"powers": powers, "seeds": seeds, "sentences": [*map(len, parts)]})

    trained = {}
    for name, power in powers.items():
        for seed in seeds:
            tagger = Tagger(lexicon, settings, seed)
            best = train(tagger, corpus, development, power, report, f"weights {name}, seed {seed}")
            trained.setdefault(name, []).append((tagger, best))

# %%
# The test texts, once: what each of the weightings finds, all types together and one by one.
#
# With all texts and the first seed, F1 is 20.7 without weights: what is found is often right (precision 41), and little
# is found (recall 14). The power 0.3 moves precision to 28 and recall to 21, and F1 to 23.9. Balanced weights find
# hardly more (22), and nine of ten finds are wrong: F1 13.1. Persons and places are found best. Products hardly are.

if __name__ == "__main__":
    known = {"known": 41.9, "source": "best of the shared task, with vectors from outside; the last one 26.3"}
    known = {} if settings is SMALL else known
    figures, confusions = {}, {}
    print(f"\n{'test texts, %':14}{'weights':>12}{'precision':>11}{'recall':>8}{'F1':>7}")
    for name, runs in trained.items():
        counts = [counts_of(test.tags, tagger.predict(test)) for tagger, _ in runs]
        scores = np.array([scores_of(each) for each in counts])  # (seeds, 3, types + 1)
        figures[name], confusions[name] = scores[:, 2], sum(counts)
        for kind, row in zip([*TYPES, "all together"], scores.mean(axis=0).T, strict=True):
            print(f"{kind:14}{name:>12}{row[0]:11.1f}{row[1]:8.1f}{row[2]:7.1f}")
            report.curve("test", weights=name, type=kind, precision=row[0], recall=row[1], f1=row[2])
        report.add(f"weights {name}: F1 of the test texts", row[2], **known, unit="%")
        if len(runs) > 1:
            report.add(f"weights {name}: its deviation, {len(runs)} seeds", scores[:, 2, -1].std(ddof=1), unit="%")
        report.add(f"weights {name}: precision", row[0], unit="%")
        report.add(f"weights {name}: recall", row[1], unit="%")
        report.add(f"weights {name}: F1 of the development texts", np.mean([f1 for _, f1 in runs]), unit="%")
    print()
    report.print()
    report.save(chosen.json)

# %%
# Pictures: the F1 of each type, and what was taken for what by the weighting that was best on the development texts.

if __name__ == "__main__" and (plt := plotting()) is not None:
    picture(draw_types(plt, figures), chosen.pictures, "named_entities_types")
    best = max(trained, key=lambda name: np.mean([f1 for _, f1 in trained[name]]))
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    cgru.plot.confusion(confusions[best], [*TYPES, "nothing"], what="type of the span", ax=axes)
    axes.set_title(f"class weights: {best}; the spans of {len(seeds)} seed{'s' * (len(seeds) > 1)}")
    picture(figure, chosen.pictures, "named_entities_confusion")
