"""`dreamer benchmark --ros`: the runs that a user starts, scored."""

from __future__ import annotations

import pytest

from dreamer_ros.benchmark.results import Results
from dreamer_ros.cli.main import main
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError

# Ten actions an episode: twelve episodes, every tenth of them deterministic.
OVERRIDES = (
    'env.image_size=32',
    'env.action_repeat={default: 100}',
    'schedule.overlap=false',
    'schedule.batch=4',
    'schedule.length=8',
    'schedule.replay_ratio=8',
    'schedule.prefill=40',
    'schedule.log_every=5',
    'schedule.publish_every=5',
    'rssm.deter=16',
    'rssm.hidden=16',
    'rssm.stoch=4',
    'rssm.classes=4',
    'conv.depth=2',
    'mlp.units=16',
    'imagination.starts=8',
    'imagination.horizon=3',
)


@pytest.fixture
def command(tmp_path, ros_domain):
    (tmp_path / 'tiny.yaml').write_text(load_preset('cpu', OVERRIDES).to_yaml())
    return [
        'benchmark',
        '--ros',
        '--systems',
        str(tmp_path / 'tiny.yaml'),
        '--tasks',
        'pendulum_swingup',
        '--evaluations',
        '1',
        '--episodes',
        '2',
        '--output',
        str(tmp_path / 'out'),
    ]


def test_a_run_is_trained_and_scored_by_the_nodes(command, tmp_path, capsys):
    assert main([*command, '--steps', '12000']) == 0, capsys.readouterr()
    results = Results(tmp_path / 'out')
    (run,) = results.runs
    assert run.key == ('tiny', 'pendulum_swingup', 0) and results.protocol.over_ros
    assert run.outcome.env_steps == 12_000 and run.outcome.updates > 0 and len(run.outcome.returns) == 2
    ((steps, _, _, episodes),) = run.outcome.curve
    assert steps == 12_000 and episodes >= 1
    assert 'over ROS' in capsys.readouterr().out
    assert main([*command, '--steps', '12000']) == 0  # nothing is left to do
    assert len(Results(tmp_path / 'out').runs) == 1


def test_a_launch_that_fails_says_why(command):
    with pytest.raises(InputError, match='launch: error: steps: expected more than the 4000 env steps .*launch.log'):
        main([*command, '--steps', '100'])  # ends before the first update
