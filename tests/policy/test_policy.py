"""Export, runner and loader on real ONNX files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import OPSET, Exporter
from dreamer_ros.policy.loader import PolicyLoader, Unreachable, load
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import WORKING_MEMORY, PolicyRunner
from tests.policy.tiny import TinyPolicy, make_endless, manifest, spec, tiny_policy

METADATA = {'version': 3, 'system': 'tiny', 'preset': 'test', 'step': 7}


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError('timed out')


@pytest.mark.parametrize('vector', [(), ('hip', 'knee', 'ankle')])
def test_whole_episode_matches_torch(tmp_path, vector):
    robot = spec(vector)
    policy = tiny_policy(robot)
    Exporter(policy, robot).write(tmp_path / 'p.onnx', METADATA)
    runner = PolicyRunner(tmp_path / 'p.onnx', robot, seed=11)
    rng, noise_rng = np.random.default_rng(5), np.random.default_rng(11)
    state, worst = torch.zeros(1, policy.state_size), 0.0
    for step in range(200):
        image = rng.integers(0, 256, (32, 32, 3), np.uint8)
        values = rng.normal(size=len(vector)).astype(np.float32)
        first, explore = step in (0, 90), step >= 40
        action = runner.act(image, values if vector else None, first, explore)
        noise = (
            noise_rng.standard_normal((1, policy.noise_size), np.float32)
            if explore
            else np.zeros((1, policy.noise_size), np.float32)
        )
        extra = (torch.from_numpy(values)[None],) if vector else ()
        with torch.no_grad():
            expected, state = policy(
                torch.from_numpy(image)[None], *extra, torch.tensor([first]), state, torch.from_numpy(noise)
            )
        worst = max(worst, float(np.abs(action - expected.numpy()[0]).max()))
    assert worst < 1e-5


def test_is_first_forgets_and_state_matters(tmp_path):
    robot = spec()
    Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    runner = PolicyRunner(tmp_path / 'p.onnx')
    image = np.full((32, 32, 3), 90, np.uint8)
    first = runner.act(image, None, True, False)
    later = runner.act(image, None, False, False)
    assert not np.allclose(first, later)
    assert np.array_equal(first, runner.act(image, None, True, False))
    # exploring twice from the same state draws different noise
    assert not np.array_equal(runner.act(image, None, True, True), runner.act(image, None, True, True))


def test_exporter_follows_training_and_batches(tmp_path):
    robot = spec()
    policy = tiny_policy(robot)
    exporter = Exporter(policy, robot)
    image = np.full((32, 32, 3), 50, np.uint8)
    exporter.write(tmp_path / '1.onnx', {**METADATA, 'version': 1})
    before = PolicyRunner(tmp_path / '1.onnx').act(image, None, True, False)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        policy.minimum_std.fill_(0.7)  # a buffer must follow as well
    exporter.write(tmp_path / '2.onnx', {**METADATA, 'version': 2})
    runner = PolicyRunner(tmp_path / '2.onnx')
    after = runner.act(image, None, True, False)
    assert np.abs(after - before).max() > 1e-3
    batch = 5
    noise = np.random.default_rng(0).normal(size=(batch, policy.noise_size)).astype(np.float32)
    feed = {
        'image': np.stack([image] * batch),
        'is_first': np.zeros(batch, bool),
        'state': np.random.default_rng(1).normal(size=(batch, policy.state_size)).astype(np.float32),
        'noise': noise,
    }
    got = runner._session.run(['action', 'next_state'], feed)
    with torch.no_grad():
        expected = policy(*(torch.from_numpy(feed[name]) for name in ('image', 'is_first', 'state', 'noise')))
    for mine, theirs in zip(got, expected):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)
    assert all(p.requires_grad for p in policy.parameters())
    assert not list(tmp_path.glob('.*partial'))


def test_forty_exports_leave_no_memory_behind(tmp_path):
    robot = spec()
    policy = TinyPolicy(robot, deter=512).eval()
    exporter = Exporter(policy, robot)
    sizes = []
    for version in range(1, 51):
        manifest = exporter.write(tmp_path / 'p.onnx', {**METADATA, 'version': version})
        sizes.append(resident_bytes())
    assert manifest.size > 6e6
    assert sizes[-1] - sizes[9] < 3 * manifest.size  # of forty files


def resident_bytes() -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('VmRSS:'))


def test_file_says_what_it_is(tmp_path):
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    model = onnx.load(str(tmp_path / 'p.onnx'))
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == OPSET and model.ir_version <= 9  # what onnxruntime 1.16 reads
    runner = PolicyRunner(tmp_path / 'p.onnx', robot, manifest.sha256)
    assert runner.version == 3 and runner.spec == robot and runner.metadata['system'] == 'tiny'
    assert runner.metadata['spec_hash'] == robot.hash == manifest.spec_hash
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.size == (tmp_path / 'p.onnx').stat().st_size


def test_refusals_say_what_and_why(tmp_path):
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    path = tmp_path / 'p.onnx'
    with pytest.raises(InputError, match='missing.onnx: expected a readable file'):
        PolicyRunner(tmp_path / 'missing.onnx')
    with pytest.raises(InputError, match=f'p.onnx: expected sha256 0+, got {manifest.sha256}'):
        PolicyRunner(path, sha256='0' * 64)
    with pytest.raises(InputError, match=r'image_size is \[32, 32\] instead of \[48, 32\]'):
        PolicyRunner(path, spec(image_size=(48, 32)))
    (tmp_path / 'broken.onnx').write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match='broken.onnx'):
        PolicyRunner(tmp_path / 'broken.onnx')
    (tmp_path / 'text.onnx').write_text('hello')
    with pytest.raises(InputError, match='text.onnx: expected an ONNX policy file'):
        PolicyRunner(tmp_path / 'text.onnx')
    foreign = onnx.load(str(path))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / 'foreign.onnx'))
    with pytest.raises(InputError, match='foreign.onnx: expected metadata spec'):
        PolicyRunner(tmp_path / 'foreign.onnx')
    changed = onnx.load(str(path))
    del changed.metadata_props[-1]  # content_sha256
    bias = next(t for t in changed.graph.initializer if t.name == 'actor.bias')
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 0.2).astype(np.float32).tobytes()
    onnx.save(changed, str(tmp_path / 'changed.onnx'))
    with pytest.raises(InputError, match='golden vector does not come out: expected .*, got '):
        PolicyRunner(tmp_path / 'changed.onnx')
    runner = PolicyRunner(path)
    with pytest.raises(InputError, match=r'expected an image uint8\[32, 32, 3\], got uint8\[64, 32, 3\]'):
        runner.act(np.zeros((64, 32, 3), np.uint8), None, True, False)
    with pytest.raises(InputError, match='policy manifest: uri .* is missing'):
        Manifest.from_json('{"version": 1}')


def test_wrong_vector(tmp_path):
    robot = spec(('hip', 'knee'))
    Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    runner, image = PolicyRunner(tmp_path / 'p.onnx'), np.zeros((32, 32, 3), np.uint8)
    for vector in (None, np.zeros(3, np.float32)):
        with pytest.raises(InputError, match='vector of the 2 values hip, knee'):
            runner.act(image, vector, True, False)


def test_swap_carries_the_state(tmp_path):
    robot = spec()
    policy = tiny_policy(robot)
    exporter = Exporter(policy, robot)
    exporter.write(tmp_path / '1.onnx', {**METADATA, 'version': 1})
    exporter.write(tmp_path / '2.onnx', {**METADATA, 'version': 2})
    exporter.write(tmp_path / '3.onnx', {**METADATA, 'version': 3, 'preset': 'other'})
    old, new, other = (PolicyRunner(tmp_path / f'{i}.onnx') for i in (1, 2, 3))
    image = np.full((32, 32, 3), 10, np.uint8)
    for step in range(4):
        old.act(image, None, step == 0, False)
    new.carry_over(old)
    other.carry_over(old)
    expected = old.act(image, None, False, False)
    assert np.array_equal(new.act(image, None, False, False), expected)
    assert not np.array_equal(other.act(image, None, False, False), expected)


def test_loader_newest_wins_and_failure_keeps_the_old(tmp_path):
    robot = spec()
    exporter = Exporter(tiny_policy(robot), robot)
    manifests = [exporter.write(tmp_path / f'{v}.onnx', {**METADATA, 'version': v}) for v in range(1, 6)]
    loader = PolicyLoader(robot)
    try:
        for manifest in manifests:
            loader.submit(manifest)
        seen = []

        def newest():
            runner = loader.poll()
            if runner:
                seen.append(runner.version)
            return seen and seen[-1] == 5

        wait_for(newest)
        assert seen == sorted(seen)
        missing = manifests[0].model_copy(update=dict(uri=str(tmp_path / 'gone.onnx'), version=6))
        loader.submit(missing)
        problem = wait_for(loader.poll)
        assert 'gone.onnx' in problem and loader.poll() is None
        loader.submit(manifests[4])
        wait_for(loader.poll)
        loader.submit(manifests[1].model_copy(update=dict(spec_hash='0123456789abcdef')))
        assert 'got one for spec 0123456789abcdef' in wait_for(loader.poll)
        loader.submit(manifests[1].model_copy(update=dict(size=10)))
        assert 'expected 10 bytes, got more' in wait_for(loader.poll)
    finally:
        loader.close()
    assert not loader._thread.is_alive()


def test_load_from_urls(tmp_path):
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'a policy.onnx', METADATA)
    assert load(manifest.model_copy(update=dict(uri=(tmp_path / 'a policy.onnx').as_uri())), robot).version == 3
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        base = f'http://127.0.0.1:{server.server_port}'
        assert load(manifest.model_copy(update=dict(uri=f'{base}/a%20policy.onnx')), robot).version == 3
        with pytest.raises(InputError, match='none.onnx: expected a file that can be read'):
            load(manifest.model_copy(update=dict(uri=f'{base}/none.onnx')), robot)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers 503, then half of the file, then all of it."""

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        answers, data = self.server.answers, self.server.data
        answers.append(len(answers))
        self.send_response(503 if len(answers) == 1 else 200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if len(answers) == 2 else data if len(answers) > 2 else b'')

    def log_message(self, *_):
        pass


