"""What the learner asks of every learning system, and the table of systems."""
from __future__ import annotations

import importlib
from typing import Dict, List, Tuple

from torch import Tensor, nn

from dreamer_ros.agents.batch import Batch
from dreamer_ros.config import Config
from dreamer_ros.spec import RobotSpec

# system (config.system) -> module in dreamer_ros.agents and class; a new system is one line here and one module
SYSTEMS = {
    'dreamer': ('dreamer', 'Dreamer'),
}


class Agent(nn.Module):
    """A learning system: what it trains, the policy that runs on the robot, and its dreams.

    Everything a checkpoint must hold is a parameter or a buffer.
    """

    def loss(self, batch: Batch) -> Tuple[Tensor, Dict[str, Tensor]]:
        """The scalar whose gradients reach every trained parameter, and metrics as scalar tensors."""
        raise NotImplementedError

    def parameter_groups(self) -> Dict[str, List[Tensor]]:
        """Trained parameters by the name of their learning rate: `model` is `optimizer.model_lr`, and so on."""
        raise NotImplementedError

    def after_update(self, batch: Batch) -> Dict[str, Tensor]:
        """What follows each optimiser step: slow copies, evolution; metrics as scalar tensors."""
        return {}

    def policy(self) -> nn.Module:
        """The running agent, sharing the trained parameters: the module that is exported to ONNX."""
        raise NotImplementedError

    def open_loop(self, batch: Batch, context: int = 5) -> Tuple[Tensor, Tensor]:
        """Reconstruct `context` steps with the images seen, then predict the rest from actions alone.

        Returns:
            reconstruction and prediction, uint8 [B, T, H, W, 3]; they agree on the context.
        """
        raise NotImplementedError


def make_agent(config: Config, spec: RobotSpec) -> Agent:
    """The system that `config.system` names, for a robot."""
    module, name = SYSTEMS[config.system]
    return getattr(importlib.import_module(f'dreamer_ros.agents.{module}'), name)(config, spec)
