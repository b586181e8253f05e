"""One step of the running agent: camera image in, action out, recurrent state carried explicitly."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamer_ros.agents.behaviour import Behaviour
from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.nets.rssm import State


class Policy(nn.Module):
    """Filter plus actor as one pure function, the module that is exported to ONNX.

    The state is [deter | stoch | previous action]. All randomness is in `noise`, standard normal for a sampled
    step: [latent | action | exploration]. All-zero noise gives the deterministic policy: the mode of the latent
    and of the action.

    Shares its parameters with the world model and behaviour it is made from.
    """

    def __init__(self, model: WorldModel, behaviour: Behaviour):
        super().__init__()
        rssm = model.rssm
        self.encoder, self.rssm, self.actor = model.encoder, rssm, behaviour.actor
        self.uses_vector = 'vector' in model.encoder.inputs
        self.distribution = behaviour.distribution
        self.exploration_noise = behaviour.exploration_noise
        self.action_size = behaviour.action_size
        self.sizes = [rssm.deter_size, rssm.latent.size, self.action_size]
        self.state_size = sum(self.sizes)
        self.noise_sizes = [rssm.latent.size, self.action_size, self.action_size]
        self.noise_size = sum(self.noise_sizes)

    def forward(self, *inputs: Tensor):
        """Act on one observation.

        Args:
            image: uint8 [B, H, W, channels], unless the robot has no camera.
            vector: float32 [B, N], if the robot has vector inputs.
            is_first: bool [B]; resets the state.
            state: float32 [B, state_size].
            noise: float32 [B, noise_size].

        Returns:
            action float32 [B, A] in [-1, 1], next state float32 [B, state_size].
        """
        *observation, is_first, state, noise = inputs
        deter, stoch, previous = state.split(self.sizes, -1)
        latent_noise, action_noise, exploration = noise.split(self.noise_sizes, -1)
        embed = self.encoder(*observation)
        latent_noise = self.rssm.latent.noise_from_normal(latent_noise)
        filtered = self.rssm.observe_step(State(deter, stoch), previous, embed, is_first, latent_noise)
        action = self.distribution.sample(self.actor(filtered.feature), action_noise)
        if self.exploration_noise:
            action = action + self.exploration_noise * exploration
        action = action.clamp(-1.0, 1.0)
        return action, torch.cat([filtered.deter, filtered.stoch, action], -1)
