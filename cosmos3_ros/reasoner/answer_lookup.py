"""Guesses how an answer goes on: as the last one did.

Two scene reports a second apart differ in a few numbers. A guess costs nothing; the decoder checks several
guessed tokens in one pass over the weights, and keeps those that it would have chosen itself.
"""

from collections.abc import Sequence

GRAM = 3
"""So many equal tokens in a row tell where in the last answer the present one is."""

MOST_MISSES = 12
"""After so many tokens in a row that were guessed wrong there is no guess until the place is found again."""


class AnswerLookup:
    """Follows an answer along the one before it.

    :param previous: Tokens of the last answer to such a question.
    """

    def __init__(self, previous: Sequence[int]) -> None:
        self._previous = list(previous)
        self._places: dict[tuple[int, ...], list[int]] = {}
        for end in range(GRAM, len(self._previous) + 1):
            self._places.setdefault(tuple(self._previous[end - GRAM:end]), []).append(end)
        self._newest: tuple[int, ...] = ()
        self._next, self._misses = 0, 0

    def see(self, token: int) -> None:
        """Take the token that was written."""
        self._newest = (*self._newest, token)[-GRAM:]
        expected = self._previous[self._next:self._next + 1]
        self._next += 1
        if expected == [token]:
            self._misses = 0
            return
        self._misses += 1
        places = self._places.get(self._newest)
        if places is not None:  # the nearest: the same words stand in an answer more than once
            self._next = min(places, key=lambda place: abs(place - self._next))
            self._misses = 0

    def guess(self, count: int) -> list[int]:
        """Return the ``count`` tokens that may come next, or nothing."""
        if self._misses > MOST_MISSES:
            return []
        tokens = self._previous[self._next:self._next + count]
        return tokens if len(tokens) == count else []
