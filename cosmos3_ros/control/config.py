"""What an operator may choose about the controller; the limits belong to the robot and its profile."""

from dataclasses import dataclass, fields
from typing import Literal

from cosmos3_ros.contracts import ContractError

TRACKERS = ('mpc', 'pid')
PREFIX_SCHEDULES = ('LINEAR', 'EXP', 'ONES', 'ZEROS')


@dataclass(frozen=True, slots=True)
class MpcWeights:
    """Cost of the tracking MPC (prototype's tuning: 0.07 to 0.4 mrad RMS on smooth references).

    :param position: Per rad^2.
    :param velocity: Per (rad/s)^2.
    :param jerk: Per (rad/s^3)^2. Ten times less tracks five times closer, ten times more smooths.
    :param full_weight_fraction: Share of the horizon that counts in full; then the weight fades, or
        the stop at the end of the horizon would be felt now as a lead of some 18 ms.
    """

    position: float = 1.0
    velocity: float = 3e-3
    jerk: float = 5e-8
    full_weight_fraction: float = 0.5


@dataclass(frozen=True, slots=True)
class PidGains:
    """Gains of the PID tracker, in units of acceleration.

    :param proportional: 1/s^2. The default with ``derivative`` is critically damped at 20 rad/s.
    :param derivative: 1/s, on the plan's own velocity, never on the error.
    :param integral: 1/s^3, on the measured error: it takes out a servo's steady droop.
    :param integral_limit: Largest acceleration that the integral may ask for, rad/s^2.
    """

    proportional: float = 400.0
    derivative: float = 40.0
    integral: float = 0.0
    integral_limit: float = 0.5


