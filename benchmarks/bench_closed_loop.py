"""What ROS costs: the closed loop simulator → policy → simulator, in one process and over ROS topics.

    python -m benchmarks.bench_closed_loop [--loops walker_walk:2:cpu] [--turns 3] [--json FILE]

The same policy file plays the same task three ways: in this process without ROS, as simulator and agent
nodes, and with the recorder beside them. All processes stay alive; the ways take turns of a few seconds (the
idle ones are paused), so that a busy machine slows all of them alike. Figures are medians over the turns.
What ROS adds is about the same at every step, so its share depends on what a step costs: hence a small and a
large policy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Joy
from std_srvs.srv import SetBool

from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.ros.observation_publisher import camera_info_template, image_template, joint_template, scalar_template
from dreamer_ros.simulation import environment
from dreamer_ros.wire import codecs

TURN = 3.2  # seconds: two whole periods of /diagnostics lie within, whenever it starts
PATIENCE = 30.0  # seconds for a node to start or to answer
TARGET = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--loops',
        nargs='+',
        metavar='TASK:REPEAT:PRESET',
        help='preset of the (untrained) policy',
        default=['walker_walk:2:cpu', 'cartpole_swingup:8:cpu', 'walker_walk:2:dreamerv3_12m'],
    )
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--json', type=Path, default=Path('runs/bench/closed_loop.json'))
    arguments = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('ROS_DOMAIN_ID', '39')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the nodes too
    rclpy.init()
    results = []
    for loop in arguments.loops:
        task, repeat, preset = loop.split(':')
        results.append(measure(task, int(repeat), preset, arguments.turns))
        report(results[-1])
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')
    print(f'written to {arguments.json}')
    rclpy.try_shutdown()


def measure(task: str, repeat: int, preset: str, turns: int) -> dict:
    """Rates and the parts of a step in ms, for the three ways of running the loop."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        policy = Path(folder) / 'policy.onnx'
        export_policy(task, repeat, preset, policy)
        plain = stack.enter_context(RosLoop('plain', task, repeat, policy))
        recorded = stack.enter_context(RosLoop('recorded', task, repeat, policy, Path(folder) / 'bags'))
        alone = InProcessLoop(task, repeat, policy)
        for loop in (plain, recorded):
            loop.make_ready()
        for _ in range(turns):
            alone.turn()
            plain.turn()
            recorded.turn()
        result = {
            'task': task,
            'action_repeat': repeat,
            'preset': preset,
            'in_process': alone.summary(),
            'ros': plain.summary(),
            'ros_recorded': recorded.summary(),
        }
    for way in ('ros', 'ros_recorded'):
        result[way]['ratio'] = result[way]['rate'] / result['in_process']['rate']
        result[way]['ratio_of_medians'] = result['in_process']['step'][0] / result[way]['step'][0]
    return result


def export_policy(task: str, repeat: int, preset: str, path: Path) -> None:
    """An untrained policy costs what a trained one does. In a process of its own: torch stays out of here."""
    code = (
        'import sys\n'
        'from dreamer_ros.config import load_preset\n'
        'from dreamer_ros.policy.export import Exporter\n'
        'from dreamer_ros.simulation.environment import make\n'
        'from dreamer_ros.training.learner import Learner\n'
        'task, repeat, preset, path = sys.argv[1:]\n'
        'config = load_preset(preset, [])\n'
        'spec = make(task, action_repeat=int(repeat), image_size=tuple(config.env.image_size)).spec\n'
        'policy = Learner(config, spec, device="cpu").policy\n'
        'Exporter(policy, spec).write(path, dict(system=config.system, preset=preset, step=0, version=1))\n'
    )
    subprocess.run([sys.executable, '-c', code, task, str(repeat), preset, str(path)], check=True)


