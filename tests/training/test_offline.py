"""Learning from bags alone: what is planned from arguments, the session, and going on with a robot."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from dreamer_ros.cli.main import main
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.launching import scenario
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.schema import check
from dreamer_ros.training import loop as trainer_module
from dreamer_ros.training import offline
from dreamer_ros.training.inspection import VALIDATION_CONTEXT as CONTEXT
from dreamer_ros.training.inspection import held_out_errors
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.loop import Trainer
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.offline import OfflineOptions, find_spec
from dreamer_ros.training.plots import plot_run
from dreamer_ros.training.progress import Progress
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory, latest_policy
from dreamer_ros.training.run_replay import BagReplay
from dreamer_ros.training.schedule import OfflineSchedule, Schedule
from tests.episodes import bags
from tests.training.test_loop import ROBOT, STEPS, Walking, make_trainer, write_bags


def plan(folders, **options):
    return offline.plan(check(OfflineOptions, {'bags': folders, **options}, 'test'))


def learn(run, stop=None):
    output = io.StringIO()
    with contextlib.closing(RunDirectory(run.folder, run.config, run.spec)) as directory:
        trainer = Trainer(
            run.config,
            run.spec,
            directory,
            Robots(),
            BagReplay(directory.episodes, run.config, run.spec, 0, run.contract),
            OfflineSchedule(run.updates),
            device='cpu',
            seed=0,
            stop=stop or threading.Event(),
            progress=Progress(output),
            contract=run.contract,
        )
        trainer.train()
    return trainer, output.getvalue()


def test_a_plan_takes_the_robot_from_the_bags(tmp_path, preset):
    write_bags(tmp_path / 'run' / 'episodes', range(2))
    run = plan(
        [f'{tmp_path}/run:0.5'],
        preset=preset,
        logdir=str(tmp_path / 'new'),
        validation=0.3,
        overrides=['schedule.batch=2'],
    )
    assert run.spec == ROBOT and run.folder == tmp_path / 'new' and run.contract is None
    config = run.config
    assert config.env.image_size == (32, 32) and config.env.inputs == 'image' and config.env.cameras == ()
    assert config.action_repeat_for('test') == ROBOT.action_repeat and config.schedule.batch == 2
    assert config.replay.bags == (f'{tmp_path}/run/episodes:0.5',) and config.replay.validation == 0.3
    online = Schedule.make(config.schedule, config.schedule.steps, ROBOT.action_repeat)
    assert run.updates == online.updates_due(online.budget) > 1000


@pytest.mark.parametrize('spec', [bags.TWO_CAMERAS, bags.BLIND], ids=['two cameras', 'no camera'])
def test_a_plan_perceives_what_the_bags_hold(tmp_path, rng, spec, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = dataclasses.replace(spec, image_size=(32, 48) if spec.cameras else (0, 0))
    bags.write_episode(tmp_path / 'bags', 'bag', bags.random_episode(rng, 5, spec=spec), spec=spec)
    run = plan([str(tmp_path / 'bags')], overrides=['loss.representation=reconstruction'])
    assert run.spec == spec
    Learner(run.config, run.spec, 'cpu')  # the networks fit


def test_bad_plans_are_told(tmp_path, rng, preset):
    with pytest.raises(InputError, match='folders of bags to learn from, got none'):
        plan([])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='names its robot in .*empty, found none; tell by a contract'):
        plan([str(tmp_path / 'empty')])
    write_bags(tmp_path / 'bags', [0])
    with pytest.raises(InputError, match='unknown key replay.bgs'):
        plan([str(tmp_path / 'bags')], preset=preset, overrides=['replay.bgs=1'])
    with pytest.raises(InputError, match='every folder once'):
        plan([str(tmp_path / 'bags'), f'{tmp_path / "bags"}:2'], preset=preset)
    run = plan(
        [str(tmp_path / 'bags')],
        preset=preset,
        logdir=str(tmp_path / 'run'),
        updates=5,
        overrides=['schedule.length=64'],
    )
    with pytest.raises(InputError, match='with the 64 steps of a sequence, got 21 steps in 1 episodes'):
        learn(run)


def test_a_contract_tells_the_robot_of_bags_that_do_not(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bags.write_raw(tmp_path, 'bag', bags.cdr_messages(bags.random_episode(rng, 5)), {'spec': '', 'spec_hash': ''})
    with pytest.raises(InputError, match='names its robot'):
        find_spec([tmp_path])
    run = plan([str(tmp_path)], robot='rover')
    assert run.spec.name == 'rover' and run.contract is not None


def test_learns_from_bags_and_goes_on_with_a_robot(tmp_path, preset):
    write_bags(tmp_path / 'a', range(30, 45))
    write_bags(tmp_path / 'b', range(50, 60), mode='random')
    run = plan(
        [f'{tmp_path}/a', f'{tmp_path}/b:3'], preset=preset, logdir=str(tmp_path / 'run'), updates=13, validation=0.4
    )
    trainer, output = learn(run)
    assert trainer.status.updates == 13 and trainer.status.done == 1.0
    assert 'episodes are held out' in output and '/13 updates' in output
    lines = read_metrics(run.folder)
    assert [line['updates'] for line in lines] == [5, 10, 13] and {line['step'] for line in lines} == {0}
    errors = [line['validation_prediction_error'] for line in lines]
    assert all(0.0 < error < 1.0 for error in errors) and 'validation_reward_error' in lines[0]
    assert not any(f'return_{mode}' in line for line in lines for mode in ('random', 'explore', 'evaluate'))
    assert list((run.folder / 'tensorboard' / 'offline').iterdir())
    for name in ('curve.png', 'dream.mp4'):
        assert (run.folder / name).stat().st_size
    assert PolicyRunner(latest_policy(run.folder), ROBOT).metadata['updates'] == '13'

    # continued from its own config, without naming the folders again
    again = plan([], logdir=str(run.folder), updates=20)
    assert again.config.replay == run.config.replay and again.spec == ROBOT
    trainer, output = learn(again)
    assert '13 updates' in output and trainer.status.updates == 20
    held_out = trainer._replay.held_out_episodes
    assert 0 < held_out < 25 and trainer._replay.episodes == 25 - held_out

    # with a robot: its steps alone count for the schedule, and the folders stay in the replay
    config = load_preset(str(run.folder / 'config.yaml'), ('schedule.prefill=20',))
    output = io.StringIO()
    with contextlib.closing(RunDirectory(run.folder, config, ROBOT)) as directory:
        robot = Walking(directory.episodes)
        trainer = make_trainer(directory, robot, 4, config, progress=Progress(output))
        trainer.train()
    assert 'resuming at 0 env steps, 20 updates' in output.getvalue()
    assert robot.walked == 4 * STEPS and trainer.status.step == 4 * STEPS * ROBOT.action_repeat
    assert trainer.status.updates == 20 + (4 * STEPS - 20) * 16 // 32
    assert trainer._replay.episodes == 25 - held_out + 4 and trainer._replay.held_out_episodes == held_out
    lines = read_metrics(run.folder)
    assert [line['step'] for line in lines if 'return_explore' in line] == [80, 160, 240, 320]
    assert plot_run(run.folder).stat().st_size


def test_held_out_errors_are_those_of_held_out_steps_alone(monkeypatch, rng):
    """Against a slow obvious mean, with a model that predicts what we say."""
    batch, length = 6, 12
    samples = {
        'image': rng.integers(0, 256, (batch, length, 32, 32, 3), np.uint8),
        'reward': rng.normal(size=(batch, length)).astype(np.float32),
        'is_first': rng.random((batch, length)) < 0.1,
    }
    made = {name: rng.integers(0, 256, samples['image'].shape, np.uint8) for name in ('prediction', 'reconstruction')}
    rewards = rng.normal(size=(batch, length)).astype(np.float32)

    class Model:
        class agent:
            @staticmethod
            def inspect(batch, context):
                assert context == CONTEXT
                return type(
                    'Seen',
                    (),
                    {
                        **{name: torch.from_numpy(film) for name, film in made.items()},
                        'predicted_reward': torch.from_numpy(rewards),
                    },
                )

        @staticmethod
        def to_batch(samples):
            return samples

    sums, count = {'prediction': 0.0, 'reconstruction': 0.0, 'reward': 0.0}, 0
    for b in range(batch):
        for t in range(CONTEXT, length):
            if samples['is_first'][b, t]:
                break
            count += 1
            for name, film in made.items():
                difference = (film[b, t].astype(float) - samples['image'][b, t].astype(float)) / 255
                sums[name] += (difference**2).mean()
            sums['reward'] += float(rewards[b, t] - samples['reward'][b, t]) ** 2
    errors = held_out_errors(Model, samples)
    expected = {f'validation_{name}_error': total / count for name, total in sums.items()}
    assert errors == pytest.approx(expected, rel=1e-5)
    samples['is_first'][:, CONTEXT] = True
    assert held_out_errors(Model, samples) == {}


def test_held_out_episodes_reach_no_update(tmp_path, preset, monkeypatch):
    write_bags(tmp_path / 'a', range(30, 40))
    run = plan([f'{tmp_path}/a'], preset=preset, logdir=str(tmp_path / 'run'), updates=20, validation=0.5)
    trained, validated = set(), set()
    update, errors = Learner.update, trainer_module.held_out_errors

    def note(into, samples):
        into |= {image.tobytes() for image in samples['image'].reshape(-1, 32 * 32 * 3)}

    monkeypatch.setattr(Learner, 'update', lambda learner, samples: note(trained, samples) or update(learner, samples))
    monkeypatch.setattr(
        trainer_module, 'held_out_errors', lambda learner, samples: note(validated, samples) or errors(learner, samples)
    )
    learn(run)
    assert len(trained) > 50 and len(validated) > 20 and not trained & validated
    assert json.loads((run.folder / 'metrics.jsonl').read_text().splitlines()[-1])['updates'] == 20


def test_the_scenario_starts_one_process(tmp_path, preset):
    write_bags(tmp_path / 'a', [0])
    arguments = {
        'bags': f'{tmp_path}/a:2',
        'preset': preset,
        'logdir': str(tmp_path / 'run'),
        'updates': '7',
        'validation': '0.25',
        'overrides': 'schedule.batch=2',
    }
    description = scenario('offline_train', arguments)
    [process] = description.processes
    assert process.leads and description.folder == tmp_path / 'run' and description.then is None
    # The node makes the same plan.
    planned = offline.plan(check(OfflineOptions, process.parameters, 'test'))
    assert planned.updates == 7 and not planned.folder.exists()
    assert planned.config.replay.bags == (f'{tmp_path}/a:2',) and planned.config.replay.validation == 0.25
    assert planned.config.schedule.batch == 2 and planned.folder == tmp_path / 'run'
    arguments['logdir'] = str(tmp_path / 'other')
    for wrong, words in (
        ({'bags': f'{tmp_path}/none'}, 'found none'),
        ({'validation': '1'}, 'from 0 to 0.9'),
        ({'updates': '0'}, 'updates: expected a whole number from 1'),
        ({'robot': 'nobody'}, 'expected a contract'),
    ):
        with pytest.raises(InputError, match=words):
            scenario('offline_train', {**arguments, **wrong})


def run_process(*words, until=None, numbers=(signal.SIGINT,), code=0):
    """Run `dreamer WORDS`; with `until`, send signals once that is true. Returns the output."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'dreamer_ros.cli', *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while until and not until():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        if until:
            for number in numbers:
                process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code and 'Traceback' not in output, output
    return output


