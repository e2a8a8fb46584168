"""
Dates into ISO form: the published encoder-decoder, mended
==========================================================

It turns dates as people write them into ISO form. The text that this library implements shows a sequence-to-sequence
model for Keras: batches of 64, embeddings of 256, GRUs of 512 units, adam, sparse categorical cross-entropy, accuracy.
As printed it cannot run. What was mended, and why:

* The state. The encoder's result is unpacked into outputs and state, but ``return_state`` is not set, and nothing hands
  the state to the decoder, which would start from zeros and know nothing of the source. `cgru.Seq2Seq` hands it over,
  and checks that the sizes fit.
* An output at each step. The decoder gives one vector for a whole sequence of labels. It has ``return_sequences=True``.
* Tokens for the encoder. It reads vectors of 256 that nothing makes. An embedding makes them from characters.
* The vocabulary. Its size is not given. Here it is counted: the characters of either side, and three ids for padding,
  start and end.
* Shift, start and end. Nothing says what the decoder reads while it learns, where it starts and when it stops. It reads
  start and the target, and learns to say the target and end: `Seq2Seq` adds and shifts them.
* Padding. Sequences have lengths, which nothing mentions: padding would be read, and would count in loss and accuracy.
  Lists of arrays bring their lengths, and padding is not read.
* Generation. The model is trained and never used: a decoder that reads its own output needs a loop, `generate`.

The printed layer has no recurrent product either: its gates are dense layers of the input alone, and the reset gate is
computed and not used. `cgru.GRU` is what the equations of the text say, with the reset before the product.

::

    python published_seq2seq.py                       four minutes on two cores: 96 of 100 new dates are right
    python published_seq2seq.py --attention general   the same, with attention over the source
    python published_seq2seq.py --quick               small sizes and few dates: does it run?
"""

import datetime

import numpy as np
import reporting

import cgru

BATCH, EMBEDDING, UNITS = 64, 256, 512  # as published
PAD, START, END, FIRST = 0, 1, 2, 3  # ids; those of characters begin with FIRST
MONTHS = "January February March April May June July August September October November December".split()
ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
STYLES = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{day}{ending} of {month} {year}",
    "the {day}{ending} of {month}, {year}",
    "{weekday}, {day} {short} {year}",
    "{short} {day} {year}",
    "{day}.{number}.{year}",
    "{number}/{day}/{year}",
    "{day} {short} '{two}",
)

# %%
# Dates, as people write them
# ---------------------------


def written(date, style):
    """A date in one of `STYLES`."""
    month = MONTHS[date.month - 1]
    return style.format(
        day=date.day, month=month, short=month[:3], number=date.month, year=date.year, two=f"{date.year % 100:02}",
        weekday=date.strftime("%A"), ending=ENDINGS.get(date.day, "th"),
    )  # fmt: skip


def corpus(count, seed=0):
    """(texts, ISO dates): `count` different texts of days from 1950 to 2049, in an order that the seed gives."""
    rng = np.random.default_rng(seed)
    first = datetime.date(1950, 1, 1).toordinal()
    last = datetime.date(2049, 12, 31).toordinal()
    found = {}
    while len(found) < count:
        date = datetime.date.fromordinal(int(rng.integers(first, last + 1)))
        found[written(date, STYLES[rng.integers(len(STYLES))])] = date.isoformat()
    return list(found), list(found.values())


# %%
# Characters as ids
# -----------------


class Characters:
    """Texts as ids and back."""

    def __init__(self, texts):
        self.known = sorted(set("".join(texts)))
        self.size = FIRST + len(self.known)
        self._ids = {character: FIRST + i for i, character in enumerate(self.known)}

    def ids(self, texts):
        """A list of integer arrays."""
        return [np.array([self._ids[character] for character in text]) for text in texts]

    def texts(self, rows):
        """What such a list says."""
        return ["".join(self.known[i - FIRST] if i >= FIRST else "?" for i in row) for row in rows]


# %%
# The model
# ---------


def published_model(source_size, target_size, embedding=EMBEDDING, units=UNITS, attention=None):
    """The encoder-decoder of the text."""
    encoder = cgru.Sequential([
        cgru.Embedding(source_size, embedding), cgru.GRU(units, return_sequences=attention is not None),
    ])  # fmt: skip
    decoder = cgru.Sequential([
        cgru.Embedding(target_size, embedding),
        cgru.GRU(units, return_sequences=True),
        cgru.Dense(target_size, activation="softmax"),
    ])
    model = cgru.Seq2Seq(encoder, decoder, attention=attention, start=START, end=END, seed=0)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %%
# Training
# --------

if __name__ == "__main__":
    chosen = reporting.options(
        __doc__,
        more=[
            (["--dates"], {"type": int, "help": "how many to train with; without it 10000, or 3200 when quick"}),
            (["--epochs"], {"type": int, "help": "without it 6, or 12 when quick"}),
            (["--attention"], {"choices": ["dot", "general", "additive"], "help": "over the source"}),
        ],
    )
    count = chosen.dates or (3200 if chosen.quick else 10000)
    epochs = chosen.epochs or (12 if chosen.quick else 6)
    sizes = {"embedding": 32, "units": 64} if chosen.quick else {}
    held = max(1, count // 10)
    settings = {"quick": chosen.quick, "dates": count, "epochs": epochs, "attention": chosen.attention, **sizes}
    report = reporting.Report("published_seq2seq", settings)
    texts, dates = corpus(count + held)
    read, said = Characters(texts), Characters(dates)
    source, target = read.ids(texts), said.ids(dates)
    model = published_model(read.size, said.size, attention=chosen.attention, **sizes)
    history = model.fit(
        source[:count], target[:count], batch_size=BATCH, epochs=epochs,
        validation_data=(source[count:], target[count:]),
    )  # fmt: skip
    model.summary()

# %%
# What it says of dates that it has not seen
# ------------------------------------------

if __name__ == "__main__":
    found = said.texts(model.generate(source[count:], max_length=12))
    right = sum(a == b for a, b in zip(found, dates[count:], strict=True))
    for text, date, expected in list(zip(texts[count:], found, dates[count:], strict=True))[:8]:
        print(f"{text:<32} {date:<12}{'' if date == expected else f' instead of {expected}'}")
    beams = said.texts(model.generate(source[count : count + 64], max_length=12, beam=4))
    changed = sum(a != b for a, b in zip(beams, found, strict=False))
    for epoch, columns in enumerate(zip(*history.history.values(), strict=True), 1):
        report.curve("training", epoch=epoch, **dict(zip(history.history, columns, strict=True)))
    report.add(f"right of {held} new dates", 100 * right / held, unit="%", digits=1)
    report.add(f"changed by a beam of 4, of {len(beams)}", changed, digits=0)
    report.print()
    report.save(chosen.json)

# %%
# How it learned
# --------------

if __name__ == "__main__" and (plt := reporting.plotting()):
    figure, axes = plt.subplots(figsize=(6, 4))
    shown = range(1, epochs + 1)
    axes.plot(shown, [100 * value for value in history.history["accuracy"]], label="training")
    axes.plot(shown, [100 * value for value in history.history["val_accuracy"]], label="new dates")
    axes.set(xlabel="epoch", ylabel="characters that are right (%)")
    axes.legend()
    reporting.picture(figure, chosen.pictures, "published_seq2seq")
