"""Scenario `sim_train`: learning in simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.config import load_preset
from dreamer_ros.files import read_text, user_path
from dreamer_ros.launching.processes import Process, Scenario, keep_local, learner, needing_simulation, simulated_robot
from dreamer_ros.options import Options, as_text
from dreamer_ros.seeds import collector_seed
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import check_run, new_logdir, preset_of, save_task, saved_task
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
    discovery: shared.Discovery
    device: shared.Device
    learners: shared.Learners


def sim_train(options: SimTrain) -> Scenario:
    """Simulators, agents and recorders that feed one trainer; an evaluation follows."""
    existing = user_path(options.logdir).absolute() if options.logdir else None
    task = options.task or (existing and _saved_task(existing)) or 'cartpole_swingup'
    preset = preset_of(options.preset, existing)
    config = load_preset(preset, options.overrides)
    check_learners(config, options.learners)
    with needing_simulation():
        from dreamer_ros import simulation

        name = simulation.task_name(task)
        files = simulation.task_files(task)
        task = str(files[0]) if files else task
        settings = config.simulator_options(name)
        # The trainer refuses a schedule and a robot that do not fit as well, but by then there is a run.
        Schedule.make(config.schedule, options.steps or config.schedule.steps, settings['action_repeat'])
        check_run(existing or Path('runs').absolute(), simulation.robot_spec(task, **settings), config)
    folder = existing or new_logdir(name, config.preset)
    save_task(folder, files)
    simulator = {
        'task': task,
        **settings,
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
    evaluation = {'run': str(folder), 'task': task, **options.pick('episodes', 'seed', 'render', 'discovery')}
    then = ('sim_eval', {name: as_text(value) for name, value in evaluation.items()}) if options.episodes else None
    processes.append(learner('trainer', trainer))
    return Scenario('sim_train', keep_local(processes, options.discovery), folder, then)


def _saved_task(run: Path) -> str | None:
    path = run / 'spec.json'
    return saved_task(run) or (RobotSpec.from_json(read_text(path), str(path)).name if path.exists() else None)
