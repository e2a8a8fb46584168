"""
Text, character by character
============================

A model that says with which probability each character comes next has learnt something of spelling, words and layout,
and writes new text when its own characters are handed back to it. This one reads the help texts of Python's reference
manual, ``pydoc_data.topics``, which come with Python. They are one sequence of some hundred thousand steps, too long
for the gradient of a whole: training makes an update for every hundred steps of each of sixteen streams, the state goes
on and the gradients stay (truncated backpropagation, ``fit(..., chunk=100)``).

What counts is how many bits a character of unseen text costs: the mean of -log2 of the probability of the true one. The
last tenth of the text is for the test, the tenth before it says when to stop. The texts repeat themselves: "if" says
what "compound" says. A paragraph that has been there before is left out, or the test part would be easy to say by
heart. The goal is 2.0 bits. Beside it stands what bzip2 and xz need for the test part when they have seen all that is
before it. They go on learning while they read, and find again what was said a moment ago; the model learns no more.

::

    python text_generation.py                  three minutes of one thread
    python text_generation.py --data FILE      another text, UTF-8
    python text_generation.py --quick          a text of known entropy, drawn by chance: does it run?

How long the text is depends on the version of Python: 3.11 has 377,000 characters, without repetitions.
"""

import bz2
import importlib.util
import lzma
from typing import NamedTuple

import numpy as np
import reporting

import cgru

SEED = 0
GOAL = 2.0  # bits a character
SEVERAL = (0.5, 0.8, 1.1)  # temperatures


class Setting(NamedTuple):
    """How the model is trained; by the development part."""

    embedding: int
    units: int
    dropout: float  # of the outputs of the GRU
    rate: float  # of learning, times 0.3 after two epochs that were not better
    streams: int
    chunk: int  # steps for an update
    epochs: int


FULL = Setting(64, 384, 0.4, 2e-3, 16, 100, 20)
SMALL = Setting(16, 64, 0.0, 1e-2, 16, 50, 12)


# %%
# The text
# --------


def without_repetitions(texts, shortest=40):
    """The paragraphs of all texts in one; of those that are the same but for line ends and spaces, and that are not
    very short, the first."""
    seen, kept = set(), []
    for text in texts:
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) < shortest or words not in seen:
                kept.append(paragraph)
            seen.add(words)
    return "\n\n".join(kept)


def topics():
    """The texts of pydoc_data.topics; ValueError if this Python lacks them."""
    if importlib.util.find_spec("pydoc_data.topics") is None:
        raise ValueError("this Python comes without pydoc_data.topics: give a text by --data FILE")
    from pydoc_data.topics import topics

    return list(topics.values())


