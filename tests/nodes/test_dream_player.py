"""A film played on the `dream` topic reaches a viewer frame by frame."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from dreamer_ros.nodes.dream_player import play
from dreamer_ros.wire.images import decode_image


def test_a_node_dreams_a_bag(start, peer, tmp_path):
    """As `replay.launch.py mode:=dream` starts it."""
    from dreamer_ros.training.learner import Learner
    from tests.training.test_loop import CONFIG, ROBOT, write_bags

    Learner(CONFIG, ROBOT, 'cpu').save(tmp_path / 'checkpoints' / '000000001')
    (tmp_path / 'checkpoints' / 'latest').write_text('000000001\n')
    write_bags(tmp_path / 'episodes', [1])
    [bag] = (tmp_path / 'episodes').glob('2*')
    seen = []
    kept = peer.node.create_subscription(Image, 'dream', seen.append, 10)
    player = start('dream_player', run=tmp_path, bag=bag, output=tmp_path / 'out')
    peer.until(lambda: player.ended, 'the end of the film')
    assert player.wait() == 0 and len(seen) == 21 and kept.topic_name == '/sim0/dream'
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'dream.json', 'dream.png', 'dream.mp4'}


def test_a_viewer_that_comes_late_sees_the_whole_film(ros_domain, rng):
    frames, seen, done = rng.integers(0, 256, (6, 32, 96, 3), np.uint8), [], threading.Event()

    def view():
        time.sleep(0.5)
        context = Context()
        rclpy.init(context=context, domain_id=ros_domain)
        node, executor = Node('viewer', context=context), SingleThreadedExecutor(context=context)
        executor.add_node(node)
        node.create_subscription(Image, '/dream', seen.append, 10)
        while not done.is_set():
            executor.spin_once(timeout_sec=0.05)
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    viewer = threading.Thread(target=view)
    viewer.start()
    try:
        assert play(frames, 20.0) == 0
    finally:
        done.set()
        viewer.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert len(seen) == 6
    for message, frame in zip(seen, frames):
        assert np.array_equal(decode_image(message, 'sensor_msgs/msg/Image'), frame)
