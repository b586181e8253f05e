"""What a robot contract costs per action: observations out of its messages, commands out of actions.

    python -m benchmarks.bench_contract [--seconds 0.5] [--json FILE]

One core, no ROS: messages are there already, as rclpy or a bag gives them. Medians and p99 of single calls.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.robot.safety import Safety
from dreamer_ros.robot.sensing import Sensing
from dreamer_ros.wire.encodings import ENCODINGS, Depth
from dreamer_ros.wire.images import COMPRESSED, View, decode_image, fill_compressed
from tests.robot.robots import image, joint_state, message

RAW = 'sensor_msgs/msg/Image'
SIZE = (64, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=0.5, help='per figure')
    parser.add_argument('--json', type=Path, default=Path('runs/bench/contract.json'))
    arguments = parser.parse_args()
    results = {name: measure(call, arguments.seconds) for name, call in calls().items()}
    for name, result in results.items():
        print(f'{name:45s} {result["median_ms"]:7.3f} ms   p99 {result["p99_ms"]:7.3f} ms')
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))


def calls() -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    smooth = np.add.outer(np.arange(480) / 3, np.arange(640) / 5)[:, :, None] + np.arange(3)
    noise = np.random.default_rng(0).integers(0, 40, (480, 640, 3))
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    small = np.ascontiguousarray(pixels[:64, :64])
    jpeg, png = message(COMPRESSED), io.BytesIO()
    fill_compressed(jpeg, pixels, 0)
    distances = (pixels[:, :, 0] * 20.0 + 300).astype(np.uint16)
    Image.fromarray(distances).save(png, 'PNG')
    depth = message(COMPRESSED, format='16UC1; compressedDepth')
    depth.data = np.frombuffer(bytes(12) + png.getvalue(), np.uint8)
    far = View(depth=Depth(range=(0.3, 5.0), invalid='far'))
    images = {
        'image 64x64 rgb8, as it is': (image(0, small), RAW),
        **{f'image 640x480 {name} to 64x64': (encoded(name, pixels), RAW) for name in ENCODINGS},
        'image 640x480 JPEG to 64x64': (jpeg, COMPRESSED),
        'image 640x480 16UC1 to 64x64': (image(0, distances, '16UC1'), RAW, far),
        'image 640x480 32FC1 to 64x64': (image(0, (distances / 1000).astype(np.float32), '32FC1'), RAW, far),
        'image 640x480 compressedDepth to 64x64': (depth, COMPRESSED, far),
    }
    found = {name: lambda each=each: decode_image(*each, size=SIZE) for name, each in images.items()}

    robot = load_contract('quadruped')
    joints = joint_state(1, **{axis.name: (0.1, 0.2) for axis in robot.command.axes})
    sensing, safety, commands = Sensing(robot), Safety(robot), Commands(robot)
    camera = image(1, pixels)

    def observe():
        sensing.receive('joint_states', joints, 0)
        sensing.receive('camera/image_raw', camera, 0)
        seen = sensing.observe(2)
        assert not seen.problems

    safety.start(np.zeros(12))
    ticks = iter(np.arange(1e9))
    action = np.zeros(12, np.float32)

    def command():
        limited = safety.limit(commands.values(action), next(ticks) / robot.rate)
        commands.encode(limited.values, 0)

    found['quadruped: camera 640x480 and 24 joint values'] = observe
    found['quadruped: a safe command of 12 joints'] = command
    return found


def encoded(name: str, pixels: np.ndarray):
    """An image whose bytes are some of the pixels': what a decoder costs does not depend on them."""
    height, width = pixels.shape[:2]
    row = ENCODINGS[name].row * width
    data = np.resize(pixels, int(row * height * ENCODINGS[name].rows))
    return message(RAW, height=height, width=width, encoding=name, step=row, data=data)


def measure(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Milliseconds of single calls."""
    call()
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - began)
    return {'median_ms': float(np.median(times)) * 1e3, 'p99_ms': float(np.percentile(times, 99)) * 1e3}


if __name__ == '__main__':
    main()
