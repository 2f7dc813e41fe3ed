"""The one error of this package."""

from ..contracts import ContractError


class RobotError(ContractError):
    """A robot description, profile or limit file that cannot be used. The text says what to change."""
