"""Presets: layering, overrides, validation that names what is wrong, and files that load back equal."""

import math

import pytest
import yaml

from dreamer_ros.config import SYSTEMS, DreamerConfig, EnvConfig, load_preset, preset_names, stored_config
from dreamer_ros.errors import InputError
from dreamer_ros.schema import describe, reference


def refusal(name, *overrides):
    with pytest.raises(InputError) as caught:
        load_preset(name, overrides)
    text = str(caught.value)
    assert '\n' not in text
    return text


@pytest.mark.parametrize('name', preset_names())
def test_a_resolved_config_loads_back_equal(name, tmp_path):
    config = load_preset(name, ('schedule.batch=9', 'optimizer.eps=1e-7', 'env.action_repeat.walker=4'))
    assert config.preset == name and config.schedule.batch == 9 and config.optimizer.eps == 1e-7
    file = tmp_path / 'config.yaml'
    file.write_text(config.to_yaml())
    again = load_preset(str(file))
    assert again == config
    assert isinstance(again.env.image_size, tuple)
    assert again.to_yaml() == config.to_yaml()


def test_presets_of_the_papers():
    assert {
        'dreamer',
        'dreamerv2',
        'r2dreamer',
        'dreamerv3_1m',
        'dreamerv3_12m',
        'dreamerv3_25m',
        'dreamerv3_50m',
        'dreamerv3_200m',
    } <= set(preset_names())
    sizes = {
        '1m': (512, 64, 4, 4, 64),
        '12m': (2048, 256, 16, 16, 256),
        '25m': (3072, 384, 24, 24, 384),
        '50m': (4096, 512, 32, 32, 512),
        '200m': (8192, 1024, 64, 64, 1024),
    }
    for name, size in sizes.items():
        config = load_preset(f'dreamerv3_{name}')
        rssm = config.rssm
        assert (rssm.deter, rssm.hidden, rssm.classes, config.conv.depth, config.mlp.units) == size
        assert (rssm.stoch, rssm.cell, rssm.unimix) == (32, 'block_gru', 0.01)
        assert (config.optimizer.kind, config.optimizer.model_lr, config.optimizer.eps) == ('laprop', 4e-5, 1e-20)
        assert config.imagination.discount == pytest.approx(1 - 1 / 333, abs=1e-6)
    dreamer = load_preset('dreamer')
    assert (dreamer.rssm.deter, dreamer.rssm.stoch, dreamer.rssm.classes) == (200, 30, 0)
    assert (dreamer.schedule.batch, dreamer.schedule.length, dreamer.loss.free_nats) == (50, 50, 3.0)
    assert (dreamer.imagination.discount, dreamer.imagination.include_start) == (0.99, False)
    assert (dreamer.loss.representation, dreamer.loss.continue_head, dreamer.loss.continue_scale) == (
        'reconstruction',
        False,
        10.0,
    )
    assert (dreamer.actor.gradient, dreamer.actor.exploration_noise, dreamer.actor.entropy) == ('dynamics', 0.3, 0.0)
    second = load_preset('dreamerv2')
    assert (second.rssm.deter, second.rssm.hidden, second.rssm.stoch, second.rssm.classes) == (200, 200, 32, 32)
    assert (second.rssm.cell, second.rssm.unimix, second.conv.depth, second.mlp.units) == ('layernorm_gru', 0, 48, 400)
    assert (second.loss.dynamics_scale, second.loss.representation_scale, second.loss.kl_free) == (0.8, 0.2, 'mean')
    assert (second.actor.distribution, second.actor.gradient, second.actor.entropy) == (
        'truncated_normal',
        'auto',
        1e-4,
    )
    assert (second.critic.distribution, second.critic.slow, second.critic.slow_every) == ('normal', 'target', 100)
    optimizer = second.optimizer
    assert (optimizer.model_lr, optimizer.actor_lr, optimizer.critic_lr) == (3e-4, 8e-5, 8e-5)
    assert (optimizer.eps, optimizer.clip, optimizer.weight_decay) == (1e-5, 100.0, 1e-6)
    assert (second.schedule.batch, second.schedule.length, second.schedule.replay_ratio) == (16, 50, 160)
    decoderless, third = load_preset('r2dreamer'), load_preset('dreamerv3_12m')
    assert (decoderless.loss.representation, decoderless.loss.image_scale) == ('redundancy', 0.05)
    assert decoderless.rssm == third.rssm and decoderless.actor == third.actor


