"""Every tensor of an update is made on the learner's device, and nothing on the way is read back (World Models, which
picks its first images by their flags, has to).

torch's device `meta` computes shapes alone, on every machine. It refuses to be mixed with tensors of the CPU and to
give values away, as a GPU does the one and waits for the other.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from dreamer_ros.agents.system import Batch
from dreamer_ros.config import load_preset
from dreamer_ros.training import learner as learning
from dreamer_ros.training.learner import Learner
from tests.policy.tiny import spec as tiny_spec

DEVICE = torch.device('meta')
BATCH, LENGTH = 2, 3
# Counts that are read once per update.
READ = ('updates',)


def move(module: nn.Module) -> nn.Module:
    """Parameters and buffers to the device, as `Module.to` does there: modules that share one go on to do so."""
    moved = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and name not in READ:
                    empty = torch.empty_like(tensor, device=DEVICE)
                    if isinstance(tensor, nn.Parameter):
                        empty = nn.Parameter(empty, tensor.requires_grad)
                    tensors[name] = moved.setdefault(id(tensor), (empty, tensor))[0]
    return module


@pytest.fixture
def device(monkeypatch):
    """What of torch does not know the device meta is told what to do instead."""
    autocast, make = torch.autocast, learning.make_agent
    monkeypatch.setattr(
        torch, 'autocast', lambda kind, *rest, **more: autocast('cpu' if kind == 'meta' else kind, *rest, **more)
    )
    for owner, name in ((torch.optim, 'Adam'), (nn.utils, 'clip_grad_norm_'), (nn.utils, 'clip_grad_value_')):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            functools.wraps(original)(
                lambda *rest, original=original, foreach=None, fused=None, **more: original(
                    *rest, foreach=False, **more
                )
            ),
        )
    monkeypatch.setattr(nn.Module, 'to', lambda module, device: module)
    monkeypatch.setattr(learning, 'make_agent', lambda *arguments: move(make(*arguments)))
    monkeypatch.setattr(learning, 'pick_device', lambda name: DEVICE)


@pytest.mark.parametrize(
    'preset, overrides',
    [
        ('cpu', ['imagination.starts=4']),
        ('dreamerv3_1m', ['precision=bfloat16']),
        ('r2dreamer', []),
        ('dreamerv2', ['actor.gradient=mixed']),
        ('dreamer', ['loss.representation=contrastive', 'loss.continue_head=true']),
        ('dreamer', ['loss.representation=reward', 'imagination.estimator=reward']),
        ('planet', ['loss.overshooting=2']),
    ],
)
def test_an_update_stays_on_its_device(device, preset, overrides):
    config = load_preset(preset, [f'schedule.batch={BATCH}', f'schedule.length={LENGTH}', *overrides])
    spec = tiny_spec(image_size=config.env.image_size)
    learner = Learner(config, spec, 'cuda')

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(BATCH, LENGTH, *shape, dtype=dtype, device=DEVICE)

    batch = Batch(
        tensor(*spec.image_shape, dtype=torch.uint8),
        tensor(len(spec.vector)),
        tensor(len(spec.action)),
        tensor(),
        *(tensor(dtype=torch.bool) for _ in range(4)),
    )
    for _ in range(2):  # the second one dreams beside it, where that is asked for
        metrics = learner.train(batch)
    assert {name: value.device.type for name, value in metrics.items()} == dict.fromkeys(metrics, 'meta')
    assert learner.updates == 2
