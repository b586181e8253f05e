"""`dreamer benchmark --ros`: the runs that a user starts, scored."""

from __future__ import annotations

import pytest

from dreamer_ros.benchmark.results import Results
from dreamer_ros.cli.main import main
from dreamer_ros.errors import InputError
from tests.learners import write_preset

# Ten actions an episode: twelve episodes, every tenth of them deterministic.
OVERRIDES = (
    'env.action_repeat={default: 100}',
    'schedule.overlap=false',
    'schedule.replay_ratio=8',
    'schedule.prefill=40',
    'schedule.log_every=5',
    'schedule.publish_every=5',
)


@pytest.fixture
def command(tmp_path, ros_domain):
    return [
        'benchmark',
        '--ros',
        '--systems',
        write_preset(tmp_path / 'tiny.yaml', *OVERRIDES),
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
