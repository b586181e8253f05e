"""Small agents of each generation, and made-up batches for them."""

from __future__ import annotations

import torch

from dreamer_ros.agents.dreamer import Dreamer
from dreamer_ros.agents.system import Batch, make_agent
from dreamer_ros.config import Config, load_preset
from dreamer_ros.nets.distributions import TWOHOT_BINS
from dreamer_ros.nets.rssm import State
from dreamer_ros.spec import RobotSpec

ACTIONS = 2
SYSTEMS = {
    'v1': (
        'dreamer',
        'rssm.deter=8',
        'rssm.hidden=7',
        'rssm.stoch=3',
        'mlp.units=9',
        'conv.kind=stride',
        'imagination.horizon=5',
    ),
    'v2': (
        'cpu',
        'rssm.deter=8',
        'rssm.hidden=6',
        'rssm.stoch=3',
        'rssm.classes=4',
        'mlp.units=9',
        'imagination.horizon=5',
        'imagination.starts=0',
    ),
    'dreamerv2': (
        'dreamerv2',
        'rssm.deter=8',
        'rssm.hidden=6',
        'rssm.stoch=3',
        'rssm.classes=4',
        'mlp.units=9',
        'conv.kind=stride',
        'imagination.horizon=5',
    ),
    'v3': ('dreamerv3_1m', 'rssm.deter=16', 'rssm.hidden=6', 'rssm.stoch=3', 'mlp.units=9', 'imagination.horizon=5'),
}


def config(system: str, *overrides: str) -> Config:
    preset, *own = SYSTEMS[system]
    return load_preset(preset, (*own, 'env.image_size=32', 'conv.depth=2', *overrides))


def robot(actions: int = ACTIONS, image_size=(32, 32), **fields) -> RobotSpec:
    names = tuple(f'motor{i}' for i in range(actions))
    return RobotSpec(
        **{
            'name': 'robot',
            'image_size': image_size,
            'vector': (),
            'action': names,
            'action_low': (-1.0,) * actions,
            'action_high': (1.0,) * actions,
            'control_period': 0.1,
            'action_repeat': 2,
            **fields,
        }
    )


def agent(system: str, *overrides: str, seed: int = 0, discrete: bool = False) -> Dreamer:
    """An agent whose output layers are far from their (zero) start: heads at zero hide mistakes."""
    torch.manual_seed(seed)
    made = make_agent(config(system, *overrides), robot(discrete=discrete))
    with torch.no_grad():
        for _name, parameter in made.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in made.modules():
            if getattr(module, 'out_features', 0) == TWOHOT_BINS:  # values of order 1, not of 1e8
                module.bias.sub_(0.3 * (torch.arange(TWOHOT_BINS) - TWOHOT_BINS // 2).abs())
    made.behaviour.slow_critic.load_state_dict(made.behaviour.critic.state_dict())
    return made.to(torch.get_default_dtype())


def batch(batch_size: int = 3, length: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, length)
    flags = [torch.zeros(shape, dtype=torch.bool) for _ in range(3)]
    is_first, is_last, is_terminal = flags
    if length > 4:
        is_last[0, 2] = is_first[0, 3] = is_last[1, 3] = is_terminal[1, 3] = is_first[1, 4] = True
    return Batch(
        torch.randint(0, 256, (*shape, 32, 32, 3), dtype=torch.uint8, generator=generator),
        torch.zeros(*shape, 0),
        torch.rand(*shape, ACTIONS, generator=generator) * 2 - 1,
        torch.randn(shape, generator=generator),
        is_first,
        is_last,
        is_terminal,
        torch.arange(length).expand(shape) % 3 != 1,
    )


def states(made: Dreamer, batch_size: int = 3, length: int = 6) -> State:
    """Detached posterior states of made-up embeddings, in torch's default precision."""
    data = batch(batch_size, length)
    embed = torch.randn(batch_size, length, made.model.encoder.output_size)
    with torch.no_grad():
        return made.model.rssm.observe(embed, data.previous_action.to(embed.dtype), data.is_first)[0]


def touched(module: torch.nn.Module) -> set:
    """Names of the parameters that hold a gradient other than zero."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
