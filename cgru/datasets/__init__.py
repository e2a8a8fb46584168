"""Small real data sets that ship with the package, and their loaders."""

from cgru.datasets.japanese_vowels import JapaneseVowels, load_japanese_vowels

__all__ = ["JapaneseVowels", "load_japanese_vowels"]
