"""Released policies and their cards."""

from __future__ import annotations

import json

import pytest
import yaml

from dreamer_ros.config import DreamerConfig, stored_config
from dreamer_ros.errors import InputError
from dreamer_ros.files import sha256
from dreamer_ros.paths import share
from dreamer_ros.policy.loader import policy_path
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.seeds import evaluation_seed
from dreamer_ros.training.release import release
from dreamer_ros.training.rollout import Player
from dreamer_ros.training.run_directory import RunDirectory
from tests.policy.tiny import spec, tiny_policy

RELEASED = sorted(path.stem for path in share('models', 'policies').glob('*.onnx'))


def test_there_are_some():
    assert len(RELEASED) >= 2


@pytest.mark.parametrize('name', RELEASED)
def test_a_released_policy_keeps_its_cards_promise(name):
    """One episode, in other initial states than those of the card, earns nine tenths of its mean return."""
    path = policy_path(name)
    card = yaml.safe_load(path.with_suffix('.yaml').read_text())
    assert card['task'] == name and card['sha256'] == sha256(path)
    assert card['return']['episodes'] >= 10 and card['date'] and card['env_steps'] > 0
    config = stored_config(card['config'], str(path))
    runner = PolicyRunner(path)
    assert (config.preset, config.system) == (card['preset'], card['system']) and runner.spec.hash == card['spec_hash']
    player = Player(name, evaluation_seed(7), **runner.spec.simulator_options())
    try:
        assert player.spec.hash == runner.spec.hash
        [value] = player.play(1, path).result()
    finally:
        player.close()
    assert value > 0.9 * card['return']['mean']


def evaluated(run, version, episodes):
    result = {
        'mean_return': 12.34,
        'standard_deviation': 1.0,
        'episodes': [{'return': 12.34, 'length': 5, 'actor': f'policy/{version}/evaluate'}] * episodes,
    }
    folder = run / 'evaluation' / f'{version}-{episodes}'
    folder.mkdir(parents=True)
    (folder / 'result.json').write_text(json.dumps(result))


def test_only_what_was_evaluated_is_released(tmp_path):
    run, robot = RunDirectory(tmp_path / 'run', DreamerConfig(), spec()), spec()
    from dreamer_ros.policy.export import Exporter

    metadata = {'version': 3, 'preset': 'cpu', 'system': 'dreamer', 'step': 100, 'updates': 7}
    run.write_policy(3, lambda path: Exporter(tiny_policy(robot), robot).write(path, metadata))
    run.close()
    [source] = run.policies.glob('policy_*.onnx')
    source.write_bytes(source.read_bytes()[:-84])  # of an older run: without content_sha256
    for version, episodes in ((2, 10), (3, 9)):
        evaluated(run.path, version, episodes)
    with pytest.raises(InputError, match='expected an evaluation of policy_000003.onnx over at least 10 episodes'):
        release(run.path, tmp_path / 'released')
    evaluated(run.path, 3, 10)
    card = yaml.safe_load(release(run.path, tmp_path / 'released').read_text())
    assert card['return'] == {'mean': 12.3, 'standard_deviation': 1.0, 'episodes': 10}
    assert (card['env_steps'], card['updates'], card['preset']) == (100, 7, 'cpu')
    assert stored_config(card['config'], 'card') == DreamerConfig()
    assert card['sha256'] == sha256(tmp_path / 'released' / f'{robot.name}.onnx')
    assert 'content_sha256' in PolicyRunner(tmp_path / 'released' / f'{robot.name}.onnx').metadata
    better = tmp_path / 'released' / f'{robot.name}.yaml'
    better.write_text(better.read_text().replace('mean: 12.3', 'mean: 12.4'))
    with pytest.raises(InputError, match='whose mean return is 12.4, got 12.3'):
        release(run.path, tmp_path / 'released')
