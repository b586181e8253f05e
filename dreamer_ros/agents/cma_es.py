"""CMA-ES whose whole state lies in buffers, so that a checkpoint holds a running evolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from cmaes import CMA, SepCMA
from torch import Tensor, nn

Strategy: TypeAlias = CMA | SepCMA
# Largest candidate whose full covariance is adapted. A generation decomposes a matrix of n × n: 3 s for 1,100 numbers
# (the largest controller of the World Models paper has 1,088), a minute for 3,000.
FULL_COVARIANCE = 1200


class CMAES(nn.Module):
    """Covariance matrix adaptation (the library `cmaes`), one generation at a time, maximising.

    Above FULL_COVARIANCE numbers it adapts the variances alone (sep-CMA-ES, Ros and Hansen 2008).

    The library's object lives for one generation. Between generations its state is in these buffers. Its random
    numbers are seeded by torch's generator, which checkpoints hold as well.

    Args:
        size: n, numbers in a candidate.
        population: candidates per generation.
        sigma: initial standard deviation in every direction.
    """

    # buffer -> the library's attribute
    STATE = {
        'mean': '_mean',
        'sigma': '_sigma',
        'covariance': '_C',
        'path_sigma': '_p_sigma',
        'path_c': '_pc',
        'generation': '_g',
    }

    def __init__(self, size: int, population: int, sigma: float):
        super().__init__()
        self.population, self.initial_sigma = population, sigma
        fresh = self._fresh(size, sigma)
        for name, attribute in self.STATE.items():
            self.register_buffer(name, torch.from_numpy(np.array(getattr(fresh, attribute))))

    def reset(self) -> None:
        """Start a new evolution."""
        self._store(self._fresh(len(self.mean), self.initial_sigma))

    @torch.no_grad()
    def step(self, fitness: Callable[[Tensor], Tensor]) -> Tensor:
        """One generation.

        Args:
            fitness: from candidates float32 [population, n] on the buffers' device to their fitness
                [population]. More is better, and values that are not finite count as worst.

        Returns:
            the fitness [population].
        """
        strategy = self._strategy()
        candidates = self._ask(strategy)
        values = fitness(torch.from_numpy(candidates).float().to(self.mean.device))
        costs = -values.double().cpu().numpy()
        costs[~np.isfinite(costs)] = np.inf
        strategy.tell(list(zip(candidates, costs.tolist())))
        self._store(strategy)
        return values

    def _fresh(self, size: int, sigma: float) -> Strategy:
        kind = CMA if size <= FULL_COVARIANCE else SepCMA
        return kind(np.zeros(size), sigma, population_size=self.population)

    def _store(self, strategy: Strategy) -> None:
        for name, attribute in self.STATE.items():
            getattr(self, name).copy_(torch.from_numpy(np.array(getattr(strategy, attribute))))

    def _strategy(self) -> Strategy:
        strategy = self._fresh(len(self.mean), 1.0)
        for name, attribute in self.STATE.items():
            value = getattr(self, name).cpu().numpy()
            setattr(strategy, attribute, value.copy() if value.ndim else value.item())
        return strategy

    def _ask(self, strategy: Strategy) -> np.ndarray:
        """All candidates at once [population, n]: the library's `ask` multiplies n × n matrices for each."""
        seed = int(torch.randint(2**31, ()))
        normal = np.random.default_rng(seed).standard_normal((self.population, len(self.mean)))
        if isinstance(strategy, SepCMA):
            return strategy.mean + strategy._sigma * normal * strategy._eigen_decomposition()
        basis, scale = strategy._eigen_decomposition()
        return strategy.mean + strategy._sigma * (normal * scale) @ basis.T