@pytest.mark.parametrize('system', ['dreamer', 'dreamerv2', 'dreamerv3', 'r2dreamer'])
def test_presets_for_a_cpu_keep_the_system(system):
    """Sizes, rates, schedule and what Dreamers' latents must show of images differ from the paper's; what defines the
    algorithm does not."""
    paper = load_preset({'dreamerv3': 'dreamerv3_1m', 'r2dreamer': 'r2dreamer'}.get(system, system))
    small = load_preset(f'{system}_cpu')
    for section, names in {
        'rssm': ('cell', 'unimix', 'activation', 'norm', 'prior_layers', 'posterior_layers'),
        'loss': ('reward', 'continue_head', 'kl_free', 'dynamics_scale'),
        'actor': ('distribution', 'gradient', 'normalise_returns', 'exploration_noise'),
        'critic': ('distribution', 'slow', 'replay_scale'),
        'imagination': ('estimator', 'lambda_', 'include_start', 'horizon'),
        'optimizer': ('kind', 'clip', 'eps', 'weight_decay'),
    }.items():
        for name in names:
            assert getattr(getattr(small, section), name) == getattr(getattr(paper, section), name), (section, name)
    assert bool(small.rssm.classes) == bool(paper.rssm.classes)
    kept = {'r2dreamer': 'redundancy'}
    assert small.loss.representation == kept.get(system, 'thumbnail')


def test_overrides():
    config = load_preset(
        'dreamerv3_1m',
        (
            'schedule.steps=2e4',
            'optimizer.model_lr=1e-4',
            'loss.continue_head=false',
            'env.image_size=[32, 48]',
            'actor.gradient=dynamics',
            'optimizer.warmup=0',
            'loss.free_nats=2',
        ),
    )
    assert config.schedule.steps == 20000 and isinstance(config.schedule.steps, int)
    assert config.optimizer.model_lr == 1e-4 and config.loss.continue_head is False
    assert config.env.image_size == (32, 48) and config.actor.gradient == 'dynamics'
    assert config.loss.free_nats == 2.0 and isinstance(config.loss.free_nats, float)
    assert load_preset('dreamerv3_1m').optimizer.model_lr == 4e-5  # overrides leave the preset alone
    assert load_preset('dreamer', ('env.image_size=64',)).env.image_size == (64, 64)
    # a later override wins
    assert load_preset('dreamer', ('schedule.batch=2', 'schedule.batch=5')).schedule.batch == 5


def test_what_the_agent_perceives(tmp_path):
    config = load_preset('dreamerv3_1m', ('env.inputs=both', 'env.cameras=[front, 2]'))
    assert (config.env.inputs, config.env.cameras) == ('both', ('front', '2'))
    assert load_preset('dreamerv3_1m', ('env.cameras=front',)).env.cameras == ('front',)
    assert load_preset('dreamerv3_1m').env.cameras == () and load_preset('dreamerv3_1m').env.inputs == 'image'
    (tmp_path / 'saved.yaml').write_text(config.to_yaml())
    assert load_preset(str(tmp_path / 'saved.yaml')) == config


def test_extends_layers_sections_key_by_key(tmp_path, monkeypatch):
    (tmp_path / 'base.yaml').write_text('extends: dreamerv3_1m\nrssm: {deter: 64, hidden: 32}\nmlp: {units: 16}\n')
    (tmp_path / 'mine.yaml').write_text('extends: base.yaml\nrssm: {hidden: 8}\nenv: {action_repeat: {cheetah: 4}}\n')
    monkeypatch.chdir('/')  # a base is found beside its file, from wherever one stands
    config = load_preset(str(tmp_path / 'mine.yaml'))
    assert (config.rssm.deter, config.rssm.hidden, config.rssm.stoch, config.mlp.units) == (64, 8, 32, 16)
    assert config.env.action_repeat == {'default': 2, 'cheetah': 4}
    assert config.preset == 'mine'


def test_a_preset_that_extends_itself(tmp_path):
    one, two = tmp_path / 'one.yaml', tmp_path / 'two.yaml'
    one.write_text(f'extends: {two}\n')
    two.write_text(f'extends: {one}\n')
    assert 'extends itself' in refusal(str(one))


def test_unknown_names_are_named_with_a_guess():
    text = refusal('dreamerv3_1')
    assert "'dreamerv3_1'" in text and 'dreamerv3_1m' in text
    text = refusal('dreamer', 'rssm.detr=3')
    assert 'rssm.detr' in text and 'deter' in text
    assert 'imagination.lambda ' in refusal('dreamer', 'imagination.lambda=3').replace(';', ' ')
    assert 'rsm' in refusal('dreamer', 'rsm.deter=3')


