"""The description of what runs: arguments, processes, parameters, and what exits mean."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_ros.agents.system import make_agent
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import DISCOVERY, NETWORK
from dreamer_ros.launching import SCENARIOS, parse_assignments, scenario, scenario_options
from dreamer_ros.launching.processes import RESTARTS_PER_MINUTE, ExitRules, Process, Verdict
from dreamer_ros.options import as_arguments
from dreamer_ros.paths import share
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.loader import load
from dreamer_ros.run_key import VARIABLE, key_of
from dreamer_ros.simulation import robot_spec
from dreamer_ros.training import run_directory
from dreamer_ros.training.run_directory import RunDirectory, saved_task
from tests.agents.small import config, robot
from tests.policy.tiny import spec as tiny_spec
from tests.policy.tiny import tiny_policy


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    """A scenario without logdir makes one there."""
    monkeypatch.chdir(tmp_path)


def by_label(description):
    return {process.label: process for process in description.processes}


def test_a_simulation_keeps_to_this_computer(monkeypatch):
    def discovery(name='sim_train', **arguments):
        found = {process.environment.get(DISCOVERY) for process in scenario(name, arguments).processes}
        assert len(found) == 1
        return found.pop()

    for name in NETWORK:
        monkeypatch.delenv(name, raising=False)
    mocked = {'robot': 'rover', 'mock': 'true', 'task': 'rover_target'}
    assert discovery() == discovery('deploy', policy='cartpole_swingup') == 'LOCALHOST'
    assert discovery('robot_train', **mocked) == 'LOCALHOST' and discovery('robot_train', robot='rover') is None
    assert discovery('robot_train', role='robot', **mocked) is None, 'its trainer is elsewhere'
    assert discovery(simulators='9') == 'LOCALHOST' and discovery(simulators='10') == 'SUBNET', 'too many to find'
    assert (
        discovery(discovery='subnet') == 'SUBNET' and discovery(simulators='20', discovery='localhost') == 'LOCALHOST'
    )
    monkeypatch.setenv('ROS_STATIC_PEERS', '10.0.0.7')
    assert discovery() is None, 'the environment says it'
    assert scenario('sim_train', {'discovery': 'subnet'}).then[1]['discovery'] == 'subnet'


def test_sim_train_starts_one_trainer_and_three_processes_per_simulator(tmp_path):
    run = scenario(
        'sim_train',
        {
            'simulators': '2',
            'task': 'walker_walk',
            'preset': 'dreamerv3_1m',
            'seed': '3',
            'logdir': str(tmp_path / 'run'),
        },
    )
    processes = by_label(run)
    of_robots = {f'{node} of sim{n}' for node in ('simulator', 'agent', 'recorder') for n in (0, 1)}
    assert set(processes) == of_robots | {'trainer'}
    assert [process.label for process in run.processes if process.leads] == ['trainer']
    assert processes['trainer'].parameters['robots'] == ['sim0', 'sim1']
    simulators = [processes[f'simulator of sim{n}'].parameters for n in (0, 1)]
    for parameters in simulators:
        assert parameters['image_size'] == [64, 64] and parameters['action_repeat'] == 2
        assert parameters['wait_for_learner'] is True
    assert simulators[0]['seed'] != simulators[1]['seed']
    # one clock, one policy
    assert processes['simulator of sim0'].remappings == ()
    assert processes['simulator of sim1'].remappings == (('/clock', 'clock'),)
    assert all(processes[f'agent of sim{n}'].remappings == (('policy', '/policy'),) for n in (0, 1))
    assert processes['recorder of sim1'].parameters == {'folder': str(tmp_path / 'run' / 'episodes'), 'robot': 'sim1'}
    assert run.then == (
        'sim_eval',
        {
            'run': str(tmp_path / 'run'),
            'task': 'walker_walk',
            'episodes': '10',
            'seed': '3',
            'render': 'fast',
            'discovery': 'auto',
        },
    )
    # what follows takes the arguments it is given
    assert set(run.then[1]) <= {argument.name for argument in as_arguments(scenario_options('sim_eval'))}


@pytest.mark.parametrize(
    'mode, pace, free_running, simulator_mode',
    [('lockstep', True, False, 'lockstep'), ('free', False, True, 'lockstep'), ('realtime', False, True, 'realtime')],
)
def test_modes(mode, pace, free_running, simulator_mode):
    processes = by_label(scenario('sim_train', {'mode': mode, 'preset': 'dreamerv3_1m'}))
    simulator = processes['simulator of sim0'].parameters
    assert (simulator['wait_for_learner'], simulator['mode']) == (pace, simulator_mode)
    assert processes['trainer'].parameters['free_running'] is free_running


def test_presets_and_overrides_reach_simulator_and_trainer():
    overrides = ['env.image_size=[32,48]', 'schedule.steps=123456', 'env.action_repeat.default=5']
    run = scenario('sim_train', {'preset': 'dreamerv3_1m', 'overrides': ' '.join(overrides)})
    processes = by_label(run)
    simulator, trainer = processes['simulator of sim0'].parameters, processes['trainer'].parameters
    assert (simulator['image_size'], simulator['action_repeat']) == ([32, 48], 5)
    assert load_preset(trainer['preset'], trainer['overrides']).schedule.steps == 123456
    assert (trainer['preset'], trainer['overrides'], trainer['logdir']) == ('dreamerv3_1m', overrides, str(run.folder))


def test_what_the_agent_perceives_reaches_the_simulators():
    processes = by_label(
        scenario('sim_train', {'task': 'rover_target', 'overrides': 'env.inputs=both "env.cameras=[front, overview]"'})
    )
    parameters = processes['simulator of sim0'].parameters
    assert (parameters['inputs'], parameters['cameras']) == ('both', ['front', 'overview'])
    assert 'cameras' not in by_label(scenario('sim_train', {}))['simulator of sim0'].parameters


@pytest.mark.parametrize(
    'fields, parameters',
    [
        ({'vector': ('a/position',), 'cameras': (), 'image_size': (0, 0)}, {'inputs': 'vector'}),
        (
            {'vector': ('a/position',), 'cameras': ('front', 'overview')},
            {'inputs': 'both', 'image_size': [32, 32], 'cameras': ['front', 'overview']},
        ),
    ],
)
def test_an_evaluated_policy_perceives_what_it_was_trained_with(fields, parameters, tmp_path):
    spec = dataclasses.replace(robot(), name='rover_target', **fields)
    preset = config('v3', f'env.inputs={parameters["inputs"]}')
    Exporter(make_agent(preset, spec).policy(), spec).write(tmp_path / 'p.onnx', {'version': 1})
    run = scenario('sim_eval', {'policy': str(tmp_path / 'p.onnx'), 'output': str(tmp_path / 'x')})
    found = by_label(run)['simulator of sim0'].parameters
    assert {key: found[key] for key in ('inputs', 'image_size', 'cameras') if key in found} == parameters


def test_empty_lists_are_no_parameters():
    trainer = by_label(scenario('sim_train', {'preset': 'dreamerv3_1m'}))['trainer']
    assert 'overrides' not in trainer.parameters


def test_default_run_directory_names_task_and_preset(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = scenario('sim_train', {'task': 'cup_catch', 'preset': 'dreamerv3_1m'})
    assert run.folder.parent == tmp_path / 'runs' and run.folder.name.startswith('cup_catch-dreamerv3_1m-')


def test_a_start_that_a_full_disk_refuses_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(run_directory, 'free_megabytes', lambda path: 0)
    for name, arguments in {'sim_train': {'task': 'cup_catch'}, 'robot_train': {'robot': 'rover'}}.items():
        with pytest.raises(InputError, match='expected 1000 MB to be free'):
            scenario(name, arguments)
    assert not any(tmp_path.iterdir())


def test_a_task_file_anywhere_is_a_task(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = str(share('sim', 'rover', 'rover_target.yaml'))
    run = scenario('sim_train', {'task': path, 'preset': 'dreamerv3_1m'})
    assert run.folder.name.startswith('rover_target-dreamerv3_1m-')
    assert by_label(run)['simulator of sim0'].parameters['task'] == run.then[1]['task'] == path
    assert scenario('sim_train', {'task': 'ball_in_cup_catch'}).folder.name.startswith('cup_catch-cpu-')
    with pytest.raises(InputError, match='nowhere.yaml: expected a text file that can be read'):
        scenario('sim_train', {'task': 'nowhere.yaml'})


@pytest.mark.parametrize(
    'arguments, words',
    [
        ({'tsk': 'walker_walk'}, ['tsk', 'did you mean task']),
        ({'task': 'walker_wlak'}, ['walker_wlak', 'walker_walk']),
        ({'preset': 'dreamerv3_2m'}, ['dreamerv3_2m', 'dreamerv3_12m']),
        ({'simulators': '0'}, ['sim_train: simulators: expected a whole number from 1 to 1000, got 0']),
        ({'steps': '1500', 'preset': 'cpu'}, ['steps', 'env steps that are played at random', '1500']),
        ({'seed': 'x'}, ["seed: expected a whole number from 0 to 2147483647, got 'x'"]),
        ({'mode': 'fast'}, ["mode: expected one of lockstep, free, realtime, got 'fast'"]),
        ({'device': 'gpu'}, ['device: expected auto, cpu, cuda or cuda:<number>']),
        ({'overrides': 'schedule.bach=3', 'preset': 'dreamerv3_1m'}, ['schedule.bach', 'batch']),
        ({'overrides': '"open'}, ['overrides: expected words separated by blanks', 'No closing quotation']),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(InputError) as error:
        scenario('sim_train', arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_sim_eval_needs_one_policy(tmp_path):
    for arguments in ({}, {'run': str(tmp_path), 'policy': 'x.onnx'}):
        with pytest.raises(InputError, match='either run:=.*or policy:='):
            scenario('sim_eval', arguments)
    with pytest.raises(InputError, match='expected a policy named by'):
        scenario('sim_eval', {'run': str(tmp_path)})
    with pytest.raises(InputError, match='missing.onnx'):
        scenario('sim_eval', {'policy': str(tmp_path / 'missing.onnx')})


def test_sim_eval_plays_released_policies_by_name_and_manifests(tmp_path):
    released = share('models', 'policies', 'cartpole_swingup.onnx')
    (tmp_path / 'latest.json').write_text(load(released).manifest().at('p.onnx').to_json())
    (tmp_path / 'p.onnx').write_bytes(released.read_bytes())
    for policy, file in (('cartpole_swingup', released), (tmp_path / 'latest.json', tmp_path / 'p.onnx')):
        run = scenario('sim_eval', {'policy': str(policy), 'output': str(tmp_path / 'x')})
        assert by_label(run)['agent of sim0'].parameters['policy'] == str(file)
    with pytest.raises(InputError, match='released policies: .*cartpole_swingup'):
        scenario('sim_eval', {'policy': 'cartpole', 'output': str(tmp_path / 'x')})


def test_an_evaluation_gets_a_folder_of_its_own(tmp_path):
    spec = tiny_spec()
    (tmp_path / 'policies').mkdir()
    manifest = Exporter(tiny_policy(spec), spec).write(tmp_path / 'policies' / 'policy_000007.onnx', {'version': 7})
    (tmp_path / 'policies' / 'latest.json').write_text(
        manifest.model_copy(update=dict(uri='policy_000007.onnx')).to_json()
    )
    arguments = {'task': 'cartpole_swingup', 'episodes': '3'}
    evaluation = scenario('sim_eval', {'run': str(tmp_path), **arguments})
    processes = by_label(evaluation)
    assert evaluation.folder.parent == tmp_path / 'evaluation' and evaluation.run == tmp_path
    assert processes['evaluator of sim0'].parameters == {
        'episodes': 3,
        'output': str(evaluation.folder),
        'video': str(tmp_path / 'evaluation.mp4'),
    }
    assert processes['recorder of sim0'].parameters == {
        'folder': str(evaluation.folder),
        'robot': 'sim0',
        'episodes': 3,
    }
    assert processes['agent of sim0'].parameters['policy'] == manifest.uri

    assert evaluation.results() == f'{tmp_path}: policies/policy_000007.onnx'
    for file in (evaluation.folder / 'result.json', tmp_path / 'curve.png'):
        file.touch()
    assert evaluation.results() == (
        f'{tmp_path}: curve.png, evaluation/{evaluation.folder.name}/result.json, policies/policy_000007.onnx'
    )

    alone = scenario('sim_eval', {'policy': manifest.uri, 'output': str(tmp_path / 'x'), **arguments})
    assert alone.folder == tmp_path / 'x' and alone.run is None
    assert by_label(alone)['evaluator of sim0'].parameters['video'] == str(tmp_path / 'x' / 'evaluation.mp4')


def test_an_existing_run_brings_its_task_and_preset(tmp_path):
    (tmp_path / 'spec.json').write_text(robot_spec('walker_walk', action_repeat=2).to_json())
    (tmp_path / 'config.yaml').write_text(load_preset('dreamerv3_1m', ('schedule.steps=77777',)).to_yaml())
    processes = by_label(scenario('sim_train', {'logdir': str(tmp_path)}))
    assert processes['simulator of sim0'].parameters['task'] == 'walker_walk'
    assert load_preset(processes['trainer'].parameters['preset']).schedule.steps == 77777
    with pytest.raises(
        InputError, match='expected the task walker_walk, which this run was started with, got cup_catch'
    ):
        scenario('sim_train', {'logdir': str(tmp_path), 'task': 'cup_catch'})
    with pytest.raises(InputError, match=r'started with, but env.image_size is \[32, 32\] instead of \[64, 64\]'):
        scenario('sim_train', {'logdir': str(tmp_path), 'overrides': 'env.image_size=32'})


@pytest.mark.parametrize('arguments', [{'task': 'walker_walk'}, {'robot': 'rover'}])
def test_a_start_that_came_to_nothing_leaves_the_next_one_free(arguments, tmp_path):
    """The trainer writes what a run is made with, when it begins; until then any other preset can be started."""
    name = 'robot_train' if 'robot' in arguments else 'sim_train'
    for preset in ('dreamerv3_1m', ''):
        run = scenario(name, {**arguments, 'logdir': str(tmp_path / 'run'), 'preset': preset})
        assert by_label(run)['trainer'].parameters['preset'] == (preset or 'cpu')
    assert {path.name for path in tmp_path.glob('run/*')} <= {'key'}


@pytest.fixture
def own_task(tmp_path):
    """A task file of somebody's own, whose model and its parts lie in other folders."""
    folder = tmp_path / 'mine'
    (folder / 'tasks').mkdir(parents=True)
    task = share('sim', 'rover', 'rover_target.yaml').read_text().replace('rover.xml', '../models/robot.xml')
    (folder / 'tasks' / 'fetch.yaml').write_text(task)
    (folder / 'models' / 'parts').mkdir(parents=True)
    model = share('sim', 'rover', 'rover.xml').read_text()
    (folder / 'models' / 'parts' / 'all.xml').write_text(model)
    (folder / 'models' / 'robot.xml').write_text('<mujoco><include file="parts/all.xml"/></mujoco>')
    return folder / 'tasks' / 'fetch.yaml'


