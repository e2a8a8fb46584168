"""Make cgru/datasets/japanese_vowels.npz from the two original files.

    python tests/data/pack_japanese_vowels.py japanese_vowels_train.ts japanese_vowels_test.ts [--output FILE.npz]

Needs cgru installed. Every value is checked to have at most six decimals, and the file that was written is read again
and compared with float(text), value by value. Prints the checksum that cgru/datasets/japanese_vowels.py must hold.
"""

import argparse
import decimal
import hashlib
import pathlib

import numpy as np

from cgru.datasets.japanese_vowels import pack, unpack

_CHANNELS = 12


def read(path):
    """Return (list of utterances, each a list of 12 lists of number texts; list of labels 1 to 9)."""
    utterances, labels = [], []
    with open(path, encoding="ascii") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line[0] in "#@":
            continue
        *channels, label = line.split(":")
        utterance = [channel.split(",") for channel in channels]
        if len(utterance) != _CHANNELS or len({len(channel) for channel in utterance}) != 1:
            raise SystemExit(f"{path}:{number}: expected {_CHANNELS} channels of one length")
        utterances.append(utterance)
        labels.append(int(label))
    return utterances, labels


def millionths(text):
    """Return the number that `text` shows, in millionths; SystemExit if that is not exact."""
    try:
        value = decimal.Decimal(text) * 10**6
    except decimal.InvalidOperation:
        raise SystemExit(f"{text!r}: expected a number") from None
    if not value.is_finite() or value != int(value):
        raise SystemExit(f"{text!r}: expected a number with at most six decimals")
    if abs(value) >= 1 << 23:
        raise SystemExit(f"{text!r}: too large for three bytes")
    return int(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="the original training file, .ts")
    parser.add_argument("test", help="the original test file, .ts")
    default = pathlib.Path(__file__).parents[2] / "cgru" / "datasets" / "japanese_vowels.npz"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    arguments = parser.parse_args()

    (train, train_labels), (test, test_labels) = read(arguments.train), read(arguments.test)
    utterances = train + test
    texts = [[text for utterance in utterances for text in utterance[c]] for c in range(_CHANNELS)]  # (12, frames)
    planes = pack(np.array([[millionths(text) for text in row] for row in texts]))
    lengths = np.array([len(utterance[0]) for utterance in utterances], np.uint8)
    labels = np.array(train_labels + test_labels, np.uint8) - np.uint8(1)
    np.savez_compressed(arguments.output, planes=planes, lengths=lengths, labels=labels)

    with np.load(arguments.output, allow_pickle=False) as file:
        written = file["planes"]
    # Bit patterns: -0.0 and 0.0 are equal, but not the same.
    wanted = np.array([[float(text) for text in row] for row in texts])
    if (unpack(written) / 1e6).tobytes() != wanted.tobytes():
        raise SystemExit("the round trip is not exact")
    raw = arguments.output.read_bytes()
    print(f"{arguments.output}: {len(raw)} bytes, {len(train)} + {len(test)} utterances")
    print(f"sha256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    main()
