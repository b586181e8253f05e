"""Presets: YAML files in `models/`, layered by `extends`, resolved and validated into one Config.

A preset names a system and a size. Every number that shapes learning lives here and nowhere else. Each system has a
Config of its own, so that nobody can write a key that the system does not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from dreamer_ros.errors import InputError, hint
from dreamer_ros.paths import share
from dreamer_ros.schema import Count, Expected, Mismatch, Model, Whole, check, load_yaml, shown

Activation = Literal['relu', 'elu', 'silu']
Norm = Literal['none', 'layer', 'rms']

_SIDES = (32, 256)  # pixels of an image
_HALVINGS = 16  # the encoder halves an image four times


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _names(value: Any) -> Any:
    names = (value,) if isinstance(value, (str, int)) else value
    if isinstance(names, tuple) and all(isinstance(name, (str, int)) and not isinstance(name, bool) for name in names):
        return tuple(map(str, names))
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_names), Expected('a list of names')]


class EnvConfig(Model):
    """What the agent sees and how often it acts."""

    inputs: Literal['image', 'vector', 'both'] = Field(
        'image', description='what the agent perceives; vector: positions and velocities of the joints'
    )
    image_size: Annotated[tuple[Whole, Whole], BeforeValidator(_pair), Expected('[height, width] in pixels')] = Field(
        (64, 64), description='height and width in pixels, multiples of 16'
    )
    cameras: Names = Field((), description="names or numbers of the simulated robot's cameras; none: the task's own")
    action_repeat: dict[str, Count] = Field(
        {'default': 2},
        description='env steps per action, by dm_control domain or whole task name; `default` for the rest',
    )

    @model_validator(mode='after')
    def _fits(self) -> EnvConfig:
        low, high = _SIDES
        height, width = self.image_size
        if any(side % _HALVINGS or not low <= side <= high for side in self.image_size):
            raise Mismatch(
                'image_size',
                f'multiples of {_HALVINGS} from {low} to {high}, as the encoder halves the image four times',
                f'{height}x{width}',
            )
        if 'default' not in self.action_repeat:
            raise Mismatch('action_repeat', 'an entry `default`', self.action_repeat)
        if self.inputs == 'vector' and self.cameras:
            raise Mismatch('cameras', 'none, as env.inputs is vector', ', '.join(self.cameras))
        return self


class ScheduleConfig(Model):
    """How much to collect, how much to train, and how often to publish."""

    steps: int = Field(1_000_000, ge=1, description='env steps of a run')
    prefill: int = Field(1000, ge=1, description='agent steps of random actions before the first update')
    batch: int = Field(16, ge=1, description='sequences per update')
    length: int = Field(64, ge=2, description='agent steps per sequence')
    replay_ratio: float = Field(256.0, ge=0.001, description='agent steps trained on per agent step collected')
    overlap: bool = Field(
        False,
        description='train actor and critic on a second thread, one batch behind the world model; system dreamer on a '
        'CPU only, a GPU trains all of it at once',
    )
    publish_every: int = Field(50, ge=1, description='updates between two published policies')
    log_every: int = Field(50, ge=1, description='updates between two lines of metrics')
    checkpoint_every: float = Field(300.0, ge=1, description='seconds between two checkpoints')


class ReplayConfig(Model):
    """What sequences are sampled from: the newest steps of the run, and of other folders of bags.

    The limits hold for each folder. A sequence comes from a folder with a probability proportional to its weight.
    The weight of the run's own episodes is 1.
    """

    capacity: int = Field(1_000_000, ge=100, description='agent steps kept, of each folder')
    disk_gb: float = Field(0.0, ge=0, description='10^9 bytes of decoded steps, of each folder; 0: no limit')
    bags: Names = Field((), description='folders to learn from as well: DIR, or DIR:WEIGHT')
    validation: float = Field(0.1, ge=0, le=0.9, description='share of the episodes in `bags` that is held out')
    demonstrations: float = Field(
        0.0, ge=0, le=0.9, description='share of the sequences that are drawn around steps by people, of any folder'
    )


class RssmConfig(Model):
    """Recurrent state-space model: deterministic path, stochastic latent, and the cell between them."""

    deter: int = Field(512, ge=1, description='width of the deterministic state')
    hidden: int = Field(64, ge=1, description='width of the hidden layers')
    stoch: int = Field(32, ge=1, description='latent variables')
    classes: int = Field(4, ge=0, description='classes per latent variable; 0 makes the latent Gaussian')
    cell: Literal['gru', 'layernorm_gru', 'block_gru'] = Field('block_gru', description='recurrent cell')
    blocks: int = Field(8, ge=1, description='blocks of the block_gru')
    prior_layers: int = Field(2, ge=1, description='hidden layers of the prior')
    posterior_layers: int = Field(1, ge=1, description='hidden layers of the posterior')
    unimix: float = Field(0.01, ge=0, le=1, description='uniform share of every categorical')
    min_std: float = Field(0.1, ge=0, description='least standard deviation of a Gaussian latent')
    activation: Activation = Field('silu', description='between layers')
    norm: Norm = Field('rms', description='of every layer')

    @model_validator(mode='after')
    def _fits(self) -> RssmConfig:
        if self.cell == 'block_gru' and self.deter % self.blocks:
            raise Mismatch('deter', f'a number divisible by rssm.blocks ({self.blocks})', self.deter)
        return self


class ConvConfig(Model):
    """Image encoder and decoder.

    valid: 4x4 convolutions of stride 2 without padding, for 64x64 only (World Models to DreamerV2).
    stride: the same with padding, mirrored exactly, for any size divisible by 16.
    patch: a 4x4 convolution of stride 4, then two of stride 2, mirrored; half the time of `stride` on a CPU.
    pool: 5x5 convolutions with 2x2 max-pooling, mirrored by nearest upsampling (DreamerV3).
    """

    kind: Literal['valid', 'stride', 'patch', 'pool'] = Field('pool', description='how images are halved')
    depth: int = Field(4, ge=1, description='channels of the first layer, doubled by each further one')
    bits: int = Field(8, ge=1, le=8, description='kept per colour; below 8 with uniform noise in training (PlaNet: 5)')
    activation: Activation = Field('silu', description='between layers')
    norm: Norm = Field('rms', description='of every layer')


class MlpConfig(Model):
    """Heads: the reward and, by system, the continue flag, actor and critic."""

    units: int = Field(64, ge=1, description='width of the hidden layers')
    reward_layers: int = Field(1, ge=1, description='hidden layers of the reward head')
    activation: Activation = Field('silu', description='between layers')
    norm: Norm = Field('rms', description='of every layer')


class PlanetMlpConfig(MlpConfig):
    """Heads of a world model of an RSSM."""

    continue_layers: int = Field(1, ge=1, description='hidden layers of the continue head')


class DreamerMlpConfig(PlanetMlpConfig):
    """Heads of Dreamer."""

    actor_layers: int = Field(3, ge=1, description='hidden layers of the actor')
    critic_layers: int = Field(3, ge=1, description='hidden layers of the critic')


class LossConfig(Model):
    """Loss of images and rewards."""

    image_scale: float = Field(1.0, ge=0, description='weight of the image loss')
    reward: Literal['normal', 'twohot'] = Field('twohot', description='distribution of the reward head')
    reward_scale: float = Field(1.0, ge=0, description='weight of the reward loss')


class WorldModelLossConfig(LossConfig):
    """Loss of a world model of an RSSM.

    representation: what shapes the states besides reward and KL. `reconstruction` of the image; `contrastive`: states
        are told apart by their embedding (Dreamer); `reward`: nothing else; `redundancy`: states correlate with
        their embedding (R2-Dreamer); `thumbnail`: reconstruction of a small standardised image. All but the first
        make the decoder a probe, without gradient into the states.
    kl_free `mean` clips the batch mean of each KL at `free_nats` (V1, V2), `step` clips every step (V3), `planet`
        counts only what every step has beyond them.
    Equal dynamics and representation scales give the plain KL of V1; 0.8/0.2 is V2's balancing.
    """

    representation: Literal['reconstruction', 'contrastive', 'reward', 'redundancy', 'thumbnail'] = Field(
        'reconstruction', description='what shapes the states besides reward and KL'
    )
    image: Literal['normal', 'squared'] = Field(
        'squared', description='½Σ(x−x̂)² with x−½, or Σ(x−x̂)² of a sigmoid, in pixels from 0 to 1'
    )
    continue_head: bool = Field(True, description='predict whether the episode goes on')
    continue_scale: float = Field(1.0, ge=0, description='weight of the continue loss')
    dynamics_scale: float = Field(1.0, ge=0, description='weight of the KL that trains the prior')
    representation_scale: float = Field(0.1, ge=0, description='weight of the KL that trains the posterior')
    free_nats: float = Field(1.0, ge=0, description='nats of KL that cost nothing')
    kl_free: Literal['mean', 'step', 'planet'] = Field('step', description='what free_nats is compared with')
    overshooting: int = Field(
        0, ge=0, description='agent steps ahead that the prior is trained to predict (PlaNet); 0: off'
    )


class ActorConfig(Model):
    """Policy distribution and the gradient that trains it.

    gradient `mixed` is mix · reinforce + (1 − mix) · dynamics; `auto` is reinforce for discrete actions and dynamics
    for continuous ones (V2).
    """

    distribution: Literal['tanh_normal', 'truncated_normal', 'normal'] = Field(
        'normal', description='of continuous actions'
    )
    unimix: float = Field(0.01, ge=0, le=1, description='uniform share of the probabilities of discrete actions')
    gradient: Literal['dynamics', 'reinforce', 'mixed', 'auto'] = Field(
        'reinforce', description='through the dynamics, by REINFORCE, or both'
    )
    mix: float = Field(0.9, ge=0, le=1, description='share of reinforce in the mixed gradient')
    entropy: float = Field(3e-4, ge=0, description="weight of the policy's entropy")
    exploration_noise: float = Field(
        0.0, ge=0, description='standard deviation of Gaussian noise added while collecting, in actions (V1: 0.3)'
    )
    normalise_returns: bool = Field(
        True, description='divide advantages by max(1, EMA of the range from the 5th to the 95th percentile)'
    )
    imitation: float = Field(
        0.0, ge=0, description="weight of −ln π(a) of people's actions on replayed states, at the first update; 0: off"
    )
    imitation_updates: int = Field(10_000, ge=1, description='updates in which that weight falls to 0, linearly')


class CriticConfig(Model):
    """Value head and its slow copy.

    slow `none`: no copy; `target`: hard copy every `slow_every` updates computes the returns (V2);
    `regularise`: exponential average with `slow_rate`, pulled towards by a second loss (V3).
    """

    distribution: Literal['normal', 'twohot'] = Field('twohot', description='of the value head')
    slow: Literal['none', 'target', 'regularise'] = Field('regularise', description='what the slow copy is for')
    slow_every: int = Field(100, ge=1, description='updates between two copies of `target`')
    slow_rate: float = Field(0.02, ge=0, le=1, description='share of the critic per update in `regularise`')
    replay_scale: float = Field(0.3, ge=0, description='weight of the loss of the value on replayed states; 0: off')


class DiscountConfig(Model):
    """What a future reward is worth."""

    discount: float = Field(1.0 - 1.0 / 333.0, ge=0, le=1, description='per agent step')


class ImaginationConfig(DiscountConfig):
    """Dreamed trajectories and their returns."""

    horizon: int = Field(15, ge=1, description='agent steps of a dream')
    starts: int = Field(
        0, ge=0, description='at most so many posterior states of a batch to dream from, drawn at random; 0: all'
    )
    lambda_: float = Field(0.95, ge=0, le=1, description='of the lambda returns')
    estimator: Literal['reward', 'n_step', 'lambda'] = Field('lambda', description='V_R, V_N^k or V_lambda')
    n_steps: int = Field(15, ge=1, description='k of V_N^k in agent steps, cut off at the horizon')
    include_start: bool = Field(True, description='the start state belongs to the targets (V2, V3) or not (V1)')

    @model_validator(mode='after')
    def _fits(self) -> ImaginationConfig:
        if not self.include_start and self.horizon < 2:
            raise Mismatch('horizon', 'at least 2 when imagination.include_start is false', self.horizon)
        return self


class PlannerConfig(Model):
    """Planning by the cross-entropy method, where no actor is learned (PlaNet)."""

    horizon: int = Field(12, ge=1, description='agent steps of a plan')
    candidates: int = Field(1000, ge=2, description='action sequences per iteration')
    iterations: int = Field(10, ge=1, description='of the search, per action')
    elites: int = Field(100, ge=2, description="best candidates, which the next iteration's normal is fitted to")
    exploration_noise: float = Field(
        0.3, ge=0, description='standard deviation of Gaussian noise added while collecting, in actions'
    )

    @model_validator(mode='after')
    def _fits(self) -> PlannerConfig:
        if self.elites > self.candidates:
            raise Mismatch('elites', f'at most planner.candidates {self.candidates}', self.elites)
        return self


class VaeConfig(Model):
    """V of World Models: a variational autoencoder of single images."""

    latent: int = Field(32, ge=1, description='dimensions of z')
    free_nats: float = Field(0.5, ge=0, description='nats per latent dimension, below which the KL costs nothing more')
    target: Literal['image', 'thumbnail'] = Field(
        'image', description='what z must predict: the image, or a small blurred and standardised one'
    )
    images: int = Field(100, ge=0, description='images of a batch that V trains on, drawn at random; 0: all')
    updates: int = Field(
        0, ge=0, description='after which V stays as it is, so that M and C have a fixed world; 0: it never does'
    )


class MemoryConfig(Model):
    """M of World Models: an LSTM whose output is a mixture of Gaussians per latent dimension."""

    units: int = Field(256, ge=1, description='width of the LSTM')
    mixtures: int = Field(5, ge=1, description='Gaussians per latent dimension')
    temperature: float = Field(1.0, ge=0.01, description='of dreams; above 1 they are more random than the robot')
    done: bool = Field(False, description='predict the end of episodes, and end dreams with it')


class ControllerConfig(Model):
    """C of World Models: a linear controller, evolved by CMA-ES on returns of dreams."""

    population: int = Field(64, ge=2, description='controllers per generation')
    rollouts: int = Field(16, ge=1, description='dreams whose mean return is the fitness')
    sigma: float = Field(0.1, ge=1e-6, description='initial standard deviation of weights')
    decay: float = Field(0.01, ge=0, description='times the mean squared weight, taken off the fitness')
    horizon: int = Field(500, ge=1, description='agent steps of a dream')
    first: float = Field(
        1.0, ge=0, le=1, description='share of dreams that begin as episodes do; the others begin at replayed states'
    )
    begin: int = Field(0, ge=0, description='updates before the first generation: until M is worth dreaming in')
    every: int = Field(1, ge=0, description='updates between two generations; 0 leaves evolution to `dreamer evolve`')
    exploration_noise: float = Field(
        0.0, ge=0, description='standard deviation of Gaussian noise added while collecting, in actions'
    )


class OptimizerConfig(Model):
    """`laprop` clips adaptively per tensor (V3), `adam` as `clip_kind` says: by the group's global norm (Dreamer V1,
    V2, PlaNet) or every element by itself (World Models).
    """

    kind: Literal['adam', 'laprop'] = Field('laprop', description='of every group of parameters')
    eps: float = Field(1e-20, ge=0, description='added to the denominator')
    clip: float = Field(0.3, ge=0, description='bound of the gradient; of laprop relative to the weights')
    clip_kind: Literal['norm', 'element'] = Field('norm', description='what adam clips')
    warmup: int = Field(1000, ge=0, description='updates of linear learning-rate warm-up')
    weight_decay: float = Field(
        0.0, ge=0, description='share of every parameter taken off per update, whatever the rate (V2)'
    )


class PlanetOptimizerConfig(OptimizerConfig):
    """The optimizer of a world model of an RSSM."""

    model_lr: float = Field(4e-5, ge=0, description='learning rate of the world model')


class DreamerOptimizerConfig(PlanetOptimizerConfig):
    """The optimizer of Dreamer."""

    actor_lr: float = Field(4e-5, ge=0, description='learning rate of the actor')
    critic_lr: float = Field(4e-5, ge=0, description='learning rate of the critic')


class WorldModelsOptimizerConfig(OptimizerConfig):
    """The optimizer of World Models."""

    vae_lr: float = Field(1e-4, ge=0, description='learning rate of V')
    memory_lr: float = Field(1e-3, ge=0, description='learning rate of M')


class _Config(Model):
    """What every system reads."""

    preset: str = Field('', description='name of the preset that this was resolved from')
    system: str = Field(description='what learns')
    precision: Literal['float32', 'bfloat16'] = Field(
        'float32', description="of matrix products and convolutions; with schedule.overlap of the behaviour's only"
    )
    env: EnvConfig = EnvConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    replay: ReplayConfig = ReplayConfig()
    conv: ConvConfig = ConvConfig()
    mlp: MlpConfig = MlpConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode='after')
    def _conv_fits(self):
        if self.conv.kind == 'valid' and self.env.image_size != (64, 64):
            height, width = self.env.image_size
            raise ValueError(f'conv.kind valid needs env.image_size 64x64, got {height}x{width}; take conv.kind=stride')
        return self

    @model_validator(mode='after')
    def _overlap_fits(self):
        if self.schedule.overlap and self.system != 'dreamer':
            raise Mismatch(
                'schedule.overlap', f'false for system {self.system}: only system dreamer learns an actor', True
            )
        return self

    def to_dict(self) -> dict:
        """Plain values, as a preset file would hold them."""
        return self.model_dump(mode='json')

    def to_yaml(self) -> str:
        """The whole resolved config as YAML; `load_preset` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def simulator_options(self, task: str) -> dict[str, Any]:
        """The settings of `simulation.make` for an agent of this preset in a task of that name."""
        env = self.env.model_dump(include={'inputs', 'image_size', 'cameras'})
        return {**env, 'action_repeat': self.action_repeat_for(task)}

    def action_repeat_for(self, task: str) -> int:
        """Env steps per action for a task: by whole name, else by dm_control domain, else the default."""
        table = self.env.action_repeat
        if task in table:
            return table[task]
        domains = [key for key in table if key != 'default' and task.startswith(key + '_')]
        return table[max(domains, key=len)] if domains else table['default']


