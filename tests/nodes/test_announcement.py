"""Two launches in one ROS domain: nothing of the second touches the robot of the first."""

from __future__ import annotations

import signal

from dreamer_ros import launcher

SIMULATOR = dict(task='cartpole_swingup', action_repeat=8, episode_length=160)


def test_a_recorder_records_the_robot_of_its_launch_only(start, peer, tmp_path, monkeypatch):
    def launch(name):
        monkeypatch.setenv(launcher.VARIABLE, name)

    launch('first')
    simulator = start('simulator', wait_for_subscribers=4, **SIMULATOR)  # peer, ours, by_hand, agent
    peer.until(lambda: 'lock-step' in simulator.output, 'the first simulator')
    ours = start('recorder', folder=tmp_path / 'first')
    launch('second')
    other_agent = start('agent', seed=2)
    other = start('recorder', folder=tmp_path / 'second')
    twin = start('simulator', seed=1, **SIMULATOR)
    monkeypatch.delenv(launcher.VARIABLE)
    by_hand = start('recorder', folder=tmp_path / 'by_hand')
    assert twin.wait() != 0 and 'expected no other publisher' in twin.output
    launch('first')
    start('agent', seed=1)
    peer.until(lambda: len({step.stamp for step in peer.steps if step.is_last}) >= 3, 'three episodes')
    assert other_agent.stop(signal.SIGTERM) == 0
    for recorder in (ours, by_hand, other):
        assert recorder.stop() == 0
    assert 'robot cartpole_swingup' not in other_agent.output, 'it never met one'
    for folder in ('first', 'by_hand'):
        assert len(list((tmp_path / folder).iterdir())) >= 3
    assert not (tmp_path / 'second').exists()
