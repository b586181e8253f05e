"""Plots, films and time lines of bags, read back by other readers."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.viewing.bag_plots import film_bag, panels
from dreamer_ros.viewing.film import BAR
from dreamer_ros.viewing.look import look
from tests.episodes import robot_bags
from tests.episodes.bags import (
    JOINTS,
    PERIOD_NS,
    SPEC,
    START_NS,
    TWO_CAMERAS,
    cdr_messages,
    random_episode,
    write_episode,
    write_raw,
)

LENGTH = 15


@pytest.fixture
def bag(tmp_path, rng):
    """Two whole episodes one after the other."""
    episodes = [random_episode(rng, LENGTH, START_NS + n * 2 * LENGTH * PERIOD_NS) for n in range(2)]
    rows = [row for episode in episodes for row in cdr_messages(episode)]
    return write_raw(tmp_path, 'two', rows), episodes


@pytest.fixture
def robot_bag(tmp_path, rng):
    """Of a robot with a contract."""
    agent = robot_bags.played(rng, robot_bags.sensors(rng, 4.0), 30)
    return robot_bags.write_robot_bag(tmp_path, 'robot', agent.rows, robot_bags.contract())


def test_look(bag):
    path, episodes = bag
    seen = look(path)
    assert len(seen.episodes) == 2 and seen.problems == ()
    assert seen.seconds(1)[0] == pytest.approx(2 * LENGTH * PERIOD_NS / 1e9)
    slider, hinge = JOINTS
    for episode, senses in zip(episodes, seen.senses):
        assert set(senses) == {'position', 'velocity'} and set(senses['position']) == set(JOINTS)
        np.testing.assert_array_equal(senses['position'][slider], np.full(LENGTH, 0.25))
        np.testing.assert_array_equal(senses['position'][hinge], episode.vector[:, 0].astype(np.float64))
        np.testing.assert_array_equal(senses['velocity'][slider], episode.vector[:, 1].astype(np.float64))
    drawn = {panel.label: panel.curves for panel in panels(seen, 0)}
    assert drawn['return']['return'][-1] == pytest.approx(episodes[0].total_reward)
    assert list(drawn['action']) == list(SPEC.action)


def test_look_at_a_robot_with_a_contract(robot_bag):
    seen = look(robot_bag)
    assert seen.spec == robot_bags.contract().spec
    [episode], _ = read_episodes(robot_bag, seen.spec)
    np.testing.assert_array_equal(seen.senses[0]['input']['wheel'], episode.vector[:, 0].astype(np.float64))


def test_a_step_without_joint_states_is_a_gap_in_the_curve(tmp_path, rng):
    spec = TWO_CAMERAS
    spec = type(spec)(**{**spec.to_dict(), 'vector': ()})
    episode = random_episode(rng, LENGTH, spec=spec)
    rows = [
        row
        for row in cdr_messages(episode, spec=spec)
        if not (row[0].endswith('joint_states') and row[2] == episode.stamp[4])
    ]
    seen = look(write_raw(tmp_path, 'gap', rows, spec=spec))
    assert np.flatnonzero(np.isnan(seen.senses[0]['position'][JOINTS[0]])).tolist() == [4]


def test_plot(bag, robot_bag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = bag
    assert main(['bag', 'plot', str(path)]) == 0
    assert capsys.readouterr().out == 'two.png\n'
    picture = iio.imread(tmp_path / 'two.png')
    assert picture.shape[1] == 1200 and picture[..., :3].std() > 10
    assert main(['bag', 'plot', str(robot_bag), '--output', 'pictures/robot.png']) == 0
    # reward, return, action and inputs, and the images above: one panel fewer than positions and velocities
    assert iio.imread(tmp_path / 'pictures' / 'robot.png').shape[0] < picture.shape[0]
    assert not list(tmp_path.glob('.*.png'))


def test_film(bag, tmp_path, capsys):
    path, episodes = bag
    output = tmp_path / 'films' / 'two.mp4'
    assert main(['bag', 'video', str(path), '--output', str(output)]) == 0
    film = iio.imread(output, plugin='FFMPEG')
    assert len(film) == 2 * LENGTH
    assert iio.immeta(output, plugin='FFMPEG')['fps'] == pytest.approx(1e9 / PERIOD_NS)
    height, width = SPEC.image_size
    scale = -(-384 // height)
    left = (film.shape[2] - scale * width) // 2
    for number, k in ((0, 0), (0, 7), (1, LENGTH - 1)):
        frame = film[number * LENGTH + k]
        shown = frame[BAR : BAR + scale * height, left : left + scale * width].astype(float)
        shown = shown.reshape(height, scale, width, scale, 3)[:, 4:-4, :, 4:-4].mean((1, 3))
        assert np.abs(shown - episodes[number].image[k]).mean() < 25, 'the image of that step, but for compression'
        assert frame[:BAR].max() > 200, 'a line of text'
    below = film[:LENGTH, -300:-80].astype(float)
    redness = (below[..., 0] - below[..., 1:].mean(-1)).mean(1)  # per frame and column, over the curves
    assert redness.max(1).min() > 40
    assert (np.diff(redness.argmax(1)) > 10).all(), 'the cursor moves on with every step'


def test_a_film_of_several_cameras(tmp_path, rng):
    bag = write_episode(tmp_path, 'a', random_episode(rng, 4, spec=TWO_CAMERAS), spec=TWO_CAMERAS)
    assert len(iio.imread(film_bag(look(bag), tmp_path / 'a.mp4'), plugin='FFMPEG')) == 4


def test_what_cannot_be_looked_at(tmp_path, rng, bag):
    with pytest.raises(InputError, match='expected custom_data with the spec'):
        path = write_raw(tmp_path, 'unknown', cdr_messages(random_episode(rng, 5)))
        text = (path / 'metadata.yaml').read_text()
        (path / 'metadata.yaml').write_text(text[: text.index('  custom_data:')])
        look(path)
    with pytest.raises(InputError, match='cannot be written|can be written'):
        (tmp_path / 'file').touch()
        main(['bag', 'plot', str(bag[0]), '--output', str(tmp_path / 'file' / 'x.png')])


def table(rrd, entity, home) -> list:
    """Rows (step, stamp in ns, first number) of an entity, as Rerun's own command prints them."""
    printed = subprocess.run(
        [sys.executable, '-m', 'rerun', 'rrd', 'print', '-vvv', '--entity', entity, str(rrd)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'HOME': str(home), 'XDG_CONFIG_HOME': str(home)},
    ).stdout
    rows = re.findall(r'┆ (\d+) +┆ (\S+) ┆ \[+([^\]…]*)', printed)
    return [
        (
            int(step),
            int(np.datetime64(stamp, 'ns').astype(np.int64)),
            [float(value) for value in re.findall(r'[^, ]+', values)],
        )
        for step, stamp, values in rows
    ]


