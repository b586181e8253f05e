"""Presets: YAML files in `models/`, layered by `extends`, resolved and validated into one Config.

A preset names a system and a size; every number that shapes learning lives here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.paths import share

# Sections and keys that not every system reads, which are refused as overrides elsewhere; presets may hold them, for
# those that extend them. A key's own entry counts before that of its section.
_READ_BY = {
    **dict.fromkeys(
        (
            'actor',
            'critic',
            'imagination',
            'mlp.actor_layers',
            'mlp.critic_layers',
            'optimizer.actor_lr',
            'optimizer.critic_lr',
        ),
        ('dreamer',),
    ),
    **dict.fromkeys(
        ('rssm', 'loss', 'imagination.discount', 'mlp.continue_layers', 'optimizer.model_lr'), ('dreamer', 'planet')
    ),
    **dict.fromkeys(('loss.reward', 'loss.reward_scale', 'loss.image_scale'), ('dreamer', 'planet', 'world_models')),
    'planner': ('planet',),
    **dict.fromkeys(('vae', 'memory', 'controller', 'optimizer.vae_lr', 'optimizer.memory_lr'), ('world_models',)),
}


def _choice(*names: str, default: str):
    return field(default=default, metadata={'choices': names})


def _number(default, low=None, high=None):
    return field(default=default, metadata={'low': low, 'high': high})


@dataclass
class EnvConfig:
    """What the agent sees and how often it acts."""

    # vector: positions and velocities of the joints
    inputs: str = _choice('image', 'vector', 'both', default='image')
    image_size: tuple[int, int] = (64, 64)  # height, width in pixels
    cameras: tuple[str, ...] = ()  # of the simulated robot, by name or number; empty: the task's own
    # env steps per action; keys are dm_control domains or whole task names, `default` for the rest
    action_repeat: dict[str, int] = field(default_factory=lambda: {'default': 2})


@dataclass
class ScheduleConfig:
    """How much to collect, how much to train, and how often to publish."""

    steps: int = _number(1_000_000, 1)  # env steps of a run
    prefill: int = _number(1000, 1)  # agent steps of random actions before the first update
    batch: int = _number(16, 1)
    length: int = _number(64, 2)  # agent steps per training sequence
    replay_ratio: float = _number(256.0, 0.001)  # agent steps trained on per agent step collected
    overlap: bool = False  # actor and critic train on a second thread, one batch behind the world model
    publish_every: int = _number(50, 1)  # updates between two published policies
    log_every: int = _number(50, 1)  # updates between two lines of metrics
    checkpoint_every: float = _number(300.0, 1.0)  # seconds


@dataclass
class ReplayConfig:
    """What sequences are sampled from: the newest steps of the run, and of other folders of bags.

    The limits hold for each folder. A sequence comes from a folder with a probability proportional to its weight;
    that of the run's own episodes is 1.
    """

    capacity: int = _number(1_000_000, 100)  # agent steps
    disk_gb: float = _number(0.0, 0.0)  # 10^9 bytes of decoded steps, see replay/cache.py; 0: no limit
    bags: tuple[str, ...] = ()  # folders to learn from as well: DIR, or DIR:WEIGHT
    validation: float = _number(0.1, 0.0, 0.9)  # share of the episodes in `bags` that is held out


@dataclass
class RssmConfig:
    """Recurrent state-space model: deterministic path, stochastic latent, and the cell between them."""

    deter: int = _number(512, 1)
    hidden: int = _number(64, 1)
    stoch: int = _number(32, 1)  # latent variables
    classes: int = _number(4, 0)  # classes per variable; 0 makes the latent Gaussian
    cell: str = _choice('gru', 'layernorm_gru', 'block_gru', default='block_gru')
    blocks: int = _number(8, 1)  # of the block_gru
    prior_layers: int = _number(2, 1)
    posterior_layers: int = _number(1, 1)
    unimix: float = _number(0.01, 0.0, 1.0)  # uniform share of every categorical
    min_std: float = _number(0.1, 0.0)  # of a Gaussian latent
    activation: str = _choice('relu', 'elu', 'silu', default='silu')
    norm: str = _choice('none', 'layer', 'rms', default='rms')


@dataclass
class ConvConfig:
    """Image encoder and decoder.

    valid: 4x4 convolutions of stride 2 without padding, for 64x64 only (World Models to DreamerV2).
    stride: the same with padding, mirrored exactly, for any size divisible by 16.
    patch: a 4x4 convolution of stride 4, then two of stride 2, mirrored; half the time of `stride` on a CPU.
    pool: 5x5 convolutions with 2x2 max-pooling, mirrored by nearest upsampling (DreamerV3).
    """

    kind: str = _choice('valid', 'stride', 'patch', 'pool', default='pool')
    depth: int = _number(4, 1)
    bits: int = _number(8, 1, 8)  # kept per colour; below 8 with uniform noise over each level in training (PlaNet: 5)
    activation: str = _choice('relu', 'elu', 'silu', default='silu')
    norm: str = _choice('none', 'layer', 'rms', default='rms')


@dataclass
class MlpConfig:
    """Heads: reward, continue, actor, critic."""

    units: int = _number(64, 1)
    reward_layers: int = _number(1, 1)
    continue_layers: int = _number(1, 1)
    actor_layers: int = _number(3, 1)
    critic_layers: int = _number(3, 1)
    activation: str = _choice('relu', 'elu', 'silu', default='silu')
    norm: str = _choice('none', 'layer', 'rms', default='rms')


@dataclass
class LossConfig:
    """World-model loss.

    representation: what shapes the states besides reward and KL. `reconstruction` of the image; `contrastive`: states
        are told apart by their embedding (Dreamer); `reward`: nothing else; `redundancy`: states correlate with
        their embedding (R2-Dreamer); `thumbnail`: reconstruction of a small standardised image. All but the first
        leave the decoder watching without gradient.
    kl_free `mean` clips the batch mean of each KL at `free_nats` (V1, V2), `step` clips every step (V3), `planet`
        counts only what every step has beyond them.
    Equal dynamics and representation scales give the plain KL of V1; 0.8/0.2 is V2's balancing.
    """

    representation: str = _choice(
        'reconstruction', 'contrastive', 'reward', 'redundancy', 'thumbnail', default='reconstruction'
    )
    image: str = _choice('normal', 'squared', default='squared')  # ½Σ(x−x̂)² with x−½, or Σ(x−x̂)² of a sigmoid
    image_scale: float = _number(1.0, 0.0)
    reward: str = _choice('normal', 'twohot', default='twohot')
    reward_scale: float = _number(1.0, 0.0)
    continue_head: bool = True
    continue_scale: float = _number(1.0, 0.0)
    dynamics_scale: float = _number(1.0, 0.0)
    representation_scale: float = _number(0.1, 0.0)
    free_nats: float = _number(1.0, 0.0)
    kl_free: str = _choice('mean', 'step', 'planet', default='step')
    overshooting: int = _number(0, 0)  # agent steps ahead that the prior is trained to predict (PlaNet); 0: off


@dataclass
class ActorConfig:
    """Policy distribution and the gradient that trains it.

    gradient `mixed` is mix · reinforce + (1 − mix) · dynamics; `auto` is reinforce for discrete actions and dynamics
    for continuous ones (V2).
    """

    distribution: str = _choice('tanh_normal', 'truncated_normal', 'normal', default='normal')  # continuous actions'
    unimix: float = _number(0.01, 0.0, 1.0)  # uniform share of the probabilities of discrete actions
    gradient: str = _choice('dynamics', 'reinforce', 'mixed', 'auto', default='reinforce')
    mix: float = _number(0.9, 0.0, 1.0)
    entropy: float = _number(3e-4, 0.0)
    exploration_noise: float = _number(0.0, 0.0)  # std of Gaussian noise added while collecting (V1: 0.3)
    normalise_returns: bool = True  # advantage over max(1, EMA of the 5th to 95th percentile range)


@dataclass
class CriticConfig:
    """Value head and its slow copy.

    slow `none`: no copy; `target`: hard copy every `slow_every` updates computes the returns (V2);
    `regularise`: exponential average with `slow_rate`, pulled towards by a second loss (V3).
    """

    distribution: str = _choice('normal', 'twohot', default='twohot')
    slow: str = _choice('none', 'target', 'regularise', default='regularise')
    slow_every: int = _number(100, 1)
    slow_rate: float = _number(0.02, 0.0, 1.0)
    replay_scale: float = _number(0.3, 0.0)  # loss of the value on replayed states; 0 leaves it out


@dataclass
class ImaginationConfig:
    """Dreamed trajectories."""

    horizon: int = _number(15, 1)
    starts: int = _number(0, 0)  # at most so many posterior states of a batch to dream from, drawn at random; 0: all
    discount: float = _number(1.0 - 1.0 / 333.0, 0.0, 1.0)  # per agent step
    lambda_: float = _number(0.95, 0.0, 1.0)
    estimator: str = _choice('reward', 'n_step', 'lambda', default='lambda')  # V_R, V_N^k, V_lambda
    n_steps: int = _number(15, 1)  # k of V_N^k, cut off at the horizon
    include_start: bool = True  # the start state belongs to the targets (V2, V3) or not (V1)


@dataclass
class PlannerConfig:
    """Planning by the cross-entropy method, where no actor is learned (PlaNet)."""

    horizon: int = _number(12, 1)  # agent steps
    candidates: int = _number(1000, 2)  # action sequences per iteration
    iterations: int = _number(10, 1)
    elites: int = _number(100, 2)  # best candidates that the next iteration's normal is fitted to
    exploration_noise: float = _number(0.3, 0.0)  # std of Gaussian noise added while collecting


@dataclass
class VaeConfig:
    """V of World Models: a variational autoencoder of single images."""

    latent: int = _number(32, 1)
    free_nats: float = _number(0.5, 0.0)  # per latent dimension; below it the KL costs nothing more
    target: str = _choice('image', 'thumbnail', default='image')  # what z must predict; see nets/vae.py
    images: int = _number(100, 0)  # of a batch that V trains on, drawn at random; 0 takes all
    updates: int = _number(0, 0)  # after which V stays as it is, so that M and C have a fixed world; 0: it never does


@dataclass
class MemoryConfig:
    """M of World Models: an LSTM whose output is a mixture of Gaussians per latent dimension."""

    units: int = _number(256, 1)
    mixtures: int = _number(5, 1)
    temperature: float = _number(1.0, 0.01)  # of dreams; above 1 they are more random than the robot
    done: bool = False  # predict the end of episodes, and end dreams with it


@dataclass
class ControllerConfig:
    """C of World Models: a linear controller, evolved by CMA-ES on returns of dreams."""

    population: int = _number(64, 2)
    rollouts: int = _number(16, 1)  # whose mean return is the fitness
    sigma: float = _number(0.1, 1e-6)  # initial standard deviation of weights
    decay: float = _number(0.01, 0.0)  # times the mean squared weight, taken off the fitness
    horizon: int = _number(500, 1)  # agent steps of a dream
    first: float = _number(1.0, 0.0, 1.0)  # share of dreams that begin as episodes do; the others at replayed states
    begin: int = _number(0, 0)  # updates before the first generation: until M is worth dreaming in
    every: int = _number(1, 0)  # updates between two generations; 0 leaves evolution to `dreamer evolve`
    exploration_noise: float = _number(0.0, 0.0)  # std of Gaussian noise added while collecting


@dataclass
class OptimizerConfig:
    """Per-group learning rates; `laprop` clips adaptively per tensor (V3), `adam` as `clip_kind` says: by the
    group's global norm (Dreamer V1, V2, PlaNet) or every element by itself (World Models).
    """

    kind: str = _choice('adam', 'laprop', default='laprop')
    model_lr: float = _number(4e-5, 0.0)
    actor_lr: float = _number(4e-5, 0.0)
    critic_lr: float = _number(4e-5, 0.0)
    vae_lr: float = _number(1e-4, 0.0)
    memory_lr: float = _number(1e-3, 0.0)
    eps: float = _number(1e-20, 0.0)
    clip: float = _number(0.3, 0.0)
    clip_kind: str = _choice('norm', 'element', default='norm')
    warmup: int = _number(1000, 0)  # updates of linear learning-rate warm-up
    weight_decay: float = _number(0.0, 0.0)  # share of every parameter taken off per update, whatever the rate (V2)


@dataclass
class Config:
    """One training run, resolved."""

    preset: str = ''
    system: str = _choice('dreamer', 'planet', 'world_models', default='dreamer')
    # of matrix products and convolutions; with schedule.overlap, of the behaviour's only
    precision: str = _choice('float32', 'bfloat16', default='float32')
    env: EnvConfig = field(default_factory=EnvConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    rssm: RssmConfig = field(default_factory=RssmConfig)
    conv: ConvConfig = field(default_factory=ConvConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def to_dict(self) -> dict:
        """Plain values, as a preset file would hold them."""
        data = dataclasses.asdict(self)
        data['env']['image_size'] = list(self.env.image_size)
        data['env']['cameras'] = list(self.env.cameras)
        data['replay']['bags'] = list(self.replay.bags)
        return data

    @classmethod
    def from_dict(cls, data: dict, where: str) -> Config:
        """What `to_dict` gave, checked; `where` names its source in errors.

        Raises:
            InputError: unknown key, or a value that does not fit.
        """
        config = _build(cls, data, where, '')
        _check(config, where)
        return config

    def to_yaml(self) -> str:
        """The whole resolved config as YAML; `load_preset` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def action_repeat_for(self, task: str) -> int:
        """Env steps per action for a task: by whole name, else by dm_control domain, else the default."""
        table = self.env.action_repeat
        if task in table:
            return table[task]
        domains = [key for key in table if key != 'default' and task.startswith(key + '_')]
        return table[max(domains, key=len)] if domains else table['default']