class InProcessLoop:
    """The loop without ROS."""

    def __init__(self, task: str, repeat: int, policy: Path):
        size = PolicyRunner(policy).spec.image_size
        self._environment = environment.make(task, action_repeat=repeat, image_size=size)
        self._runner = PolicyRunner(policy, self._environment.spec)
        self._observation = self._environment.reset()
        self._messages = Messages(self._environment, self._observation)
        self._rates: list[float] = []
        self._parts: dict[str, list[float]] = defaultdict(list)

    def turn(self) -> None:
        """Run for TURN seconds at full speed, then a while for the parts."""
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < TURN:
            step_began = time.perf_counter()
            self._step()
            self._parts['step'].append(time.perf_counter() - step_began)
            steps += 1
        self._rates.append(steps / (time.perf_counter() - began))
        for _ in range(200):
            self._step_in_parts()

    def _step(self) -> None:
        observation = self._observation
        action = self._runner.act(observation.image, None, observation.is_first, explore=True)
        self._observation = self._environment.reset() if observation.is_last else self._environment.step(action)

    def _step_in_parts(self) -> None:
        observation = self._observation
        if observation.is_last:
            return self._step()
        times = [time.perf_counter()]
        action = self._runner.act(observation.image, None, observation.is_first, explore=True)
        times.append(time.perf_counter())
        self._observation = self._environment.step(action)
        times.append(time.perf_counter())
        self._environment.render()
        times.append(time.perf_counter())
        self._messages.pass_through(self._observation, action)
        times.append(time.perf_counter())
        inference, step, rendering, serialisation = np.diff(times)
        parts = {
            'inference': inference,
            'physics': step - rendering,
            'rendering': rendering,
            'serialisation': serialisation,
        }
        for name, seconds in parts.items():
            self._parts[name].append(seconds)

    def summary(self) -> dict:
        """Rate in Hz; parts in ms, median and 99th percentile."""
        parts = {name: (np.percentile(values, [50, 99]) * 1e3).tolist() for name, values in self._parts.items()}
        return {'rate': float(np.median(self._rates)), **parts}


class Messages:
    """The messages of a step on both sides of the wire, without the wire.

    Args:
        environment, observation: whose messages they are.
    """

    def __init__(self, simulation, observation):
        height, width = simulation.spec.image_size
        self._step, self._image = scalar_template(codecs.STEP_NAMES), image_template(height, width)
        self._joints = joint_template(observation.joint_names)
        self._camera_info, self._projection = camera_info_template(simulation.cameras[0])
        joy = Joy()
        codecs.fill_action(joy, np.zeros(len(simulation.spec.action)), 0, codecs.Mode('explore', 1))
        self._action = MessageTemplate(joy, ['axes'], tail=4)

    def pass_through(self, observation, action) -> None:
        """Write all of them, read those that simulator and agent read."""
        stamp = 1
        self._step.read(
            self._step.write(
                stamp,
                np.array((observation.reward, observation.is_first, observation.is_last, observation.is_terminal)),
            )
        )
        self._image.read(self._image.write(stamp, observation.image))
        self._joints.write(stamp, observation.position, observation.velocity)
        self._camera_info.write(stamp, self._projection)
        self._action.read(self._action.write(stamp, action))


