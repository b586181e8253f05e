"""One step of the running agent: camera image in, action out, recurrent state carried explicitly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.nets.rssm import State


class FilterPolicy(nn.Module):
    """A filter and a way to act on its states as one pure function, the module that is exported to ONNX.

    The state is [deter | stoch | previous action]. All randomness is in `noise`, standard normal for a sampled
    step: [latent | acting | exploration]. A subclass says how it acts.

    Args:
        model: its encoder and RSSM filter; the parameters are shared.
        action_size: length of the action vector.
        acting: how many of the noise values `act` takes.
        exploration_noise: std of what is added to the action while collecting.
    """

    def __init__(self, model: WorldModel, action_size: int, acting: int, exploration_noise: float):
        super().__init__()
        self.encoder, self.rssm = model.encoder, model.rssm
        self.uses_vector = 'vector' in model.encoder.inputs
        self.action_size, self.exploration_noise = action_size, exploration_noise
        self.sizes = [self.rssm.deter_size, self.rssm.latent.size, action_size]
        self.state_size = sum(self.sizes)
        self.action_in_state = (self.state_size - action_size, self.state_size)
        self.noise_sizes = [self.rssm.latent.size, acting, action_size]
        self.noise_size = sum(self.noise_sizes)

    def act(self, state: State, noise: Tensor) -> Tensor:
        """Action [B, A] in filtered states [B, ...]; noise [B, acting]."""
        raise NotImplementedError

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
        latent_noise, acting, exploration = noise.split(self.noise_sizes, -1)
        embed = self.encoder(*observation)
        latent_noise = self.rssm.latent.noise_from_normal(latent_noise)
        filtered = self.rssm.observe_step(State(deter, stoch), previous, embed, is_first, latent_noise)
        action = self.act(filtered, acting)
        if self.exploration_noise:
            action = action + self.exploration_noise * exploration
        action = action.clamp(-1.0, 1.0)
        return action, torch.cat([filtered.deter, filtered.stoch, action], -1)