def test_a_server_that_is_away_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr('dreamer_ros.policy.loader.RETRIES', (0.05,))
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    loader = PolicyLoader(robot)
    server = thread = None
    try:
        loader.submit(manifest.at(f'http://127.0.0.1:{port}/p.onnx'))
        assert 'does not answer' in wait_for(loader.poll)
        server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Flaky)
        server.answers, server.data = [], (tmp_path / 'p.onnx').read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert wait_for(loader.poll).version == 3
        assert len(server.answers) == 3 and loader.poll() is None
    finally:
        loader.close()
        if server:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.mark.parametrize(
    'answer, kind, words',
    [
        (b'garbage\r\n\r\n', Unreachable, 'does not answer .garbage.'),
        (
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
            Unreachable,
            'does not answer .IncompleteRead',
        ),
        (b'HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc', InputError, 'bytes, got 3'),
    ],
)
def test_servers_that_speak_no_http(tmp_path, answer, kind, words):
    manifest = Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'p.onnx', METADATA)
    with socket.create_server(('127.0.0.1', 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(InputError, match=words) as caught:
            load(manifest.at(f'http://127.0.0.1:{server.getsockname()[1]}/p.onnx'))
        thread.join()
    assert caught.type is kind and '\n' not in str(caught.value)


@pytest.mark.parametrize('uri', ['http://[::1', 'http://127.0.0.1:port/p.onnx', '/p\0.onnx', 'http://a b/p.onnx'])
def test_addresses_that_are_none(tmp_path, uri):
    manifest = Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'p.onnx', METADATA)
    with pytest.raises(InputError, match='expected a path or an address'):
        load(manifest.at(uri))


@pytest.mark.parametrize(
    'changes',
    [
        {'version': 1e400},
        {'size': 1e400},
        {'control_period': 10**400},
        {'uri': '\ud800'},
        {'spec_hash': '\ud800'},
        {'golden': {'seed': 1e400, 'action': []}},
        None,
    ],
)
def test_whatever_a_manifest_holds_is_refused_in_words(changes):
    """A robot hears them from the network."""
    whole = manifest()
    assert Manifest.from_json(whole.to_json()) == whole
    text = '[' * 100_000 if changes is None else json.dumps({**json.loads(whole.to_json()), **changes})
    with pytest.raises(InputError, match='topic: .*expected') as caught:
        Manifest.from_json(text, 'topic')
    str(caught.value).encode()


def test_a_check_decides_instead_of_the_hash(tmp_path):
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    other = dataclasses.replace(robot, action_repeat=7)
    with pytest.raises(InputError, match='expected one for tiny'):
        load(manifest, other)
    assert load(manifest, other, check=lambda found: None).spec == robot

    def refuse(found):
        raise InputError(f'robot.yaml: cameras: got {found.name}')

    with pytest.raises(InputError, match='robot.yaml: cameras: got tiny'):
        load(manifest, other, check=refuse)
    with pytest.raises(InputError, match='expected version 9 as its manifest says, got 3'):
        load(manifest.model_copy(update=dict(version=9)), robot)


def test_a_policy_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr('dreamer_ros.policy.loader.LOAD_TIME', 0.5)
    robot = spec()
    manifest = Exporter(tiny_policy(robot), robot).write(tmp_path / 'p.onnx', METADATA)
    make_endless(tmp_path / 'p.onnx')
    with pytest.raises(InputError, match='p.onnx: expected its first actions within 0.5 s, gave it up'):
        load(tmp_path / 'p.onnx', robot)
    wait_for(lambda: not any(thread.name == 'policy' for thread in threading.enumerate()))
    data = (tmp_path / 'p.onnx').read_bytes()
    loader = PolicyLoader(robot)
    try:
        digest = hashlib.sha256(data).hexdigest()
        loader.submit(manifest.model_copy(update=dict(sha256=digest, size=len(data))))
        assert 'gave it up' in wait_for(loader.poll)
        Exporter(tiny_policy(robot), robot).write(tmp_path / 'q.onnx', METADATA)
        loader.submit(load(tmp_path / 'q.onnx').manifest())
        assert wait_for(loader.poll).version == 3, 'the next one is loaded'
    finally:
        loader.close()


def test_a_policy_that_would_not_fit_is_refused_before_it_is_allocated(tmp_path):
    Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'p.onnx', METADATA)
    model = onnx.load(str(tmp_path / 'p.onnx'))
    del model.metadata_props[-1]
    for name in ('state', 'noise'):
        huge = onnx.ModelProto.FromString(model.SerializeToString())
        [found] = [each for each in huge.graph.input if each.name == name]
        size = found.type.tensor_type.shape.dim[1]
        for part, number in (('first', 0), ('end', size.dim_value), ('axis', 1)):
            huge.graph.initializer.append(onnx.helper.make_tensor(part, TensorProto.INT64, [1], [number]))
        size.dim_value = 10**10
        for node in huge.graph.node:
            node.input[:] = ['used' if each == name else each for each in node.input]
        huge.graph.node.insert(0, onnx.helper.make_node('Slice', [name, 'first', 'end', 'axis'], ['used']))
        onnx.save(huge, str(tmp_path / 'huge.onnx'))
        before = resident_bytes()
        with pytest.raises(InputError, match=f'huge.onnx: expected at most 10000000 numbers each, got {name}'):
            load(tmp_path / 'huge.onnx')
        assert resident_bytes() - before < 100e6


