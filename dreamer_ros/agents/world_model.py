"""The world model: encoder, RSSM and heads, and the losses that train them.

Shapes, here and in all of agents/ and nets/:

    B   sequences in a batch            N   rows that are treated alike: B·T states, or starts of dreams
    T   steps of a sequence             H   steps of a dream (imagination.horizon); of an image [..., H, W, channels]
    A   length of an action             E   length of an embedding: what the encoder makes of one observation
    deter   length of the RSSM's deterministic state (rssm.deter)
    stoch   length of its sample: rssm.stoch numbers, or rssm.stoch variables times rssm.classes
    F   length of a feature, deter + stoch: what every head sees

A batch is batch-first, [B, T, ...]; a dream is time-major, [H, N, ...]. `loss` is the place to begin. The actor and the
critic that learn inside this model are in actor_critic.py, and dreamer.py puts the two together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.agents.system import Batch, Inspection
from dreamer_ros.config import DreamerConfig, PlanetConfig
from dreamer_ros.nets import lanes
from dreamer_ros.nets.collective import average, learners
from dreamer_ros.nets.distributions import SCALARS
from dreamer_ros.nets.encoders import (
    PROBED_SHARE,
    VECTOR_LAYERS,
    ImageDecoder,
    ObservationEncoder,
    standardise,
    thumbnail_size,
    thumbnails,
    unit_image,
)
from dreamer_ros.nets.layers import exact_products, flatten_time, head, initialise, symlog, widened
from dreamer_ros.nets.rssm import RSSM, State
from dreamer_ros.spec import RobotSpec

REDUNDANCY = 5e-4  # weight of the off-diagonal correlations (R2-Dreamer)
CONTRAST_WINDOW = (10, 30)  # sequences and steps around an embedding whose states are its negatives (Dreamer)
CONTRAST_LAYERS, CONTRAST_MIN_STD = 3, 0.1
INSPECTED = 64  # steps of a sequence that are embedded or decoded at a time


class WorldModel(nn.Module):
    """p(s_t | s_{t−1}, a_{t−1}, o_t), its prior, and predictions of observation, reward and continuation."""

    def __init__(self, config: DreamerConfig | PlanetConfig, spec: RobotSpec):
        super().__init__()
        self.config, self.bits = config.loss, config.conv.bits
        size, heads = spec.image_size, config.mlp
        self.discount = config.imagination.discount
        self.encoder = ObservationEncoder(config, spec)
        self.rssm = RSSM(config.rssm, self.encoder.output_size, len(spec.action))
        feature = self.rssm.feature_size
        self.decoder: nn.Module | None = None
        if spec.cameras:
            state = self.rssm.deter_size, self.rssm.latent.size
            self.decoder = ImageDecoder(config.conv, *state, size, heads.units, spec.channels)
        self.vector_decoder: nn.Module | None = None
        if spec.vector and self.config.representation in ('reconstruction', 'thumbnail'):
            self.vector_decoder = head(feature, heads, VECTOR_LAYERS, len(spec.vector))
        self.reward_distribution = SCALARS[self.config.reward]()
        self.projector: nn.Module | None = None
        if self.config.representation == 'redundancy':
            self.projector = nn.Linear(feature, self.encoder.output_size, bias=False)
            initialise(self.projector, heads.norm)
        elif self.config.representation == 'contrastive':
            self.projector = head(self.encoder.output_size, heads, CONTRAST_LAYERS, 2 * feature)
        elif self.config.representation == 'thumbnail':
            pixels = thumbnail_size(size, spec.channels)
            self.projector = head(feature, heads, 1, pixels)
            self.register_buffer('pixel_mean', torch.zeros(pixels))
            self.register_buffer('pixel_variance', torch.zeros(pixels))
            self.register_buffer('pixel_batches', torch.zeros(()))
        zero = self.config.reward == 'twohot'
        self.reward = head(feature, heads, heads.reward_layers, self.reward_distribution.raw_size, zero)
        self.continuation: nn.Module | None = None
        if self.config.continue_head:
            self.continuation = head(feature, heads, heads.continue_layers, 1)

    def loss(self, batch: Batch) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Loss (scalar), posterior states [B, T, ...] and metrics of a batch."""
        config, latent = self.config, self.rssm.latent
        if self.bits < 8:  # encoder and loss see the same noise
            noise = torch.rand(batch.image.shape, device=batch.image.device)
            batch = batch._replace(image=unit_image(batch.image, self.bits, noise))
        embed = self.embed(batch)
        states, posterior, prior = self.rssm.observe(embed, batch.previous_action, batch.is_first)
        feature = states.feature
        observation, metrics = self.observation_loss(batch, states, embed)
        reward = self.reward_distribution.loss(self.reward(feature), batch.reward).mean()
        dynamics = latent.kl(posterior.detach(), prior)
        representation = latent.kl(posterior, prior.detach())
        metrics.update(reward_loss=reward, kl=dynamics.mean())
        total = observation + config.reward_scale * reward
        total = total + config.dynamics_scale * self.free_nats(dynamics)
        total = total + config.representation_scale * self.free_nats(representation)
        if config.overshooting:
            metrics['overshooting_loss'] = self.overshooting_loss(states, posterior, batch)
            total = total + metrics['overshooting_loss']
        if self.continuation is not None:
            # The discount is part of the target, so nothing multiplies it again (DreamerV3's contdisc).
            target = (~batch.is_terminal).float() * self.discount
            logits = self.continuation(feature).squeeze(-1)
            continuation = F.binary_cross_entropy_with_logits(logits, target)
            total = total + config.continue_scale * continuation
            metrics['continue_loss'] = continuation
        metrics['posterior_entropy'] = latent.entropy(posterior.detach()).mean()
        metrics['prior_entropy'] = latent.entropy(prior.detach()).mean()
        metrics['model_loss'] = total
        return total, states, {key: value.detach() for key, value in metrics.items()}

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B, T, E] of the observations."""
        observation = (flatten_time(getattr(batch, name)) for name in self.encoder.inputs)
        (embed,) = lanes.by_rows(lambda *rows: (self.encoder(*rows),), *observation, modules=[self.encoder])
        return embed.unflatten(0, batch.reward.shape)

    def free_nats(self, kl: Tensor) -> Tensor:
        """KL [B, T] as a scalar that has no gradient while it is below the free nats; see `LossConfig`."""
        if self.config.kl_free == 'step':
            return kl.clamp(min=self.config.free_nats).mean()
        if self.config.kl_free == 'planet':
            return (kl - self.config.free_nats).clamp(min=0.0).mean()
        return average(kl.mean()).clamp(min=self.config.free_nats)

    def overshooting_loss(self, states: State, posterior: Tensor, batch: Batch) -> Tensor:
        """Latent overshooting (PlaNet, arXiv 1811.04551, section 4): the prior learns to predict several steps ahead.

        The mean over d = 1 … `loss.overshooting` of max(0, KL[sg(posterior_{t+d}) ‖ prior^(d)] − free nats), where
        prior^(d) is the prior rolled d steps from the posterior state at t with the actions that were taken. No episode
        may start between the two steps, and d stays below the length of the sequence.

        Args:
            states: posterior states [B, T, ...].
            posterior: their stats [B, T, ...].

        Returns:
            Scalar.
        """
        rssm, is_first = self.rssm, batch.is_first
        rows, length = is_first.shape
        actions = rssm.cell.project_action(batch.previous_action)
        deter, stoch = states
        within = torch.ones_like(is_first)  # no episode starts between t and t + d
        losses = []
        for d in range(1, min(self.config.overshooting, length - 1) + 1):
            count = length - d  # start steps t that have a step t + d
            deter = rssm.cell(*(flatten_time(x[:, :count]) for x in (deter, stoch, actions[:, d:])))
            prior = rssm.prior(deter)
            stoch = rssm.latent.sample(prior, rssm.latent.noise(len(deter), device=deter.device))
            deter, stoch, prior = (x.unflatten(0, (rows, count)) for x in (deter, stoch, prior))
            within = within[:, :count] & ~is_first[:, d:]
            excess = (rssm.latent.kl(posterior[:, d:].detach(), prior) - self.config.free_nats).clamp(min=0.0)
            losses.append((excess * within).sum() / average(within.float().sum()).clamp(min=1.0))
        return torch.stack(losses).mean()

    def observation_loss(self, batch: Batch, states: State, embed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of predicting the observations from the states: a scalar, and its parts by name."""
        config, losses = self.config, {}
        total = torch.zeros((), device=embed.device)
        if self.projector is not None:
            if config.representation == 'redundancy':
                loss = self.redundancy_loss(flatten_time(states.feature), flatten_time(embed))
            elif config.representation == 'contrastive':
                loss = self.contrastive_loss(states.feature, embed)
            else:
                loss = self.thumbnail_loss(flatten_time(states.feature), flatten_time(batch.image))
            losses['representation_loss'] = loss
            total = total + config.image_scale * loss
        if self.decoder is not None and config.representation == 'reconstruction':
            losses['image_loss'] = self.image_loss(states, batch.image)
            total = total + config.image_scale * losses['image_loss']
        elif self.decoder is not None:
            # The decoder is a probe. It learns from a share of the states, and sends no gradient back.
            shown = State(*(x[:, ::PROBED_SHARE].detach() for x in states))
            losses['image_loss'] = self.image_loss(shown, batch.image[:, ::PROBED_SHARE])
            total = total + losses['image_loss']
        if self.vector_decoder is not None:
            losses['vector_loss'] = self.vector_loss(states.feature, batch.vector)
            total = total + losses['vector_loss']
        return total, losses

    def vector_loss(self, feature: Tensor, vector: Tensor) -> Tensor:
        """½Σ(prediction − symlog(x))² over the scalars (DreamerV3), averaged over batch and time."""
        return 0.5 * (self.vector_decoder(feature).float() - symlog(vector)).square().sum(-1).mean()

    def image_loss(self, states: State, image: Tensor) -> Tensor:
        """Summed over pixels and channels, averaged over batch and time."""
        rows = (flatten_time(x) for x in (*states, image))
        (errors,) = lanes.by_rows(self.image_error, *rows, modules=[self.decoder])
        return errors.sum() / (image.shape[0] * image.shape[1])

    def image_error(self, deter: Tensor, stoch: Tensor, image: Tensor) -> tuple[Tensor]:
        """Squared error between the decoded states [N, ...] and their images, summed over all of them: [1]."""
        decoded = self.decoder(deter, stoch)
        target = unit_image(image).permute(0, 3, 1, 2)
        if self.config.image == 'squared':
            error = F.mse_loss(torch.sigmoid(decoded), target, reduction='sum')
        else:
            error = 0.5 * F.mse_loss(decoded, target - 0.5, reduction='sum')
        return (error.view(1),)

    def redundancy_loss(self, feature: Tensor, embed: Tensor) -> Tensor:
        """Σ(C_ii − 1)² + 5e-4 Σ_{i≠j} C_ij² of the correlation C between projected features and embeddings.

        R2-Dreamer's decoder-free objective: Barlow Twins between a state and its observation. Every dimension is
        standardised, so a thin pole weighs as much as a large background.

        Args:
            feature: [N, F].
            embed: [N, E]; a fixed target.
        """
        left, right = (standardised(x) for x in (self.projector(feature).float(), embed.detach().float()))
        correlation = average(left.T @ right / len(left))
        diagonal = correlation.diagonal()
        off = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1.0).square().sum() + REDUNDANCY * off

    def contrastive_loss(self, feature: Tensor, embed: Tensor) -> Tensor:
        """−E[ln q(s | o) − logsumexp over s' of ln q(s' | o)]: an embedding tells its own state from others (Dreamer).

        q is a normal whose mean and std a head reads from the embedding. s' are the states of a window of 10
        sequences and 30 steps around the embedding's own, wrapped at the edges of the batch.

        Args:
            feature: [B, T, F].
            embed: [B, T, E].
        """
        near = []  # by sequence and by step: [of the embedding, of the state]
        for count, size in zip(feature.shape[:2], CONTRAST_WINDOW):
            index = torch.arange(count, device=feature.device)
            near.append((index - index[:, None] + size // 2) % count < size)
        window = near[0][:, None, :, None] & near[1][None, :, None, :]
        state = flatten_time(widened(feature))
        mean, std = widened(self.projector(flatten_time(embed))).chunk(2, -1)
        precision = (F.softplus(std) + CONTRAST_MIN_STD).square().reciprocal()
        with exact_products():  # for differences of large numbers
            # ln q [embedding, state], without the terms that are the same for every state
            score = (mean * precision) @ state.T - 0.5 * precision @ state.square().T
        score = score.masked_fill(~window.view(score.shape), -torch.inf)
        return (score.logsumexp(-1) - score.diagonal()).mean()

    def thumbnail_loss(self, feature: Tensor, image: Tensor) -> Tensor:
        """Squared error of the image at a quarter of its size, each pixel standardised by its own history.

        A thin pole moves more pixels of a blurred image than of a sharp one, and standardising gives them as much
        weight as those of a large robot. A model learns where thin things are several times sooner than from sharp
        pixels, and needs one small MLP instead of a decoder.

        Args:
            feature: [N, F].
            image: uint8 [N, H, W, channels].
        """
        target = standardise(thumbnails(image), self.pixel_mean, self.pixel_variance, self.pixel_batches)
        return (self.projector(feature).float() - target).square().sum(-1).mean()

    def predict_reward(self, feature: Tensor) -> Tensor:
        """Expected reward on arriving at a state, [...]."""
        return self.reward_distribution.mean(self.reward(feature))

    def predict_discount(self, feature: Tensor) -> Tensor:
        """γ times the probability of going on from a state, [...]."""
        if self.continuation is None:
            return torch.full(feature.shape[:-1], self.discount, device=feature.device)
        # bfloat16 would round every useful discount to 0.996 or 1
        return torch.sigmoid(widened(self.continuation(feature).squeeze(-1)))

    def probes(self) -> list[Tensor]:
        """The image decoder's parameters, unless reconstruction shapes the states."""
        if self.decoder is None or self.config.representation == 'reconstruction':
            return []
        return list(self.decoder.parameters())

    @torch.no_grad()
    def inspect(self, batch: Batch, context: int, value: Callable[[Tensor], Tensor] | None = None) -> Inspection:
        """Filter sequences of any length, and predict them from their first `context` steps.

        Args:
            value: of features [B, T, F].
        """
        parts = zip(*(x.split(INSPECTED, 1) for x in batch))
        embed = torch.cat([self.embed(Batch(*part)) for part in parts], 1)
        states, _, _ = self.rssm.observe(embed, batch.previous_action, batch.is_first)
        predicted = self._predict(states, batch.previous_action, context)
        seen, dreamt = (None if self.decoder is None else self._film(each) for each in (states, predicted))
        return Inspection(
            seen,
            dreamt,
            self.predict_reward(states.feature),
            self.predict_reward(predicted.feature),
            None if value is None else value(states.feature),
        )

    def _predict(self, states: State, previous_action: Tensor, context: int) -> State:
        """The states [B, T, ...] of the prior after the first `context` of these."""
        state = State(states.deter[:, context - 1], states.stoch[:, context - 1])
        deters, stochs = [states.deter[:, :context]], [states.stoch[:, :context]]
        for action in previous_action[:, context:].unbind(1):
            noise = self.rssm.latent.noise(len(action), device=action.device)
            state = self.rssm.imagine_step(state, action, noise)
            deters.append(state.deter[:, None])
            stochs.append(state.stoch[:, None])
        return State(torch.cat(deters, 1), torch.cat(stochs, 1))

    def _film(self, states: State) -> Tensor:
        """Images of states [B, T, ...], uint8 [B, T, H, W, channels]."""
        images = []
        for part in zip(*(x.split(INSPECTED, 1) for x in states)):
            images.append(self.decode(State(*map(flatten_time, part))).unflatten(0, part[0].shape[:2]))
        return torch.cat(images, 1)

    def decode(self, states: State) -> Tensor:
        """Images of states [N, ...] as uint8 [N, H, W, channels]."""
        decoded = self.decoder(states.deter, states.stoch).permute(0, 2, 3, 1)
        value = torch.sigmoid(decoded) if self.config.image == 'squared' else decoded + 0.5
        return (value.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def standardised(x: Tensor) -> Tensor:
    """X [N, D], standardised per dimension over the rows of all learners."""
    rows = len(x) * learners()
    x = x - average(x.mean(0))
    variance = average(x.square().mean(0)) * (rows / (rows - 1))
    return x / (variance.clamp(min=1e-16).sqrt() + 1e-8)  # the root of 0 has no gradient
