"""Recording four cameras of 640x480 at 30 Hz, raw: messages lost, processor time and memory of the recorder.

    python -m benchmarks.bench_record [--seconds 10] [--cameras 4] [--folder /somewhere]

Every camera is a process of its own, and so is the recorder, which is the one that `dreamer record` starts. The bag
is read back: every message of every camera has to be in it, with the bytes that were sent.
"""

from __future__ import annotations

import argparse
import json
import os
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
from mcap.reader import make_reader
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

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
    rclpy.init()
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


def measure(cameras: int, seconds: float, folder: Path) -> dict:
    """Record once; what was sent, found and used."""
    (folder / 'bench.yaml').write_text(contract(cameras))
    os.environ.setdefault('ROS_DOMAIN_ID', '98')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    recorder = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'dreamer_ros.nodes.recorder',
            '--ros-args',
            '-r',
            '__ns:=/bench',
            '-p',
            f'contract:={folder / "bench.yaml"}',
            '-p',
            f'folder:={folder / "bags"}',
        ],
        env=environment,
    )
    publishers = [
        subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.bench_record', '--camera', str(k)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(cameras)
    ]
    rclpy.init()
    node = rclpy.create_node('bench')
    try:
        for publisher in publishers:
            publisher.stdout.readline()
        call(node, 'start')
        for publisher in publishers:
            publisher.stdin.write(f'{seconds}\n')
            publisher.stdin.flush()
        time.sleep(LEFT_OUT)
        used, began = usage(recorder.pid), time.monotonic()
        time.sleep(seconds - 2 * LEFT_OUT)
        cores = (usage(recorder.pid) - used) / (time.monotonic() - began)
        sent = [json.loads(publisher.stdout.readline()) for publisher in publishers]
        time.sleep(LEFT_OUT)
        call(node, 'stop')
        memory = peak_memory(recorder.pid)
        end = time.monotonic() + PATIENCE
        while not (bags := list((folder / 'bags').glob('[!.]*'))) and time.monotonic() < end:
            time.sleep(0.05)
        memory = max(memory, peak_memory(recorder.pid))
    finally:
        node.destroy_node()
        rclpy.shutdown()
        for publisher in publishers:
            publisher.kill()
        recorder.terminate()
        for process in (*publishers, recorder):
            process.wait(PATIENCE)
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
    parser.add_argument('--seconds', type=float, default=10.0)
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--folder', default=None, help='on the disk that is to be measured (default: a temporary one)')
    parser.add_argument('--camera', type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera is not None:
        camera(arguments.camera)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix='bench-record-') as folder:
        result = measure(arguments.cameras, arguments.seconds, Path(folder))
    print(f'{arguments.cameras} cameras of {WIDTH}x{HEIGHT} at {RATE} Hz, raw, for {arguments.seconds:g} s')
    for name, value in result.items():
        print(f'  {name}: {value if isinstance(value, (bool, int)) else format(value, ".2f")}')


if __name__ == '__main__':
    main()