def preset_names() -> list[str]:
    """Names of the shipped presets (`models/<name>.yaml`)."""
    return sorted(path.stem for path in share('models').glob('*.yaml') if not path.stem.startswith('_'))


def load_preset(name: str, overrides: tuple[str, ...] = ()) -> Config:
    """Resolve a preset by name or file path, then apply `section.key=value` overrides.

    Raises:
        InputError: unknown preset, key or value, or one that the system does not read, naming the file or override.
    """
    path, data = _read_layers(str(name), [])
    for override in overrides:
        key, equals, text = override.partition('=')
        if not equals:
            raise InputError(f'override {override!r}: expected section.key=value')
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f'override {override!r}: {text!r} is not a YAML value') from error
        target = data
        *sections, leaf = key.split('.')
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InputError(f'override {override!r}: {section} is a value, not a section')
        target[leaf] = value
    data.setdefault('preset', path.stem)
    config = Config.from_dict(data, f'preset {name}')
    for override in overrides:
        key = override.partition('=')[0]
        readers = _READ_BY.get(key) or _READ_BY.get(key.split('.')[0], (config.system,))
        if config.system not in readers:
            raise InputError(
                f'override {override!r}: system {config.system} of preset {name} does not read {key}, '
                f'which is for system {" and ".join(readers)}'
            )
    return config


