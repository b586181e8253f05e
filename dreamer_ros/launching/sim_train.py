"""Scenario `sim_train`: learning in simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, user_path
from dreamer_ros.launching.processes import Process, Scenario, learner, simulated_robot, task_name
from dreamer_ros.options import Options, as_text
from dreamer_ros.seeds import collector_seed
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import check_run, new_logdir, preset_of
from dreamer_ros.training.schedule import Schedule


class SimTrain(Options):
    """Learn a task in simulation, then score what was learnt."""

    task: shared.Task
    preset: shared.Preset
    overrides: shared.Overrides
    logdir: shared.Logdir
    steps: shared.Steps
    seed: shared.Seed
    simulators: shared.Simulators
    mode: Literal['lockstep', 'free', 'realtime'] = Field(
        'lockstep',
        description='How simulators wait. lockstep: for agent and learner, which keeps the replay ratio exactly. free: '
        'for the agent alone. realtime: for nobody, they step on the wall clock as robots do.',
    )
    evaluate_every: shared.EvaluateEvery
    episodes: int = Field(10, ge=0, description='Episodes of the evaluation that ends the run. 0: there is none.')
    render: shared.Render
    device: shared.Device
    learners: shared.Learners


def sim_train(options: SimTrain) -> Scenario:
    """Simulators, agents and recorders that feed one trainer; an evaluation follows."""
    existing = user_path(options.logdir).absolute() if options.logdir else None
    saved = _saved_task(existing) if existing else None
    task = options.task or saved or 'cartpole_swingup'
    name = task_name(task)
    if saved and saved != name:
        raise InputError(f'logdir {existing}: expected task {saved}, which its run was started with, got {name}')
    preset = preset_of(options.preset, existing)
    config = load_preset(preset, options.overrides)
    check_learners(config, options.learners)
    repeat = config.action_repeat_for(name)
    Schedule.make(config.schedule, options.steps or config.schedule.steps, repeat)  # refuses what teaches nothing
    # The trainer does so too, but by then there is a folder, and the first episode is recorded.
    check_run(existing or Path('runs'), None, config)
    folder = existing or new_logdir(name, config.preset)
    simulator = {
        'task': task,
        'inputs': config.env.inputs,
        'image_size': config.env.image_size,
        'cameras': config.env.cameras,
        'action_repeat': repeat,
        'render': options.render,
        'mode': 'realtime' if options.mode == 'realtime' else 'lockstep',
        'wait_for_learner': options.mode == 'lockstep',
    }
    agent = {'mode': 'train', 'evaluate_every': options.evaluate_every}
    robots = [f'sim{number}' for number in range(options.simulators)]
    processes: list[Process] = []
    for number, robot in enumerate(robots):
        seed = collector_seed(options.seed, number)
        processes += simulated_robot(robot, simulator, agent, seed, folder / 'episodes')
    trainer = {
        **options.pick('overrides', 'steps', 'device', 'learners', 'seed'),
        'logdir': str(folder),
        'preset': preset,
        'robots': robots,
        'free_running': options.mode != 'lockstep',
    }
    evaluation = {'run': str(folder), 'task': task, **options.pick('episodes', 'seed', 'render')}
    then = ('sim_eval', {name: as_text(value) for name, value in evaluation.items()}) if options.episodes else None
    return Scenario('sim_train', (*processes, learner('trainer', trainer)), folder, then)


def _saved_task(run: Path) -> str | None:
    path = run / 'spec.json'
    return RobotSpec.from_json(read_text(path), str(path)).name if path.exists() else None
