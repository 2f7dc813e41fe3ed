"""Yes or no, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to a request.

    :param accepted: Whether it was done.
    :param reason: If not, one sentence with the numbers; if so, what should be known, or empty.
    """

    accepted: bool
    reason: str
