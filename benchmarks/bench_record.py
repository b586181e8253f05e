"""Recording raw cameras of 640x480 at 30 Hz: what is lost, what it costs, how much room it takes.

    python -m benchmarks.bench_record [--seconds 10] [--cameras 4] [--folder /somewhere]
    python -m benchmarks.bench_record --agent [--seconds 600] [--cameras 2] [--busy 2] [--raw]

Every camera is a process of its own, and so is the recorder, which is the one that `dreamer record` starts. The bag
is read back: every message of every camera has to be in it, with the bytes that were sent.

With `--agent` a robot agent acts at 10 Hz on 64x64 of each camera, beside processes that compute without pause, and the
recorder writes its episodes. Every step that the agent took has to be in them. `--raw` records the cameras beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import rclpy
import yaml
from geometry_msgs.msg import Twist
from mcap.reader import make_reader
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.wire import codecs

WIDTH, HEIGHT, RATE = 640, 480, 30
DIFFERENT = 8  # images of each camera, one after the other
PATIENCE = 60.0  # seconds
LEFT_OUT = 1.0  # seconds at the beginning and at the end that are not measured


def scene(number: int, phase: int) -> np.ndarray:
    """An image that compresses about as a camera's does: shapes, shades and noise of the sensor."""
    rng = np.random.default_rng((number, phase))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shades = np.stack([128 + 100 * np.sin((x + 9 * phase) / 40), 128 + 80 * np.sin((x + y) / 70), y / 2], -1)
    return (shades + rng.normal(0, 2, shades.shape)).clip(0, 255).astype(np.uint8)


def camera(number: int) -> None:
    """One camera's process: says `ready`, publishes for as long as its standard input says, says what it sent."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # it ends with SIGTERM, whatever it does
    node = rclpy.create_node(f'camera{number}')
    publisher = node.create_publisher(Image, f'/bench/camera{number}/image_raw', QoSProfile(depth=RATE))
    frames = []
    for phase in range(DIFFERENT):
        message = Image()
        codecs.fill_image(message, scene(number, phase), 0)
        frames.append(bytearray(serialize_message(message)))
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    print('ready', flush=True)
    frames_wanted = round(float(sys.stdin.readline()) * RATE)
    digest = 0
    began = time.monotonic()
    for k in range(frames_wanted):
        frame = frames[k % DIFFERENT]
        struct.pack_into('<iI', frame, 4, *divmod(time.time_ns(), 10**9))
        publisher.publish(bytes(frame))
        digest = zlib.crc32(frame, digest)
        time.sleep(max(0.0, began + (k + 1) / RATE - time.monotonic()))
    print(json.dumps({'sent': frames_wanted, 'seconds': time.monotonic() - began, 'digest': digest}), flush=True)
    time.sleep(PATIENCE)  # reliable messages are sent again only by a living publisher


def usage(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def peak_memory(pid: int) -> float:
    """Largest resident memory of a process so far, MB."""
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1000


def call(node: Node, name: str) -> None:
    client = node.create_client(Trigger, f'/bench/recorder/{name}')
    if not client.wait_for_service(PATIENCE):
        raise SystemExit('error: the recorder does not answer')
    future = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE)
    if not future.done() or not future.result().success:
        raise SystemExit(f'error: {name}: {future.result()}')


def contract(cameras: int) -> str:
    return yaml.safe_dump(
        {
            'name': 'bench',
            'rate': 10,
            'max_age': 0.5,
            'episode_length': 100,
            'image_size': [64, 64],
            'cameras': {
                f'camera{k}' if k else 'camera': {'topic': f'camera{k}/image_raw', 'type': 'sensor_msgs/msg/Image'}
                for k in range(cameras)
            },
            'command': {
                'topic': 'cmd_vel',
                'type': 'geometry_msgs/msg/Twist',
                'stop': 'zero',
                'axes': [{'name': 'forward', 'field': 'linear.x', 'limits': [-1, 1]}],
            },
        }
    )


def child(module: str, *arguments: str, **options) -> subprocess.Popen:
    """A process of this benchmark."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([sys.executable, '-m', module, *arguments], env=environment, text=True, **options)


def start_node(executable: str, logs: Path, **parameters) -> subprocess.Popen:
    """A node of the stack; its output goes to a file in the folder."""
    arguments = ['--ros-args', '-r', '__ns:=/bench']
    for name, value in parameters.items():
        arguments += ['-p', f'{name}:={value}']
    with (logs / f'{executable}.log').open('w') as log:
        return child(f'dreamer_ros.nodes.{executable}', *arguments, stdout=log, stderr=subprocess.STDOUT)


def start_cameras(cameras: int) -> list[subprocess.Popen]:
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    return [child('benchmarks.bench_record', '--camera', str(k), **pipes) for k in range(cameras)]


def let_run(publishers: list[subprocess.Popen], seconds: float) -> None:
    """Wait until the cameras are listened to, and have them publish."""
    for publisher in publishers:
        publisher.stdout.readline()
    for publisher in publishers:
        publisher.stdin.write(f'{seconds}\n')
        publisher.stdin.flush()


def end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(PATIENCE)