class _RssmSystemConfig(_Config):
    """What every system with a world model of an RSSM reads."""

    mlp: PlanetMlpConfig = PlanetMlpConfig()
    loss: WorldModelLossConfig = WorldModelLossConfig()
    optimizer: PlanetOptimizerConfig = PlanetOptimizerConfig()
    rssm: RssmConfig = RssmConfig()
    imagination: DiscountConfig = DiscountConfig()

    @model_validator(mode='after')
    def _world_model_fits(self):
        loss, schedule = self.loss, self.schedule
        if loss.overshooting >= schedule.length:
            raise Mismatch('loss.overshooting', f'less than schedule.length {schedule.length}', loss.overshooting)
        if self.conv.kind == 'pool' and (self.rssm.deter % 8 or self.conv.depth % 2):
            raise ValueError(
                'conv.kind pool needs rssm.deter divisible by 8 and an even conv.depth, got '
                f'{self.rssm.deter} and {self.conv.depth}'
            )
        if self.env.inputs == 'vector' and loss.representation == 'thumbnail':
            raise ValueError(
                'loss.representation thumbnail learns from images, so env.inputs must be image or both, '
                'got vector; take loss.representation=reconstruction'
            )
        return self


class PlanetConfig(_RssmSystemConfig):
    """PlaNet: a world model, and a planner that searches in it."""

    system: Literal['planet'] = Field('planet', description='what learns')
    planner: PlannerConfig = PlannerConfig()


