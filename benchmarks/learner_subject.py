"""Our learner as a benchmark's subject: whole updates, their parts, their FLOPs and the matrix-product peak."""

from __future__ import annotations

import json
import sys
import time

from dreamer_ros.training import process

process.prepare()  # before torch is imported

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.turns import serve, synthetic, timed  # noqa: E402
from dreamer_ros.agents.actor_critic import DreamNoise  # noqa: E402
from dreamer_ros.agents.dreamer import Dreamer  # noqa: E402
from dreamer_ros.config import load_preset  # noqa: E402
from dreamer_ros.nets import lanes  # noqa: E402
from dreamer_ros.nets.layers import flatten_time  # noqa: E402
from dreamer_ros.nets.rssm import State  # noqa: E402
from dreamer_ros.spec import RobotSpec  # noqa: E402
from dreamer_ros.training.cuda_graph import WARMING  # noqa: E402
from dreamer_ros.training.learner import Learner  # noqa: E402


class LearnerSubject:
    """Args are the request: preset, overrides, precision, device, threads, actions."""

    def __init__(self, preset: str, overrides: list, precision: str, device: str, threads: int, actions: int):
        config = load_preset(preset, (*overrides, f'precision={precision}'))
        process.configure_learner(threads, config.schedule.overlap)
        self.lanes = lanes.are_open()
        self.threads = threads
        names = tuple(f'joint{i}' for i in range(actions))
        spec = RobotSpec('bench', config.env.image_size, (), names, (-1.0,) * actions, (1.0,) * actions, 0.02, 2)
        self.precision = torch.bfloat16 if precision == 'bfloat16' else torch.float32
        self.learner = Learner(config, spec, device)
        self.device = self.learner.device.type
        self.samples = synthetic(config.schedule.batch, config.schedule.length, config.env.image_size, actions)

    def commands(self) -> dict:
        return {
            'warm': self.warm,
            'turn': lambda: timed(self.update, device=self.device),
            'peak': self.peak,
            'parts': self.parts,
        }

    def update(self):
        return self.learner.update(self.samples)

    def warm(self) -> dict:
        """Two updates, the second one counted: FLOPs of its matrix products and convolutions."""
        self.update()
        lanes.close_lanes()  # the counter sees one thread only
        with FlopCounterMode(display=False) as counter:
            self.update()
        if self.lanes:
            lanes.open_lanes()
        if self.device == 'cuda':
            for _ in range(WARMING):  # then the rest are replayed
                self.update()
        return {'flops': counter.get_total_flops()}

    def peak(self) -> dict:
        """FLOP/s of square matrix products on all threads, the best of several."""
        size = 2048 if self.device == 'cpu' else 8192
        left, right = (torch.randn(size, size, device=self.device).to(self.precision) for _ in range(2))
        own = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        torch.mm(left, right)
        best = min(timed(lambda: torch.mm(left, right), 1.0, 40, self.device)['wall'])
        torch.set_num_threads(own)
        return {'peak': 2 * size**3 / best}

    def parts(self) -> dict:
        """Seconds of each part of a Dreamer, forward and backward, each run alone on the same batch; on a CPU, since
        a GPU replays them as one.
        """
        learner, agent = self.learner, self.learner.agent
        if self.device != 'cpu' or not isinstance(agent, Dreamer):
            return {}
        model, behaviour, batch = agent.model, agent.behaviour, learner.to_batch(self.samples)
        with torch.no_grad(), self.learner.autocast():
            embed = model.embed(batch).float()
            states = model.rssm.observe(embed, batch.previous_action, batch.is_first)[0]
        start = State(flatten_time(states.deter), flatten_time(states.stoch))
        if behaviour.imagination.starts:
            start = State(*(x[: behaviour.imagination.starts] for x in start))

        def heads():
            feature = states.feature.requires_grad_()
            loss = model.reward_distribution.loss(model.reward(feature), batch.reward).mean()
            return loss if model.continuation is None else loss + model.continuation(feature).mean()

        def scan():
            states, posterior, prior = model.rssm.observe(embed, batch.previous_action, batch.is_first)
            return states.deter.sum() + states.stoch.sum() + posterior.sum() + prior.sum()

        noise = behaviour.draw(model, len(states.deter.flatten(0, 1)), states.deter.device)

        def observation():
            seen = State(*(x.detach().requires_grad_() for x in states))
            return model.observation_loss(batch, seen, embed)[0]

        def imagination():
            with torch.no_grad():
                lanes.by_rows(
                    lambda deter, stoch, *rest: behaviour.dream(
                        model, State(deter[0], stoch[0]), DreamNoise(None, *rest)
                    ),
                    start.deter[None],
                    start.stoch[None],
                    noise.latent,
                    noise.action,
                    dim=1,
                )

        def optimiser():
            for parameter in agent.parameters():
                parameter.grad = torch.zeros_like(parameter)
            learner.optimizer.step('model', 'actor', 'critic')
            behaviour.update_slow_critic()

        parts = {
            'encoder': lambda: model.embed(batch).sum(),
            'scan': scan,
            'observation loss': observation,
            'heads': heads,
            'imagination': imagination,
            'actor and critic': lambda: behaviour.loss(model, states, batch, noise)[0],
            'optimiser': optimiser,
        }
        seconds = {name: self._time(part) for name, part in parts.items()}
        seconds['actor and critic'] -= seconds['imagination']  # learning includes a dream
        return seconds

    def _time(self, part) -> float:
        best, end = float('inf'), time.perf_counter() + 1.0
        while best == float('inf') or time.perf_counter() + best < end:
            began = time.perf_counter()
            with self.learner.autocast():
                loss = part()
            if loss is not None:
                loss.backward()
            best = min(best, time.perf_counter() - began)
            self.learner.agent.zero_grad()
        return best


if __name__ == '__main__':
    serve(LearnerSubject(**json.loads(sys.argv[1])).commands())
