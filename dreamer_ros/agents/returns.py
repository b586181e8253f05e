"""Return estimators over imagined trajectories (Dreamer, arXiv 1912.01603, eqs. 4 to 6).

All take time-major tensors aligned on arrival: index t holds the reward of a transition, the discount that
applies to what comes after it, and the value of the state it leads to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Tensor:
    """R_t = r_t + γ_t[(1 − λ) v_t + λ R_{t+1}] with R_T = v_{T−1}, all [T, ...]."""
    steps = reward + discount * value * (1.0 - lambda_)
    carry = value[-1]
    returns = []
    for t in reversed(range(len(reward))):
        carry = steps[t] + lambda_ * discount[t] * carry
        returns.append(carry)
    return torch.stack(returns[::-1])


def n_step_returns(reward: Tensor, value: Tensor, discount: Tensor, n: int) -> Tensor:
    """V_N: n discounted rewards, then the value; shorter where the trajectory ends. All [T, ...]."""
    length = len(reward)
    returns = []
    for t in range(length):
        end = min(t + n, length) - 1
        carry = value[end]
        for k in range(end, t - 1, -1):
            carry = reward[k] + discount[k] * carry
        returns.append(carry)
    return torch.stack(returns)


def reward_returns(reward: Tensor) -> Tensor:
    """V_R: the undiscounted sum of the rewards that are left, without a value; [T, ...]."""
    return reward.flip(0).cumsum(0).flip(0)