class DreamerConfig(_RssmSystemConfig):
    """Dreamer V1 to V3 and R2-Dreamer: a world model, and an actor and a critic that learn in its dreams."""

    system: Literal['dreamer'] = Field('dreamer', description='what learns')
    mlp: DreamerMlpConfig = DreamerMlpConfig()
    optimizer: DreamerOptimizerConfig = DreamerOptimizerConfig()
    imagination: ImaginationConfig = ImaginationConfig()
    actor: ActorConfig = ActorConfig()
    critic: CriticConfig = CriticConfig()

    @model_validator(mode='after')
    def _behaviour_fits(self):
        if self.critic.replay_scale and self.imagination.starts:
            raise Mismatch(
                'imagination.starts',
                '0, as critic.replay_scale bootstraps from a dream of every replayed state',
                self.imagination.starts,
            )
        if self.critic.replay_scale and self.schedule.overlap:
            raise Mismatch('schedule.overlap', 'false, as critic.replay_scale shapes the world model', True)
        if self.actor.imitation and self.schedule.overlap:
            raise Mismatch('schedule.overlap', 'false, as actor.imitation learns from the actions of the batch', True)
        if self.actor.gradient != 'dynamics' and not self.imagination.include_start:
            raise Mismatch('imagination.include_start', f'true for actor.gradient {self.actor.gradient}', False)
        return self


