"""What a robot plays after a restart while its trainer is away, and what new versions cost."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from dreamer_ros.deploy.policies import Policies, kept_policy
from dreamer_ros.errors import InputError
from tests.nodes.robot import write_contract, write_policy
from tests.policy.tiny import TinyPolicy, make_endless

SWAPS = 6
# A robot that gets version after version, in a process without torch. Prints its megabytes after the first and
# the last.
SWAPPING = f"""
import sys, threading, time
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.deploy.policies import Policies
from dreamer_ros.policy.loader import load

def resident():
    lines = open('/proc/self/status').read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon')) / 1000
policies = Policies(load_contract(sys.argv[1]), 0, None, print)
manifest = load(sys.argv[2]).manifest()
policies.load(manifest, threading.Event())
sizes = [resident()]
for _ in range({SWAPS}):
    policies._loader._seen = None  # as if it were another
    policies.offer(manifest)
    while not policies.poll():
        time.sleep(0.01)
    sizes.append(resident())
print(sizes[0], sizes[-1])
"""


@pytest.fixture
def robot(tmp_path):
    contract = write_contract(tmp_path / 'robot.yaml')
    return contract, [write_policy(tmp_path / f'{version}.onnx', contract, version) for version in (1, 2)]


def test_the_newest_policy_is_kept(robot, tmp_path):
    contract, manifests = robot
    folder, said = tmp_path / 'a' / 'robot', []
    assert kept_policy(folder, said.append) is None
    policies = Policies(contract, 0, folder, said.append)
    for manifest in manifests:
        policies.load(manifest, threading.Event())
    policies.close()
    kept = kept_policy(folder, said.append)
    assert (kept.version, kept.sha256) == (2, manifests[1].sha256) and kept.uri.startswith(str(folder))
    assert len(list(folder.iterdir())) == 2, 'it and its manifest'
    again = Policies(contract, 0, folder, said.append)
    again.load(kept, threading.Event())
    again.close()
    assert again.current.version == 2 and said == []

    data = bytearray((tmp_path / '2.onnx').read_bytes())
    data[100] ^= 1
    for damage, words in ((bytes(data), 'is damaged; going on without it'), (None, 'cannot be read')):
        path = next(folder.glob('*.onnx'))
        path.unlink() if damage is None else path.write_bytes(damage)
        assert kept_policy(folder, said.append) is None and words in said.pop()
    (folder / 'latest.json').write_text('{')
    assert kept_policy(folder, said.append) is None and 'expected JSON' in said.pop()


def test_a_policy_that_cannot_be_kept_is_played(robot, tmp_path):
    contract, manifests = robot
    (tmp_path / 'file').write_text('')
    said = []
    policies = Policies(contract, 0, tmp_path / 'file' / 'robot', said.append)
    policies.load(manifests[0], threading.Event())
    policies.close()
    assert policies.current.version == 1 and 'policy version 1 plays, but could not be kept in' in said[0]


def test_an_unsigned_policy_is_refused_by_a_contract_with_a_public_key(robot, tmp_path):
    signed = write_contract(tmp_path / 'signed.yaml', more=f"public_key: '{'ab' * 32}'")
    refused = pytest.raises(InputError, match='expected a signature by the key abab')
    with contextlib.closing(Policies(signed, 0, None, print)) as policies, refused:
        policies.offer(robot[1][0])


def test_a_robot_plays_on_while_the_next_policy_never_answers(robot, tmp_path, monkeypatch):
    monkeypatch.setattr('dreamer_ros.policy.loader.LOAD_TIME', 0.5)
    contract, manifests = robot
    policies = Policies(contract, 0, None, print)
    policies.load(manifests[0], threading.Event())
    make_endless(tmp_path / '2.onnx')
    data = (tmp_path / '2.onnx').read_bytes()
    policies.offer(manifests[1].model_copy(update=dict(sha256=hashlib.sha256(data).hexdigest(), size=len(data))))
    end = time.monotonic() + 20
    while not policies.poll():
        assert time.monotonic() < end
        image, vector = np.zeros((32, 32, 3), np.uint8), np.zeros(1, np.float32)
        assert np.isfinite(policies.current.act(image, vector, True, False)).all()
    policies.close()
    assert policies.current.version == 1 and 'gave it up' in policies.problem


class Trickle(http.server.BaseHTTPRequestHandler):
    """Sends a policy so slowly that it takes an hour."""

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        self.send_response(200)
        self.send_header('Content-Length', '36000')
        self.end_headers()
        while not self.server.closing.wait(0.1):
            self.wfile.write(b'x')
            self.server.asked.set()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_an_agent_ends_while_a_server_takes_its_time(start, robot, tmp_path, number):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Trickle)
    server.daemon_threads, server.asked, server.closing = True, threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f'http://127.0.0.1:{server.server_port}/policy.onnx'
        (tmp_path / 'manifest.json').write_text(robot[1][0].at(uri).model_copy(update={'size': 36000}).to_json())
        agent = start('robot_agent', robot=tmp_path / 'robot.yaml', policy=tmp_path / 'manifest.json')
        assert server.asked.wait(60)
        agent.send(number)
        assert agent.wait(20) == 0, 'and not when all of it is here'
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


class LargePolicy(TinyPolicy):
    """Further layers of a megabyte each, 12 of them."""

    WIDTH = 512

    def __init__(self, robot):
        super().__init__(robot)
        self.layers = nn.Sequential(*(nn.Linear(self.WIDTH, self.WIDTH) for _ in range(12)))

    def forward(self, *inputs):
        action, state = super().forward(*inputs)
        more = self.layers(F.pad(state, (0, self.WIDTH - state.shape[-1])))
        return (action + 1e-3 * more[:, : action.shape[-1]]).clamp(-1.0, 1.0), state


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='/proc')
def test_version_after_version_takes_no_more_memory_than_a_few(tmp_path):
    contract = write_contract(tmp_path / 'robot.yaml')
    path = tmp_path / 'large.onnx'
    write_policy(path, contract, policy=LargePolicy(contract.spec).eval())
    size = path.stat().st_size / 1e6
    done = subprocess.run(
        [sys.executable, '-c', SWAPPING, contract.source, path],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    first, last = map(float, done.stdout.split())
    print(f'{size:.1f} MB each; resident with one {first:.1f} MB, after {SWAPS} more {last:.1f} MB')
    assert size > 12 and last - first < 3.5 * size, 'the one before is kept for a rollback; the others are gone'
