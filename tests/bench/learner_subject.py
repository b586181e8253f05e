"""Our learner as a benchmark's subject: whole updates, their parts, their FLOPs and the matrix-product peak."""
from __future__ import annotations

import json
import sys
import time

from dreamer_ros.training import process

process.prepare()  # before torch is imported

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dreamer_ros.config import load_preset  # noqa: E402
from dreamer_ros.nets.layers import flatten_time  # noqa: E402
from dreamer_ros.nets.rssm import State  # noqa: E402
from dreamer_ros.spec import RobotSpec  # noqa: E402
from dreamer_ros.training.learner import Learner  # noqa: E402
from tests.bench.turns import serve, synthetic, timed  # noqa: E402


class LearnerSubject:
    """Args are the request: preset, overrides, precision, threads, actions."""

    def __init__(self, preset: str, overrides: list, precision: str, threads: int, actions: int):
        config = load_preset(preset, (*overrides, f'precision={precision}'))
        process.configure_learner(threads, config.schedule.overlap)
        names = tuple(f'joint{i}' for i in range(actions))
        spec = RobotSpec('bench', config.env.image_size, (), names, (-1.0,) * actions, (1.0,) * actions, 0.02, 2)
        self.precision = torch.bfloat16 if precision == 'bfloat16' else torch.float32
        self.learner = Learner(config, spec, 'cpu')
        self.samples = synthetic(config.schedule.batch, config.schedule.length, config.env.image_size, actions)

    def commands(self) -> dict:
        return {'warm': self.warm, 'turn': lambda: timed(self.update), 'peak': self.peak, 'flops': self.flops,
                'parts': self.parts}

    def update(self):
        return self.learner.update(self.samples)

    def warm(self) -> dict:
        self.update()
        self.update()
        return {}

    def peak(self) -> dict:
        """FLOP/s of square matrix products, the best of several."""
        left, right = (torch.randn(2048, 2048).to(self.precision) for _ in range(2))
        torch.mm(left, right)
        return {'peak': 2 * 2048 ** 3 / min(timed(lambda: torch.mm(left, right), 1.0, 40)['wall'])}

    def flops(self) -> dict:
        with FlopCounterMode(display=False) as counter:
            self.update()
        return {'flops': counter.get_total_flops()}

    def parts(self) -> dict:
        """Seconds of each part, forward and backward, each run alone on the same batch."""
        learner, agent = self.learner, self.learner.agent
        model, behaviour, batch = agent.model, agent.behaviour, learner.to_batch(self.samples)
        shape = batch.image.shape[:2]
        images = flatten_time(batch.image)
        with torch.no_grad(), self.learner.autocast():
            embed = model.encoder(images).unflatten(0, shape).float()
            states = model.rssm.observe(embed, batch.previous_action, batch.is_first)[0]
        start = State(flatten_time(states.deter), flatten_time(states.stoch))
        if behaviour.imagination.starts:
            start = State(*(x[:behaviour.imagination.starts] for x in start))

        def heads():
            feature = states.feature.requires_grad_()
            loss = model.reward_distribution.loss(model.reward(feature), batch.reward).mean()
            return loss if model.continuation is None else loss + model.continuation(feature).mean()

        def scan():
            states, posterior, prior = model.rssm.observe(embed, batch.previous_action, batch.is_first)
            return states.deter.sum() + states.stoch.sum() + posterior.sum() + prior.sum()

        noise = behaviour.draw(model, len(states.deter.flatten(0, 1)), states.deter.device)

        def imagination():
            with torch.no_grad():
                behaviour.dream(model, start, noise)

        def optimiser():
            for parameter in agent.parameters():
                parameter.grad = torch.zeros_like(parameter)
            learner.optimizer.step('model', 'actor', 'critic')
            behaviour.update_slow_critic()

        parts = {
            'encoder': lambda: model.encoder(images).sum(), 'scan': scan,
            'decoder': lambda: model.image_loss(states, batch.image), 'heads': heads,
            'imagination': imagination, 'actor and critic': lambda: behaviour.loss(model, states, batch, noise)[0],
            'optimiser': optimiser}
        seconds = {name: self._time(part) for name, part in parts.items()}
        seconds['actor and critic'] -= seconds['imagination']  # learning includes a dream
        return seconds

    def _time(self, part) -> float:
        best = float('inf')
        for _ in range(4):
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