class WorldModelsConfig(_Config):
    """World Models of 2018: V sees, M dreams, C evolves in dreams."""

    system: Literal['world_models'] = Field('world_models', description='what learns')
    conv: ConvConfig = ConvConfig(kind='stride')
    optimizer: WorldModelsOptimizerConfig = WorldModelsOptimizerConfig()
    vae: VaeConfig = VaeConfig()
    memory: MemoryConfig = MemoryConfig()
    controller: ControllerConfig = ControllerConfig()

    @model_validator(mode='after')
    def _vision_fits(self):
        if self.env.inputs != 'image':
            raise Mismatch('env.inputs', 'image, all that system world_models sees', self.env.inputs)
        if self.conv.kind == 'pool':
            raise Mismatch('conv.kind', 'valid, stride or patch for system world_models', 'pool')
        return self


Config = DreamerConfig | PlanetConfig | WorldModelsConfig
_TAGGED = Annotated[Config, Field(discriminator='system')]
SYSTEMS: dict[str, type[Config]] = {'dreamer': DreamerConfig, 'planet': PlanetConfig, 'world_models': WorldModelsConfig}


def default_values() -> dict:
    """What every key of every system is by default, with system dreamer's where they differ."""
    values: dict = {}
    for kind in reversed(SYSTEMS.values()):
        values = _merge(values, kind().to_dict())
    return values