@dataclass(frozen=True, slots=True)
class EffortGains:
    """Gains of the effort law, in shares of each joint's effort limit.

    The defaults give a Panda about 610 N m/rad and 52 N m s/rad on its large joints, the order of the
    stiffness and damping in franka_ros' joint impedance example.

    :param proportional: Share of the limit per rad.
    :param integral: Share per rad s.
    :param derivative: Share per rad/s.
    :param integral_share: Largest share that the integral may reach.
    """

    proportional: float = 7.0
    integral: float = 2.0
    derivative: float = 0.6
    integral_share: float = 0.1


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Parameters of the controller, checked together.

    :param tracker: ``mpc`` or ``pid``; both pass through the same verification.
    :param rate_hz: Rate of the command loop.
    :param plan_period_ns: Grid of the plans; a plan starts on it and its jerk is constant on it.
    :param horizon_steps: Steps of a plan. Within them a plan comes to rest, so they bound the speed
        from which an arm with little acceleration may be moving (speed <= acceleration * horizon).
    :param blend_s: Time over which a new chunk replaces the old reference.
    :param enable_ramp_s: Time over which the reference clock speeds up after arming.
    :param clock_slew_per_s: How fast the pace of the reference clock may change.
    :param speed_scale_required: No motion until a speed scale arrived.
    :param speed_scale_stale_s: Without a newer speed scale for this long, slow to a stop; None takes
        the profile's.
    :param future_tolerance_s: A chunk may be stamped this far in the future (clocks differ).
    :param reach_tolerance_rad: Chunk rows outside of the position limits by no more than this are
        moved to the limit and reported; more refuses the chunk.
    :param project: Pull rows out of the table and of self-collision when a chunk arrives.
    :param max_chunk_rows: Longest chunk.
    :param chunk_stale_s: Grace after the end of a chunk; None takes the profile's.
    :param stop_on_stale_chunk: Latch STALE_CHUNK after that grace. False: hold at rest and report, so
        that a policy may pause between episodes without an operator's reset.
    :param min_latency_scale: Slowest pace to which a slow policy may stretch time; below, refuse.
    :param latency_samples: Measured latencies needed before they count.
    :param stop_on_latency: Latch LATENCY when chunks are refused for latency.
    :param limit_storm_plans: Plans rejected in a row that stop.
    :param clock_backward_ns: The clock may step back by this much (it is held meanwhile).
    :param clock_forward_ns: A longer gap between ticks stops with CLOCK_JUMP.
    :param overrun_stop_ns: A tick later than this stops with OVERRUN.
    :param joint_state_stale_s: None takes the profile's.
    :param tracking_error_rad: None takes the profile's.
    :param tracking_lag_s: Lag of the arm's own servo that the tracking monitor excuses.
    :param measured_jump_rad: A measured position that moves by more than this beyond what the
        hardware's speed allows is no measurement.
    :param standstill_rad_s: Measured speed below which the arm counts as standing.
    :param reset_cooldown_s: Standstill needed before a reset (ISO 13850 asks for a deliberate one).
    :param stop_yield_s: A stop for TRACKING_ERROR or EXTERNAL_FORCE follows the measured arm for so long,
        counted from the stop, then holds: what is pushed or sags would be followed for ever.
    :param stop_timeout_s: After a brake has ended, wait this long for measured standstill.
    :param external_force_n: Reported wrench force that stops; None takes the profile's.
    :param stop_on_effort_residual: Stop where measured and modelled effort differ by more than the
        profile's share of the limit. Needs a robot with dynamics whose driver reports full efforts.
    :param command_effort: Compute efforts with the commands (effort-controlled arms).
    """

    tracker: Literal['mpc', 'pid'] = 'mpc'
    rate_hz: float = 500.0
    plan_period_ns: int = 20_000_000
    horizon_steps: int = 30
    mpc: MpcWeights = MpcWeights()
    pid: PidGains = PidGains()
    effort: EffortGains = EffortGains()
    blend_s: float = 0.2
    enable_ramp_s: float = 0.5
    clock_slew_per_s: float = 4.0
    speed_scale_required: bool = False
    speed_scale_stale_s: float | None = None
    future_tolerance_s: float = 0.1
    reach_tolerance_rad: float = 0.05
    project: bool = True
    max_chunk_rows: int = 512
    chunk_stale_s: float | None = None
    stop_on_stale_chunk: bool = False
    min_latency_scale: float = 0.2
    latency_samples: int = 20
    stop_on_latency: bool = False
    limit_storm_plans: int = 100
    clock_backward_ns: int = 5_000_000
    clock_forward_ns: int = 200_000_000
    overrun_stop_ns: int = 50_000_000
    joint_state_stale_s: float | None = None
    tracking_error_rad: float | None = None
    tracking_lag_s: float = 0.1
    measured_jump_rad: float = 0.1
    standstill_rad_s: float = 0.02
    reset_cooldown_s: float = 0.5
    stop_yield_s: float = 1.0
    stop_timeout_s: float = 1.0
    external_force_n: float | None = None
    stop_on_effort_residual: bool = False
    command_effort: bool = False

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        :raises ContractError: A value outside of its range; the text names the parameter.
        """
        if self.tracker not in TRACKERS:
            raise ContractError(f"tracker: '{self.tracker}' arrived, {' or '.join(TRACKERS)} is allowed")
        ranges: dict[str, tuple[float, float]] = {
            'rate_hz': (50.0, 2000.0), 'plan_period_ns': (5_000_000, 100_000_000),
            'horizon_steps': (10, 100), 'blend_s': (0.02, 2.0), 'enable_ramp_s': (0.0, 10.0),
            'clock_slew_per_s': (0.5, 20.0), 'speed_scale_stale_s': (0.02, 10.0),
            'future_tolerance_s': (0.0, 2.0), 'reach_tolerance_rad': (0.0, float('inf')),
            'max_chunk_rows': (1, 4096), 'chunk_stale_s': (0.0, 60.0),
            'min_latency_scale': (0.01, 1.0), 'latency_samples': (1, 1000),
            'limit_storm_plans': (1, 100_000), 'clock_backward_ns': (0, 1_000_000_000),
            'clock_forward_ns': (1_000_000, 10_000_000_000),
            'overrun_stop_ns': (1_000_000, 10_000_000_000), 'joint_state_stale_s': (0.005, 10.0),
            'tracking_error_rad': (1e-4, 3.2), 'tracking_lag_s': (0.0, 1.0),
            'measured_jump_rad': (1e-3, 3.2), 'standstill_rad_s': (1e-4, 0.2),
            'reset_cooldown_s': (0.5, 60.0), 'stop_yield_s': (0.0, 10.0),
            'stop_timeout_s': (0.1, 10.0),
            'external_force_n': (0.0, 1000.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ContractError(f'{name}: {value} arrived, {low:g} to {high:g} is allowed')
        tick_ns = 1e9 / self.rate_hz
        if tick_ns > self.plan_period_ns:
            raise ContractError(
                f'rate_hz: {self.rate_hz} Hz is slower than a plan every '
                f'{self.plan_period_ns / 1e6:g} ms; raise rate_hz or plan_period_ns')
        for group in (self.mpc, self.pid, self.effort):
            for field in fields(group):
                if not getattr(group, field.name) >= 0.0:
                    raise ContractError(
                        f'{field.name}: {getattr(group, field.name)} arrived, 0 or more is allowed')
        if self.mpc.position <= 0.0 or self.mpc.jerk <= 0.0:
            raise ContractError('mpc weights position and jerk: both must be positive')