def read(path):
    """The text in a file; ValueError if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"argument --data: expected a file of text in UTF-8, got {path}: {error}") from None


def split(text):
    """Return (to train with, development, test): the last two are a tenth each."""
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return text[:first], text[first:second], text[second:]


class Characters:
    """Characters as ids: 0 is any that `text` does not have."""

    def __init__(self, text):
        self.known = sorted(set(text))
        self.size = 1 + len(self.known)
        self._ids = {character: i for i, character in enumerate(self.known, start=1)}

    def ids(self, text):
        """(T,) integers."""
        return np.array([self._ids.get(character, 0) for character in text])

    def text(self, ids):
        """What they say."""
        return "".join(self.known[i - 1] if i else "\ufffd" for i in ids)


def streams(ids, count):
    """Return what `count` streams read and what they are to say, (count, steps) each; stream i goes on where stream
    i - 1 ends, and what does not fill all of them is left out."""
    steps = (len(ids) - 1) // count
    return ids[: count * steps].reshape(count, steps), ids[1 : count * steps + 1].reshape(count, steps)


# %%
# A text with a known answer
# --------------------------
# Which letter comes depends on the last two: each pair is followed by one of four, with shares of a half, a quarter and
# twice an eighth. That makes 1.75 bits a character, and nobody can do better.

SHARES = np.array([0.5, 0.25, 0.125, 0.125])


def drawn_text(length, rng, letters="abcde "):
    """A text in which each letter follows from the last two, and costs 1.75 bits."""
    follow = rng.permuted(np.broadcast_to(np.arange(len(letters)), (len(letters),) * 3), axis=2)[..., : len(SHARES)]
    chosen, said = rng.choice(len(SHARES), length, p=SHARES), [0, 1]
    for i in chosen:
        said.append(int(follow[said[-2], said[-1], i]))
    return "".join(letters[i] for i in said[2:])


def entropy_of_drawn():
    """Bits a character."""
    return float(-(SHARES * np.log2(SHARES)).sum())


# %%
# The model
# ---------


def bits(y_true, y_pred):
    """Bits a character, the loss divided by log(2): a metric of `fit`, and the mean of `bits_of`."""
    return float(_bits(y_pred, y_true).mean())


def _bits(p, ids):
    return -np.log2(np.maximum(p[np.arange(len(p)), ids], np.finfo(p.dtype).tiny), dtype=float)


def network(characters, setting):
    """The model, compiled."""
    layers = [
        cgru.Embedding(characters.size, setting.embedding),
        cgru.GRU(setting.units, return_sequences=True),
        cgru.Dropout(setting.dropout),
        cgru.Dense(characters.size, activation="softmax"),
    ]
    model = cgru.Sequential(layers, seed=SEED)
    optimizer = cgru.optimizers.Adam(setting.rate, global_clipnorm=1.0)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=[bits])
    return model


def train(model, train_ids, dev_ids, setting):
    """Train to the best epoch; return rows (bits in training, bits of the development part), one an epoch."""
    x, y = streams(train_ids, setting.streams)
    history = model.fit(
        x, y, epochs=setting.epochs, batch_size=setting.streams, chunk=setting.chunk, shuffle=False,
        validation_data=streams(dev_ids, 1),
        callbacks=[
            cgru.callbacks.ReduceLROnPlateau("val_loss", factor=0.3, patience=2),
            cgru.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True),
        ],
    )  # fmt: skip
    found = history.history
    return [tuple(np.array(row) / np.log(2)) for row in zip(found["loss"], found["val_loss"], strict=True)]


def bits_of(model, ids):
    """Bits of each character but the first, (T - 1,)."""
    return _bits(model.predict(ids[None, :-1])[0], ids[1:])


def packed_bits(text, held):
    """Bits a character of `held` for two packers that have read `text` before it, dict name -> bits."""
    ways = {"bzip2": lambda b: bz2.compress(b, 9), "xz": lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME)}
    both, alone = (text + held).encode(), text.encode()
    return {name: 8 * (len(pack(both)) - len(pack(alone))) / len(held) for name, pack in ways.items()}


# %%
# Writing
# -------
# A temperature below 1 makes what is probable more probable: the probabilities to the power of its inverse.


def write(model, begin, steps, temperature, rng):
    """Return ids (steps,) that go on from `begin` (T,): each is drawn, and is what the model reads next."""
    state, written = None, []
    for i in begin:
        p, state = model.step(np.array([i]), state)
    for _ in range(steps):
        weights = np.exp(np.log(np.maximum(p[0], 1e-30), dtype=float) / temperature)
        weights[0] = 0  # what is no character
        written.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        p, state = model.step(np.array([written[-1]]), state)
    return np.array(written)


# %%
# Pictures
# --------


def draw_curve(plt, rows, known, label):
    """A figure of bits a character by epoch."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    epochs = 1 + np.arange(len(rows))
    for values, name, style in zip(np.transpose(rows), ("training (dropout on)", "development"), ":-", strict=True):
        axes.plot(epochs, values, style, marker=".", color="#0072B2", label=name)
    axes.axhline(known, color="grey", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="epoch", ylabel="bits a character")
    axes.legend()
    return figure


