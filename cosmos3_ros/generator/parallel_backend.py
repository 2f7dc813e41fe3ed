"""Both branches of guidance at the same time, each on a device of its own.

One device denoises with the instruction's text, the other with the empty one; in each step the second one's
velocities come over and the sample goes back, 2.3 MB each way at the DROID policy's size. Each holds the
whole generation tower. The chunk is that of sequential branches on one device, bit for bit where the devices
compute alike, as two H200s did (``benchmarks/README.md``). On CUDA each step of a branch is a graph of its
own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .compiled_backend import CompiledBackend
from .compiled_loop import CompiledLoop, combine_velocities
from .denoise import Request
from .graph_pool import GraphPool
from .guidance import Guidance
from .policy import PolicyError
from .prefix import pull_per_step
from .sampler import Schedule

torch = require('torch', 'model')


class ParallelBackend:
    """Fits where :class:`CompiledBackend` does.

    :param leader: On the device that the pictures are encoded on; it denoises with the instruction.
    :param follower: On the other device; it denoises with the empty text.
    :raises PolicyError: The two do not hold the same heads.
    """

    name = 'compiled'

    def __init__(
        self, leader: CompiledBackend, follower: CompiledBackend, plan: Schedule, guidance: Guidance,
    ) -> None:
        if leader.heads != follower.heads:
            raise PolicyError(
                f'parallel guidance: heads of domain and width {leader.heads} and {follower.heads} were '
                'loaded, the same are needed on both devices')
        self._leader, self._follower = leader, follower
        self.resample(plan, guidance, batched=False)

    @property
    def contexts(self) -> Any:
        """Contexts of instructions; the empty text's lies with the follower."""
        return self._leader.contexts

    @property
    def context_s(self) -> float:
        """How long the last context took."""
        return self._leader.context_s

    def compute_context(self, ids: tuple[int, ...]) -> Any:
        """Run the understanding tower; see :meth:`CompiledBackend.compute_context`."""
        return self._leader.compute_context(ids)

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool) -> None:  # noqa: ARG002
        """Sample differently from now on; branches are always apart here."""
        self._plan, self._guidance = plan, guidance
        for backend in (self._leader, self._follower):
            backend.resample(plan, Guidance(1.0), batched=False)  # one text each

    def forget(self) -> None:
        """Let go of everything that came from earlier requests."""
        self._leader.forget()
        self._follower.forget()

    def denoise(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> NDArray[np.float32]:
        """Return the denoised action rows; see :meth:`CompiledBackend.denoise`."""
        action = self._denoise(conditional, unconditional, request)[1]
        rows: NDArray[np.float32] = action.cpu().numpy().copy()
        return rows

    def imagine(self, conditional: Sequence[int], unconditional: Sequence[int], request: Request) -> Any:
        """Return the denoised latents; see :meth:`CompiledBackend.imagine`."""
        vision, _, loop = self._denoise(conditional, unconditional, request)
        return loop.film(vision)

    def _denoise(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> tuple[Any, Any, CompiledLoop]:
        plan, pulls = self._plan, pull_per_step(self._plan)
        leading = self._leader.prepare(conditional, unconditional, request, by_step=True)
        following = self._follower.prepare(unconditional, conditional, request, by_step=True)
        with torch.no_grad():
            vision, action = leading.noise, leading.action
            v_visions: list[Any] = []
            v_actions: list[Any] = []
            for step, timestep in enumerate(plan.timesteps):
                more = leading.asks_video(step)
                guided = self._guidance.active(timestep)
                # The follower is sent off first: the copy to it overlaps with the leader's kernels.
                other = following.step_velocity(vision, action, step) if guided else (None, None)
                v_vision, v_action = leading.step_velocity(vision, action, step)
                if guided:
                    u_vision, u_action = (None if v is None else v.to(action.device) for v in other)
                    combine = self._guidance.combine
                    v_vision = combine(v_vision, u_vision) if more else None
                    v_action = None if v_action is None else combine(v_action, u_action)
                if v_action is not None:
                    clean = action - float(plan.sigmas[step]) * v_action
                    v_action = v_action - pulls[step] * leading.prefix_weights * (leading.prefix_rows - clean)
                    v_actions.append(v_action)
                    action = combine_velocities(leading.action, v_actions, plan, step)
                if more:
                    v_visions.append(v_vision)
                    vision = combine_velocities(leading.noise, v_visions, plan, step)
        return vision, action, leading


def on_devices(
    make: Callable[[str, GraphPool], CompiledBackend], device: str, pool: GraphPool,
    guidance_device: str | None, plan: Schedule, guidance: Guidance,
) -> CompiledBackend | ParallelBackend:
    """Return the backend of one device, or of two if a second one is named.

    :param make: Builds a device's backend in a graph pool of that device.
    :param pool: Of the first device.
    """
    leader = make(device, pool)
    if guidance_device is None:
        return leader
    return ParallelBackend(leader, make(guidance_device, GraphPool(guidance_device)), plan, guidance)
