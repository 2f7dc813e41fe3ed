"""All denoising steps of one instruction and shape as one program, on CUDA as one graph.

Samples live as patches in float32, so nothing is rearranged between steps. What a request brings is
copied into fixed buffers; what an instruction brings (contexts, positions) is constant. On a CPU the
same code runs with plain formulas and, from the second request on, as it was recorded, for any text.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from cosmos3_ros.model.attention_order import cudnn_first
from cosmos3_ros.model.generation_tower import GenerationTower, sum_terms
from cosmos3_ros.model.host_trace import HostTrace
from cosmos3_ros.model.layer_functions import LayerFunctions
from cosmos3_ros.model.patches import from_patches, to_patches
from cosmos3_ros.model.reasoner_context import ReasonerContext
from cosmos3_ros.resources import require

from .action_layout import ActionLayout
from .droid_joint import LAYOUT
from .graph_pool import GraphPool
from .guidance import Guidance
from .prefix import pull_per_step
from .request_pack import make_pack
from .sampler import Schedule
from .text_branch import TextBranch

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')


class CompiledLoop:
    """Denoises requests of one instruction.

    :param contexts: The instruction's, then the empty text's unless guidance is off.
    :param latent_shape: Frames, height, width of the latents.
    :param batched: Both branches through the matrices together; otherwise one after the other.
    :param layout: The action contract and the mode.
    :param trace: On a CPU: that of a loop that differs in nothing but its texts.
    """

    def __init__(
        self, tower: GenerationTower, functions: LayerFunctions, contexts: list[ReasonerContext],
        latent_shape: tuple[int, int, int], plan: Schedule, guidance: Guidance, *, batched: bool,
        layout: ActionLayout = LAYOUT, trace: HostTrace | None = None,
    ) -> None:
        self._tower, self._functions, self._plan, self._guidance = tower, functions, plan, guidance
        self._batched = batched
        shape, device = tower.shape, tower.device
        packs = [
            make_pack(c.length, latent_shape, layout, patch=shape.patch, margin=shape.margin,
                      base_fps=shape.base_fps) for c in contexts]
        self.pack, self.layout = packs[0], layout
        self._noisy_rows = layout.rows - layout.clean_rows
        self._noisy_frames = latent_shape[0] - self.pack.clean_frames
        with torch.no_grad():
            self._branches = [TextBranch(tower, c, p) for c, p in zip(contexts, packs, strict=True)]
            self._time = tower.time_embeddings(plan.timesteps)
            # Ones where a patch holds latents of noisy frames: padding at odd edges stays zero.
            frame = torch.ones((1, shape.channels, 1, *latent_shape[1:]), device=device)
            self._mask = to_patches(frame, self.pack).repeat(self._noisy_frames, 1)
        self._pulls = pull_per_step(plan)

        def buffer(*size: int) -> Any:
            return torch.zeros(size, device=device)

        rows, width = layout.rows, layout.width
        self.clean = buffer(1, shape.channels, self.pack.clean_frames, *latent_shape[1:])
        self.noise = buffer(*self._mask.shape)
        self.action = buffer(rows, width)
        self.prefix_rows, self.prefix_weights = buffer(rows, width), buffer(rows, 1)
        self._result = buffer(rows, width)
        self._film = buffer(*self._mask.shape) if layout.wants_video else None
        self._graph: Any = None
        self.trace = trace
        if trace is None and device.type == 'cpu':
            self.trace = HostTrace(self._denoise_texts)
        self._steps: list[tuple[Any, Any]] = []
        self._sample: tuple[Any, Any] = (None, None)

    def run(self) -> Any:
        """Denoise what the buffers hold; return rows (rows, width), overwritten by the next run."""
        with torch.no_grad():
            if self._graph is not None:
                self._graph.replay()
            elif self.trace is not None:
                texts = [tensor for branch in self._branches for tensor in branch.given]
                self._keep(*self.trace.run(*self._given, *texts))
            else:
                self._fill()
        return self._result

    def film(self, vision: Any = None) -> Any:
        """Return imagined latents, (1, 48, T, h, w), the given ones first.

        :param vision: Patches of the noisy frames; None takes the last run's.
        """
        video = from_patches(
            self._film if vision is None else vision, self.pack, self._tower.shape.channels)
        return torch.cat([self.clean, video], dim=2)

    def asks_video(self, step: int) -> bool:
        """Whether the video's velocity is needed: one that nobody asked for is not decoded at the end."""
        return bool(self._noisy_frames) and (self.layout.wants_video or step + 1 < self._plan.steps)

    def step_velocity(self, vision: Any, action: Any, step: int) -> tuple[Any, Any]:
        """Return the velocities of one step for samples that may lie on another device.

        What is returned is overwritten by the same step of the next request.
        """
        if not self._steps:
            return self._velocity_of(vision.to(self._tower.device), action.to(self._tower.device), step)
        self._sample[0].copy_(vision, non_blocking=True)
        self._sample[1].copy_(action, non_blocking=True)
        graph, (v_vision, v_action) = self._steps[step]
        graph.replay()
        return v_vision, v_action

    def _velocity_of(self, vision: Any, action: Any, step: int) -> tuple[Any, Any]:
        first = self._tower.embed_vision(to_patches(self.clean, self.pack))
        return self._velocity(
            first, vision, action, step, self._plan.timesteps[step], self.asks_video(step))

    def capture_steps(self, pool: GraphPool) -> None:
        """Record each step as a CUDA graph, for a loop that is run from outside.

        :param pool: As for :meth:`capture`.
        """
        self._sample = self.noise.clone(), self.action.clone()
        for step in range(self._plan.steps):
            self._steps.append(self._record(partial(self._velocity_of, *self._sample, step), pool))
        torch.cuda.empty_cache()

    def release(self) -> None:
        """Let go of the graph and of what it holds; the loop cannot run any more."""
        graphs = [graph for graph, _ in self._steps] + ([] if self._graph is None else [self._graph])
        if graphs:
            torch.cuda.synchronize(self._tower.device)
        self._steps, self._graph = [], None  # what they put out goes before them
        for graph in graphs:
            graph.reset()

    def capture(self, pool: GraphPool) -> None:
        """Record the loop as a CUDA graph.

        :param pool: Memory shared by all graphs of a policy: only one runs at a time.
        """
        self._graph = self._record(self._fill, pool)[0]
        torch.cuda.empty_cache()  # what the first run needed outside of the pool

    def _record(self, work: Callable[[], Any], pool: GraphPool) -> tuple[Any, Any]:
        device = self._tower.device
        with torch.cuda.device(device), torch.no_grad():
            handle, stream = pool.handle, pool.stream
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                work()  # compiles kernels, and makes the libraries' plans
            torch.cuda.current_stream(device).wait_stream(stream)
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=handle, stream=stream):
                answer = work()
        return graph, answer

    def _fill(self) -> None:
        self._keep(*self._denoise(*self._given))

    def _keep(self, vision: Any, action: Any) -> None:
        self._result.copy_(action)
        if self._film is not None:
            self._film.copy_(vision)

    @property
    def _given(self) -> tuple[Any, ...]:
        return self.clean, self.noise, self.action, self.prefix_rows, self.prefix_weights

    def _denoise_texts(self, *given: Any) -> tuple[Any, Any]:
        """Denoise for other texts: what is recorded once does for every instruction."""
        own, count = self._branches, len(self._given)
        parts = [given[count + 4 * i:count + 4 * i + 4] for i in range(len(own))]
        try:
            self._branches = [b.with_given(*p) for b, p in zip(own, parts, strict=True)]
            return self._denoise(*given[:count])
        finally:
            self._branches = own

    def _denoise(
        self, given: Any, noise: Any, start: Any, prefix_rows: Any, prefix_weights: Any,
    ) -> tuple[Any, Any]:
        first = self._tower.embed_vision(to_patches(given, self.pack))  # the same in all steps
        vision, action = noise, start
        v_visions: list[Any] = []
        v_actions: list[Any] = []
        for step, timestep in enumerate(self._plan.timesteps):
            more = self.asks_video(step)
            v_vision, v_action = self._velocity(first, vision, action, step, timestep, more)
            if self._noisy_rows:
                # Real-time chunking: weights of zero leave the velocity as it is.
                clean = action - float(self._plan.sigmas[step]) * v_action
                v_action = v_action - self._pulls[step] * prefix_weights * (prefix_rows - clean)
                v_actions.append(v_action)
                action = combine_velocities(start, v_actions, self._plan, step)
            if more:
                v_visions.append(v_vision)
                vision = combine_velocities(noise, v_visions, self._plan, step)
        return vision, action

    def _velocity(
        self, first: Any, vision: Any, action: Any, step: int, timestep: int, more: bool,
    ) -> tuple[Any, Any]:
        tower, time, clean = self._tower, self._time[step], self.layout.clean_rows
        rows = tower.embed_action(action)
        parts = [first, tower.embed_vision(vision) + time] if self._noisy_frames else [first]
        hidden = torch.cat([*parts, rows[:clean], rows[clean:] + time])
        guided = self._guidance.active(timestep)
        branches = self._branches if guided else self._branches[:1]
        groups = [branches] if self._batched else [[b] for b in branches]
        # What the first layer's first matrix makes of this does not depend on the text.
        starts = [self._functions.project((hidden,), tower.layers[0], tower.shape)] * len(groups)
        del hidden
        states = [one for group in groups for one in self._run_layers(starts, group, more)]
        v_visions, v_actions = zip(*(self._read(s, more) for s in states), strict=True)
        if not guided:
            return v_visions[0], v_actions[0]
        combine = self._guidance.combine
        return (combine(*v_visions) if more else None), (combine(*v_actions) if self._noisy_rows else None)

    def _read(self, states: Any, more: bool) -> tuple[Any, Any]:
        tower, pack = self._tower, self.pack
        v_action = None
        if self._noisy_rows:  # given rows stay as they are
            answers = tower.read_action(states[-self._noisy_rows:])
            v_action = functional.pad(answers, (0, 0, self.layout.clean_rows, 0))
        if not more:
            return None, v_action
        return tower.read_vision(states[:pack.vision_tokens - pack.clean_tokens]) * self._mask, v_action

    def _run_layers(
        self, starts: list[tuple[Any, Any]], branches: list[TextBranch], more: bool,
    ) -> list[Any]:
        """Return each branch's result.

        :param starts: What the first layer's first matrix makes of its input, and that; one is taken out, so
            that the last user's goes when it has been read.
        """
        tower, shape, functions = self._tower, self._tower.shape, self._functions
        joined, hidden = starts.pop()
        count, tokens = len(branches), len(hidden)
        hidden = hidden.repeat(count, 1)  # a copy even of one: sums may be written over it
        parts: Any = [joined] * count
        terms: tuple[Any, ...] = ()
        last = shape.layers - 1
        # Of the last layer, only noisy tokens are asked for; in the last step, only action rows.
        wanted = tokens - self.pack.clean_tokens if more else self._noisy_rows
        with cudnn_first(tower.device):
            for i, layer in enumerate(tower.layers):
                if i:
                    joined, hidden = functions.project(terms, layer, shape)
                    parts = joined.split(tokens)
                terms = ()  # what is let go here is room for what comes next
                queries = [
                    functions.place(part, b.table, layer, shape, b.text(i), b.room(i))
                    for part, b in zip(parts, branches, strict=True)]
                del joined, parts
                keep = tokens if i < last else wanted
                spans = [slice((j + 1) * tokens - keep, (j + 1) * tokens) for j in range(count)]
                mixed = [b.attend(q[tokens - keep:]) for b, q in zip(branches, queries, strict=True)]
                del queries
                terms = functions.finish(
                    mixed, [hidden] if keep == tokens else [hidden[s] for s in spans], layer, shape)
                del mixed
        return list(sum_terms(terms).chunk(count))


def combine_velocities(start: Any, velocities: list[Any], plan: Schedule, step: int) -> Any:
    """Return the sample after a step, from the first one and the velocities seen so far."""
    total = start
    for velocity, weight in zip(velocities, plan.coefficients[step], strict=False):
        total = total + float(weight) * velocity
    return total