def test_time_line(bag, tmp_path, capsys):
    """Camera, actions and rewards on one time line, by the reader of Rerun itself."""
    pytest.importorskip('rerun', reason="dreamer view is an extra: pip install 'dreamer_ros[view]'")
    path, episodes = bag
    rrd = tmp_path / 'out' / 'two.rrd'
    assert main(['view', str(path), '--save', str(rrd)]) == 0
    assert capsys.readouterr().out == f'{rrd}\n'
    stamps = np.concatenate([episode.stamp for episode in episodes]).tolist()
    expected = {
        '/reward/reward': np.concatenate([episode.reward for episode in episodes]),
        '/reward/return': np.concatenate([np.cumsum(episode.reward, dtype=np.float64) for episode in episodes]),
        **{
            f'/action/{name}': np.concatenate([episode.action[:, number] for episode in episodes])
            for number, name in enumerate(SPEC.action)
        },
        f'/position/{JOINTS[1]}': np.concatenate([episode.vector[:, 0] for episode in episodes]),
    }
    for entity, values in expected.items():
        rows = table(rrd, entity, tmp_path)
        assert [row[:2] for row in rows] == list(enumerate(stamps)), entity
        np.testing.assert_allclose([row[2][0] for row in rows], values, rtol=1e-12, err_msg=entity)
    rows = table(rrd, '/camera/camera', tmp_path)
    assert [row[:2] for row in rows] == list(enumerate(stamps))
    images = np.concatenate([episode.image for episode in episodes]).reshape(len(stamps), -1)
    for (_, _, pixels), image in zip(rows, images):  # it prints the first ones only
        assert len(pixels) >= 10 and pixels[:10] == image[:10].tolist()


def test_a_viewer_that_does_not_start_is_told(bag, monkeypatch):
    """It starts without a display, too, and ends while it is being connected to."""
    rerun = pytest.importorskip('rerun', reason="dreamer view is an extra: pip install 'dreamer_ros[view]'")

    def flush(_):
        raise RuntimeError('unable to connect')

    monkeypatch.setattr(rerun.RecordingStream, 'spawn', lambda *_, **__: None)
    monkeypatch.setattr(rerun.RecordingStream, 'flush', flush)
    with pytest.raises(InputError, match='viewer does not start, --save FILE .*unable to connect'):
        main(['view', str(bag[0])])