def test_a_run_keeps_its_own_task_file(own_task, tmp_path, monkeypatch):
    monkeypatch.chdir(own_task.parent)
    run = scenario('sim_train', {'task': 'fetch.yaml', 'logdir': str(tmp_path / 'run')}).folder
    spec = robot_spec(str(own_task), image_size=(48, 48))
    (run / 'spec.json').write_text(spec.to_json())
    (run / 'policies').mkdir()
    manifest = Exporter(tiny_policy(spec), spec).write(run / 'policies' / 'p.onnx', {'version': 1, 'step': 9})
    (run / 'policies' / 'latest.json').write_text(manifest.at('p.onnx').to_json())

    def tasks():
        started = (
            scenario('sim_train', {'logdir': str(run), 'overrides': 'env.action_repeat.default=1'}),
            scenario('sim_eval', {'run': str(run)}),
            scenario('deploy', {'policy': str(run / 'policies' / 'p.onnx')}),
        )
        return {each.processes[0].parameters['task'] for each in started}

    assert tasks() == {str(own_task)}
    own_task.unlink()
    assert tasks() == {str(run / 'task' / 'tasks' / 'fetch.yaml')}
    shutil.rmtree(own_task.parents[1])
    moved = run.rename(tmp_path / 'moved')
    assert robot_spec(saved_task(moved / 'evaluation' / 'now' / 'bag')).name == 'fetch'


