"""Actor and critic, and how they learn from trajectories that the world model dreams.

`ActorCritic.loss` is the place to begin: dream, returns, actor loss, critic loss. Shapes are in world_model.py.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamer_ros.agents.system import Batch
from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.config import DreamerConfig
from dreamer_ros.nets import lanes
from dreamer_ros.nets.collective import gather, learners
from dreamer_ros.nets.distributions import ACTIONS, SCALARS, OneHot, bounded
from dreamer_ros.nets.layers import flatten_time, head
from dreamer_ros.nets.rssm import State


class Dream(NamedTuple):
    """An imagined trajectory, time-major: features of s_0 … s_H and the actions between them."""

    feature: Tensor  # [H + 1, N, F]
    action: Tensor  # [H, N, A] as sampled; the model takes them clipped
    raw: Tensor  # [H, N, ...], the actor's outputs that the actions were sampled from


class DreamNoise(NamedTuple):
    """All random numbers of a dream, drawn beforehand so that a dream on another thread is reproducible."""

    rows: Tensor | None  # int64 [N], which posterior states to start from; None takes all
    latent: Tensor  # [H, N, ...]
    action: Tensor  # [H, N, A]


class ActorCritic(nn.Module):
    """Actor, critic and the losses that train them. Discrete actions are one-hot choices."""

    def __init__(self, config: DreamerConfig, feature_size: int, action_size: int, discrete: bool = False):
        super().__init__()
        self.actor_config, self.critic_config = config.actor, config.critic
        self.imagination = config.imagination
        self.action_size = action_size
        self.distribution = OneHot(config.actor.unimix) if discrete else ACTIONS[config.actor.distribution]()
        self.exploration_noise = 0.0 if discrete else config.actor.exploration_noise
        # the share of REINFORCE in the actor's gradient; the rest goes through the dynamics
        self.reinforce = {'dynamics': 0.0, 'reinforce': 1.0, 'mixed': config.actor.mix, 'auto': float(discrete)}[
            config.actor.gradient
        ]
        self.actor = head(
            feature_size, config.mlp, config.mlp.actor_layers, self.distribution.raw_per_action * action_size
        )
        if config.mlp.norm != 'none':
            # a nearly zero output layer starts the policy centred and wide (DreamerV3's outscale 0.01)
            with torch.no_grad():
                self.actor[-1].weight.mul_(0.01)
        self.value_distribution = SCALARS[config.critic.distribution]()
        zero = config.critic.distribution == 'twohot'
        self.critic = head(feature_size, config.mlp, config.mlp.critic_layers, self.value_distribution.raw_size, zero)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        # without dynamics gradients, one pass of the critic gives the values and what its loss needs
        self.shares_critic = self.reinforce == 1.0 and config.critic.slow != 'target'
        self.return_range = ReturnRange()
        # Counted in Python, because reading the buffer waits for the GPU.
        self._slow_updates = 0
        self.register_buffer('slow_updates', torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(lambda module, _: module._count_from_buffer())

    def draw(self, model: WorldModel, states: int, device: torch.device) -> DreamNoise:
        """Draw the randomness of a dream that starts from some of `states` posterior states."""
        horizon, count, rows = self.imagination.horizon, -(-self.imagination.starts // learners()), None
        if count and count < states:
            rows = torch.randperm(states, device=device)[:count]
        else:
            count = states
        latent = model.rssm.latent.noise(horizon, count, device=device)
        return DreamNoise(rows, latent, torch.randn(horizon, count, self.action_size, device=device))

    def dream(self, model: WorldModel, start: State, noise: DreamNoise) -> Dream:
        """Roll the prior from states [N, ...] with the actor; gradients reach the actor through the dynamics.

        The actor's input is detached, so an action's effect on later actions is credited through the states alone.
        """
        state, features, actions, raws = start, [start.feature], [], []
        for latent_noise, action_noise in zip(noise.latent.unbind(0), noise.action.unbind(0)):
            with torch.enable_grad():  # for the actor's loss, also where no gradient passes the dynamics
                raw = self.actor(features[-1].detach())
            action = self.distribution.sample(raw, action_noise)
            state = model.rssm.imagine_step(state, bounded(action), latent_noise)
            features.append(state.feature)
            actions.append(action)
            raws.append(raw)
        with torch.enable_grad():
            return Dream(torch.stack(features), torch.stack(actions), torch.stack(raws))

    def value(self, feature: Tensor) -> Tensor:
        """The value that returns bootstrap from."""
        critic = self.slow_critic if self.critic_config.slow == 'target' else self.critic
        return self.value_distribution.mean(critic(feature))

    def loss(
        self, model: WorldModel, states: State, batch: Batch | None = None, noise: DreamNoise | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Actor and critic loss of one batch of posterior states [B, T, ...].

        Args:
            batch: what the states were filtered from; needed by imitation and the replay value loss only.
            noise: from `draw`; drawn here when left out.
        """
        start = State(flatten_time(states.deter).detach(), flatten_time(states.stoch).detach())
        if noise is None:
            noise = self.draw(model, len(start.deter), start.deter.device)
        if noise.rows is not None:
            start = State(start.deter[noise.rows], start.stoch[noise.rows])
        dynamics = self.reinforce < 1.0
        with frozen(model, self.critic) if dynamics else contextlib.nullcontext():
            action, raw, reward, discount, value, *outputs = lanes.by_rows(
                functools.partial(self.imagine, model),
                start.deter[None],
                start.stoch[None],
                noise.latent,
                noise.action,
                modules=[self.actor, self.critic],
                dim=1,
            )
        with torch.set_grad_enabled(dynamics):
            returns, weight, span = self.targets(reward, discount, value)
        actor_loss, metrics = self.actor_loss(raw[span.start :], action, returns, weight, value[span].detach())
        if not self.shares_critic:
            (feature,) = outputs
            outputs = self.critic_outputs_by_rows(feature[span].detach())
        critic_loss = self.critic_loss(outputs, returns.detach(), weight)
        metrics.update(actor_loss=actor_loss, critic_loss=critic_loss, imagined_reward=reward.mean())
        total = actor_loss + critic_loss
        if self.actor_config.imitation:
            imitation = self.imitation_loss(states, batch)
            fade = 1.0 - self.slow_updates / self.actor_config.imitation_updates
            total = total + self.actor_config.imitation * fade.clamp(min=0.0) * imitation
            metrics['imitation_loss'] = imitation
        if self.critic_config.replay_scale:
            replay = self.replay_critic_loss(states, batch, returns[0].detach())
            total = total + self.critic_config.replay_scale * replay
            metrics['replay_critic_loss'] = replay
        return total, {key: torch.as_tensor(value).detach() for key, value in metrics.items()}

    def imagine(
        self, model: WorldModel, deter: Tensor, stoch: Tensor, latent: Tensor, action: Tensor
    ) -> tuple[Tensor, ...]:
        """Dream from states [1, N, ...] with noise [H, N, ...], and predict rewards, discounts and values.

        Returns:
            actions [H, N, A] and the actor's outputs, rewards [H, N] on arriving at s_1 … s_H, discounts and values
            [H + 1, N] of s_0 … s_H. Last come the `critic_outputs` of s_0 … s_{H−1} if `shares_critic`, else the
            features [H + 1, N, F].
        """
        with torch.set_grad_enabled(self.reinforce < 1.0):
            dream = self.dream(model, State(deter[0], stoch[0]), DreamNoise(None, latent, action))
            feature = dream.feature
            reward, discount = model.predict_reward(feature[1:]), model.predict_discount(feature)
            if not self.shares_critic:
                return dream.action, dream.raw, reward, discount, self.value(feature), feature
        with torch.enable_grad():
            outputs = self.critic_outputs(feature[:-1])
        with torch.no_grad():
            value = torch.cat([self.value_distribution.mean(outputs[0]), self.value(feature[-1:])])
        return dream.action, dream.raw, reward, discount, value, *outputs

    def targets(self, reward: Tensor, discount: Tensor, value: Tensor) -> tuple[Tensor, Tensor, slice]:
        """Returns [T, N], their weights [T, N], and which dreamed states they belong to.

        Args:
            reward: on arriving at s_1 … s_H, [H, N].
            discount: from s_0 … s_H on, [H + 1, N].
            value: of s_0 … s_H, [H + 1, N].
        """
        if self.imagination.include_start:  # R_t counts from s_t: rewards r_{t+1} …
            span, aligned = slice(0, -1), (reward, value[1:], discount[1:])
        else:  # Dreamer: v(s_t) counts the reward of arriving at s_t as well, and starts at s_1
            span, aligned = slice(1, -1), (reward[:-1], value[2:], discount[1:-1])
        estimator = self.imagination.estimator
        if estimator == 'lambda':
            returns = lambda_returns(*aligned, self.imagination.lambda_)
        elif estimator == 'n_step':
            returns = n_step_returns(*aligned, self.imagination.n_steps)
        else:
            returns = reward_returns(reward)[: len(aligned[0])]
        # The probability that the episode still goes on. A start state that is terminal (V2, V3) weighs nothing.
        going = discount[:-1] if span.start == 0 else torch.cat([torch.ones_like(discount[:1]), discount[1:-2]])
        weight = going.cumprod(0).detach()
        return returns, weight, span

    def actor_loss(self, raw, action, returns, weight, baseline) -> tuple[Tensor, dict[str, Tensor]]:
        """−E[w · (objective + η · entropy)] over the actor's outputs [T, N, ...] in dreamed states."""
        config = self.actor_config
        divisor = self.return_range(returns) if config.normalise_returns else returns.new_ones(())
        entropy = self.distribution.entropy(raw)
        objective = (1.0 - self.reinforce) * returns / divisor
        if self.reinforce:
            # Here include_start is set, so action t was sampled from output t.
            advantage = ((returns - baseline) / divisor).detach()
            objective = objective + self.reinforce * self.distribution.log_prob(raw, action.detach()) * advantage
        loss = -(weight * (objective + config.entropy * entropy)).mean()
        return loss, {
            'return': returns.mean(),
            'actor_entropy': entropy.mean(),
            'return_range': divisor,
            'action_std': action.std(),
        }

    def imitation_loss(self, states: State, batch: Batch) -> Tensor:
        """The mean of −ln π(a | s) over the actions that people chose in replayed states [B, T, ...]."""
        chosen = batch.previous_human[:, 1:] & ~batch.is_first[:, 1:]
        raw = self.actor(states.feature[:, :-1].detach())
        errors = -self.distribution.log_prob(raw, batch.previous_action[:, 1:])
        count = gather(chosen.sum().float()[None]).mean()
        return (chosen * errors).sum() / count.clamp(min=1.0)

    def critic_loss(self, outputs: Sequence[Tensor], returns: Tensor, weight: Tensor) -> Tensor:
        """Weighted loss of the critic's outputs [T, N, ...] against the returns and the slow critic's values."""
        raw, *slow = outputs
        (errors,) = lanes.by_rows(
            lambda raw, *targets: (self.value_distribution.loss(raw, *targets),),
            *(flatten_time(x) for x in (raw, returns, *slow)),
        )
        return (weight * errors.view_as(weight)).mean()

    def critic_outputs_by_rows(self, feature: Tensor) -> Sequence[Tensor]:
        """`critic_outputs` of states [T, N, F]."""
        outputs = lanes.by_rows(self.critic_outputs, flatten_time(feature), modules=[self.critic])
        return [x.unflatten(0, feature.shape[:2]) for x in outputs]

    def critic_outputs(self, feature: Tensor) -> tuple[Tensor, ...]:
        """The critic's outputs for states, and the slow critic's values where they regularise it."""
        if self.critic_config.slow != 'regularise':
            return (self.critic(feature),)
        with torch.no_grad():
            slow = self.value_distribution.mean(self.slow_critic(feature))
        return self.critic(feature), slow

    def replay_critic_loss(self, states: State, batch: Batch, bootstrap: Tensor) -> Tensor:
        """Value loss on replayed rewards, bootstrapped from the dream of every state (DreamerV3).

        Args:
            bootstrap: imagined return of each posterior state, [B·T].
        """
        bootstrap = bootstrap.view(batch.reward.shape).transpose(0, 1)
        live = (~batch.is_terminal).float().transpose(0, 1)[1:] * self.imagination.discount
        reward, last = batch.reward.transpose(0, 1)[1:], batch.is_last.transpose(0, 1)
        lambda_ = self.imagination.lambda_ * (~last[1:]).float()
        returns = _backwards(reward + (1.0 - lambda_) * live * bootstrap[1:], live * lambda_, bootstrap[-1])
        feature = states.feature.transpose(0, 1)[:-1]  # this gradient shapes the representation too
        return self.critic_loss(self.critic_outputs_by_rows(feature), returns, (~last[:-1]).float())

    def _count_from_buffer(self) -> None:
        self._slow_updates = int(self.slow_updates)

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic once per update."""
        config = self.critic_config
        self._slow_updates += 1
        self.slow_updates.fill_(self._slow_updates)
        fast, slow = list(self.critic.parameters()), list(self.slow_critic.parameters())
        if config.slow == 'regularise':
            torch._foreach_lerp_(slow, fast, config.slow_rate)
        elif config.slow == 'target' and self._slow_updates % config.slow_every == 0:
            torch._foreach_copy_(slow, fast)


class ReturnRange(nn.Module):
    """Exponential average of the 5th to 95th percentile range of returns (DreamerV3's normaliser)."""

    RATE = 0.01

    def __init__(self):
        super().__init__()
        self.register_buffer('low', torch.zeros(()))
        self.register_buffer('high', torch.zeros(()))

    def forward(self, returns: Tensor) -> Tensor:
        """Update with returns of any shape; the divisor, max(1, range)."""
        flat = gather(returns.detach().float().flatten())
        # kthvalue instead of quantile, which refuses more than 16M elements and sorts twice
        count = flat.numel()
        self.low.lerp_(flat.kthvalue(max(1, round(0.05 * count))).values, self.RATE)
        self.high.lerp_(flat.kthvalue(max(1, round(0.95 * count))).values, self.RATE)
        return (self.high - self.low).clamp(min=1.0)


# Return estimators (Dreamer, arXiv 1912.01603, eqs. 4 to 6). All take time-major tensors aligned on arrival: index t
# holds the reward of a transition, the discount of what comes after it, and the value of the state that it leads to.


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Tensor:
    """R_t = r_t + γ_t[(1 − λ) v_t + λ R_{t+1}] with R_T = v_{T−1}, all [T, ...]."""
    return _backwards(reward + discount * value * (1.0 - lambda_), lambda_ * discount, value[-1])


def _backwards(step: Tensor, factor: Tensor, last: Tensor) -> Tensor:
    """R_t = step_t + factor_t R_{t+1} with R_T = last; [T, ...]."""
    returns = [last]
    for gain, share in zip(step.flip(0), factor.flip(0)):
        returns.append(gain + share * returns[-1])
    return torch.stack(returns[:0:-1])


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


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Record no gradients for these modules' parameters; gradients still flow through their inputs."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
