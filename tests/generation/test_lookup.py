"""Guesses from the text itself."""

from gpt2lab.generation.lookup import Lookup


def test_nothing_repeats():
    assert Lookup().guess(range(50), 11) == []
    assert Lookup().guess([], 11) == []
    assert Lookup().guess([7], 11) == []


def test_two_tokens_and_two_more_for_each_it_foretold():
    song = [1, 2, 3, 4, 5, 6, 7, 8]
    one = Lookup()
    assert one.guess([*song, 1, 2], 11) == [3, 4]
    assert one.guess([*song, 1, 2, 3], 11) == [4, 5, 6, 7]
    assert one.guess([*song, 1, 2, 3, 4, 5], 11) == [6, 7, 8, 1, 2, 3, 4, 5]
    assert one.guess([*song, 1, 2, 3, 4, 5, 6], 3) == [7, 8, 1]
    # After a surprise it begins anew.
    assert one.guess([*song, 1, 2, 3, 4, 5, 6, 9, 1, 2], 11) == [3, 4]


def test_the_longest_repetition_counts():
    before = [1, 2, 3, 4, 5, 50, 9, 9, 4, 5, 60, 8, 8]
    assert Lookup().guess([*before, 4, 5], 1) == [60]
    assert Lookup().guess([*before, 1, 2, 3, 4, 5], 1) == [50]
