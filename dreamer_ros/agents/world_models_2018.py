"""World Models (Ha and Schmidhuber, arXiv 1803.10122): V sees, M predicts, C acts and evolves in dreams."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.agents.cma_es import CMAES
from dreamer_ros.agents.system import Agent, Batch, Inspection
from dreamer_ros.config import WorldModelsConfig
from dreamer_ros.nets.distributions import SCALARS
from dreamer_ros.nets.layers import flatten_time, head
from dreamer_ros.nets.mdn_rnn import MDNRNN, LSTMState, dream_noise
from dreamer_ros.nets.vae import VAE, Code
from dreamer_ros.spec import RobotSpec

DONE_WEIGHT = 10.0  # of the rare positive examples
FIRST_IMAGES = 64  # that are kept for dreams to begin with


class DreamStart(NamedTuple):
    """Where dreams begin: z [R, Z] as seen by V, and M's state [R, units] before it."""

    z: Tensor
    state: LSTMState


class WorldModels(Agent):
    """A variational autoencoder, a mixture-density LSTM trained on its codes, and a linear controller.

    The paper's own tasks are won by surviving, so its dreams need only the prediction of `done`. Tasks with
    rewards need those too: a head on [z_t, h_t] predicts the reward that came with z_t.

    The paper trains V, then M, then C. Here all train while data come in, as in the paper's iterative variant: M
    learns from the present codes of V, sampled anew in every batch, and C takes one generation of CMA-ES in dreams
    after an update. `vae.updates` and `controller.begin` restore the paper's order.
    """

    steady = False  # V rests after a while, and codes depend on where episodes begin

    def __init__(self, config: WorldModelsConfig, spec: RobotSpec):
        super().__init__()
        self.config = config
        latent, heads, actions = config.vae.latent, config.mlp, len(spec.action)
        self.vae = VAE(config, spec.image_size, spec.channels)
        self.memory = MDNRNN(latent, actions, config.memory.units, config.memory.mixtures)
        feature = latent + config.memory.units
        self.reward_distribution = SCALARS[config.loss.reward]()
        self.reward = head(feature, heads, heads.reward_layers, self.reward_distribution.raw_size)
        self.done: nn.Module | None = nn.Linear(config.memory.units, 1) if config.memory.done else None
        self.controller = Controller(feature, actions, spec.discrete)
        settings = config.controller
        self.evolution = CMAES(self.controller.size, settings.population, settings.sigma)
        self.register_buffer('updates', torch.zeros((), dtype=torch.int64))
        # The newest first images of episodes: a batch holds few of them, or none.
        self.register_buffer('first_images', torch.zeros(FIRST_IMAGES, *spec.image_shape, dtype=torch.uint8))
        self.register_buffer('firsts', torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """V's loss on images of the batch plus M's on its sequences; M's gradient stops at the codes."""
        if 0 < self.config.vae.updates <= int(self.updates):
            with torch.no_grad():
                z = self.sample_codes(batch.image)
            total, metrics = self.memory_loss(z, batch)
            metrics['model_loss'] = total.detach()
            return total, metrics
        images, count = flatten_time(batch.image), self.config.vae.images
        chosen = images[torch.randint(len(images), (count,), device=images.device)] if count else images
        code = self.vae.encode(chosen)
        vae_loss, metrics = self.vae.loss(chosen, code)
        with torch.no_grad():
            if count:
                code = self.vae.encode(images)
            z = code.sample(torch.randn_like(code.mean)).unflatten(0, batch.image.shape[:2])
        memory_loss, memory_metrics = self.memory_loss(z, batch)
        total = vae_loss + memory_loss
        metrics.update(memory_metrics, model_loss=total.detach())
        return total, metrics

    def memory_loss(self, z: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood per latent dimension, plus reward and done, where there is a past.

        Args:
            z: [B, T, Z].
        """
        states = self.memory.filter(z, batch.previous_action, batch.is_first)
        # The first observation of an episode or a batch follows from nothing that M has seen.
        past = (~batch.is_first).float()
        past[:, 0] = 0.0
        count = past.sum().clamp(min=1.0)

        def mean(x: Tensor) -> Tensor:
            return (past * x).sum() / count

        nll = mean(-self.memory.predict(states.h).log_prob(z).mean(-1))
        raw = self.reward(torch.cat([z, states.h], -1))
        reward = mean(self.reward_distribution.loss(raw, batch.reward))
        total = nll + self.config.loss.reward_scale * reward
        metrics = {'memory_loss': nll.detach(), 'reward_loss': reward.detach()}
        if self.done is not None:
            logits, weight = self.done(states.h).squeeze(-1).float(), torch.tensor(DONE_WEIGHT, device=z.device)
            done = mean(
                F.binary_cross_entropy_with_logits(
                    logits, batch.is_terminal.float(), reduction='none', pos_weight=weight
                )
            )
            total = total + done
            metrics['done_loss'] = done.detach()
        return total, metrics

    def parameter_groups(self) -> dict[str, list]:
        memory = [self.memory, self.reward] + ([self.done] if self.done is not None else [])
        return {
            'vae': list(self.vae.parameters()),
            'memory': [parameter for part in memory for parameter in part.parameters()],
        }

    def probes(self) -> list:
        return list(self.vae.decoder.parameters()) if self.config.vae.target == 'thumbnail' else []

    def after_update(self, batch: Batch) -> dict[str, Tensor]:
        """One generation of C every `controller.every` updates."""
        self.updates += 1
        self._keep_first_images(batch)
        settings, updates = self.config.controller, int(self.updates)
        if not settings.every or updates % settings.every or updates <= settings.begin:
            return {}
        return self.evolve(batch, self.config.memory.temperature)

    def _keep_first_images(self, batch: Batch) -> None:
        images = batch.image[batch.is_first][:FIRST_IMAGES]
        places = (self.firsts + torch.arange(len(images), device=images.device)) % FIRST_IMAGES
        self.first_images[places] = images
        self.firsts += len(images)

    @torch.no_grad()
    def evolve(self, batch: Batch | None, temperature: float) -> dict[str, Tensor]:
        """One generation of CMA-ES in dreams from `starts` of the batch; C becomes the new mean.

        All candidates dream from the same states with the same random numbers, so that only their actions differ. As
        in the authors' code, a little of the mean squared weight is taken off the mean return: weights of saturated
        controllers would grow without limit, since they act alike at any size.
        """
        settings = self.config.controller
        start = self.starts(batch, settings.rollouts)
        noise = self.dream_noise(settings.rollouts, settings.horizon)

        def fitness(candidates: Tensor) -> Tensor:
            returns = self.dream(candidates, start, temperature, noise).mean(1)
            return returns - settings.decay * candidates.square().mean(1)

        values = self.evolution.step(fitness)
        self.controller.set(self.evolution.mean.float())
        return {
            'dream_fitness': values.mean(),
            'best_dream_fitness': values.max(),
            'controller_sigma': self.evolution.sigma.clone(),
        }

    def starts(self, batch: Batch | None, count: int) -> DreamStart:
        """Where `count` dreams begin.

        `controller.first` of them begin at first images of episodes that were seen, with nothing in M; the
        others at the last states of sequences of the batch. Without a batch all begin at first images.
        """
        first = count if batch is None else round(self.config.controller.first * count) * bool(self.firsts)
        begun = torch.randint(int(self.firsts.clamp(1, FIRST_IMAGES)), (first,), device=self.firsts.device)
        z = self.sample_codes(self.first_images[begun, None])[:, 0]
        state = self.memory.initial(first, z.device)
        if first == count:
            return DreamStart(z, state)
        rows = torch.randint(len(batch.image), (count - first,), device=z.device)
        seen = self.sample_codes(batch.image[rows])
        states = self.memory.filter(seen, batch.previous_action[rows], batch.is_first[rows])
        state = LSTMState(*(torch.cat([x, y[:, -1]]) for x, y in zip(state, states)))
        return DreamStart(torch.cat([z, seen[:, -1]]), state)

    def sample_codes(self, image: Tensor) -> Tensor:
        """Z [B, T, Z] of images [B, T, H, W, channels]."""
        code = self.vae.encode(flatten_time(image))
        return code.sample(torch.randn_like(code.mean)).unflatten(0, image.shape[:2])

    def dream_noise(self, dreams: int, horizon: int) -> list[tuple[Tensor, Tensor]]:
        """Random numbers for `Mixture.sample`, for every step of dreams."""
        sizes = self.config.memory.mixtures, self.config.vae.latent, dreams
        return [dream_noise(*sizes, device=self.firsts.device) for _ in range(horizon)]

    @torch.no_grad()
    def dream(
        self, controllers: Tensor, start: DreamStart, temperature: float, noise: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Returns of controllers in dreams: predicted rewards, summed until the dream ends.

        Args:
            controllers: [P, controller.size].
            start: R states.
            temperature: τ of the mixtures.
            noise: of `dream_noise` for R dreams; all controllers share it. Its length is the horizon.

        Returns:
            [P, R].
        """
        count, rollouts = len(controllers), len(start.z)

        def spread(x: Tensor) -> Tensor:
            return flatten_time(x.expand(count, *x.shape))

        z, state = spread(start.z), LSTMState(*map(spread, start.state))
        total, alive = torch.zeros_like(z[:, 0]), torch.ones_like(z[:, 0])
        for choice, normal in noise:
            feature = torch.cat([z, state.h], -1).unflatten(0, (count, rollouts))
            state = self.memory.step(state, z, flatten_time(self.controller.act(feature, controllers)))
            z = self.memory.predict(state.h).sample(temperature, spread(choice), spread(normal))
            total += alive * self.predict_reward(z, state.h)
            if self.done is not None:  # the step that ends it still counts
                alive = alive * (self.done(state.h).squeeze(-1) < 0.0)
        return total.unflatten(0, (count, rollouts))

    def policy(self) -> ControllerPolicy:
        return ControllerPolicy(self)

    @torch.no_grad()
    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        """Filtered: the means of V's codes. Predicted: a dream at M's temperature with the recorded actions."""
        shape = batch.image.shape[:2]
        seen = self.vae.encode(flatten_time(batch.image)).mean.unflatten(0, shape)
        states = self.memory.filter(seen, batch.previous_action, batch.is_first)
        state, z = LSTMState(*(x[:, context - 1] for x in states)), seen[:, context - 1]
        latents, outputs = [seen[:, :context]], [states.h[:, :context]]
        for action in batch.previous_action[:, context:].unbind(1):
            state = self.memory.step(state, z, action)
            (noise,) = self.dream_noise(len(z), 1)
            z = self.memory.predict(state.h).sample(self.config.memory.temperature, *noise)
            latents.append(z[:, None])
            outputs.append(state.h[:, None])
        predicted, h = torch.cat(latents, 1), torch.cat(outputs, 1)
        truth, dream = (self.vae.decode(flatten_time(z)).unflatten(0, shape) for z in (seen, predicted))
        return Inspection(truth, dream, self.predict_reward(seen, states.h), self.predict_reward(predicted, h), None)

    def predict_reward(self, z: Tensor, h: Tensor) -> Tensor:
        """Expected reward on arriving at z [..., Z], whose past is in h [..., units]."""
        return self.reward_distribution.mean(self.reward(torch.cat([z, h], -1)))


class Controller(nn.Module):
    """C: tanh(W [z, h] + b). To CMA-ES it is one vector.

    Args:
        inputs: length of [z, h].
        actions: length of the action.
        discrete: the largest output chooses; the action is one-hot.
    """

    def __init__(self, inputs: int, actions: int, discrete: bool):
        super().__init__()
        self.inputs, self.actions, self.discrete = inputs, actions, discrete
        self.size = (inputs + 1) * actions
        self.register_buffer('weight', torch.zeros(actions, inputs))
        self.register_buffer('bias', torch.zeros(actions))

    def set(self, vector: Tensor) -> None:
        """Take on one candidate [size]: the rows of W, each followed by its b."""
        rows = vector.view(self.actions, self.inputs + 1)
        self.weight.copy_(rows[:, :-1])
        self.bias.copy_(rows[:, -1])

    def forward(self, feature: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        """Action [N, A] for features [N, inputs]; noise [N, A] is added before clipping or choosing."""
        return self._bounded(torch.tanh(F.linear(feature, self.weight, self.bias)) + noise)

    def act(self, feature: Tensor, candidates: Tensor) -> Tensor:
        """Actions [P, R, A] of P candidates [P, size], each for features [P, R, inputs] of its own."""
        rows = candidates.view(-1, self.actions, self.inputs + 1)
        weight, bias = rows[..., :-1], rows[..., -1]
        return self._bounded(torch.tanh(torch.baddbmm(bias.unsqueeze(1), feature, weight.transpose(1, 2))))

    def _bounded(self, action: Tensor) -> Tensor:
        if self.discrete:
            return F.one_hot(action.argmax(-1), self.actions).to(action.dtype)
        return action.clamp(-1.0, 1.0)


class ControllerPolicy(nn.Module):
    """V, M and C as one pure function, the module that is exported to ONNX.

    The state is [h | c]: what M remembers, the action given included. The noise is [z | exploration];
    all-zero noise acts on the mean of the code without exploring.

    Shares its parameters with the agent it is made from.
    """

    uses_vector = False

    def __init__(self, agent: WorldModels):
        super().__init__()
        self.encoder, self.code, self.cell = agent.vae.encoder, agent.vae.code, agent.memory.cell
        self.controller = agent.controller
        self.exploration_noise = agent.config.controller.exploration_noise
        self.state_size = 2 * self.cell.units
        self.noise_sizes = [agent.config.vae.latent, agent.controller.actions]
        self.noise_size = sum(self.noise_sizes)

    def forward(self, image: Tensor, is_first: Tensor, state: Tensor, noise: Tensor):
        """Act on one observation.

        Args:
            image: uint8 [B, H, W, channels].
            is_first: bool [B]; resets the state.
            state: float32 [B, state_size].
            noise: float32 [B, noise_size].

        Returns:
            action float32 [B, A] in [-1, 1], next state float32 [B, state_size].
        """
        h, c = (state * (~is_first).to(state.dtype).unsqueeze(-1)).chunk(2, -1)
        z_noise, exploration = noise.split(self.noise_sizes, -1)
        z = Code(*self.code(self.encoder(image)).chunk(2, -1)).sample(z_noise)
        action = self.controller(torch.cat([z, h], -1), self.exploration_noise * exploration)
        after = self.cell(torch.cat([z, action], -1), LSTMState(h, c))
        return action, torch.cat([after.h, after.c], -1)