def _read_layers(name: str, seen: list[str]) -> tuple[Path, dict]:
    path = Path(name)
    if path.suffix not in ('.yaml', '.yml'):
        known = preset_names()
        if name not in known and not (share('models') / f'{name}.yaml').exists():
            near = difflib.get_close_matches(name, known, 3) or known
            raise InputError(f'unknown preset {name!r}; did you mean {", ".join(near)}?')
        path = share('models', f'{name}.yaml')
    if str(path) in seen:
        raise InputError(f'preset {path}: extends itself through {" -> ".join(seen)}')
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'preset {path}: cannot be read ({reason})') from error
    if not isinstance(data, dict):
        raise InputError(f'preset {path}: expected sections with keys, got {type(data).__name__}')
    base = data.pop('extends', None)
    if base is not None:
        base = str(base)
        if base.endswith(('.yaml', '.yml')):  # a file beside the one that names it
            base = str(path.parent / base)
        _, below = _read_layers(base, seen + [str(path)])
        data = _merge(below, data)
    return path, data


def _merge(below: dict, above: dict) -> dict:
    merged = dict(below)
    for key, value in above.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged


def _build(kind, data, where: str, prefix: str):
    if not isinstance(data, dict):
        raise InputError(f'{where}: {prefix.rstrip(".") or "the file"} must be a section, got {data!r}')
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 3) or sorted(fields)
            raise InputError(f'{where}: unknown key {prefix}{key}; did you mean {", ".join(near)}?')
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], value, where, f'{prefix}{key}.')
        else:
            values[key] = _value(hints[key], value, fields[key].metadata, f'{where}: {prefix}{key}')
    return kind(**values)


