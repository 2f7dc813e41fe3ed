"""Sees an answer grow and says when it is over."""

from collections.abc import Callable
from typing import Any

from .answer_end import answer_is_complete
from .deadline import Deadline
from .questions import Question


class AnswerWatch:
    """Sees each token as it is written; says when to stop and remembers when the first one came.

    :param tokenizer: Of the model that writes.
    :param ends: Tokens with which the model itself ends an answer.
    :param clock_s: Monotonic seconds.
    :param deadline: When it is over, so is the answer.
    """

    def __init__(
        self, tokenizer: Any, question: Question, ends: frozenset[int], clock_s: Callable[[], float],
        deadline: Deadline | None = None,
    ) -> None:
        self._tokenizer, self._question, self._ends, self._clock_s = tokenizer, question, ends, clock_s
        self._deadline = deadline
        self.tokens: list[int] = []
        self.first_token_s = 0.0
        self.finish = 'length'

    def see(self, token: int) -> bool:
        """Take one token; true if it is the last one."""
        if not self.tokens:
            self.first_token_s = self._clock_s()
        self.tokens.append(token)
        if token in self._ends:
            self.finish = 'stop'
        elif self._closes(token) and answer_is_complete(self._question.answer, self.text()):
            self.finish = 'json'
        elif self._deadline is not None and self._deadline.over:
            self.finish = 'late'
        return self.finish != 'length' or len(self.tokens) >= self._question.max_new_tokens

    def _closes(self, token: int) -> bool:
        if not self._question.wants_json:
            return False
        written = self._tokenizer.decode([token])
        return '}' in written or ']' in written

    def text(self) -> str:
        """Return what is written so far, without control tokens."""
        return str(self._tokenizer.decode(self.tokens, skip_special_tokens=True))
