"""What goes into a learning system and what comes out, and the table of systems."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from dreamer_ros.config import Config
from dreamer_ros.errors import InputError
from dreamer_ros.frames import side_by_side
from dreamer_ros.spec import RobotSpec

# system (config.system) -> module in dreamer_ros.agents and class; a new system is one line here and one module
SYSTEMS = {
    'dreamer': ('dreamer', 'Dreamer'),
    'planet': ('planet', 'PlaNet'),
    'world_models': ('world_models_2018', 'WorldModels'),
}


class Batch(NamedTuple):
    """Training sequences on the learner's device; actions, and who chose them, are those BEFORE each observation."""

    image: Tensor  # uint8 [B, T, H, W, 3 per camera]; [B, T, 0, 0, 0] without cameras
    vector: Tensor  # float32 [B, T, N], N = 0 without vector inputs
    previous_action: Tensor  # float32 [B, T, A]
    reward: Tensor  # float32 [B, T]
    is_first: Tensor  # bool [B, T]
    is_last: Tensor  # bool [B, T]
    is_terminal: Tensor  # bool [B, T]
    previous_human: Tensor  # bool [B, T], a person chose the previous action


# Names of the replay's arrays that make a Batch, in its order.
SAMPLED = ('image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal', 'is_human')


class Inspection(NamedTuple):
    """What an agent sees in a recorded sequence, and what it predicts.

    Filtered values come from the posterior, which sees every observation. Predicted ones see the first `context`
    observations, where they equal the filtered ones, and follow from the actions alone after that.
    """

    reconstruction: Tensor | None  # uint8 [B, T, H, W, 3 per camera]; None without cameras
    prediction: Tensor | None  # the same, predicted
    reward: Tensor  # [B, T], filtered: expected on arriving at each step
    predicted_reward: Tensor  # [B, T]
    value: Tensor | None  # [B, T], of the filtered states; None for systems that learn none

    def film(self, image: Tensor) -> np.ndarray:
        """Truth | reconstruction | prediction of a robot with cameras, uint8 [B, T, H, 3·cameras·W, 3].

        Args:
            image: what was recorded, uint8 [B, T, H, W, 3 per camera].
        """
        columns = (image, self.reconstruction, self.prediction)
        return np.concatenate([side_by_side(column.cpu().numpy()) for column in columns], 3)


class Agent(nn.Module):
    """A learning system: what it trains, the policy that runs on the robot, and its dreams.

    Everything a checkpoint must hold is a parameter or a buffer.

    Attributes:
        steady: `loss` runs the same operations for every batch, so that a CUDA graph can repeat them.
    """

    steady = True

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar whose gradients reach every trained parameter, and metrics as scalar tensors."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Trained parameters by the name of their learning rate: `model` is `optimizer.model_lr`, and so on."""
        raise NotImplementedError

    def probes(self) -> list[Tensor]:
        """Trained parameters of probes: decoders that show what a state holds without shaping it."""
        return []

    def after_update(self, batch: Batch) -> dict[str, Tensor]:
        """Do what follows each optimiser step (slow copies, evolution); metrics as scalar tensors."""
        return {}

    def policy(self) -> nn.Module:
        """The running agent, sharing the trained parameters: the module that is exported to ONNX."""
        raise NotImplementedError

    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        """Filter a sequence, and predict it from its first `context` steps and the actions."""
        raise NotImplementedError


def make_agent(config: Config, spec: RobotSpec) -> Agent:
    """The system that `config.system` names, for a robot.

    Raises:
        InputError: the robot perceives something else than the config expects.
    """
    env, cameras = config.env, len(config.env.cameras or spec.cameras or ('camera',))
    expected = _perception(env.image_size, cameras * (env.inputs != 'vector'), env.inputs != 'image')
    got = _perception(spec.image_size, len(spec.cameras), bool(spec.vector))
    if got != expected:
        raise InputError(
            f'preset {config.preset} with env.inputs {env.inputs} expects {expected}, the robot {spec.name} sends {got}'
        )
    module, name = SYSTEMS[config.system]
    return getattr(importlib.import_module(f'dreamer_ros.agents.{module}'), name)(config, spec)


def _perception(image_size: tuple[int, int], cameras: int, vector: bool) -> str:
    """What a robot perceives, in words; equal words mean that the same networks fit."""
    images = f'images of {image_size[0]}x{image_size[1]}' + (f' of {cameras} cameras' if cameras > 1 else '')
    return ' and '.join([images] * bool(cameras) + ['joint states'] * vector)
