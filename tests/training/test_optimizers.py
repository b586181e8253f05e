"""Optimisers against plain-Python arithmetic, number by number."""

import math

import numpy as np
import pytest
import torch

from dreamer_ros.config import DreamerOptimizerConfig
from dreamer_ros.training.optimizers import LaProp, Optimizer

SHAPES = {'model': [(3, 4), (4,)], 'actor': [(2, 2)], 'critic': [(5,), (1, 3)]}


def config(**values):
    return DreamerOptimizerConfig(**{'model_lr': 1e-2, 'actor_lr': 3e-3, 'critic_lr': 5e-3, **values})


def parameters(rng, dtype=np.float64):
    return {
        name: [torch.nn.Parameter(torch.tensor(rng.normal(size=shape).astype(dtype))) for shape in shapes]
        for name, shapes in SHAPES.items()
    }


def feed(groups, gradients):
    for name, own in groups.items():
        for parameter, gradient in zip(own, gradients[name]):
            parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)


def random_gradients(rng, scale=1.0):
    return {name: [scale * rng.normal(size=shape) for shape in shapes] for name, shapes in SHAPES.items()}


class ReferenceLaProp:
    """One tensor, as lists of floats."""

    def __init__(self, values, lr, eps, clip, warmup):
        self.values, self.lr, self.eps, self.clip, self.warmup = list(values), lr, eps, clip, warmup
        self.square, self.momentum, self.steps = [0.0] * len(values), [0.0] * len(values), 0

    def step(self, gradient):
        self.steps += 1
        norm = math.sqrt(sum(g * g for g in gradient))
        limit = self.clip * max(1e-3, math.sqrt(sum(v * v for v in self.values)))
        factor = limit / norm if norm > limit else 1.0
        rate = self.lr * min(1.0, self.steps / self.warmup) if self.warmup else self.lr
        for i, g in enumerate(gradient):
            g *= factor
            self.square[i] = 0.999 * self.square[i] + 0.001 * g * g
            scaled = g / (math.sqrt(self.square[i] / (1 - 0.999**self.steps)) + self.eps)
            self.momentum[i] = 0.9 * self.momentum[i] + 0.1 * scaled
            self.values[i] -= rate * self.momentum[i] / (1 - 0.9**self.steps)


@pytest.mark.parametrize('warmup', [0, 4])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e4])
def test_laprop(rng, warmup, scale):
    """Small gradients pass, large ones are clipped to 0.3 of their tensor's norm."""
    settings = config(kind='laprop', eps=1e-20, clip=0.3, warmup=warmup)
    groups = parameters(rng)
    with torch.no_grad():
        groups['critic'][1].zero_()  # its norm counts as 1e-3
    rates = {'model': 1e-2, 'actor': 3e-3, 'critic': 5e-3}
    references = {
        name: [ReferenceLaProp(p.detach().flatten().tolist(), rates[name], 1e-20, 0.3, warmup) for p in own]
        for name, own in groups.items()
    }
    optimizer = Optimizer(settings, groups)
    for step in range(10):
        gradients = random_gradients(rng, scale * (10 if step == 5 else 1))
        feed(groups, gradients)
        optimizer.step(*groups)
        for name, own in references.items():
            for reference, gradient, parameter in zip(own, gradients[name], groups[name]):
                reference.step(gradient.flatten().tolist())
                np.testing.assert_allclose(parameter.detach().flatten(), reference.values, rtol=1e-8, atol=1e-12)
                assert parameter.grad is None


def test_laprop_first_step_has_the_size_of_its_rate(rng):
    """Bias corrections: whatever the gradient, the first step is ± lr."""
    for scale in (1e-8, 1.0, 1e8):
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        before = parameter.detach().clone()
        parameter.grad = torch.tensor([3.0, -0.5]) * scale
        LaProp([{'params': [parameter], 'lr': 0.01}], 1e-20, 0.3).step()
        torch.testing.assert_close(parameter.detach(), before - 0.01 * torch.tensor([1.0, -1.0]))


def test_laprop_leaves_parameters_without_gradient_signal_alone():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = LaProp([{'params': [parameter], 'lr': 0.01}], 1e-20, 0.3)
    for _ in range(3):
        parameter.grad = torch.zeros(3)
        optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3))