def test_the_command_interrupted_and_continued(tmp_path, preset):
    write_bags(tmp_path / 'a', range(4))
    run = tmp_path / 'run'
    words = ['train', '--logdir', str(run), '--updates', '100000']
    # Two of the same kind might be told as one; whichever is handled first, the other ends it at once.
    output = run_process(
        *[*words, '--bags', str(tmp_path / 'a'), '--preset', preset],
        until=(run / 'policies' / 'latest.json').exists,
        numbers=(signal.SIGINT, signal.SIGTERM),
        code=128 + signal.SIGTERM,
    )
    assert 'Ctrl-C again ends at once' in output and not (run / 'dream.mp4').exists()
    (run / '.dream.mp4.0a1b2c3d.partial').touch()  # as if it had come in the middle
    before = latest_policy(run)
    run_process(*words, until=lambda: latest_policy(run) != before)
    assert (run / 'checkpoints' / 'latest').exists() and (run / 'dream.mp4').exists()
    assert not list(run.glob('.*.partial*'))
    trainer, output = learn(plan([], logdir=str(run), updates=7))
    assert 'resuming at 0 env steps' in output and trainer.status.updates >= 7


@pytest.mark.parametrize('environment, ended', [({}, [130]), ({'TORCHELASTIC_RUN_ID': 'x', 'RANK': '0'}, [])])
def test_one_ctrl_c_that_torchrun_repeats_is_one(tmp_path, preset, monkeypatch, environment, ended):
    monkeypatch.chdir(tmp_path)
    ends, before = [], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupted(run, stop):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5)

    for name, value in {'WORLD_SIZE': '2', **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, '_exit', ends.append)
    monkeypatch.setattr('dreamer_ros.cli.train.train_from_bags', interrupted)
    write_bags(tmp_path / 'a', [0])
    try:
        main(['train', '--bags', str(tmp_path / 'a'), '--preset', preset, '--override', 'schedule.overlap=false'])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ends == ended


def test_the_scenario_runs(tmp_path, preset, ros_domain):
    write_bags(tmp_path / 'a', range(4))
    output = run_process(
        'launch', 'offline_train', f'bags:={tmp_path}/a', f'preset:={preset}', 'updates:=10', f'logdir:={tmp_path}/run'
    )
    assert 'offline_train has finished' in output and latest_policy(tmp_path / 'run').exists()
