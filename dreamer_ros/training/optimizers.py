"""Optimisers: Adam with clipping by global norm or by element, LaProp with adaptive clipping (DreamerV3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamer_ros.config import OptimizerConfig


class LaProp(torch.optim.Optimizer):
    """Adaptive gradient clipping, then RMS scaling (0.999), then momentum (0.9): LaProp's order.

    Each tensor's gradient norm is clipped to `clip` times max(1e-3, its parameter norm).
    """

    BETA1, BETA2, MINIMUM_NORM = 0.9, 0.999, 1e-3

    def __init__(self, groups: list[dict], eps: float, clip: float):
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
                        step=torch.zeros(()), square=torch.zeros_like(parameter), momentum=torch.zeros_like(parameter)
                    )
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
            gradients = list(torch._foreach_mul(gradients, limits))

            torch._foreach_mul_(squares, self.BETA2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - self.BETA2)
            divisors = torch._foreach_div(squares, 1.0 - self.BETA2**step)
            torch._foreach_sqrt_(divisors)
            torch._foreach_add_(divisors, self.eps)
            torch._foreach_div_(gradients, divisors)
            torch._foreach_lerp_(momenta, gradients, 1.0 - self.BETA1)
            torch._foreach_add_(parameters, momenta, alpha=-group['lr'] / (1.0 - self.BETA1**step))


class Optimizer:
    """Warm-up, clipping and one step for each group of parameters.

    Args:
        config: kind and learning rates.
        groups: parameters by the name of their learning rate: `model` is `config.model_lr`, and so on.
        probes: those of them that belong to probes. Their gradients are clipped apart, so that a large norm does
            not shorten the steps of the others.
    """

    def __init__(self, config: OptimizerConfig, groups: dict[str, list[Tensor]], probes: Sequence[Tensor] = ()):
        self.config = config
        self.rates = {name: getattr(config, f'{name}_lr') for name in groups}
        self.steps = dict.fromkeys(groups, 0)
        probed = set(map(id, probes))
        self._clipped = {
            name: [[p for p in own if (id(p) in probed) == apart] for apart in (False, True)]
            for name, own in groups.items()
        }
        self.inner: dict[str, torch.optim.Optimizer] = {}
        for name, parameters in groups.items():
            group = [{'params': parameters, 'lr': self.rates[name]}]
            if config.kind == 'laprop':
                self.inner[name] = LaProp(group, config.eps, config.clip)
            else:
                self.inner[name] = torch.optim.Adam(group, eps=config.eps, foreach=True)

    def step(self, *names: str) -> dict[str, Tensor]:
        """Apply the gradients of the named groups, or of all, and drop them. A group without gradients rests.

        Returns:
            gradient norms by group, without those of probes.
        """
        norms = {}
        for name in names or self.inner:
            (group,) = self.inner[name].param_groups
            if all(parameter.grad is None for parameter in group['params']):
                continue
            self.steps[name] += 1
            warmup = self.config.warmup
            factor = min(1.0, self.steps[name] / warmup) if warmup else 1.0
            group['lr'] = self.rates[name] * factor
            if self.config.kind == 'adam':
                limit = self.config.clip
                if self.config.clip_kind == 'element':
                    torch.nn.utils.clip_grad_value_(group['params'], limit, foreach=True)
                    limit = math.inf  # what follows then only measures
                norms[f'{name}_grad_norm'], _ = (
                    torch.nn.utils.clip_grad_norm_(part, limit, foreach=True) for part in self._clipped[name]
                )
            if self.config.weight_decay:
                # DreamerV2's public code: neither through the gradient nor with the learning rate
                with torch.no_grad():
                    torch._foreach_mul_(group['params'], 1.0 - self.config.weight_decay)
            self.inner[name].step()
            self.inner[name].zero_grad(set_to_none=True)
        return norms

    def state_tensors(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors, for a checkpoint."""
        tensors = {}
        for name, inner in self.inner.items():
            for index, parameter in enumerate(inner.param_groups[0]['params']):
                for key, value in inner.state[parameter].items():
                    tensors[f'{name}.{index}.{key}'] = value
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        for name, inner in self.inner.items():
            for index, parameter in enumerate(inner.param_groups[0]['params']):
                prefix = f'{name}.{index}.'
                inner.state[parameter] = {
                    key[len(prefix) :]: value.to(parameter.device) if value.ndim else value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