@pytest.mark.parametrize(
    'override, names',
    [
        ('schedule.batch=zero', ('schedule.batch', 'whole number', 'zero')),
        ('schedule.batch=0', ('schedule.batch', 'at least 1', '0')),
        ('schedule.batch=2.5', ('schedule.batch', 'whole number', '2.5')),
        ('schedule.batch=1e-3', ('schedule.batch', 'whole number', '0.001')),
        ('schedule.batch=.inf', ('schedule.batch', 'whole number', 'inf')),
        ('schedule.batch=.nan', ('schedule.batch', 'whole number', 'nan')),
        ('schedule.batch=true', ('schedule.batch', 'whole number', 'True')),
        ('schedule.batch=', ('schedule.batch', 'None')),
        ('imagination.discount=1.5', ('imagination.discount', 'from 0 to 1', '1.5')),
        ('imagination.discount=.nan', ('imagination.discount', 'finite', 'nan')),
        ('loss.image_scale=.inf', ('loss.image_scale', 'finite', 'inf')),
        ('loss.image_scale=big', ('loss.image_scale', 'a number', 'big')),
        ('loss.continue_head=1', ('loss.continue_head', 'true or false', '1')),
        ('rssm.cell=lstm', ('rssm.cell', 'block_gru', 'lstm')),
        ('rssm=5', ('rssm', 'mapping', '5')),
        ('rssm.deter.size=5', ('rssm.deter.size', 'deter is a value')),
        ('rssm.deter', ('rssm.deter', 'section.key=value')),
        ('rssm.deter=[1', ('rssm.deter', 'YAML')),
        ('env.image_size=[64]', ('env.image_size', '[64]')),
        ('env.image_size=50', ('env.image_size', '50x50', 'multiples of 16')),
        ('env.image_size=16', ('env.image_size', '16x16', 'from 32 to 256')),
        ('env.image_size=512', ('env.image_size', '512x512', 'from 32 to 256')),
        ('env.inputs=sound', ('env.inputs', 'vector', 'sound')),
        ('env.cameras={front: 1}', ('env.cameras', 'list of names', 'front')),
        ('env.cameras=[true]', ('env.cameras', 'list of names', 'True')),
        ('env.action_repeat={walker: 2}', ('env.action_repeat',)),
        ('env.action_repeat.walker=0', ('env.action_repeat.walker', 'at least 1')),
    ],
)
def test_bad_values_are_refused_by_name(override, names):
    text = refusal('dreamerv3_1m', override)
    assert all(name in text for name in names), text


@pytest.mark.parametrize(
    'preset, overrides, names',
    [
        ('dreamer', ('env.image_size=32',), ('conv.kind valid', '32x32', 'conv.kind=stride')),
        ('dreamerv3_1m', ('imagination.starts=8',), ('replay_scale', 'imagination.starts', '8')),
        ('dreamerv3_1m', ('imagination.include_start=false',), ('reinforce', 'include_start')),
        ('dreamer', ('actor.gradient=mixed',), ('actor.gradient mixed', 'include_start')),
        ('dreamer', ('env.inputs=vector', 'env.cameras=front'), ('env.inputs is vector', 'front')),
        ('cpu', ('env.inputs=vector',), ('thumbnail', 'env.inputs', 'reconstruction')),
        ('world_models', ('env.inputs=both',), ('world_models', 'env.inputs', 'both')),
        ('dreamer', ('imagination.horizon=1',), ('imagination.horizon', '1')),
        ('dreamerv3_1m', ('rssm.deter=100',), ('rssm.deter', '100', 'divisible by rssm.blocks (8)')),
        ('dreamerv3_1m', ('rssm.deter=100', 'rssm.blocks=4'), ('rssm.deter', '100', 'pool')),
        ('dreamerv3_1m', ('conv.depth=3',), ('conv.depth', '3')),
        ('world_models_cpu', ('schedule.overlap=true',), ('schedule.overlap', 'system dreamer', 'world_models')),
        ('planet', ('planner.elites=2000',), ('planner.elites', 'planner.candidates 1000', '2000')),
        ('planet', ('loss.overshooting=50',), ('loss.overshooting', 'schedule.length 50', 'got 50')),
        ('planet_cpu', ('imagination.horizon=5',), ('imagination.horizon=5', 'planet_cpu', 'system dreamer')),
        ('planet_cpu', ('critic.slow=none',), ('critic.slow', 'system planet', 'system dreamer')),
        ('cpu', ('planner.horizon=5',), ('planner.horizon', 'system dreamer', 'system planet')),
        ('cpu', ('memory={units: 5}',), ('memory', 'system dreamer', 'system world_models')),
        ('world_models_cpu', ('optimizer.model_lr=1',), ('optimizer.model_lr', 'dreamer and planet')),
        ('planet', ('optimizer.actor_lr=1',), ('optimizer.actor_lr', 'planet', 'system dreamer')),
    ],
)
def test_settings_that_do_not_fit_each_other(preset, overrides, names):
    text = refusal(preset, *overrides)
    assert all(name in text for name in names), text


