"""What ROS costs: the closed loop simulator → policy → simulator, in one process and over ROS topics.

    python -m tests.bench.bench_closed_loop [--tasks walker_walk:2 cartpole_swingup:8] [--preset cpu] [--json FILE]

The same policy file plays the same task three ways: in this process without ROS, as simulator and agent nodes,
and with the recorder beside them. All processes stay alive; the ways take turns of a few seconds (the idle ones
are paused), so that a busy machine slows all of them alike. Figures are medians over the turns.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, List

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import SetBool

from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.simulation import environment

TURN = 3.2  # seconds: two whole periods of /diagnostics lie within, whenever it starts
TARGET = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', default=['walker_walk:2', 'cartpole_swingup:8'],
                        help='task:action_repeat')
    parser.add_argument('--preset', default='cpu', help='of the (untrained) policy')
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--json', type=Path, default=Path('runs/bench/closed_loop.json'))
    arguments = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('ROS_DOMAIN_ID', '39')
    rclpy.init()
    results = []
    for item in arguments.tasks:
        task, _, repeat = item.partition(':')
        results.append(measure(task, int(repeat or 1), arguments.preset, arguments.turns))
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
        alone = InProcessLoop(task, repeat, policy)
        plain = stack.enter_context(RosLoop('plain', task, repeat, policy))
        recorded = stack.enter_context(RosLoop('recorded', task, repeat, policy, Path(folder) / 'bags'))
        for _ in range(turns):
            alone.turn()
            plain.turn()
            recorded.turn()
        result = {'task': task, 'action_repeat': repeat, 'preset': preset,
                  'in_process': alone.summary(), 'ros': plain.summary(), 'ros_recorded': recorded.summary()}
    for way in ('ros', 'ros_recorded'):
        result[way]['ratio'] = result[way]['rate'] / result['in_process']['rate']
        result[way]['ratio_of_medians'] = result['in_process']['step'] / result[way]['step']
    return result


def export_policy(task: str, repeat: int, preset: str, path: Path) -> None:
    """An untrained policy costs what a trained one does. In a process of its own: torch stays out of here."""
    code = (
        'import sys\n'
        'from dreamer_ros.config import load_preset\n'
        'from dreamer_ros.policy.export import export\n'
        'from dreamer_ros.simulation.environment import make\n'
        'from dreamer_ros.training.learner import Learner\n'
        'task, repeat, preset, path = sys.argv[1:]\n'
        'config = load_preset(preset, [])\n'
        'spec = make(task, action_repeat=int(repeat), image_size=tuple(config.env.image_size)).spec\n'
        'policy = Learner(config, spec, device="cpu").policy\n'
        'export(policy, spec, path, dict(system=config.system, preset=preset, step=0, version=1))\n')
    subprocess.run([sys.executable, '-c', code, task, str(repeat), preset, str(path)], check=True)


class InProcessLoop:
    """The loop without ROS."""

    def __init__(self, task: str, repeat: int, policy: Path):
        size = PolicyRunner(policy).spec.image_size
        self._environment = environment.make(task, action_repeat=repeat, image_size=size)
        self._runner = PolicyRunner(policy, self._environment.spec)
        self._observation = self._environment.reset()
        self._rates: List[float] = []
        self._parts: Dict[str, List[float]] = defaultdict(list)

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
        self._observation = (
            self._environment.reset() if observation.is_last else self._environment.step(action))

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
        inference, step, rendering = np.diff(times)
        for name, seconds in (('inference', inference), ('physics', step - rendering), ('rendering', rendering)):
            self._parts[name].append(seconds)

    def summary(self) -> dict:
        """Rate in Hz, parts in ms."""
        milliseconds = {name: np.array(values) * 1e3 for name, values in self._parts.items()}
        return {'rate': float(np.median(self._rates)), 'step_p99': float(np.percentile(milliseconds['step'], 99)),
                **{name: float(np.median(values)) for name, values in milliseconds.items()}}


class RosLoop:
    """Simulator and agent processes, perhaps a recorder; paused between turns."""

    def __init__(self, name: str, task: str, repeat: int, policy: Path, bags: Path = None):
        self._namespace = f'/{name}'
        self._size = PolicyRunner(policy).spec.image_size
        cpu = max(os.sched_getaffinity(0))  # the pair never works at the same time
        commands = {
            'simulator': {'cpu': cpu, 'task': task, 'action_repeat': repeat, 'image_size': list(self._size),
                          'wait_for_subscribers': 2 if bags else 1},
            'agent': {'cpu': cpu, 'policy': policy, 'evaluate_every': 0},
            **({'recorder': {'folder': bags}} if bags else {}),
        }
        self._commands = {node: self._command(node, parameters) for node, parameters in commands.items()}
        self._processes: Dict[str, subprocess.Popen] = {}
        self._values: Dict[str, List[float]] = defaultdict(list)
        self._recording_cpu: List[float] = []

    def _command(self, node: str, parameters: dict) -> List[str]:
        command = [sys.executable, '-m', f'dreamer_ros.nodes.{node}', '--ros-args', '-r', f'__ns:={self._namespace}',
                   '--log-level', 'warn']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        return command

    def __enter__(self) -> 'RosLoop':
        for node, command in self._commands.items():
            self._processes[node] = subprocess.Popen(command)
        self._node = rclpy.create_node(f'bench_{self._namespace[1:]}')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._subscription = self._node.create_subscription(DiagnosticArray, '/diagnostics', self._note, 10)
        self._pause = self._node.create_client(SetBool, f'{self._namespace}/simulator/pause')
        self._noting = False
        if not self._pause.wait_for_service(30.0):
            raise RuntimeError(f'{self._namespace}: the simulator did not start')
        self._spin(3.0)  # the agent finds the simulator, episodes begin
        self._set_paused(True)
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(10)
        self._executor.shutdown()
        self._node.destroy_node()

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
        self._executor.spin_until_future_complete(future, timeout_sec=5.0)
        if not future.done():
            raise RuntimeError(f'{self._namespace}: the simulator does not answer')

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def summary(self) -> dict:
        """Rate in Hz, parts in ms."""
        value = {name: float(np.median(values)) for name, values in self._values.items()}
        result = {
            'rate': value['rate [Hz]'], 'step': value['period p50 [ms]'], 'step_p99': value['period p99 [ms]'],
            'simulation': value['simulation p50 [ms]'], 'publication': value['publication p50 [ms]'],
            'inference': value['inference p50 [ms]'],
            'agent_overhead': value['latency p50 [ms]'] - value['inference p50 [ms]'],
            # From the end of publication to the action's arrival, less the agent's share: the way there and back,
            # partly hidden behind publication.
            'transport': value['waiting p50 [ms]'] - value['latency p50 [ms]'],
        }
        if self._recording_cpu:
            result['recording_cpu'] = float(np.median(self._recording_cpu))
        return result


def report(result: dict) -> None:
    """Print one task's table."""
    alone, plain, recorded = (result[way] for way in ('in_process', 'ros', 'ros_recorded'))
    print(f'\n{result["task"]}, action repeat {result["action_repeat"]}, preset {result["preset"]}')
    print(f'{"":26}{"one process":>14}{"ROS":>14}{"ROS, recorded":>16}')
    rows = [
        ('steps per second', 'rate', '.0f'), ('step p50 [ms]', 'step', '.2f'), ('step p99 [ms]', 'step_p99', '.2f'),
        ('physics [ms]', 'physics', '.2f'), ('rendering [ms]', 'rendering', '.2f'),
        ('physics+rendering [ms]', 'simulation', '.2f'), ('inference [ms]', 'inference', '.2f'),
        ('publication [ms]', 'publication', '.2f'), ('agent around it [ms]', 'agent_overhead', '.2f'),
        ('transport [ms]', 'transport', '.2f'), ('recorder CPU [ms]', 'recording_cpu', '.2f'),
        ('throughput of one process', 'ratio', '.0%'), ('by median step', 'ratio_of_medians', '.0%'),
    ]
    for label, key, form in rows:
        cells = [format(way[key], form) if key in way else '' for way in (alone, plain, recorded)]
        print(f'{label:26}{cells[0]:>14}{cells[1]:>14}{cells[2]:>16}')
    verdict = 'reached' if plain['ratio'] >= TARGET else 'missed'
    print(f'target {TARGET:.0%} of one process: {verdict}')


if __name__ == '__main__':
    main()
