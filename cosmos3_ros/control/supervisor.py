"""The controller's modes and its latched stop reason."""

from cosmos3_ros.contracts import ControllerMode, StopReason

from .verdict import Verdict

ACCEPTED = Verdict(True, '')

MOVING = (ControllerMode.RUNNING, ControllerMode.STOPPING)
PLANNING = (ControllerMode.SHADOW, ControllerMode.RUNNING, ControllerMode.STOPPING)


class Supervisor:
    """Which transitions exist; what they need is the controller's business.

    UNCONFIGURED -configure-> INACTIVE -start_shadow-> SHADOW -arm-> RUNNING -stop-> STOPPING
    -standstill-> STOPPED -reset-> INACTIVE. ``arm`` also leaves INACTIVE; ``disarm`` brakes a running
    arm and ends in INACTIVE without a latched reason. The first stop reason stays until the reset.
    """

    def __init__(self) -> None:
        self._mode = ControllerMode.UNCONFIGURED
        self._configured = False
        self._reason = StopReason.NONE
        self._detail = ''

    @property
    def mode(self) -> ControllerMode:
        """Present mode."""
        return self._mode

    @property
    def reason(self) -> StopReason:
        """Latched stop reason, NONE without one."""
        return self._reason

    @property
    def detail(self) -> str:
        """The numbers behind the reason."""
        return self._detail

    def configure(self) -> None:
        """Leave UNCONFIGURED; a stop that came before stays latched."""
        self._configured = True
        if self._mode is ControllerMode.UNCONFIGURED:
            self._mode = ControllerMode.INACTIVE

    def start_shadow(self) -> Verdict:
        """INACTIVE to SHADOW."""
        return self._go('shadow', (ControllerMode.INACTIVE,), ControllerMode.SHADOW)

    def arm(self) -> Verdict:
        """INACTIVE or SHADOW to RUNNING."""
        return self._go(
            'arm', (ControllerMode.INACTIVE, ControllerMode.SHADOW), ControllerMode.RUNNING)

    def disarm(self) -> Verdict:
        """SHADOW to INACTIVE at once, RUNNING by way of a brake that latches nothing."""
        if self._mode in (ControllerMode.INACTIVE, ControllerMode.SHADOW):
            self._mode = ControllerMode.INACTIVE
            return ACCEPTED
        if self._mode is ControllerMode.STOPPING and self._reason is StopReason.NONE:
            return ACCEPTED
        return self._go('disarm', (ControllerMode.RUNNING,), ControllerMode.STOPPING)

    def stop(self, reason: StopReason, detail: str) -> bool:
        """Latch ``reason`` unless one is latched; return whether it was the first."""
        if reason is StopReason.NONE:
            reason, detail = StopReason.INTERNAL_ERROR, f'a stop without a reason: {detail}'
        first = self._reason is StopReason.NONE
        if first:
            self._reason, self._detail = reason, detail
        if self._mode is ControllerMode.RUNNING:
            self._mode = ControllerMode.STOPPING
        elif self._mode is not ControllerMode.STOPPING:
            # Nothing moves in the other modes.
            self._mode = ControllerMode.STOPPED
        return first

    def standstill(self) -> None:
        """The brake has ended: STOPPING to STOPPED, or to INACTIVE after a disarm."""
        if self._mode is ControllerMode.STOPPING:
            latched = self._reason is not StopReason.NONE
            self._mode = ControllerMode.STOPPED if latched else ControllerMode.INACTIVE

    def reset(self) -> Verdict:
        """STOPPED to INACTIVE; never to anything that moves."""
        verdict = self.allows('reset', (ControllerMode.STOPPED,))
        if verdict.accepted:
            self._reason, self._detail = StopReason.NONE, ''
            self._mode = ControllerMode.INACTIVE if self._configured else ControllerMode.UNCONFIGURED
        return verdict

    def allows(self, action: str, modes: tuple[ControllerMode, ...]) -> Verdict:
        """Tell whether ``action`` is possible now."""
        if self._mode in modes:
            return ACCEPTED
        because = f' ({self._reason.name}: {self._detail})' if self._reason is not StopReason.NONE else ''
        hint = '; warm_up comes first' if self._mode is ControllerMode.UNCONFIGURED else ''
        return Verdict(False, (
            f'{action}: the mode is {self._mode.name}{because}, '
            f'{" or ".join(m.name for m in modes)} is needed{hint}'))

    def _go(self, action: str, modes: tuple[ControllerMode, ...], to: ControllerMode) -> Verdict:
        verdict = self.allows(action, modes)
        if verdict.accepted:
            self._mode = to
        return verdict
