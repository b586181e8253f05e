"""How fast a robot is answered: one step of the policy, and from an image's stamp to the command's arrival.

    python -m benchmarks.bench_latency [--steps 2000] [--loops 50:dreamerv3_12m:600:busy 200:dreamerv3_1m:120]

The policy step is that of the exported file in the robot's runner against the same module in eager PyTorch, one
thread each, in turns. A loop is RATE:PRESET:SECONDS, with `:busy` beside a learner that computes without pause on
another core; camera, agent and the listener that takes the time are processes of their own, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.nodes.robot import NAMESPACE, Camera, Ears, write_contract

SIZE = 64
WARM_UP = 3.0  # seconds until ticks follow the camera's phase
MAX_AGE = 0.1  # s
TURNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--presets', nargs='*', default=['dreamerv3_12m', 'dreamerv3_1m'])
    parser.add_argument('--steps', type=int, default=2000, help='of the policy alone')
    parser.add_argument(
        '--loops',
        nargs='*',
        metavar='RATE:PRESET:SECONDS[:busy]',
        default=['50:dreamerv3_12m:600:busy', '200:dreamerv3_1m:120'],
    )
    parser.add_argument('--json', type=Path, default=Path('runs/bench/latency.json'))
    parser.add_argument('--child', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        CHILDREN[arguments.child](*json.loads(sys.stdin.read()))
        return
    os.environ.setdefault('ROS_DOMAIN_ID', '39')
    results = {
        'steps': [step(preset, arguments.steps) for preset in arguments.presets],
        'loops': [loop(*text.split(':')) for text in arguments.loops],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')
    print(f'written to {arguments.json}')


def child(name: str, *request, cpus=None, **options) -> subprocess.Popen:
    """One of CHILDREN in a process of its own, on one thread."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.bench_latency', '--child', name],
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        **options,
    )
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    return process


def percentiles(values: list[float]) -> dict:
    median, high = np.percentile(values, [50, 99])
    return {'median': median, 'p99': high, 'max': max(values), 'n': len(values)}


def shown(values: dict) -> str:
    return f'{values["median"]:7.2f} / {values["p99"]:.2f} / {values["max"]:.2f} ms'


# One step of the policy