def preset_names() -> list[str]:
    """Names of the shipped presets (`models/<name>.yaml`)."""
    return sorted(path.stem for path in share('models').glob('*.yaml') if not path.stem.startswith('_'))


def load_preset(name: str, overrides: tuple[str, ...] = ()) -> Config:
    """Resolve a preset by name or file path, then apply `section.key=value` overrides.

    Raises:
        InputError: unknown preset, key or value, or one that the system does not read, naming the file or override.
    """
    path, data = _read_layers(str(name), [])
    system = data.get('system', 'dreamer')
    for override in overrides:
        _apply(override, data)
    if data.get('system', 'dreamer') != system:
        raise InputError(f'overrides: expected system {system}, as of preset {name}, got {data["system"]}')
    data.setdefault('preset', path.stem)
    for override in overrides:
        _check_read(data, f'override {shown(override)} of preset {name}', only=override.partition('=')[0])
    return _build(data, f'preset {name}')


def stored_config(data: Any, where: str) -> Config:
    """The config that a run or a checkpoint holds, of this version or an earlier one.

    Earlier versions also stored the sections of other systems, which mean nothing.

    Raises:
        InputError: unknown key, or a value that does not fit.
    """
    return _build(_without_foreign(_sections(data, where)), where)


def _build(data: dict, where: str) -> Config:
    _check_read(data, where)
    return check(_TAGGED, {'system': 'dreamer', **data}, where)


