"""The data that ship: what they hold, that they are exact, and that a damaged file is noticed."""

import hashlib
import importlib.resources
import importlib.util
import re
import sys
from pathlib import Path

import checks
import numpy as np
import pytest

import cgru.datasets
from cgru.datasets import japanese_vowels, load_japanese_vowels

FOLDER = Path(japanese_vowels.__file__).parent
FILE = FOLDER / "japanese_vowels.npz"
TOOL = Path(__file__).parents[1] / "data" / "pack_japanese_vowels.py"


def test_contents():
    data = load_japanese_vowels()
    assert data._fields == ("x_train", "y_train", "x_test", "y_test")
    for x, y, counts, frames, longest in (
        (data.x_train, data.y_train, [30] * 9, 4274, 26),
        (data.x_test, data.y_test, [31, 35, 88, 44, 29, 24, 40, 50, 29], 5687, 29),
    ):
        assert all(u.dtype == np.float64 and u.shape[1:] == (12,) and u.flags.c_contiguous for u in x)
        lengths = [len(u) for u in x]
        assert (sum(lengths), min(lengths), max(lengths)) == (frames, 7, longest)
        assert y.dtype == np.intp and np.bincount(y).tolist() == counts and (np.diff(y) >= 0).all()
    assert len(data.x_train) == 270 and len(data.x_test) == 370


def test_values_are_those_of_the_text():
    # The beginnings and ends of the original files, as they stand there.
    data = load_japanese_vowels()
    assert data.x_train[0][:5, 0].tolist() == [1.860936, 1.891651, 1.939205, 1.717517, 1.741191]
    assert data.x_train[0][-3:, 1].tolist() == [-0.564878, -0.612291, -0.63835]
    assert data.x_train[0][2, 0] != np.float32(1.939205)
    values = np.concatenate(data.x_train + data.x_test)
    assert (values.min(), values.max()) == (-1.852765, 2.203141)
    millionths = np.rint(values * 1e6)
    assert (millionths / 1e6).tobytes() == values.tobytes()


def test_every_call_returns_new_arrays():
    first, second = load_japanese_vowels(), load_japanese_vowels()
    first.x_train[0][:] = 0
    first.y_test[:] = 0
    assert second.x_train[0].any() and second.y_test.any()


def test_size_licence_and_citation():
    assert FILE.stat().st_size < 320_000
    with np.load(FILE, allow_pickle=False) as file:
        assert all(array.dtype == np.uint8 for array in file.values())
    licence = (FOLDER / "japanese_vowels.LICENSE.txt").read_text(encoding="utf-8")
    for text in (licence, load_japanese_vowels.__doc__):
        words = " ".join(text.split())
        for fact in ("10.24432/C5NS47", "CC BY 4.0", "own page", "Kudo, J. Toyama and M. Shimbo (1999)", "1103-1111"):
            assert fact in words
    assert "Redistributions in binary form must reproduce" in licence and "The sktime developers" in licence


def test_pack_and_unpack(rng):
    values = rng.integers(-(2**23), 2**23, (5, 7))
    values[0, :3] = -(2**23), 2**23 - 1, 0
    planes = japanese_vowels.pack(values)
    assert planes.shape == (3, 5, 7) and planes.dtype == np.uint8
    assert (japanese_vowels.unpack(planes) == values).all()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of the data file that the loader reads instead."""
    copy = tmp_path / "japanese_vowels.npz"
    copy.write_bytes(FILE.read_bytes())
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    return copy


def test_a_whole_file_elsewhere_loads(elsewhere):
    assert len(load_japanese_vowels().x_test) == 370


def test_missing_file(elsewhere):
    elsewhere.unlink()
    with pytest.raises(OSError, match=re.escape("japanese_vowels.npz")):
        load_japanese_vowels()


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000, -1])
def test_truncated_file(elsewhere, size):
    elsewhere.write_bytes(elsewhere.read_bytes()[:size])
    with pytest.raises(ValueError, match=re.escape(f"{elsewhere}: damaged data file (its checksum is another)")):
        load_japanese_vowels()


def test_any_flipped_bit_is_noticed(elsewhere, rng):
    whole = elsewhere.read_bytes()
    for spot in (0, 50, len(whole) - 1, *rng.integers(0, len(whole), 20)):
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << int(rng.integers(8))
        elsewhere.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(f"{elsewhere}: damaged data file (its checksum is another)")):
            load_japanese_vowels()


def test_another_file(elsewhere):
    with np.load(FILE, allow_pickle=False) as file:
        arrays = dict(file)
    arrays["labels"][7] = 8
    np.savez_compressed(elsewhere, **arrays)
    with pytest.raises(ValueError, match=re.escape(f"{elsewhere}: damaged data file")):
        load_japanese_vowels()


# -- the packing tool


@pytest.fixture
def tool():
    specification = importlib.util.spec_from_file_location("pack_japanese_vowels", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def originals(folder):
    """The two original files, written again from the data."""
    data = load_japanese_vowels()
    paths = folder / "train.ts", folder / "test.ts"
    for path, x, y in zip(paths, (data.x_train, data.x_test), (data.y_train, data.y_test), strict=True):
        lines = ["#a comment", "@classLabel true 1 2 3", "@data"]
        for utterance, label in zip(x, y, strict=True):
            channels = [",".join(map(repr, channel.tolist())) for channel in utterance.T]
            lines.append(":".join([*channels, str(label + 1)]))
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return paths


def test_the_tool_makes_the_shipped_file_again(tool, tmp_path, monkeypatch, capsys):
    train, test = originals(tmp_path)
    output = tmp_path / "again.npz"
    monkeypatch.setattr(sys, "argv", ["pack", str(train), str(test), "--output", str(output)])
    tool.main()
    assert f"sha256 {hashlib.sha256(output.read_bytes()).hexdigest()}" in capsys.readouterr().out
    # Not its bytes: another zlib may deflate in another way.
    with np.load(output, allow_pickle=False) as made, np.load(FILE, allow_pickle=False) as shipped:
        checks.assert_same_arrays(dict(made), dict(shipped))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.860936", 1860936), ("-0.5", -500000), ("-3.45E-4", -345), ("0", 0), ("2.2031410", 2203141)],
)
def test_millionths(tool, text, expected):
    assert tool.millionths(text) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.860936", "1.8609361", "'1.8609361': expected a number with at most six decimals"),
        ("1.860936", "8.4", "'8.4': too large for three bytes"),
        (",1.891651", "", "expected 12 channels of one length"),
        ("1.860936", "-0.0", "the round trip is not exact"),
        ("1.860936", "1.86093X", "'1.86093X': expected a number"),
        ("1.860936", "nan", "'nan': expected a number"),
    ],
)
def test_the_tool_refuses(tool, tmp_path, monkeypatch, old, new, message):
    train, test = originals(tmp_path)
    text = train.read_text(encoding="ascii")
    assert text.count(old) >= 1
    train.write_text(text.replace(old, new, 1), encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["pack", str(train), str(test), "--output", str(tmp_path / "again.npz")])
    with pytest.raises(SystemExit, match=re.escape(message)):
        tool.main()


def test_public_names():
    assert cgru.datasets.__all__ == ["JapaneseVowels", "load_japanese_vowels"]