def step(preset: str, steps: int) -> dict:
    """Milliseconds of one step in the robot's runner and in eager PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        process = child('step', preset, steps, folder)
        if process.wait():
            raise RuntimeError(f'the policy step of {preset} could not be measured')
        result = json.loads((Path(folder) / 'result.json').read_text())
    runner, eager, small = result['runner'], result['eager'], result['int8']
    verdict = 'at most half' if runner['median'] <= eager['median'] / 2 else 'more than half'
    tail = 'under' if runner['p99'] < 2 * runner['median'] else 'over'
    print(
        f'{preset}, one step, median / p99 / max of {runner["n"]}: runner {shown(runner)}, with 8-bit weights '
        f'{shown(small)}; eager PyTorch {shown(eager)}; {verdict} of it, p99 {tail} twice the median',
        flush=True,
    )
    return result


def measure_step(preset: str, steps: int, folder: str) -> None:
    import torch

    from dreamer_ros.policy.quantize import quantize
    from dreamer_ros.policy.runner import PolicyRunner

    torch.set_num_threads(1)
    contract = write_contract(Path(folder) / 'robot.yaml', 50.0, size=SIZE)
    policy = export_policy(preset, contract, Path(folder) / 'policy.onnx')
    quantize(Path(folder) / 'policy.onnx', Path(folder) / 'int8.onnx')
    runners = {
        'runner': PolicyRunner(Path(folder) / 'policy.onnx', seed=0),
        'int8': PolicyRunner(Path(folder) / 'int8.onnx', seed=0),
    }
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)
    vector = np.zeros(1, np.float32)
    state = torch.zeros(1, policy.state_size)
    with torch.no_grad():
        for turn in range(TURNS + 1):
            if turn < 2:  # the first one warms up
                times = {name: [] for name in (*runners, 'eager')}
            for name, runner in runners.items():
                for number in range(steps // TURNS):
                    image = images[number % len(images)]
                    began = time.perf_counter()
                    runner.act(image, vector, number == 0, explore=True)
                    times[name].append(time.perf_counter() - began)
            for number in range(steps // TURNS):
                image = images[number % len(images)]
                began = time.perf_counter()
                noise = torch.randn(1, policy.noise_size)
                action, state = policy(
                    torch.from_numpy(image[None]),
                    torch.from_numpy(vector[None]),
                    torch.tensor([number == 0]),
                    state,
                    noise,
                )
                action[0].numpy()
                times['eager'].append(time.perf_counter() - began)
    result = {name: percentiles(1e3 * np.array(values)) for name, values in times.items()}
    (Path(folder) / 'result.json').write_text(json.dumps({'preset': preset, **result}))


def export_policy(preset: str, contract, path: Path):
    """An untrained policy costs what a trained one does; returns the module."""
    from dreamer_ros.config import load_preset
    from dreamer_ros.policy.export import Exporter
    from dreamer_ros.training.learner import Learner

    config = load_preset(preset, ['env.inputs=both'])
    policy = Learner(config, contract.spec, device='cpu').policy.eval()
    Exporter(policy, contract.spec).write(path, dict(system=config.system, preset=preset, step=0, version=1))
    return policy


# From an image to a command


def loop(rate: str, preset: str, seconds: str, busy: str = '') -> dict:
    """Milliseconds from an image's stamp to the command's arrival in this process."""
    rate, seconds, cpus = float(rate), float(seconds), sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_contract(folder / 'robot.yaml', rate, max_age=max(MAX_AGE, 3.0 / rate), size=SIZE)
        if child('export', preset, rate, name).wait():
            raise RuntimeError(f'the policy of {preset} could not be exported')
        learner = child('learn', cpus=cpus[1:] or cpus) if busy else None
        os.sched_setaffinity(0, cpus[:1])
        ears, camera = Ears(int(os.environ['ROS_DOMAIN_ID'])), Camera(rate, size=SIZE)
        started = time.time_ns()
        with (folder / 'agent.log').open('w') as log:
            agent = subprocess.Popen(
                [
                    sys.executable,
                    '-m',
                    'dreamer_ros.nodes.robot_agent',
                    '--ros-args',
                    '-r',
                    f'__ns:={NAMESPACE}',
                    '-p',
                    f'robot:={folder}/robot.yaml',
                    '-p',
                    f'policy:={folder}/policy.onnx',
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
            )
        try:
            if not ears.moving(60.0):
                raise RuntimeError((folder / 'agent.log').read_text())
            first = next(command.received for command in ears.commands if not command.is_stop)
            time.sleep(WARM_UP)
            shared_once, memory = resident(agent.pid)
            began = time.time_ns()
            time.sleep(seconds)
            ended = time.time_ns()
        finally:
            agent.send_signal(signal.SIGINT)
            agent.wait()
            camera.close()
            ears.close()
            os.sched_setaffinity(0, set(cpus))
            if learner:
                learner.kill()
                learner.wait()
        last_words = (folder / 'agent.log').read_text().splitlines()[-1]
    steps = [(stamp, age) for stamp, age in ears.steps if began <= stamp <= ended]
    latencies, commands = [], iter(ears.commands)
    for stamp, age in steps:
        command = next(command for command in commands if command.sent >= stamp)
        latencies.append((command.received - stamp + age) / 1e6)
    late = int((np.diff([stamp for stamp, _ in steps]) > 1.5e9 / rate).sum())
    stops = sum(command.is_stop for command in ears.commands if began <= command.sent <= ended)
    values = percentiles(latencies)
    overruns = int(re.search(r'(\d+) overruns', last_words)[1])
    print(
        f'{preset} at {rate:g} Hz for {seconds:g} s{", a learner on the other core" if busy else ""}: image stamp to '
        f'command, median / p99 / max of {values["n"]}: {shown(values)}; {overruns} overruns, {late} ticks left out, '
        f'{stops} stops; the first command {(first - started) / 1e9:.2f} s after the start; agent and '
        f'guard hold {shared_once:.0f} MB ({memory:.0f} with shared pages counted twice)',
        flush=True,
    )
    return {
        'rate': rate,
        'preset': preset,
        'seconds': seconds,
        'busy': bool(busy),
        'latency': values,
        'overruns': overruns,
        'late': late,
        'stops': stops,
        'start': (first - started) / 1e9,
        'pss_mb': shared_once,
        'rss_mb': memory,
    }


def resident(pid: int) -> tuple[float, float]:
    """MB that a process and its children hold: pages that several hold counted once, and in each."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    rollups = [Path(f'/proc/{process}/smaps_rollup').read_text() for process in (pid, *children)]
    return tuple(
        sum(int(re.search(rf'^{kind}:\s+(\d+) kB', text, re.M)[1]) for text in rollups) / 1024
        for kind in ('Pss', 'Rss')
    )


def export_for(preset: str, rate: float, folder: str) -> None:
    contract = write_contract(Path(folder) / 'robot.yaml', rate, max_age=max(MAX_AGE, 3.0 / rate), size=SIZE)
    export_policy(preset, contract, Path(folder) / 'policy.onnx')


def learn() -> None:
    """Update after update."""
    from benchmarks.learner_subject import LearnerSubject

    subject = LearnerSubject('dreamerv3_1m', [], 'float32', 'cpu', 1, 6)
    while True:
        subject.update()


CHILDREN = {'step': measure_step, 'export': export_for, 'learn': learn}

if __name__ == '__main__':
    main()