@pytest.mark.parametrize('kind', ['ConstantOfShape', 'MatMul'])
def test_a_small_policy_that_computes_something_huge_is_refused(kind, tmp_path):
    """Four times the memory that it may use; a product of constants is computed while the file is loaded."""
    Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'p.onnx', METADATA)
    model = onnx.load(str(tmp_path / 'p.onnx'))
    del model.metadata_props[-1]
    graph, side = model.graph, int(WORKING_MEMORY**0.5)
    if kind == 'MatMul':
        graph.initializer.append(onnx.helper.make_tensor('column', TensorProto.FLOAT, [side, 1], np.zeros(side)))
        graph.initializer.append(onnx.helper.make_tensor('row', TensorProto.FLOAT, [1, side], np.zeros(side)))
    else:
        graph.initializer.append(onnx.helper.make_tensor('shape', TensorProto.INT64, [2], [side, side]))
    inputs = ['column', 'row'] if kind == 'MatMul' else ['shape']
    last = next(node for node in graph.node if 'action' in node.output)
    last.output[:] = ['small' if name == 'action' else name for name in last.output]
    graph.node.extend(
        [
            onnx.helper.make_node(kind, inputs, ['huge']),
            onnx.helper.make_node('ReduceMax', ['huge'], ['zero'], keepdims=0),
            onnx.helper.make_node('Add', ['small', 'zero'], ['action']),
        ]
    )
    onnx.save(model, str(tmp_path / 'huge.onnx'))
    before = resident_bytes()
    with pytest.raises(InputError, match='huge.onnx: expected an action, but onnxruntime said: '):
        load(tmp_path / 'huge.onnx')
    assert resident_bytes() - before < 100e6
    assert load(tmp_path / 'p.onnx').version == 3


def test_weights_in_other_files_are_refused(tmp_path, monkeypatch):
    Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'p.onnx', METADATA)
    model = onnx.load(str(tmp_path / 'p.onnx'))
    del model.metadata_props[-1]
    monkeypatch.chdir(tmp_path)
    onnx.save(model, 'split.onnx', save_as_external_data=True, location='weights', size_threshold=16)
    with pytest.raises(InputError, match='split.onnx: expected all weights within the file'):
        load(tmp_path / 'split.onnx')


def test_robot_side_imports_no_torch():
    code = (
        'import sys, dreamer_ros.policy.loader; '
        'assert not {"torch", "mujoco", "onnx", "rclpy"} & set(sys.modules), "heavy import"'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