def test_a_camera_that_the_model_lacks_is_told_before_there_is_a_folder(tmp_path):
    with pytest.raises(InputError, match="camera: the model has the cameras .*; got 'nose'"):
        scenario('sim_train', {'task': 'rover_target', 'overrides': 'env.cameras=nose'})
    assert not (tmp_path / 'runs').exists()


def test_replay(tmp_path):
    bag, output = tmp_path / 'bag', tmp_path / 'out'
    bag.mkdir()
    run = scenario('replay', {'bag': str(bag), 'rate': '2', 'policy': 'walker_stand', 'output': str(output)})
    [process] = run.processes
    assert (process.executable, process.namespace, process.leads) == ('player', '/replay', True)
    assert process.parameters == {
        'bag': str(bag),
        'rate': 2.0,
        'output': str(output),
        'policy': str(share('models', 'policies', 'walker_stand.onnx')),
    }
    assert 'rate:=2.0' in process.ros_arguments(), 'a number, not text and not a whole number'
    [process] = scenario('replay', {'bag': str(bag), 'namespace': '/'}).processes
    assert process.namespace == '/' and process.parameters['output'].endswith(f'replays/{bag.name}')
    [process] = scenario('replay', {'bag': str(bag), 'mode': 'simulate', 'task': 'x.yaml'}).processes
    assert process.executable == 'resimulator' and process.parameters['task'] == 'x.yaml'
    [process] = scenario('replay', {'bag': str(bag), 'mode': 'dream', 'run': 'runs/x'}).processes
    assert process.executable == 'dream_player' and process.parameters['run'] == 'runs/x'
    for arguments, message in (
        ({}, 'expected bag:='),
        ({'bag': str(tmp_path / 'no')}, 'does not exist'),
        ({'bag': str(bag), 'rate': '0'}, 'from 0.001'),
        ({'bag': str(bag), 'mode': 'dream'}, 'expects run:='),
        ({'bag': str(bag), 'task': 'x'}, 'not used in mode play'),
        ({'bag': str(bag), 'policy': 'missing.onnx'}, 'missing.onnx: expected a readable file'),
        ({'bag': str(bag), 'policy': 'x', 'run': 'y'}, 'expected either'),
    ):
        with pytest.raises(InputError, match=message):
            scenario('replay', arguments)


