"""Errors of the engine package."""


class EngineError(RuntimeError):
    """An engine cannot be exported, built or run. The text says why and what to change."""


class EngineRefusedError(EngineError):
    """A plan exists and must not be used here. The text names the reason and the command to rebuild."""
