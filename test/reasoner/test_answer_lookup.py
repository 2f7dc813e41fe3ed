"""A guess follows the last answer, over changed, missing and added tokens."""

from cosmos3_ros.reasoner.answer_lookup import MOST_MISSES, AnswerLookup

LAST = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


def shown(*tokens):
    lookup = AnswerLookup(LAST)
    for token in tokens:
        lookup.see(token)
    return lookup


def test_guesses():
    assert shown(1, 2).guess(3) == [3, 4, 5]
    assert shown(1, 99).guess(3) == [3, 4, 5]  # one token is another
    assert shown(1, 2, 7, 8, 9).guess(2) == [10, 11]  # some are missing
    assert shown(1, 2, 70, 71, 3, 4, 5).guess(2) == [6, 7]  # some are new
    assert shown(*LAST[:14]).guess(3) == [] and shown(*LAST[:14]).guess(2) == [15, 16]


def test_what_is_nothing_like_it_is_not_guessed():
    lost = shown(*[99] * (MOST_MISSES + 1))
    lost._next = 0
    assert lost.guess(3) == []
    assert AnswerLookup(()).guess(3) == []
    for token in (5, 6, 7):
        lost.see(token)
    assert lost.guess(3) == [8, 9, 10]
