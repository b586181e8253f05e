"""Optimisers of the Dreamer line: Adam with global-norm clipping (V1, V2), LaProp with adaptive clipping (V3)."""
from __future__ import annotations

from typing import Dict, List

import torch
from torch import Tensor

from dreamer_ros.config import OptimizerConfig


class LaProp(torch.optim.Optimizer):
    """Adaptive gradient clipping, then RMS scaling (0.999), then momentum (0.9): LaProp's order.

    Each tensor's gradient norm is clipped to `clip` times max(1e-3, its parameter norm).
    """

    BETA1, BETA2, MINIMUM_NORM = 0.9, 0.999, 1e-3

    def __init__(self, groups: List[dict], eps: float, clip: float):
        super().__init__(groups, {'lr': 0.0})
        self.eps, self.clip = eps, clip

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            parameters = [p for p in group['params'] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter].update(
                        step=torch.zeros(()), square=torch.zeros_like(parameter),
                        momentum=torch.zeros_like(parameter))
            states = [self.state[p] for p in parameters]
            squares = [s['square'] for s in states]
            momenta = [s['momentum'] for s in states]
            for state in states:
                state['step'] += 1
            step = float(states[0]['step'])

            limits = torch._foreach_norm(parameters)
            torch._foreach_clamp_min_(limits, self.MINIMUM_NORM)
            torch._foreach_mul_(limits, self.clip)
            norms = torch._foreach_norm(gradients)
            torch._foreach_clamp_min_(norms, 1e-12)
            torch._foreach_div_(limits, norms)
            torch._foreach_clamp_max_(limits, 1.0)
            gradients = torch._foreach_mul(gradients, limits)

            torch._foreach_mul_(squares, self.BETA2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - self.BETA2)
            divisors = torch._foreach_div(squares, 1.0 - self.BETA2 ** step)
            torch._foreach_sqrt_(divisors)
            torch._foreach_add_(divisors, self.eps)
            torch._foreach_div_(gradients, divisors)
            torch._foreach_lerp_(momenta, gradients, 1.0 - self.BETA1)
            torch._foreach_add_(parameters, momenta, alpha=-group['lr'] / (1.0 - self.BETA1 ** step))


class Optimizer:
    """Warm-up, clipping and one step over the model, actor and critic groups.

    Args:
        config: kind and learning rates.
        groups: parameters by name: model, actor, critic.
    """

    def __init__(self, config: OptimizerConfig, groups: Dict[str, List[Tensor]]):
        self.config = config
        rates = {'model': config.model_lr, 'actor': config.actor_lr, 'critic': config.critic_lr}
        self.rates = [rates[name] for name in groups]
        self.names = list(groups)
        self.steps = 0
        torch_groups = [{'params': parameters, 'lr': rates[name]} for name, parameters in groups.items()]
        if config.kind == 'laprop':
            self.inner: torch.optim.Optimizer = LaProp(torch_groups, config.eps, config.clip)
        else:
            self.inner = torch.optim.Adam(
                torch_groups, eps=config.eps, weight_decay=config.weight_decay, foreach=True)

    def step(self) -> Dict[str, Tensor]:
        """Apply the gradients that the parameters hold, then drop them. Returns gradient norms by group."""
        self.steps += 1
        factor = min(1.0, self.steps / self.config.warmup) if self.config.warmup else 1.0
        norms = {}
        for name, group, rate in zip(self.names, self.inner.param_groups, self.rates):
            group['lr'] = rate * factor
            if self.config.kind == 'adam':
                norms[f'{name}_grad_norm'] = torch.nn.utils.clip_grad_norm_(
                    group['params'], self.config.clip, foreach=True)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        return norms

    def state_tensors(self) -> Dict[str, Tensor]:
        """Optimiser state as named tensors, for a checkpoint."""
        tensors = {}
        for name, group in zip(self.names, self.inner.param_groups):
            for index, parameter in enumerate(group['params']):
                for key, value in self.inner.state[parameter].items():
                    tensors[f'{name}.{index}.{key}'] = value
        return tensors

    def load_state_tensors(self, tensors: Dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        for name, group in zip(self.names, self.inner.param_groups):
            for index, parameter in enumerate(group['params']):
                prefix = f'{name}.{index}.'
                self.inner.state[parameter] = {
                    key[len(prefix):]: value.to(parameter.device) if value.ndim else value
                    for key, value in tensors.items() if key.startswith(prefix)}
