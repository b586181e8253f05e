"""A reward from the camera, from bags to a file that a robot runs."""

from __future__ import annotations

import os
import pty
import sys
import threading

import numpy as np
import onnx
import pytest

from dreamer_ros.cli import terminal
from dreamer_ros.cli.main import main
from dreamer_ros.cli.reward import Labelling
from dreamer_ros.deploy.camera_reward import CameraReward
from dreamer_ros.episodes.frame_labels import UNKNOWN, FrameLabels
from dreamer_ros.errors import InputError
from dreamer_ros.policy.classifier import Classifier, Hysteresis
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.sensing import Sensed
from dreamer_ros.training.reward_classifier import Confusion, Labelled, split
from tests.episodes.bags import PERIOD_NS, START_NS, random_episode, write_episode
from tests.robot.robots import ARM, contract

LENGTH, BEGIN = 30, 20  # from step 20 on a bright square is in the picture


@pytest.fixture(scope='module')
def bags(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('bags'), np.random.default_rng(0)
    for number in range(8):
        episode = random_episode(rng, LENGTH, START_NS + number * 1000 * PERIOD_NS)
        episode.image //= 3
        row, column = rng.integers(0, 6, 2)
        episode.image[BEGIN:, row : row + 8, column : column + 6] = [255, 220, 40]
        data = {'verdict': 'success', 'verdict_by': 'joystick'} if number == 0 else {}
        write_episode(folder, f'bag{number}', episode, data)
    return folder


def press(bags, labels, words):
    from dreamer_ros.cli.reward import _episodes

    labelling = Labelling(list(_episodes((str(bags),))), FrameLabels(labels))
    for key in words:
        labelling.press(key)
    return labelling


def label_all(bags, labels):
    press(bags, labels, ['f', 'up', 'up', 's', 'n'] * 8)


def test_from_bags_to_a_reward(bags, tmp_path, capsys):
    labels, file = str(tmp_path / 'labels.yaml'), tmp_path / 'success.onnx'
    label_all(bags, tmp_path / 'labels.yaml')
    words = ['--labels', labels, '--output', str(file), '--updates', '150']
    assert not main(['reward', 'train', str(bags), *words])
    told = capsys.readouterr().out
    assert 'held-out episodes (2 of 8): ' in told and 'of 60 images right; success told in ' in told
    assert float(told.split(': ')[1].split('%')[0]) > 90
    held = [entry.value for entry in onnx.load(str(file)).metadata_props if entry.key == 'held_out']
    assert len(held[0].split()) == 2
    assert not main(['reward', 'check', str(bags), '--labels', labels, '--classifier', str(file)])
    told = capsys.readouterr().out
    assert 'bag0: 30 steps, success from step 2' in told and ', joystick said success, ' in told
    assert float(told.splitlines()[-1].split('%')[0]) > 90

    robot = contract(cameras={'wrist': ARM['cameras']['wrist']}, reward={'classifier': 'success.onnx', 'value': 2})
    image = np.zeros(robot.spec.image_shape, np.uint8)
    with pytest.raises(InputError, match=r'success.onnx: expected inputs and outputs .*16, 24, 3.*got .*16, 12, 3'):
        CameraReward(RobotContract.from_text(robot.text, f'{tmp_path}/robot.yaml'), robot.reward)
    robot = contract(
        cameras={'wrist': ARM['cameras']['wrist']},
        image_size=[16, 12],
        reward={'classifier': 'success.onnx', 'value': 2},
    )
    camera_reward = CameraReward(RobotContract.from_text(robot.text, f'{tmp_path}/robot.yaml'), robot.reward)

    def judge(image, problems=()):
        judged = camera_reward.judge(Sensed(image, None, None, {}, problems, 0.0, False, ()))
        return judged.reward, judged.is_terminal

    image = np.full((16, 12, 3), 40, np.uint8)
    assert judge(image) == (0, False)
    image[2:10, 2:8] = [255, 220, 40]
    assert [judge(image), judge(image), judge(None, ('no camera',)), judge(image)] == [
        (0, False),
        (2, True),
        (0, False),
        (2, True),
    ]


def test_keys_mark_stretches_which_are_kept(bags, tmp_path):
    file = tmp_path / 'labels.yaml'
    labelling = press(bags, file, ['f', 'up', 's', 'right', 'right', 'u', 'left', 'x', 'n', 'p', 'down'])
    [episode] = [each for each in labelling._episodes if each.path.name == 'bag0']
    expected = [0] * 10 + [1] * 2 + [UNKNOWN] * 18
    assert FrameLabels(file).of(episode).tolist() == expected
    assert '▀' in labelling.page() and '[' + '-' * 10 + '##' + '.' * 18 + ']' in labelling.page()


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('frames: [{bag: a, marks: [{step: -1, success: true}]}]', r'frames\[0\].marks\[0\].step: expected a whole'),
        (
            'frames: [{bag: a, marks: [{step: 1, success: 3}]}]',
            r'frames\[0\].marks\[0\].success: expected true or false',
        ),
        ('frame: []', 'unknown key frame; did you mean frames'),
    ],
)
def test_mistakes_in_labels(tmp_path, text, sentence):
    (tmp_path / 'labels.yaml').write_text(text)
    with pytest.raises(InputError, match=f'labels.yaml: {sentence}'):
        FrameLabels(tmp_path / 'labels.yaml')


def test_an_episode_is_trained_on_or_held_out_but_never_both():
    def labelled(number):
        return Labelled(str(number), np.zeros((4, 8, 8, 3), np.uint8), np.array([False, False, number > 2, number > 2]))

    kept, held = split([labelled(number) for number in range(8)], 0.25, seed=3)
    assert {e.name for e in kept} | {e.name for e in held} == set('01234567') and len(held) == 2
    assert not {e.name for e in kept} & {e.name for e in held}
    with pytest.raises(InputError, match='training has 0 of success among 4 in 1 episodes; label more'):
        split([labelled(0), labelled(1)], 0.25, seed=0)


def test_confusion():
    told, success = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert Confusion.of(told, success) == (2, 1, 1, 1)


def test_hysteresis():
    decide = Hysteresis(0.9, 0.5, 2)
    assert [decide(p) for p in (0.95, 0.2, 0.95, 0.95, 0.6, 0.49, 0.95, 0.9)] == [0, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize('damage', ['flipped', 'endless', 'text', 'missing'])
def test_files_that_are_no_classifier(tmp_path, damage):
    path = tmp_path / 'success.onnx'
    node = onnx.helper.make_node('Identity', ['image'], ['success'])
    value = [onnx.helper.make_tensor_value_info(name, 2, [1, 8, 8, 3]) for name in ('image', 'success')]
    data = onnx.helper.make_model(onnx.helper.make_graph([node], 'g', value[:1], value[1:])).SerializeToString()
    if damage != 'missing':
        path.write_bytes({'flipped': data[:-3], 'endless': data, 'text': b'hello'}[damage])
    with pytest.raises(InputError, match='success.onnx: expected'):
        Classifier(path, (8, 8, 3))


def test_keys_of_a_terminal(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, 'stdin', stdin)
        found = terminal.keys()
        threading.Timer(0.2, os.write, (ours, b's')).start()
        assert next(found) == 's'
        os.write(ours, b'\x1b[C')
        assert next(found) == 'right'
        found.close()
    os.close(ours)
    monkeypatch.setattr(sys, 'stdin', open(os.devnull))
    with pytest.raises(InputError, match='expected a terminal'):
        next(terminal.keys())