def draw_surprise(plt, text, bits, width=74):
    """A figure of a passage, each character on a ground that says how many bits it cost."""
    lines = [[]]
    for character, cost in zip(text, bits, strict=True):
        lines[-1].append(("\u21b5" if character == "\n" else character, cost))
        if character == "\n" or len(lines[-1]) == width:
            lines.append([])
    grid = np.full((len(lines), width), np.nan)
    for row, line in enumerate(lines):
        grid[row, : len(line)] = [cost for _, cost in line]
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.24 * len(lines)), layout="constrained")
    image = axes.imshow(grid, cmap="YlOrRd", vmin=0, vmax=8, aspect="auto", interpolation="nearest")
    for row, line in enumerate(lines):
        for column, (character, cost) in enumerate(line):
            colour = "white" if cost > 6 else "black"
            axes.text(column, row, character, ha="center", va="center", family="monospace", fontsize=8, color=colour)
    axes.set_axis_off()
    figure.colorbar(image, ax=axes, label="bits", extend="max", pad=0.01)
    return figure


# %%
# The run
# -------


def text_of(chosen):
    """Return (text, what it is, bits that are known, whose)."""
    if chosen.data is not None:
        return without_repetitions([read(chosen.data)]), chosen.data.name, None, ""
    if chosen.quick:
        print("--quick: the text is drawn by chance, and has a known entropy")
        text = drawn_text(40_000, np.random.default_rng(SEED))
        return text, "drawn", entropy_of_drawn(), "exact: entropy of the source"
    return without_repetitions(topics()), "pydoc_data.topics", GOAL, "goal"


if __name__ == "__main__":
    chosen = reporting.options(__doc__, "a file of text instead of Python's help texts")
    try:
        text, name, known, source = text_of(chosen)
        if len(text) < 10_000:
            raise ValueError(f"argument --data: expected a text of at least 10,000 characters, got {len(text):,}")
    except ValueError as error:
        raise SystemExit(str(error)) from None
    parts = split(text)
    characters = Characters(parts[0])
    train_ids, dev_ids, test_ids = (characters.ids(part) for part in parts)
    print(f"{name}: {len(text):,} characters; to train with {len(train_ids):,}, {characters.size - 1} different ones")
    setting = SMALL if chosen.quick else FULL
    report = reporting.Report("text_generation", setting._asdict() | {"text": name, "characters": len(text)})
    model = network(characters, setting)
    rows = train(model, train_ids, dev_ids, setting)
    for epoch, (train_bits, dev_bits) in enumerate(rows, start=1):
        report.curve("training", epoch=epoch, bits=train_bits, dev_bits=dev_bits)
    costs = bits_of(model, test_ids)
    report.add("bits a character, test part", costs.mean(), known, source, digits=3)
    report.add("bits a character, development part", min(dev for _, dev in rows), digits=3)
    for packer, value in packed_bits(parts[0] + parts[1], parts[2]).items():
        report.add(f"the same for {packer}, test part", value, digits=3)

# %%
# What it writes, at three temperatures, after the first words of the test part:

if __name__ == "__main__":
    begin = parts[2][:60]
    samples = {}
    for temperature in SEVERAL:
        ids = write(model, characters.ids(begin), 400, temperature, np.random.default_rng(SEED))
        samples[temperature] = characters.text(ids)
        print(f"\n-- temperature {temperature}\n{begin}|{samples[temperature]}")
    report.settings["samples"] = {"begin": begin, **{str(t): sample for t, sample in samples.items()}}
    print()
    report.print()
    report.save(chosen.json)

# %%
# What it finds hard: beginnings of words, and names. What follows is cheap.

if __name__ == "__main__" and (plt := reporting.plotting()) is not None:
    label = source or "goal for Python's help texts"
    reporting.picture(draw_curve(plt, rows, known or GOAL, label), chosen.pictures, "text_generation_curve")
    shown = slice(2000, 2900)
    figure = draw_surprise(plt, parts[2][1:][shown], costs[shown])
    reporting.picture(figure, chosen.pictures, "text_generation_surprise")