@pytest.mark.parametrize(
    'preset, override',
    [
        ('planet', 'imagination.discount=0.5'),
        ('planet', 'mlp.continue_layers=2'),
        ('world_models', 'loss.reward_scale=2'),
        ('world_models', 'optimizer.vae_lr=1'),
    ],
)
def test_what_a_system_reads_may_be_overridden(preset, override):
    section, key = override.partition('=')[0].split('.')
    changed, before = (load_preset(preset, words).to_dict()[section] for words in ((override,), ()))
    assert changed[key] != before[key]


def test_a_small_batch_dreams_from_what_it_has_and_overshoots_to_its_end():
    load_preset('cpu', ('schedule.batch=2',))  # fewer states than imagination.starts
    load_preset('planet', ('loss.overshooting=49',))


def test_a_preset_keeps_its_system(tmp_path):
    assert 'expected system dreamer, as of preset cpu, got planet' in refusal('cpu', 'system=planet')
    (tmp_path / 'mine.yaml').write_text('extends: cpu\nsystem: planet\n')
    assert 'mine.yaml: expected system dreamer, as of cpu, got planet' in refusal(str(tmp_path / 'mine.yaml'))


@pytest.mark.parametrize('system', list(SYSTEMS))
def test_a_file_holds_no_key_of_another_system(system, tmp_path):
    foreign = {'dreamer': 'planner: {horizon: 5}', 'planet': 'critic: {slow: none}', 'world_models': 'rssm: {deter: 8}'}
    (tmp_path / 'mine.yaml').write_text(f'system: {system}\n{foreign[system]}\n')
    text = refusal(str(tmp_path / 'mine.yaml'))
    assert f'mine.yaml: system {system} does not read {foreign[system].partition(":")[0]}, which is for system' in text


def test_what_earlier_versions_stored_of_other_systems_is_left_out(tmp_path):
    stored = {**load_preset('planet_cpu').to_dict(), 'critic': {'slow': 'none'}, 'vae': {'latent': 5}}
    stored['mlp'].update(actor_layers=7)
    stored['optimizer'].update(vae_lr=3)
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(stored))
    assert stored_config(stored, 'run') == load_preset('planet_cpu')
    assert load_preset(str(tmp_path / 'config.yaml')) == load_preset('planet_cpu')
    assert 'critic.slow' in refusal(str(tmp_path / 'config.yaml'), 'critic.slow=none')
    with pytest.raises(InputError, match='run: unknown key rssm.detr; did you mean deter'):
        stored_config({'rssm': {'detr': 3}}, 'run')
    with pytest.raises(InputError, match='run: expected sections with keys, got list'):
        stored_config([], 'run')


def test_every_key_is_described():
    for kind in SYSTEMS.values():
        for row in describe(kind):
            assert row.help and (row.default is not None), row
        assert '| `schedule.batch` | whole number | of at least 1 | `16` |' in reference(kind)


@pytest.mark.parametrize(
    'content, names',
    [
        (b'rssm: {deter: [', 'expected YAML'),
        (b'\xff\xfe\x00broken', 'mine.yaml: expected a text file'),
        (b'- 1\n- 2\n', 'list'),
        (b'rssm: 3\n', 'rssm: expected a mapping'),
        (b'extends: nowhere\n', 'nowhere'),
        (b'extends: nowhere.yaml\n', 'nowhere.yaml'),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, names):
    file = tmp_path / 'mine.yaml'
    file.write_bytes(content)
    assert names in refusal(str(file))


def test_missing_file(tmp_path):
    assert 'absent.yaml' in refusal(str(tmp_path / 'absent.yaml'))


def test_action_repeat_by_task_domain_or_default():
    table = {'default': 2, 'cartpole': 8, 'cartpole_balance': 4, 'ball': 3, 'ball_in_cup': 6}
    config = DreamerConfig(env=EnvConfig(action_repeat=table))
    repeats = {
        task: config.action_repeat_for(task)
        for task in (
            'walker_walk',
            'cartpole_swingup',
            'cartpole_balance',
            'cartpole_balance_sparse',
            'ball_in_cup_catch',
            'ball_roll',
            'cartpoles_two',
        )
    }
    assert repeats == {
        'walker_walk': 2,
        'cartpole_swingup': 8,
        'cartpole_balance': 4,
        'cartpole_balance_sparse': 4,
        'ball_in_cup_catch': 6,
        'ball_roll': 3,
        'cartpoles_two': 2,
    }
    assert math.isfinite(config.imagination.discount)