def size_of(folder: Path) -> float:
    """MB of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6


def until(condition, what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit(f'error: {what}')
        time.sleep(0.05)


def measure_agent(cameras: int, seconds: float, busy: int, raw: bool, folder: Path) -> dict:
    """Let an agent act beside busy processes; the steps that it took and those that were recorded."""
    path, bags = folder / 'bench.yaml', folder / 'bags'
    path.write_text(contract(cameras))
    processes = [start_node('recorder', folder, contract=path, folder=bags, raw=raw)]
    rclpy.init()
    node = rclpy.create_node('bench')
    node.create_subscription(Twist, '/bench/cmd_vel', lambda _: None, 10)  # the robot
    try:
        until(lambda: node.count_subscribers('/bench/step'), 'the recorder does not start')
        publishers = start_cameras(cameras)
        processes += publishers
        processes.append(agent := start_node('robot_agent', folder, robot=path, mode='train', show=False))
        loads = [subprocess.Popen([sys.executable, '-c', 'while True: sum(range(10**6))']) for _ in range(busy)]
        processes += loads
        let_run(publishers, seconds)
        used, began = usage(processes[0].pid), time.monotonic()
        for publisher in publishers:
            publisher.stdout.readline()
        cores = (usage(processes[0].pid) - used) / (time.monotonic() - began)
        end([agent])
        for load in loads:
            load.kill()
    finally:
        node.destroy_node()
        rclpy.shutdown()
        end(processes[::-1])
    log = (folder / 'robot_agent.log').read_text()
    played, begun = map(int, re.search(r'after (\d+) steps in (\d+) episodes', log).groups())
    episodes, problems = [], []
    for bag in sorted(bags.iterdir()):
        found, report = read_episodes(bag, load_contract(path).spec)
        episodes += found
        problems += [f'{bag.name}: {problem.reason}' for problem in report]
    print('\n'.join(problems))
    hours = sum(len(episode) for episode in episodes) / 36_000
    return {
        'steps acted': played,
        'steps recorded, without the last of each episode': sum(int((~episode.is_last).sum()) for episode in episodes),
        'episodes': begun,
        'parts of episodes recorded': len(episodes),
        'recorder [cores]': cores,
        'episodes [MB/h]': size_of(bags) / hours,
        **({'raw topics [GB/h]': size_of(folder / 'bags-raw') / 1000 / hours} if raw else {}),
    }


def measure(cameras: int, seconds: float, folder: Path) -> dict:
    """Record once; what was sent, found and used."""
    (folder / 'bench.yaml').write_text(contract(cameras))
    recorder = start_node('recorder', folder, contract=folder / 'bench.yaml', folder=folder / 'bags')
    publishers = start_cameras(cameras)
    rclpy.init()
    node = rclpy.create_node('bench')
    try:
        for k in range(cameras):
            until(lambda: node.count_publishers(f'/bench/camera{k}/image_raw'), f'camera {k} does not start')
        call(node, 'start')
        let_run(publishers, seconds)
        time.sleep(LEFT_OUT)
        used, began = usage(recorder.pid), time.monotonic()
        time.sleep(seconds - 2 * LEFT_OUT)
        cores = (usage(recorder.pid) - used) / (time.monotonic() - began)
        sent = [json.loads(publisher.stdout.readline()) for publisher in publishers]
        time.sleep(LEFT_OUT)
        call(node, 'stop')
        memory = peak_memory(recorder.pid)
        until(lambda: list((folder / 'bags').glob('[!.]*')), 'no bag')
        memory = max(memory, peak_memory(recorder.pid))
    finally:
        node.destroy_node()
        rclpy.shutdown()
        end([*publishers, recorder])
    bags = list((folder / 'bags').glob('[!.]*'))
    found = [{'sent': 0, 'digest': 0} for _ in range(cameras)]
    size = 0
    for file in sorted(bags[0].glob('*.mcap')):
        size += file.stat().st_size
        with file.open('rb') as stream:
            for _, channel, message in make_reader(stream).iter_messages(log_time_order=False):
                entry = found[int(channel.topic[len('/bench/camera') :].partition('/')[0])]
                entry['sent'] += 1
                entry['digest'] = zlib.crc32(message.data, entry['digest'])
    whole = all(one['sent'] == other['sent'] and one['digest'] == other['digest'] for one, other in zip(sent, found))
    total = sum(entry['sent'] for entry in sent)
    return {
        'sent': total,
        'recorded': sum(entry['sent'] for entry in found),
        'every message once and in order': whole,
        'slowest camera [Hz]': min(entry['sent'] / entry['seconds'] for entry in sent),
        'MB/s': total * WIDTH * HEIGHT * 3 / 1e6 / seconds,
        'bag [MB]': size / 1e6,
        'recorder [cores]': cores,
        'recorder [MB RSS, peak]': memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--seconds', type=float, default=None, help='10; with --agent 600')
    parser.add_argument('--cameras', type=int, default=None, help='4; with --agent 2')
    parser.add_argument('--agent', action='store_true', help='episodes of an agent, not the cameras themselves')
    parser.add_argument('--busy', type=int, default=2, help='processes beside the agent')
    parser.add_argument('--raw', action='store_true', help='record the cameras beside the agent')
    parser.add_argument('--folder', default=None, help='on the disk that is to be measured (default: a temporary one)')
    parser.add_argument('--camera', type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera is not None:
        camera(arguments.camera)
        return
    os.environ.setdefault('ROS_DOMAIN_ID', '98')
    cameras = arguments.cameras or (2 if arguments.agent else 4)
    seconds = arguments.seconds or (600.0 if arguments.agent else 10.0)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix='bench-record-') as folder:
        if arguments.agent:
            result = measure_agent(cameras, seconds, arguments.busy, arguments.raw, Path(folder))
        else:
            result = measure(cameras, seconds, Path(folder))
    print(f'{cameras} cameras of {WIDTH}x{HEIGHT} at {RATE} Hz, raw, for {seconds:g} s')
    for name, value in result.items():
        print(f'  {name}: {value if isinstance(value, (bool, int)) else format(value, ".2f")}')


if __name__ == '__main__':
    main()
