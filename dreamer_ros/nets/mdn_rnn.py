"""M of World Models (arXiv 1803.10122): an LSTM that predicts the next latent as a mixture of Gaussians."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.nets.distributions import normal_log_prob


class LSTMState(NamedTuple):
    """Output h and cell c, each [..., units]."""

    h: Tensor
    c: Tensor


class LSTMCell(nn.Module):
    """One step of an LSTM with its gates written out, so that it exports to ONNX as plain operators.

    Gates lie in torch.nn.LSTM's order (input, forget, candidate, output); the forget gate starts open.
    """

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.units = units
        self.input = nn.Linear(inputs, 4 * units)
        self.recurrent = nn.Linear(units, 4 * units, bias=False)
        for layer in (self.input, self.recurrent):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.input.bias)
        with torch.no_grad():
            self.input.bias[units : 2 * units] = 1.0

    def forward(self, x: Tensor, state: LSTMState) -> LSTMState:
        """Take in x [N, inputs]."""
        gates = self.input(x) + self.recurrent(state.h)
        entry, forget, candidate, output = gates.chunk(4, -1)
        c = torch.sigmoid(forget) * state.c + torch.sigmoid(entry) * torch.tanh(candidate)
        return LSTMState(torch.sigmoid(output) * torch.tanh(c), c)


class Mixture(NamedTuple):
    """A mixture of K Gaussians for every latent dimension by itself, each [..., K, Z].

    The components lie before the dimensions: reductions over a short last dimension are slow on a CPU.
    """

    logits: Tensor
    mean: Tensor
    log_std: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Ln Σ_k π_k N(z; μ_k, σ_k²) of z [..., Z], per dimension."""
        components = normal_log_prob(self.mean, self.log_std.exp(), z.unsqueeze(-2))
        return torch.logsumexp(F.log_softmax(self.logits, -2) + components, -2)

    def sample(self, temperature: float, choice: Tensor, noise: Tensor) -> Tensor:
        """Z [..., Z] at temperature τ: component logits / τ, the component's noise times √τ.

        Args:
            temperature: τ; above 1 samples are more random than the data was.
            choice: standard Gumbel noise [..., K, Z], which picks the components.
            noise: standard normal [..., Z].
        """
        scores = self.logits / temperature + choice
        chosen = scores >= scores.amax(-2, keepdim=True)  # argmax over this dimension takes ten times as long
        mean, log_std = ((x * chosen).sum(-2) for x in (self.mean, self.log_std))
        return mean + math.sqrt(temperature) * log_std.exp() * noise


class MDNRNN(nn.Module):
    """h_t summarises z and action of the steps before t, and predicts z_t.

    Args:
        latent: length Z of z.
        action_size: length of the action.
        units: of the LSTM.
        mixtures: K, Gaussians per latent dimension.
    """

    def __init__(self, latent: int, action_size: int, units: int, mixtures: int):
        super().__init__()
        self.mixtures = mixtures
        self.cell = LSTMCell(latent + action_size, units)
        self.output = nn.Linear(units, 3 * mixtures * latent)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def initial(self, count: int, device=None) -> LSTMState:
        """The state at the start of an episode, [count, units] zeros."""
        zeros = torch.zeros(count, self.cell.units, device=device)
        return LSTMState(zeros, zeros)

    def step(self, state: LSTMState, z: Tensor, action: Tensor) -> LSTMState:
        """The state that predicts what follows `action` [N, A] taken at z [N, Z]."""
        return self.cell(torch.cat([z, action], -1), state)

    def filter(self, z: Tensor, previous_action: Tensor, is_first: Tensor) -> LSTMState:
        """States [B, T, units] before each observation of a sequence.

        Args:
            z: [B, T, Z].
            previous_action: [B, T, A], before each observation.
            is_first: bool [B, T]; the state there is the initial one. The first step's always is.
        """
        state = self.initial(len(z), z.device)
        states = [state]
        going_on = (~is_first).to(z.dtype).unsqueeze(-1)
        for t in range(1, z.shape[1]):
            state = self.step(state, z[:, t - 1], previous_action[:, t])
            state = LSTMState(*(x * going_on[:, t] for x in state))
            states.append(state)
        return LSTMState(*(torch.stack(x, 1) for x in zip(*states)))

    def predict(self, h: Tensor) -> Mixture:
        """The mixture of the next z, from h [..., units]."""
        return Mixture(*self.output(h).float().unflatten(-1, (3, self.mixtures, -1)).unbind(-3))


def gumbel(*shape: int, device=None) -> Tensor:
    """Standard Gumbel noise: argmax(logits + noise) is a sample of softmax(logits)."""
    uniform = torch.rand(*shape, device=device).clamp_(1e-20, 1.0 - 1e-7)
    return -torch.log(-torch.log(uniform))


def dream_noise(mixtures: int, latent: int, *shape: int, device=None) -> tuple[Tensor, Tensor]:
    """What `Mixture.sample` needs: Gumbel [*shape, K, Z] and normal [*shape, Z] noise."""
    return gumbel(*shape, mixtures, latent, device=device), torch.randn(*shape, latent, device=device)