def _value(hint, value, metadata, where: str):
    origin = typing.get_origin(hint)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(v, int) and v > 0 for v in value.values()):
            raise InputError(f'{where}: expected names with positive integers, got {value!r}')
        return dict(value)
    if hint == tuple[str, ...]:
        names = [value] if isinstance(value, (str, int)) else value
        if not isinstance(names, (list, tuple)) or not all(
            isinstance(name, (str, int)) and not isinstance(name, bool) for name in names
        ):
            raise InputError(f'{where}: expected a list of names, got {value!r}')
        return tuple(str(name) for name in names)
    if origin is tuple:
        pair = [value, value] if isinstance(value, int) else value
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(v, int) for v in pair):
            raise InputError(f'{where}: expected [height, width] in pixels, got {value!r}')
        return tuple(pair)
    if hint in (int, float) and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-4 and 2e5 as strings
            value = float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f'{where}: expected {hint.__name__}, got {value!r}')
    if hint is float and not math.isfinite(value):
        raise InputError(f'{where}: expected a finite number, got {value!r}')
    if 'choices' in metadata and value not in metadata['choices']:
        raise InputError(f'{where}: expected one of {", ".join(metadata["choices"])}, got {value!r}')
    low, high = metadata.get('low'), metadata.get('high')
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f'at least {low}' if high is None else f'between {low} and {high}'
        raise InputError(f'{where}: expected {bounds}, got {value!r}')
    return value


