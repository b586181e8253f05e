"""Soft actor-critic from pixels: stable-baselines3's SAC with what DrQ (2004.13649, 2107.09645) adds.

Sampled images are shifted by a few pixels at random. Only the critic trains the convolutions, which the actor uses
too. Features are few, normalised and bounded. Targets are three-step returns.
"""

from __future__ import annotations

import collections
import copy
import math
import time
from collections.abc import Callable
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import CnnPolicy
from torch import Tensor, nn

from dreamer_ros import simulation
from dreamer_ros.benchmark.results import Outcome, Protocol
from dreamer_ros.seeds import evaluation_seed

FRAMES = 3  # of an observation, so that it shows velocities
SHIFT = 4  # pixels
FEATURES = 50
PREFILL = 500  # agent steps at random
CAPACITY = 100_000  # agent steps, as in DrQ; each takes two stacks of images


def train_sac(
    task: str,
    image_size: tuple[int, int],
    action_repeat: int,
    seed: int,
    protocol: Protocol,
    report: Callable[[Outcome], None],
) -> Outcome:
    """Train and score; one update of 128 observations per agent step."""
    environment = PixelTask(task, image_size, action_repeat, seed)
    evaluation = PixelTask(task, image_size, action_repeat, evaluation_seed(seed))
    budget = math.ceil(protocol.steps / action_repeat)
    model = SAC(
        DrqPolicy,
        environment,
        learning_rate=1e-3,
        batch_size=128,
        tau=0.02,
        ent_coef='auto_0.1',
        buffer_size=min(CAPACITY, budget),
        learning_starts=min(PREFILL, budget // 2),
        seed=seed,
        replay_buffer_class=ShiftingBuffer,
        replay_buffer_kwargs={'n_steps': 3, 'gamma': 0.99},
    )
    watch = _Watch(evaluation, protocol, action_repeat, report)
    model.learn(budget, callback=watch)
    watch.outcome.returns = watch.evaluate(protocol.episodes)
    environment.close()
    evaluation.close()
    return watch.outcome


class PixelTask(gymnasium.Env):
    """One of our simulators as a gymnasium environment: the last images, uint8 [3 * FRAMES, H, W]."""

    def __init__(self, task: str, image_size: tuple[int, int], action_repeat: int, seed: int):
        self._environment = simulation.make(task, image_size=image_size, action_repeat=action_repeat, seed=seed)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(self._environment.spec.action),), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (3 * FRAMES, *image_size), np.uint8)
        self._frames: collections.deque[np.ndarray] = collections.deque(maxlen=FRAMES)

    def reset(self, *, seed=None, options=None):
        """The simulator's seed was set when it was made."""
        image = self._environment.reset().image.transpose(2, 0, 1)
        self._frames.extend([image] * FRAMES)
        return np.concatenate(self._frames), {}

    def step(self, action):
        """(observation, reward, terminated, truncated, info) after one action."""
        seen = self._environment.step(action)
        self._frames.append(seen.image.transpose(2, 0, 1))
        truncated = seen.is_last and not seen.is_terminal
        return np.concatenate(self._frames), seen.reward, seen.is_terminal, truncated, {}

    def close(self):
        """Free the simulator."""
        self._environment.close()


class ShiftingBuffer(NStepReplayBuffer):
    """Shifts every sampled observation by up to SHIFT pixels each way."""

    def _get_samples(self, *arguments, **options) -> ReplayBufferSamples:
        samples = super()._get_samples(*arguments, **options)
        return samples._replace(
            observations=shift(samples.observations), next_observations=shift(samples.next_observations)
        )


def shift(images: Tensor) -> Tensor:
    """Each of [B, C, H, W] moved by random whole pixels; what comes in at the edges repeats them."""

    def indices(size: int) -> Tensor:
        offsets = torch.randint(-SHIFT, SHIFT + 1, (len(images), 1), device=images.device)
        return (offsets + torch.arange(size, device=images.device)).clamp(0, size - 1)

    rows, columns = indices(images.shape[2]), indices(images.shape[3])
    batch = torch.arange(len(images), device=images.device)
    return images[batch[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


class Encoder(NatureCNN):
    """The library's convolutions under DrQ's bounded features, on which actor and critic do not saturate."""

    def __init__(self, observation_space: gymnasium.spaces.Box):
        super().__init__(observation_space, FEATURES)
        self.linear = nn.Sequential(self.linear[0], nn.LayerNorm(FEATURES), nn.Tanh())


class ActorEncoder(nn.Module):
    """The critic's convolutions as they are, under features of the actor's own."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self._convolutions = [encoder.cnn]  # a list hides them from parameters()
        self.linear = copy.deepcopy(encoder.linear)

    def forward(self, observation: Tensor) -> Tensor:
        with torch.no_grad():
            features = self._convolutions[0](observation)
        return self.linear(features)


class DrqPolicy(CnnPolicy):
    """Actor and critic on one stack of convolutions, which the actor's loss does not reach."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, 'features_extractor_class': Encoder})

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        actor: Any = self.actor
        actor.features_extractor = ActorEncoder(cast(Encoder, self.critic.features_extractor))
        make: Any = self.optimizer_class
        actor.optimizer = make(self.actor.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class _Watch(BaseCallback):
    """Evaluates where the protocol asks for it, reports, and ends training when time is up."""

    def __init__(
        self, evaluation: PixelTask, protocol: Protocol, action_repeat: int, report: Callable[[Outcome], None]
    ):
        super().__init__()
        self.outcome = Outcome()
        self._evaluation, self._protocol = evaluation, protocol
        self._repeat, self._report = action_repeat, report
        self._marks = protocol.marks()
        self._began = time.monotonic()

    def _on_step(self) -> bool:
        outcome = self.outcome
        outcome.env_steps = self.num_timesteps * self._repeat
        outcome.updates = self.model._n_updates
        outcome.seconds = time.monotonic() - self._began
        if self._marks and outcome.env_steps >= self._marks[0]:
            self._marks = [mark for mark in self._marks if mark > outcome.env_steps]
            returns = self.evaluate(self._protocol.curve_episodes)
            self._began = time.monotonic() - outcome.seconds  # evaluations do not count
            outcome.curve.append((outcome.env_steps, outcome.seconds, float(np.mean(returns)), len(returns)))
        self._report(outcome)
        return not self._protocol.out_of_time(outcome.seconds)

    def evaluate(self, episodes: int) -> list[float]:
        """Returns of episodes with the mode of the policy."""
        returns = []
        for _ in range(episodes):
            observation, _ = self._evaluation.reset()
            total, ended = 0.0, False
            while not ended:
                action, _ = self.model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = self._evaluation.step(action)
                total += reward
                ended = terminated or truncated
            returns.append(total)
        return returns