class RosLoop:
    """Simulator and agent processes, perhaps a recorder; paused between turns."""

    def __init__(self, name: str, task: str, repeat: int, policy: Path, bags: Path = None):
        self._namespace = f'/{name}'
        self._size = PolicyRunner(policy).spec.image_size
        commands = {
            'simulator': {
                'task': task,
                'action_repeat': repeat,
                'image_size': list(self._size),
                'wait_for_subscribers': 2 if bags else 1,
            },
            'agent': {'policy': policy, 'evaluate_every': 0},
            **({'recorder': {'folder': bags}} if bags else {}),
        }
        self._commands = {node: self._command(node, parameters) for node, parameters in commands.items()}
        self._processes: dict[str, subprocess.Popen] = {}
        self._values: dict[str, list[float]] = defaultdict(list)
        self._recording_cpu: list[float] = []

    def _command(self, node: str, parameters: dict) -> list[str]:
        command = [
            sys.executable,
            '-m',
            f'dreamer_ros.nodes.{node}',
            '--ros-args',
            '-r',
            f'__ns:={self._namespace}',
            '--log-level',
            'warn',
        ]
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        return command

    def __enter__(self) -> RosLoop:
        self._node = rclpy.create_node(f'bench_{self._namespace[1:]}')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._subscription = self._node.create_subscription(DiagnosticArray, '/diagnostics', self._note, 10)
        self._pause = self._node.create_client(SetBool, f'{self._namespace}/simulator/pause')
        self._noting = False
        for node, command in self._commands.items():
            self._processes[node] = subprocess.Popen(command)
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._node.destroy_node()

    def make_ready(self) -> None:
        """Wait until episodes are played, then pause."""
        end = time.monotonic() + PATIENCE
        while not self._pause.wait_for_service(1.0):
            self._check(time.monotonic() < end, 'the simulator did not start')
        self._fresh = {'simulator': False, 'agent': False}
        self._noting = True
        while not self._values['inference p50 [ms]']:
            self._check(time.monotonic() < end, 'the agent did not start')
            self._spin(0.2)
        self._noting = False
        self._values.clear()
        self._set_paused(True)

    def _check(self, fine: bool, problem: str) -> None:
        for node, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f'{self._namespace}: the {node} ended with exit code {process.returncode}')
        if not fine:
            raise RuntimeError(f'{self._namespace}: {problem} within {PATIENCE:.0f} s')

    def turn(self) -> None:
        """Let the loop run for TURN seconds and note what its nodes say of whole seconds."""
        self._set_paused(False)
        self._fresh = {'simulator': False, 'agent': False}
        self._noting = True
        cpu, count = self._cpu_of_recorder(), len(self._values['rate [Hz]'])
        began = time.perf_counter()
        self._spin(TURN)
        elapsed = time.perf_counter() - began
        self._noting = False
        if 'recorder' in self._processes and len(self._values['rate [Hz]']) > count:
            rate = self._values['rate [Hz]'][-1]
            self._recording_cpu.append((self._cpu_of_recorder() - cpu) / elapsed / rate * 1e3)
        self._set_paused(True)

    def _note(self, message: DiagnosticArray) -> None:
        status = message.status[0]
        source = status.name.split(':')[0]
        for node in ('simulator', 'agent'):
            if self._noting and source == f'{self._namespace[1:]}/{node}':
                # The first report of a turn still covers a part of the pause.
                if self._fresh[node]:
                    for item in status.values:
                        if '[' in item.key and not (node == 'agent' and item.key.startswith('rate')):
                            self._values[item.key].append(float(item.value))
                self._fresh[node] = True

    def _cpu_of_recorder(self) -> float:
        """Seconds of CPU time so far."""
        if 'recorder' not in self._processes:
            return 0.0
        fields = Path(f'/proc/{self._processes["recorder"].pid}/stat').read_text().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def _set_paused(self, paused: bool) -> None:
        future = self._pause.call_async(SetBool.Request(data=paused))
        self._executor.spin_until_future_complete(future, timeout_sec=PATIENCE)
        self._check(future.done(), 'the simulator did not answer')

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def summary(self) -> dict:
        """Rate in Hz; parts in ms, median and 99th percentile where there is one."""
        self._check('inference p50 [ms]' in self._values, 'the nodes reported nothing')
        value = {name: float(np.median(values)) for name, values in self._values.items()}

        def part(name):
            return [value[f'{name} p50 [ms]'], value[f'{name} p99 [ms]']]

        waiting, latency, inference = (value[f'{name} p50 [ms]'] for name in ('waiting', 'latency', 'inference'))
        result = {
            'rate': value['rate [Hz]'],
            'step': part('period'),
            'simulation': part('simulation'),
            'publication': part('publication'),
            'inference': part('inference'),
            'agent_overhead': [latency - inference],
            # From the end of publication to the action's arrival, less the agent's share: the way there and
            # back, partly hidden behind publication.
            'transport': [waiting - latency],
        }
        if self._recording_cpu:
            result['recording_cpu'] = [float(np.median(self._recording_cpu))]
        return result


def report(result: dict) -> None:
    """Print one loop's table."""
    alone, plain, recorded = (result[way] for way in ('in_process', 'ros', 'ros_recorded'))
    alone = {**alone, 'simulation': [alone['physics'][0] + alone['rendering'][0]]}
    print(
        f'\n{result["task"]}, action repeat {result["action_repeat"]}, preset {result["preset"]}; '
        f'parts of a step in ms, median / 99th percentile'
    )
    print(f'{"":28}{"one process":>16}{"ROS":>16}{"ROS, recorded":>16}')
    rows = [
        ('step', 'step'),
        ('physics', 'physics'),
        ('rendering', 'rendering'),
        ('physics and rendering', 'simulation'),
        ('inference', 'inference'),
        ('serialisation alone, warm', 'serialisation'),
        ('publication', 'publication'),
        ('agent around inference', 'agent_overhead'),
        ('transport', 'transport'),
        ('recorder, CPU time beside', 'recording_cpu'),
    ]
    for label, key in rows:
        cells = [' / '.join(f'{value:.2f}' for value in way.get(key, ())) for way in (alone, plain, recorded)]
        print(f'{label:28}' + ''.join(f'{cell:>16}' for cell in cells))
    rows = [
        ('steps per second', 'rate', '.0f'),
        ('throughput of one process', 'ratio', '.0%'),
        ('by median step', 'ratio_of_medians', '.0%'),
    ]
    for label, key, form in rows:
        cells = [format(way[key], form) if key in way else '' for way in (alone, plain, recorded)]
        print(f'{label:28}' + ''.join(f'{cell:>16}' for cell in cells))
    verdict = 'reached' if plain['ratio'] >= TARGET else 'missed'
    print(f'target {TARGET:.0%} of one process: {verdict}', flush=True)


if __name__ == '__main__':
    main()
