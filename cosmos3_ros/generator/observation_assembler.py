"""Camera frames and joint states in, observations out: everything brought to one instant by stamps."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import threading

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError, JointMeasurement, Observation, ObservationRefused

Image = NDArray[np.uint8]
# Pixels, or a function that decodes them: a JPEG that no observation uses is never decoded.
Frame = Image | Callable[[], Image]

# Frames kept per camera: enough to find the one nearest to the anchor when the other camera runs at
# a sixth of the rate, little enough that three cameras at 1280x720 stay below 70 MB.
FRAMES_KEPT = 8
# Joint states reach back as far as the oldest image that max_age_s lets in, and this much more.
JOINT_HISTORY_MARGIN_S = 0.5
# Beyond the samples the motion goes on as it was over at least this long: the difference of two samples that
# came microseconds apart (two publishers, jittering stamps) is noise, and 0.1 s of it would be radians.
EXTRAPOLATION_BASE_NS = 20_000_000


@dataclass(slots=True)
class AssemblerCounts:
    """What an assembler did with what it was given; read it for diagnostics."""

    images: int = 0
    images_late: int = 0
    """Images not newer than one that is already there."""
    joint_states: int = 0
    joint_states_late: int = 0
    clock_resets: int = 0
    """Times that stamps went back past the bound and everything was forgotten."""
    observations: int = 0
    refusals: int = 0


class ObservationAssembler:
    """Builds observations. Safe to use from several threads; time is an argument.

    The anchor is the oldest of the cameras' newest header stamps. Of each camera the frame nearest to
    the anchor is taken, and the joint state is interpolated linearly to it.

    :param cameras: Camera slots that an observation carries.
    :param joint_names: N arm joints.
    :param blank_cameras: Slots, among ``cameras``, that have no camera and are filled with black.
    :param max_skew_s: Largest distance of an image's stamp from the anchor.
    :param max_age_s: Largest age of the anchor.
    :param max_joint_gap_s: Joint states further apart than this are not interpolated over, and the
        newest is not extrapolated by more than this.
    :param clock_jump_s: A stamp this far before the newest one means that the clock went back (a
        simulation reset, a bag that starts over); less is a message that came late.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        joint_names: Sequence[str],
        *,
        blank_cameras: Sequence[str] = (),
        max_skew_s: float = 0.05,
        max_age_s: float = 0.5,
        max_joint_gap_s: float = 0.1,
        clock_jump_s: float = 0.5,
    ) -> None:
        if not cameras or len(set(cameras)) != len(cameras):
            raise ContractError(f'cameras: {tuple(cameras)!r} arrived, distinct names are needed')
        unknown = sorted(set(blank_cameras) - set(cameras))
        if unknown:
            raise ContractError(
                f'blank_cameras: {", ".join(unknown)} arrived, cameras are: {", ".join(cameras)}')
        if set(blank_cameras) == set(cameras):
            raise ContractError('blank_cameras: all cameras arrived, at least one must be real')
        for name, value in (('max_skew_s', max_skew_s), ('max_age_s', max_age_s),
                            ('max_joint_gap_s', max_joint_gap_s), ('clock_jump_s', clock_jump_s)):
            if not (math.isfinite(value) and value > 0.0):
                raise ContractError(f'{name}: {value} arrived, a positive number is needed')
        self._cameras = tuple(cameras)
        self._blank = tuple(name for name in cameras if name in set(blank_cameras))
        self._joint_names = tuple(joint_names)
        self._max_skew_ns, self._max_age_ns = int(max_skew_s * 1e9), int(max_age_s * 1e9)
        self._max_gap_ns, self._jump_ns = int(max_joint_gap_s * 1e9), int(clock_jump_s * 1e9)
        self._joint_span_ns = self._max_age_ns + int(JOINT_HISTORY_MARGIN_S * 1e9)
        self._frames: dict[str, deque[tuple[int, Frame]]] = {
            name: deque(maxlen=FRAMES_KEPT) for name in self._cameras if name not in self._blank}
        self._joints: deque[tuple[int, NDArray[np.float64], float | None]] = deque()
        self._lock = threading.Lock()
        self.counts = AssemblerCounts()

    @property
    def live_cameras(self) -> tuple[str, ...]:
        """Slots that need images."""
        return tuple(self._frames)

    def add_image(self, camera: str, stamp_ns: int, frame: Frame) -> bool:
        """Store one image, uint8 RGB (H, W, 3), or a function that returns it.

        :returns: True if the stamp went back past ``clock_jump_s``, so that everything was forgotten.
        :raises ContractError: Unknown camera.
        """
        frames = self._frames.get(camera)
        if frames is None:
            raise ContractError(f'camera: {camera!r} arrived, allowed are: {", ".join(self._frames)}')
        with self._lock:
            jumped = bool(frames) and stamp_ns < frames[-1][0] - self._jump_ns
            if jumped:
                self._forget()
            elif frames and stamp_ns <= frames[-1][0]:
                self.counts.images_late += 1
                return False
            frames.append((stamp_ns, frame))
            self.counts.images += 1
        return jumped

    def add_joints(self, measurement: JointMeasurement) -> bool:
        """Store one joint state.

        :returns: True if the stamp went back past ``clock_jump_s``, so that everything was forgotten.
        :raises ContractError: Not the joints that this assembler was built for.
        """
        if measurement.joint_names != self._joint_names:
            raise ContractError(
                f'joint_names: {", ".join(measurement.joint_names)} arrived, '
                f'{", ".join(self._joint_names)} is allowed')
        stamp_ns = measurement.stamp_ns
        with self._lock:
            jumped = bool(self._joints) and stamp_ns < self._joints[-1][0] - self._jump_ns
            if jumped:
                self._forget()
            elif self._joints and stamp_ns <= self._joints[-1][0]:
                self.counts.joint_states_late += 1
                return False
            self._joints.append((stamp_ns, measurement.position, measurement.gripper))
            self.counts.joint_states += 1
            while stamp_ns - self._joints[0][0] > self._joint_span_ns:
                self._joints.popleft()
        return jumped

    def assemble(self, now_ns: int) -> Observation | ObservationRefused:
        """Return the newest observation, or why there is none."""
        with self._lock:
            result = self._assemble(now_ns)
            if isinstance(result, ObservationRefused):
                self.counts.refusals += 1
            else:
                self.counts.observations += 1
        return result

    def clear(self) -> None:
        """Forget every image and joint state."""
        with self._lock:
            self._forget(count=False)

    def _forget(self, *, count: bool = True) -> None:
        for frames in self._frames.values():
            frames.clear()
        self._joints.clear()
        self.counts.clock_resets += count

    def _assemble(self, now_ns: int) -> Observation | ObservationRefused:
        for camera, frames in self._frames.items():
            if not frames:
                return ObservationRefused(
                    f'{camera}: no image has arrived; check its topic, or name it in blank_cameras', camera)
        laggard, anchor = min(
            ((camera, frames[-1][0]) for camera, frames in self._frames.items()), key=lambda item: item[1])
        age = now_ns - anchor
        if age > self._max_age_ns:
            return ObservationRefused(
                f'{laggard}: its newest image is {age / 1e9:.3f} s old, at most {self._max_age_ns / 1e9:g} s '
                'is allowed (max_age_s)', laggard)
        if age < -self._max_age_ns:
            return ObservationRefused(
                f'{laggard}: its newest image is {-age / 1e9:.3f} s in the future; '
                'is use_sim_time the same in the camera and here?', laggard)
        chosen = {
            camera: min(frames, key=lambda frame: abs(frame[0] - anchor))
            for camera, frames in self._frames.items()}
        skewed, skew = max(
            ((camera, abs(stamp - anchor)) for camera, (stamp, _) in chosen.items()),
            key=lambda item: item[1])
        if skew > self._max_skew_ns:
            return ObservationRefused(
                f'{skewed}: its image nearest to {laggard} is {skew / 1e9:.3f} s away, at most '
                f'{self._max_skew_ns / 1e9:g} s is allowed (max_skew_s)', skewed)
        joints = self._interpolate(anchor)
        if isinstance(joints, ObservationRefused):
            return joints
        position, gripper = joints
        images: dict[str, Image] = {}
        for camera, (_, frame) in chosen.items():
            try:
                images[camera] = frame() if callable(frame) else frame
            except ContractError as error:
                return ObservationRefused(f'{camera}: {error}', camera)
        shape = images[laggard].shape
        for camera in self._blank:
            images[camera] = np.zeros(shape, dtype=np.uint8)
        return Observation(
            stamp_ns=anchor, images={camera: images[camera] for camera in self._cameras},
            joint_names=self._joint_names, joint_position=position, gripper=gripper, skew_ns=skew,
            blank_cameras=self._blank)

    def _interpolate(self, stamp_ns: int) -> tuple[NDArray[np.float64], float] | ObservationRefused:
        """Return position and gripper at ``stamp_ns``, linear between the samples around it."""
        samples = list(self._joints)
        if not samples:
            return ObservationRefused('joint_states: none has arrived; check its topic')
        gap = max(stamp_ns - samples[-1][0], samples[0][0] - stamp_ns)
        if gap > self._max_gap_ns:
            return ObservationRefused(
                f'joint_states: the nearest one is {gap / 1e9:.3f} s from the images, at most '
                f'{self._max_gap_ns / 1e9:g} s is allowed (max_joint_gap_s)')
        first, second = _neighbours(samples, stamp_ns)
        if first[2] is None or second[2] is None:
            return ObservationRefused(
                "joint_states: no gripper position arrived; is the robot's gripper joint published?")
        span = second[0] - first[0]
        if span > self._max_gap_ns and first[0] < stamp_ns < second[0]:
            return ObservationRefused(
                f'joint_states: {span / 1e9:.3f} s lie between the two around the images, at most '
                f'{self._max_gap_ns / 1e9:g} s is allowed (max_joint_gap_s)')
        # Outside the samples the weight leaves 0..1: that is the bounded extrapolation.
        weight = (stamp_ns - first[0]) / span if span else 0.0
        position = first[1] + weight * (second[1] - first[1])
        gripper = min(1.0, max(0.0, first[2] + weight * (second[2] - first[2])))
        return position, gripper


Sample = tuple[int, NDArray[np.float64], float | None]


def _neighbours(samples: Sequence[Sample], stamp_ns: int) -> tuple[Sample, Sample]:
    """Return the two samples that tell the state at ``stamp_ns``; the same one twice where it holds.

    Between samples these are the two around it. Beyond them, the outermost and the nearest one that is at
    least :data:`EXTRAPOLATION_BASE_NS` away from it.
    """
    oldest, newest = samples[0], samples[-1]
    if stamp_ns >= newest[0]:
        base = next((s for s in reversed(samples) if newest[0] - s[0] >= EXTRAPOLATION_BASE_NS), newest)
        return base, newest
    if stamp_ns <= oldest[0]:
        return oldest, next((s for s in samples if s[0] - oldest[0] >= EXTRAPOLATION_BASE_NS), oldest)
    after = next(i for i, sample in enumerate(samples) if sample[0] >= stamp_ns)
    return samples[after - 1], samples[after]
