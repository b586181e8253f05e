"""Updates whose noise depends on the row of the batch only, alone or as one of the ranks of torchrun.

`torchrun … FOLDER OVERRIDES` makes the updates of every case with two ranks; test_parallel.py makes them alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import distributed

from dreamer_ros.agents.actor_critic import ActorCritic, DreamNoise
from dreamer_ros.config import Config, load_preset
from dreamer_ros.nets.rssm import CategoricalLatent, GaussianLatent
from dreamer_ros.training import worker
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.parallel import Team
from tests.agents import small

RANKS, UPDATES = 2, 3
# Steps that are smooth in the gradient: with a small epsilon, rounding in a tiny gradient is a step of full size.
SMALL = (
    'env.image_size=32',
    'conv.depth=2',
    'mlp.units=8',
    'rssm.hidden=8',
    'rssm.stoch=3',
    'schedule.batch=6',
    'schedule.length=5',
    'optimizer.eps=1e-3',
    'optimizer.warmup=0',
    'precision=float32',
    'optimizer.model_lr=1e-2',
)
ACTOR = ('imagination.horizon=3', 'optimizer.actor_lr=1e-2', 'optimizer.critic_lr=1e-2')
CASES = {
    # free nats of the batch mean, thumbnails, some starts, return range, dynamics gradients, Adam
    'cpu': ('cpu', *ACTOR, 'rssm.deter=8', 'rssm.classes=4', 'imagination.starts=8', 'schedule.overlap=false'),
    # free nats of each step, reinforce, two-hot heads, replay value loss, LaProp
    'dreamerv3': ('dreamerv3_1m', *ACTOR, 'rssm.deter=16', 'rssm.classes=4'),
    # a correlation over the batch
    'r2dreamer': (
        'dreamerv3_1m',
        *ACTOR,
        'rssm.deter=16',
        'rssm.classes=4',
        'loss.representation=redundancy',
        'loss.image_scale=0.05',
    ),
    # overshooting, whose mean is over steps that shares have different numbers of
    'planet': (
        'planet',
        'rssm.deter=8',
        'conv.kind=stride',
        'conv.bits=8',
        'loss.overshooting=3',
        'loss.free_nats=0.01',
    ),
}


def config(case: str, *overrides: str) -> Config:
    preset, *own = CASES[case]
    return load_preset(preset, (*SMALL, *own, *overrides))


def samples(config: Config, number: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """Batch `number`, in whose second half the robot stands still in the dark."""
    rng = np.random.default_rng(number)
    shape = (config.schedule.batch, config.schedule.length)
    flags = {key: np.zeros(shape, bool) for key in ('is_first', 'is_last', 'is_terminal', 'is_human')}
    flags['is_last'][0, 2] = flags['is_terminal'][0, 2] = flags['is_first'][0, 3] = True
    data = dict(
        image=rng.integers(0, 256, (*shape, 32, 32, 3), dtype=np.uint8),
        vector=np.zeros((*shape, 0), np.float32),
        action=rng.uniform(-1, 1, (*shape, small.ACTIONS)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        **flags,
    )
    half = shape[0] // 2
    data['image'][half:] //= 16
    data['action'][half:] = 0.0
    data['reward'][half:] += 2.0
    return {key: value[rows] for key, value in data.items()}


@contextlib.contextmanager
def noise_by_row(rank: int, ranks: int):
    """The randomness of the rows of one of `ranks` equal shares of a batch, counted by calls."""
    calls = itertools.count()

    def share(*shape: int) -> torch.Tensor:
        """Standard normal noise whose second to last dimension holds the rows."""
        *leading, rows, size = shape
        generator = torch.Generator().manual_seed(next(calls))
        whole = torch.randn(*leading, ranks * rows, size, generator=generator)
        return whole.narrow(-2, rank * rows, rows)

    def latent_noise(self, *shape: int, device=None) -> torch.Tensor:
        return self.noise_from_normal(share(*shape, self.size))

    def draw(self, model, states, device) -> DreamNoise:
        horizon, rows, count = self.imagination.horizon, None, states
        if self.imagination.starts:
            each = self.imagination.starts // RANKS
            shares = RANKS // ranks  # in what this process has
            rows = torch.cat([torch.arange(each) + k * states // shares for k in range(shares)])
            count = len(rows)
        return DreamNoise(rows, model.rssm.latent.noise(horizon, count), share(horizon, count, self.action_size))

    with contextlib.ExitStack() as stack:
        for latent in (CategoricalLatent, GaussianLatent):
            stack.enter_context(mock.patch.object(latent, 'noise', latent_noise))
        stack.enter_context(mock.patch.object(ActorCritic, 'draw', draw))
        yield


def make_learner(config: Config, team=None) -> Learner:
    """A learner whose heads are far from zero, where mistakes hide."""
    made = Learner(config, small.robot(), 'cpu', 0, team)
    tensors, state = made.state()
    generator = torch.Generator().manual_seed(1)
    for name in tensors:
        if name.startswith(('agent.behaviour.actor.', 'agent.behaviour.critic.')):
            tensors[name] = tensors[name] + 0.05 * torch.randn(tensors[name].shape, generator=generator)
    made.restore(tensors, state, 'test')
    return made


def updated(learner: Learner) -> dict[str, torch.Tensor]:
    """The gradients of the first update, the metrics of the last one, and all state after it."""
    tensors, step = {}, learner.optimizer.step

    def remember(*names: str):
        for name, parameter in learner.agent.named_parameters():
            if parameter.grad is not None:
                tensors.setdefault(f'gradient.{name}', parameter.grad.clone())
        return step(*names)

    with mock.patch.object(learner.optimizer, 'step', remember):
        for number in range(UPDATES):
            metrics = learner.update(samples(learner.config, number))
    tensors.update((f'metric.{name}', value.clone()) for name, value in metrics.items())
    return {**tensors, **state_of(learner)}


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in learner.state()[0].items() if not name.startswith('random.')}


def run(team: Team, folder: Path, overrides: dict[str, list[str]]) -> None:
    """Every case with one team; rank r writes <case>-<r>.safetensors."""
    learners: list[Learner] = []  # of a rank that follows
    make = worker._make_learner

    def remember(*given) -> Learner:
        learners.append(make(*given))
        return learners[-1]

    with mock.patch.object(worker, '_make_learner', remember):
        for case in CASES:
            with noise_by_row(team.rank, team.size):
                if team.rank == 0:
                    tensors = updated(make_learner(config(case, *overrides.get(case, ())), team))
                    team._send(None)
                else:
                    worker.follow(team)
                    tensors = state_of(learners[-1])
            save_file(tensors, str(folder / f'{case}-{team.rank}.safetensors'))
        # with noise of their own, and a checkpoint in between
        if team.rank == 0:
            learner = make_learner(config('cpu'), team)
            learner.update(samples(learner.config, 0))
            learner.save(folder / 'checkpoint')
            for name in ('on', 'again'):
                learner.update(samples(learner.config, 1))
                save_file(state_of(learner), str(folder / f'{name}.safetensors'))
                if name == 'on':
                    learner.load(folder / 'checkpoint')
            team._send(None)
        else:
            worker.follow(team)
    random = [torch.empty_like(torch.get_rng_state()) for _ in range(team.size)]
    distributed.all_gather(random, torch.get_rng_state())
    assert not torch.equal(*random), 'each rank draws noise of its own'
    if team.rank:
        assert team.receive() is None  # the team ends


if __name__ == '__main__':
    torch.set_num_threads(1)
    with Team() as found:
        run(found, Path(sys.argv[1]), json.loads(sys.argv[2]))
    worker.leave()