def _check(config: Config, where: str) -> None:
    height, width = config.env.image_size
    multiple = 16
    if height % multiple or width % multiple or not (min(height, width) >= 32 and max(height, width) <= 256):
        raise InputError(
            f'{where}: env.image_size {height}x{width} does not fit the encoder, which halves the image four '
            f'times: height and width must be multiples of {multiple} from 32 to 256'
        )
    if config.conv.kind == 'valid' and (height, width) != (64, 64):
        raise InputError(
            f'{where}: conv.kind valid needs env.image_size 64x64, got {height}x{width}; take conv.kind=stride'
        )
    if config.schedule.overlap and config.system != 'dreamer':
        raise InputError(
            f'{where}: schedule.overlap is for system dreamer, which learns an actor; expected false '
            f'for system {config.system}, got true'
        )
    if config.loss.overshooting >= config.schedule.length:
        raise InputError(
            f'{where}: loss.overshooting predicts within sequences of schedule.length {config.schedule.length}, so it '
            f'must be less, got {config.loss.overshooting}'
        )
    if config.critic.replay_scale and config.imagination.starts:
        raise InputError(
            f'{where}: critic.replay_scale bootstraps from a dream of every replayed state, so '
            f'imagination.starts must be 0, got {config.imagination.starts}'
        )
    if config.critic.replay_scale and config.schedule.overlap:
        raise InputError(f'{where}: critic.replay_scale shapes the world model, so schedule.overlap must be false')
    if config.actor.gradient != 'dynamics' and not config.imagination.include_start:
        raise InputError(f'{where}: actor.gradient {config.actor.gradient} needs imagination.include_start true')
    if not config.imagination.include_start and config.imagination.horizon < 2:
        raise InputError(
            f'{where}: imagination.horizon must be at least 2 when imagination.include_start is false, got '
            f'{config.imagination.horizon}'
        )
    if config.conv.kind == 'pool' and (config.rssm.deter % 8 or config.conv.depth % 2):
        raise InputError(
            f'{where}: conv.kind pool needs rssm.deter divisible by 8 and an even conv.depth, got '
            f'{config.rssm.deter} and {config.conv.depth}'
        )
    if config.planner.elites > config.planner.candidates:
        raise InputError(
            f'{where}: planner.elites are the best of planner.candidates {config.planner.candidates}, so at most as '
            f'many, got {config.planner.elites}'
        )
    if config.env.inputs != 'image' and config.system == 'world_models':
        raise InputError(
            f'{where}: system world_models sees images alone, so env.inputs must be image, got {config.env.inputs}'
        )
    if config.env.inputs == 'vector' and config.env.cameras:
        raise InputError(
            f'{where}: env.inputs vector needs no cameras, got env.cameras {", ".join(config.env.cameras)}'
        )
    if config.env.inputs == 'vector' and config.loss.representation == 'thumbnail':
        raise InputError(
            f'{where}: loss.representation thumbnail learns from images, so env.inputs must be image or both, '
            'got vector; take loss.representation=reconstruction'
        )
    if config.system == 'world_models' and config.conv.kind == 'pool':
        raise InputError(f'{where}: system world_models needs conv.kind valid, stride or patch, got pool')
    if 'default' not in config.env.action_repeat:
        raise InputError(f'{where}: env.action_repeat needs a `default` entry')
    if config.rssm.cell == 'block_gru' and config.rssm.deter % config.rssm.blocks:
        raise InputError(
            f'{where}: rssm.deter {config.rssm.deter} is not divisible by rssm.blocks {config.rssm.blocks}'
        )