def test_unknown_scenario_and_malformed_assignment():
    with pytest.raises(InputError, match='did you mean sim_train'):
        scenario('simtrain', {})
    with pytest.raises(InputError, match='expected one of sim_train, sim_eval'):
        scenario('x', {})
    with pytest.raises(InputError, match="'task=x': expected name:=value"):
        parse_assignments(['task=x'])
    assert parse_assignments(['a:=b:=c', 'd:=']) == {'a': 'b:=c', 'd': ''}


@pytest.mark.parametrize('name', SCENARIOS)
def test_every_default_is_valid_and_described(name):
    options = scenario_options(name)
    declared = as_arguments(options)
    assert options.from_texts({argument.name: argument.default for argument in declared}, name) == options()
    for argument in declared:
        assert argument.help[0].isupper() or argument.help.startswith(argument.choices), argument
        assert argument.help.endswith('.'), argument


def test_an_earlier_name_of_an_argument_still_works(rover_policy):
    for scenario_name in ('deploy', 'robot_train'):
        arguments = {'policy': str(rover_policy), 'robot': 'rover', 'task': 'rover_target'}
        earlier = scenario(scenario_name, {**arguments, 'hardware': 'true'})
        assert 'mock_robot of rover' in by_label(earlier)
    assert 'hardware' not in {argument.name for argument in as_arguments(scenario_options('deploy'))}