def _apply(override: str, data: dict) -> None:
    key, equals, text = override.partition('=')
    if not equals:
        raise InputError(f'override {shown(override)}: expected section.key=value')
    target = data
    *sections, leaf = key.split('.')
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise InputError(f'override {shown(override)}: {section} is a value, not a section')
    target[leaf] = load_yaml(text, f'override {shown(override)}')


def _read_layers(name: str, seen: list[str]) -> tuple[Path, dict]:
    path = Path(name)
    if path.suffix not in ('.yaml', '.yml'):
        known = preset_names()
        if name not in known and not (share('models') / f'{name}.yaml').exists():
            raise InputError(f'unknown preset {name!r}; {hint(name, known)}')
        path = share('models', f'{name}.yaml')
    if str(path) in seen:
        raise InputError(f'preset {path}: extends itself through {" -> ".join(seen)}')
    data = _sections(load_yaml(path, f'preset {path}') or {}, f'preset {path}')
    if 'preset' in data:  # a resolved config, stored by a run
        data = _without_foreign(data)
    base = data.pop('extends', None)
    if base is not None:
        base = str(base)
        if base.endswith(('.yaml', '.yml')):  # a file beside the one that names it
            base = str(path.parent / base)
        _, below = _read_layers(base, seen + [str(path)])
        system = below.get('system', 'dreamer')
        if data.get('system', system) != system:
            raise InputError(f'preset {path}: expected system {system}, as of {base}, got {data["system"]}')
        data = _merge(below, data)
    return path, data