def test_adam_clips_every_element_by_itself(rng):
    settings = config(kind='adam', eps=1e-5, clip=0.7, clip_kind='element', warmup=0)
    clipped, plain = parameters(rng), {}
    for name, own in clipped.items():
        plain[name] = [torch.nn.Parameter(p.detach().clone()) for p in own]
    ours, reference = Optimizer(settings, clipped), Optimizer(config(kind='adam', eps=1e-5, clip=1e9, warmup=0), plain)
    for scale in (1.0, 30.0, 0.1):
        gradients = random_gradients(rng, scale)
        feed(clipped, gradients)
        limited = {name: [np.clip(g, -0.7, 0.7) for g in own] for name, own in gradients.items()}
        feed(plain, limited)
        norms = ours.step()
        reference.step()
        for name, own in limited.items():
            assert float(norms[f'{name}_grad_norm']) == pytest.approx(math.sqrt(sum((g**2).sum() for g in own)))
            for a, b in zip(clipped[name], plain[name]):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize('weight_decay', [0.0, 1e-2])
def test_adam_clips_each_group_by_its_global_norm(rng, weight_decay):
    settings = config(kind='adam', eps=1e-5, clip=1.5, warmup=3, weight_decay=weight_decay)
    groups = parameters(rng)
    rates = {'model': 1e-2, 'actor': 3e-3, 'critic': 5e-3}
    values = {name: np.concatenate([p.detach().numpy().ravel() for p in own]) for name, own in groups.items()}
    moments = {name: (np.zeros_like(v), np.zeros_like(v)) for name, v in values.items()}
    optimizer = Optimizer(settings, groups)
    for step in range(1, 8):
        gradients = random_gradients(rng, 0.1 if step == 4 else 1.0)  # step 4 is under the limit
        feed(groups, gradients)
        norms = optimizer.step(*groups)
        for name, own in groups.items():
            g = np.concatenate([x.ravel() for x in gradients[name]])
            norm = np.sqrt((g**2).sum())
            assert norms[f'{name}_grad_norm'].item() == pytest.approx(norm, rel=1e-5)
            g = g * min(1.0, 1.5 / (norm + 1e-6))
            first, second = moments[name]
            first[:] = 0.9 * first + 0.1 * g
            second[:] = 0.999 * second + 0.001 * g**2
            update = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-5)
            values[name] = (1 - weight_decay) * values[name] - rates[name] * min(1.0, step / 3) * update
            taken = np.concatenate([p.detach().numpy().ravel() for p in own])
            np.testing.assert_allclose(taken, values[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('kind', ['adam', 'laprop'])
def test_groups_step_apart(rng, kind):
    """A group that is not named keeps its values, its gradients and its place in the warm-up."""
    groups = parameters(rng)
    optimizer = Optimizer(config(kind=kind, warmup=10), groups)
    before = {name: [p.detach().clone() for p in own] for name, own in groups.items()}
    feed(groups, random_gradients(rng))
    optimizer.step('model')
    for name, own in groups.items():
        for parameter, old in zip(own, before[name]):
            assert torch.equal(parameter.detach(), old) == (name != 'model')
            assert (parameter.grad is None) == (name == 'model')
    assert optimizer.steps == {'model': 1, 'actor': 0, 'critic': 0}


@pytest.mark.parametrize('kind', ['adam', 'laprop'])
def test_state_round_trip_continues_bit_for_bit(rng, kind):
    settings = config(kind=kind, warmup=6)
    groups = parameters(rng, np.float32)
    optimizer = Optimizer(settings, groups)
    for _ in range(4):
        feed(groups, random_gradients(rng))
        optimizer.step(*groups)
    saved = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    copies = {name: [torch.nn.Parameter(p.detach().clone()) for p in own] for name, own in groups.items()}
    restored = Optimizer(settings, copies)
    restored.load_state_tensors(saved)
    restored.steps = dict(optimizer.steps)
    for _ in range(4):
        gradients = random_gradients(rng)
        feed(groups, gradients)
        feed(copies, gradients)
        optimizer.step(*groups)
        restored.step(*groups)
    for name, own in groups.items():
        for a, b in zip(own, copies[name]):
            assert torch.equal(a, b)
    assert restored.state_tensors().keys() == optimizer.state_tensors().keys()
    fresh = Optimizer(
        settings, {name: [torch.nn.Parameter(p.detach().clone()) for p in own] for name, own in groups.items()}
    )
    assert fresh.state_tensors() == {}


def test_learning_solves_a_badly_scaled_problem():
    """LaProp reaches the bottom of a valley whose axes differ by a million in curvature."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = LaProp([{'params': [parameter], 'lr': 0.01}], 1e-20, 0.3)
    for _ in range(400):
        loss = (torch.tensor([1e3, 1e-3]) * (parameter - torch.tensor([0.3, 2.0])).square()).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.3, 2.0]), rtol=0, atol=0.05)