PARAMETERS = {
    'flag': True,
    'count': 3,
    'ratio': 1.0,
    'tiny': 1e-05,
    'text': 'plain',
    'looks_like_a_number': '1e3',
    'looks_like_a_flag': 'on',
    'empty': '',
    'spaces': 'a b: "c" #d',
    'umlaut': 'Läufe',
    'sizes': [64, 48],
    'names': ['sim0', '1', 'x.y=[1, 2]', 'true'],
}


def test_ros_reads_the_parameters_that_were_meant(ros_domain):
    """Through the command line of a real rclpy node in its own process, as the supervisor starts them."""
    code = '\n'.join(
        [
            'import json, sys, rclpy',
            'rclpy.init(args=sys.argv)',
            "node = rclpy.create_node('x', automatically_declare_parameters_from_overrides=True)",
            'value = lambda v: v if isinstance(v, (bool, int, float, str)) else list(v)',
            f'names = {list(PARAMETERS)!r}',
            'values = {n: value(node.get_parameter(n).value) for n in names}',
            'print(json.dumps([node.get_fully_qualified_name(), values]))',
        ]
    )
    process = Process('simulator', '/sim0', PARAMETERS)
    result = subprocess.run(
        [sys.executable, '-c', code, *process.ros_arguments()], stdout=subprocess.PIPE, check=True, timeout=60
    )
    name, values = json.loads(result.stdout)
    assert name == '/sim0/simulator'
    assert values == PARAMETERS
    assert {key: type(value) for key, value in values.items()} == {k: type(v) for k, v in PARAMETERS.items()}


def rules_at(times):
    return ExitRules(clock=iter(times).__next__)


def test_exit_rules():
    leading, other = Process('trainer', '/', {}, leads=True), Process('agent', '/sim0', {})
    rules = rules_at([0.0])
    assert rules.decide(leading, 0)[0] is Verdict.FINISHED
    assert rules.decide(other, 0)[0] is Verdict.FAILED
    assert rules.decide(leading, 2) == (Verdict.FAILED, 'trainer exited with code 2')
    assert rules.decide(other, -9)[0] is Verdict.RESTART


def test_crashes_are_forgiven_per_process_and_minute():
    first, second = Process('agent', '/sim0', {}), Process('agent', '/sim1', {})
    rules = rules_at([*range(RESTARTS_PER_MINUTE), 5.0, 6.0, 63.5])
    assert all(rules.decide(first, -11)[0] is Verdict.RESTART for _ in range(RESTARTS_PER_MINUTE))
    assert rules.decide(second, -11)[0] is Verdict.RESTART
    verdict, sentence = rules.decide(first, -11)
    assert verdict is Verdict.FAILED and 'signal 11, for the 4th time' in sentence
    assert rules.decide(first, -11)[0] is Verdict.RESTART  # a minute later