def _sections(data: Any, where: str) -> dict:
    if not isinstance(data, dict):
        raise InputError(f'{where}: expected sections with keys, got {type(data).__name__}')
    return data


def _merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged


# Keys of other systems


def _readers(key: str) -> list[str]:
    """The systems that read a dotted key."""
    found = []
    for system, kind in SYSTEMS.items():
        within: Any = kind
        for part in key.split('.'):
            if not (isinstance(within, type) and issubclass(within, Model)):
                break  # names within a value
            field = within.model_fields.get(part)
            within = field and field.annotation
        if within is not None:
            found.append(system)
    return found


def _foreign(data: dict, system: str, prefix: str = '') -> Iterator[str]:
    """The dotted keys in the data that other systems read, but this one does not; none for an unknown system."""
    if system not in SYSTEMS:
        return
    for key, value in data.items():
        readers = _readers(f'{prefix}{key}')
        if readers and system not in readers:
            yield f'{prefix}{key}'
        elif readers and isinstance(value, dict):
            yield from _foreign(value, system, f'{prefix}{key}.')


def _check_read(data: dict, where: str, only: str = '') -> None:
    """Refuse keys of other systems; `only` those at or below a dotted key, if one is given."""
    system = str(data.get('system', 'dreamer'))
    for key in _foreign(data, system):
        if not only or f'{key}.'.startswith(f'{only}.') or f'{only}.'.startswith(f'{key}.'):
            raise InputError(
                f'{where}: system {system} does not read {key}, which is for system {" and ".join(_readers(key))}'
            )


def _without_foreign(data: dict) -> dict:
    foreign = set(_foreign(data, str(data.get('system', 'dreamer'))))

    def kept(section: dict, prefix: str) -> dict:
        return {
            key: kept(value, f'{prefix}{key}.') if isinstance(value, dict) else value
            for key, value in section.items()
            if f'{prefix}{key}' not in foreign
        }

    return kept(data, '')
