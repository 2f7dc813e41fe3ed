"""Writes an answer on a CPU, token by token or, where the last answer tells what may come, some at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..model.host_trace import HostTrace
from ..resources import require
from .answer_lookup import AnswerLookup
from .decoder_state import KeyValues
from .language_weights import LanguageWeights
from .plain_math import PlainMath, Turn

CHECKED = 8
"""Tokens in one pass that checks a guess: on a CPU it takes about a third longer than one token's."""


class HostWriter:
    """Steps of a static cache, recorded.

    :param math: How a layer is computed.
    :param lookup: Guess that an answer goes on as the last one of its lane did, and check :data:`CHECKED`
        tokens in one pass. The same tokens, to float32's rounding.
    """

    def __init__(self, weights: LanguageWeights, math: PlainMath, lookup: bool) -> None:
        self._torch = require('torch', 'model')
        self._weights, self._math, self._lookup = weights, math, lookup
        self._answers: dict[int, list[int]] = {}

    def write(self, cache: KeyValues, most: int, lane: int) -> Iterator[int]:
        """Yield up to ``most`` tokens less the first one, which the cache holds."""
        written = [int(cache.token)]
        lookup = AnswerLookup(self._answers.get(lane, ()) if self._lookup else ())
        lookup.see(written[0])
        try:
            while len(written) < most:
                guess = lookup.guess(CHECKED - 1) if most - len(written) >= CHECKED else []
                for token in self.check(cache, guess) if guess else self.step(cache):
                    written.append(token)
                    lookup.see(token)
                    yield token
        finally:
            self._answers[lane] = written

    def step(self, cache: KeyValues) -> list[int]:
        """Append the newest token to the cache; return the next."""
        cache.trace = cache.trace or HostTrace(partial(self._run, 1, cache.turn.slots))
        return self._keep(cache, cache.trace, cache.token, [])

    def check(self, cache: KeyValues, guess: list[int]) -> list[int]:
        """Append the newest token and what is right of ``guess``; return what is right, and the next.

        :param guess: :data:`CHECKED` - 1 tokens that may follow.
        """
        cache.check = cache.check or HostTrace(partial(self._run, CHECKED, cache.turn.slots))
        tokens = self._torch.cat([cache.token, self._torch.tensor(guess)])
        return self._keep(cache, cache.check, tokens, guess)

    def _keep(self, cache: KeyValues, trace: HostTrace, tokens: Any, guess: list[int]) -> list[int]:
        turn = cache.turn
        chosen: list[int] = trace.run(
            cache.keys, cache.values, tokens, turn.start, turn.step, turn.cos, turn.sin)[0].tolist()
        right = 0
        while right < len(guess) and guess[right] == chosen[right]:
            right += 1
        # Behind them the cache holds what was guessed wrong, until it is written again.
        cache.token.fill_(chosen[right])
        turn.step.add_(right + 1)
        return chosen[:right + 1]

    def _run(
        self, count: int, slots: Any, keys: Any, values: Any, tokens: Any, start: Any, step: Any, cos: Any,
        sin: Any,
    ) -> tuple[Any, ...]:
        """Put ``count`` tokens into the cache; return the most probable one after each."""
        turn = Turn(start, step, cos, sin, slots).on_host(count)
        x = self._torch.nn.functional.embedding(tokens, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            x = self._math.step(x, layer, keys[index], values[index], turn)
        return (self._math.choose(x),)