def test_a_crash_of_a_deployed_agent_is_left_to_a_person(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = by_label(scenario('deploy', {'policy': 'cartpole_swingup'}))['robot_agent of cartpole_swingup']
    verdict, sentence = ExitRules().decide(agent, -9)
    assert verdict is Verdict.FAILED and sentence == 'robot_agent of cartpole_swingup was killed by signal 9'


def test_record(tmp_path):
    [process] = scenario('record', {'robot': 'rover', 'folder': str(tmp_path)}).processes
    assert (process.executable, process.namespace, process.leads) == ('recorder', '/rover', True)
    assert process.parameters == {'folder': str(tmp_path), 'disk_reserve': 1000, 'contract': 'rover'}
    contract = tmp_path / 'mine.yaml'
    contract.write_text((share('sim', 'rover', 'robot.yaml')).read_text())
    pair = scenario('record', {'robot': f'rover {contract}', 'namespace': '/ b', 'disk_reserve': '5'}).processes
    assert [process.namespace for process in pair] == ['/', '/b'] and not any(process.leads for process in pair)
    assert [process.parameters['contract'] for process in pair] == ['rover', str(contract)]
    twins = scenario('record', {'robot': 'rover', 'namespace': 'a b c'}).processes
    assert [process.namespace for process in twins] == ['/a', '/b', '/c']
    [simulator] = scenario('record', {'namespace': 'sim0'}).processes
    assert 'contract' not in simulator.parameters


@pytest.mark.parametrize(
    'arguments, complaint',
    [
        ({}, 'expected robot:='),
        ({'robot': 'rover rover'}, 'a namespace of its own'),
        ({'robot': 'rover rover', 'namespace': 'a b c'}, 'as many namespaces as robots, got 3 and 2'),
        ({'robot': 'nobody'}, 'expected a contract file'),
    ],
)
def test_record_of_nothing(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        scenario('record', arguments)


# On robots


@pytest.fixture
def rover_policy(tmp_path):
    """An untrained policy for the rover's contract."""
    from dreamer_ros.policy.export import Exporter
    from dreamer_ros.robot.contract import load_contract
    from tests.policy.tiny import tiny_policy

    spec = load_contract('rover').spec
    Exporter(tiny_policy(spec), spec).write(
        tmp_path / 'rover.onnx', dict(system='tiny', preset='tiny', step=0, version=1)
    )
    return tmp_path / 'rover.onnx'


def test_deploy_on_a_robot(rover_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [agent] = scenario('deploy', {'policy': str(rover_policy), 'robot': 'rover'}).processes
    assert (agent.executable, agent.name, agent.namespace, agent.leads) == ('robot_agent', 'agent', '/rover', True)
    assert agent.parameters == {'robot': 'rover', 'policy': str(rover_policy), 'autostart': True, 'trust': 'key'}
    assert agent.remappings == (('policy', '/policy'),)
    told = {'robot': 'rover', 'namespace': 'red/rover', 'autostart': 'false', 'trust': 'lan'}
    [agent] = scenario('deploy', told).processes
    assert agent.namespace == '/red/rover'
    assert agent.parameters == {'robot': 'rover', 'autostart': False, 'trust': 'lan'}
    key = key_of(tmp_path)
    [agent] = scenario('deploy', {'robot': 'rover', 'key': str(key)}).processes
    assert agent.environment[VARIABLE] == str(key)
    mocked = scenario(
        'deploy',
        {'policy': str(rover_policy), 'robot': 'rover', 'mock': 'true', 'task': 'rover_target', 'record': 'true'},
    )
    mock, recorder, agent = mocked.processes
    assert mock.parameters == {'task': 'rover_target', 'robot': 'rover', 'seed': 0}
    assert recorder.parameters == {'folder': str(mocked.folder / 'episodes'), 'contract': 'rover'}
    assert (mocked.folder / 'robot.yaml').read_text().count('name: rover')


@pytest.mark.parametrize('namespace', ['/my robot', '/my-robot', '/2', '/a//b', 'a', '', '/a__b'])
def test_a_name_that_is_no_namespace_is_refused(namespace):
    with pytest.raises(InputError, match='namespace: expected names of letters'):
        Process('agent', namespace, {})
    assert Process('agent', '/sim0/front_2', {}).label == 'agent of sim0/front_2'


def test_deploy_refuses_what_does_not_fit(rover_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, problem in [
        ({}, 'expected policy:=<ONNX file>, robot:=<contract>, or both'),
        ({'policy': str(rover_policy), 'robot': 'arm'}, r'robot.yaml: command.axes\[0\].name: expected'),
        ({'policy': 'hover'}, 'policy hover: expected an ONNX file, a manifest, or one of the released'),
        ({'robot': 'tank'}, 'expected a contract file'),
        ({'robot': 'rover'}, 'expected policy:=.*, or key:=.*, or trust:=lan to play the policies of anybody'),
        ({'robot': 'rover', 'key': 'CHANGELOG.md'}, 'CHANGELOG.md: '),
        ({'robot': 'rover', 'mock': 'true'}, 'expected task:='),
    ]:
        with pytest.raises(InputError, match=problem):
            scenario('deploy', arguments)
    assert not (tmp_path / 'runs').exists() or not list((tmp_path / 'runs').iterdir())


def test_robot_train_on_one_computer(rover_policy, tmp_path):
    run = scenario(
        'robot_train',
        {
            'robot': 'rover',
            'mock': 'true',
            'task': 'rover_target',
            'policy': str(rover_policy),
            'seed': '3',
            'logdir': str(tmp_path / 'run'),
            'steps': '5000',
            'evaluate_every': '4',
            'pause': 'true',
        },
    )
    processes = by_label(run)
    assert list(processes) == ['mock_robot of rover', 'recorder of rover', 'robot_agent of rover', 'trainer']
    assert [process.label for process in run.processes if process.leads] == ['trainer']
    agent = processes['robot_agent of rover']
    assert agent.parameters == {
        'robot': 'rover',
        'mode': 'train',
        'evaluate_every': 4,
        'pause': True,
        'seed': 3,
        'keep': str(tmp_path / 'run' / 'robot'),
        'show': False,
        'trust': 'key',
        'policy': str(rover_policy),
    }
    assert {process.environment[VARIABLE] for process in run.processes} == {str(tmp_path / 'run' / 'key')}
    assert (tmp_path / 'run' / 'key').stat().st_mode & 0o777 == 0o600
    assert (agent.name, agent.remappings) == ('agent', (('policy', '/policy'),))
    assert processes['recorder of rover'].parameters == {
        'contract': 'rover',
        'folder': str(tmp_path / 'run' / 'episodes'),
    }
    trainer = processes['trainer'].parameters
    assert trainer['free_running'] is True and trainer['contract'] == 'rover' and trainer['steps'] == 5000
    assert load_preset(trainer['preset'], trainer['overrides']).env.image_size == (48, 48)
    assert 'policies_url' not in trainer


def test_robot_train_on_two_computers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    robot = by_label(scenario('robot_train', {'role': 'robot', 'robot': 'rover', 'address': '0.0.0.0', 'port': '80'}))
    assert list(robot) == ['recorder of rover', 'robot_agent of rover', 'file_server of rover']
    server, recorder = robot['file_server of rover'].parameters, robot['recorder of rover'].parameters
    assert server == {'bags': recorder['folder'], 'address': '0.0.0.0', 'port': 80, 'trust': 'key'}
    key = robot['file_server of rover'].environment[VARIABLE]
    assert Path(key).parent == Path(recorder['folder']).parent
    assert robot['robot_agent of rover'].leads
    run = scenario(
        'robot_train',
        {
            'role': 'trainer',
            'robot': 'rover',
            'bags': 'http://127.0.0.1:80 http://127.0.0.1:81',
            'logdir': 'run',
            'key': key,
        },
    )
    assert {process.environment[VARIABLE] for process in run.processes} == {key}
    assert [(process.executable, process.name) for process in run.processes] == [
        ('bag_puller', 'bag_puller_0'),
        ('bag_puller', 'bag_puller_1'),
        ('file_server', 'file_server'),
        ('trainer', 'trainer'),
    ]
    processes = by_label(run)
    assert processes['file_server'].parameters == {
        'policies': str(tmp_path / 'run' / 'policies'),
        'address': '127.0.0.1',
        'port': 8075,
        'trust': 'key',
    }
    assert processes['trainer'].parameters['policies_url'] == 'http://127.0.0.1:8075/policies'
    defaults = {argument.name: argument.default for argument in as_arguments(scenario_options('robot_train'))}
    assert defaults['address'] == '127.0.0.1', 'nothing is shown unasked'


def test_robot_train_goes_on(rover_policy, tmp_path):
    """A run in its own folder, by the preset's name or without; one of simulation in a new one."""
    from dreamer_ros.robot.contract import load_contract

    logdir = {'robot': 'rover', 'logdir': str(tmp_path / 'run')}
    first = by_label(scenario('robot_train', {**logdir, 'preset': 'dreamerv3_1m'}))['trainer'].parameters
    resolved = load_preset(first['preset'], first['overrides'])
    RunDirectory(tmp_path / 'run', resolved, load_contract('rover').spec).close()
    for again in (logdir, {**logdir, 'preset': 'dreamerv3_1m'}):
        trainer = by_label(scenario('robot_train', again))['trainer'].parameters
        assert load_preset(trainer['preset'], trainer['overrides']).to_dict() == resolved.to_dict()

    simulated = dataclasses.replace(load_contract('rover').spec, name='rover_target', action_repeat=4)
    (tmp_path / 'run' / 'spec.json').write_text(simulated.to_json())
    run = scenario('robot_train', {'robot': 'rover', 'begin': str(tmp_path / 'run')})
    trainer = by_label(run)['trainer'].parameters
    assert trainer['begin'] == str(tmp_path / 'run')
    assert load_preset(trainer['preset'], trainer['overrides']).to_dict() == resolved.to_dict()
    assert run.folder.name.startswith('rover-dreamerv3_1m-')
    (tmp_path / 'run' / 'spec.json').write_text(dataclasses.replace(simulated, control_period=0.1).to_json())
    with pytest.raises(InputError, match='rate: expected 10, as for rover_target, got 5'):
        scenario('robot_train', {'robot': 'rover', 'begin': str(tmp_path / 'run')})


@pytest.mark.parametrize(
    'arguments, complaint',
    [
        ({}, 'expected robot:=<contract>'),
        ({'robot': 'rover', 'mock': 'true'}, 'expected task:='),
        ({'robot': 'rover', 'task': 'rover_target'}, 'task:=… is for mock:=true'),
        ({'robot': 'rover', 'namespace': 'my rover'}, 'namespace: expected names of letters'),
        ({'robot': 'rover', 'role': 'trainer'}, 'expects bags:=http://'),
        ({'robot': 'rover', 'role': 'robot', 'bags': 'http://x:1'}, 'with role:=trainer alone'),
        ({'robot': 'rover', 'role': 'trainer', 'bags': 'robot:8075'}, 'bags:=robot:8075: expected http://'),
        ({'robot': 'rover', 'role': 'trainer', 'bags': 'http://127.0.0.1:1'}, 'expects key:=<copy of the file `key`'),
        ({'robot': 'rover', 'steps': '10'}, 'steps'),
        ({'robot': 'rover', 'preset': 'nothing'}, 'nothing'),
    ],
)
def test_robot_train_refuses_what_does_not_fit(arguments, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint):
        scenario('robot_train', arguments)
    assert not list(tmp_path.glob('runs/*')), 'nothing was started'


def test_robot_train_refuses_the_run_of_another_robot_before_anything_moves(tmp_path):
    """With the trainer's own sentence; the two roles that could do harm with such a folder."""
    from dreamer_ros.robot.contract import load_contract

    config = load_preset('cpu')
    run = RunDirectory(tmp_path / 'run', config, load_contract('arm').spec)
    arguments = {'robot': 'rover', 'logdir': str(tmp_path / 'run')}
    with pytest.raises(InputError, match='expected to be its only trainer, but process'):
        scenario('robot_train', arguments)
    run.close()
    for role in ({}, {'role': 'robot'}, {'role': 'trainer', 'bags': 'http://127.0.0.1:80', 'trust': 'lan'}):
        with pytest.raises(InputError) as early:
            scenario('robot_train', {**arguments, **role})
        with pytest.raises(InputError, match='expected the task arm, .* got rover') as trainer:
            RunDirectory(tmp_path / 'run', config, load_contract('rover').spec)
        assert str(early.value) == str(trainer.value)
    (tmp_path / 'run' / 'spec.json').write_text(load_contract('rover').spec.to_json())
    with pytest.raises(InputError, match='expected the preset cpu it was started with, but'):
        scenario('robot_train', {**arguments, 'preset': 'dreamerv3_1m'})


def test_a_trainer_that_no_robot_can_reach_is_refused(monkeypatch):
    from dreamer_ros.launching import robot_train

    monkeypatch.setattr(robot_train, '_own_address', lambda url: '10.1.2.3')
    arguments = {'robot': 'rover', 'role': 'trainer', 'bags': 'http://10.1.2.4:8075', 'trust': 'lan'}
    with pytest.raises(InputError, match='expected address:=10.1.2.3 or address:=0.0.0.0$'):
        scenario('robot_train', arguments)
    for address in ('0.0.0.0', '10.1.2.3'):
        processes = by_label(scenario('robot_train', {**arguments, 'address': address}))
        assert processes['trainer'].parameters['policies_url'] == 'http://10.1.2.3:8075/policies'


@pytest.mark.parametrize('arguments', [{}, {'use_sim_time': 'true'}])
def test_the_kind_of_time_reaches_every_node_of_every_part(arguments):
    made = scenario('sim_train', {'task': 'cartpole_swingup', **arguments})
    wanted = {True} if arguments else {None}
    assert {process.parameters.get('use_sim_time') for process in made.processes} == wanted
    assert made.then[1].get('use_sim_time') == arguments.get('use_sim_time')
    assert all(scenario_options(name).model_fields['use_sim_time'].default is False for name in SCENARIOS)


def test_processes_within_another_namespace():
    agent, trainer = (
        Process('agent', '/sim1', {}, (('policy', '/policy'), ('/clock', 'clock'))),
        Process('trainer', '/', {}),
    )
    moved = agent.within('/fleet')
    assert moved.namespace == '/fleet/sim1' and moved.remappings == (('policy', '/fleet/policy'), ('/clock', 'clock'))
    assert trainer.within('/fleet').namespace == '/fleet' and trainer.within('') == trainer
