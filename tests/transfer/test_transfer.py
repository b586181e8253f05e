"""Bags from one folder to another over HTTP, whatever happens on the way."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import threading
import time

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.transfer import pulling
from dreamer_ros.transfer.pulling import Failed, Puller
from dreamer_ros.transfer.serving import FileServer, Shelf
from tests.transfer.link import Link

SIZE = 200_000


@pytest.fixture
def closing():
    with contextlib.ExitStack() as stack:
        yield lambda thing: stack.enter_context(contextlib.closing(thing))


def write_bag(folder, name, rng, size=SIZE):
    bag = folder / name
    bag.mkdir(parents=True)
    for number in range(2):
        (bag / f'{name}_{number}.mcap').write_bytes(rng.bytes(size))
    (bag / 'metadata.yaml').write_text(f'of: {name}')
    return bag


def content(folder):
    """Every file that is not hidden, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    }


def puller(port, folder):
    return Puller(f'http://127.0.0.1:{port}', folder, threading.Event())


def test_whole_bags_come_in_order_and_once(tmp_path, rng, closing):
    robot, trainer = tmp_path / 'robot', tmp_path / 'trainer'
    server = closing(FileServer(Shelf(bags=robot), '127.0.0.1', 0))
    pull = closing(puller(server.port, trainer))
    assert pull.look() == [], 'before the first episode there is not even a folder'
    for name in ('20261120T2-b', '20261120T1-a'):
        write_bag(robot, name, rng)
    expected = content(robot)
    (robot / '.20261120T3-c.partial').mkdir()
    write_bag(robot, '20261120T0-growing', rng)
    (robot / '20261120T0-growing' / 'metadata.yaml').unlink()
    assert pull.look() == ['20261120T1-a', '20261120T2-b']
    assert content(trainer) == expected
    assert (pull.bags, pull.bytes, pull.missing) == (2, sum(map(len, expected.values())), 0)
    assert list(trainer.glob('.*')) == []
    (trainer / '20261120T1-a' / 'metadata.yaml').write_text('a mark of the trainer')
    write_bag(robot, '20261120T3-c', rng)
    assert pull.look() == ['20261120T3-c'] and pull.look() == []
    assert (trainer / '20261120T1-a' / 'metadata.yaml').read_text() == 'a mark of the trainer'


def linked(tmp_path, rng, closing):
    """Folders of a robot with one bag and of a trainer, and the link between them."""
    robot, trainer = tmp_path / 'robot', tmp_path / 'trainer'
    write_bag(robot, 'a', rng)
    server = closing(FileServer(Shelf(bags=robot), '127.0.0.1', 0))
    return robot, trainer, closing(Link(server.port))


def test_a_link_that_breaks_again_and_again(tmp_path, rng, closing):
    """Every connection ends after 60 kB; nothing is fetched twice but a few buffers."""
    robot, trainer, link = linked(tmp_path, rng, closing)
    link.limit = 60_000
    failures = 0
    while not (trainer / 'a').exists():
        with contextlib.closing(puller(link.port, trainer)) as pull:  # each time a new process, as it were
            try:
                pull.look()
            except Failed as error:
                assert 'the connection ended after' in str(error) or str(error).startswith(pull.source), error
                failures += 1
        assert failures < 20
    assert failures >= 6 and content(trainer) == content(robot)
    assert link.carried < 2 * SIZE * 1.3


def test_damage_on_the_way_is_noticed(tmp_path, rng, closing):
    robot, trainer, link = linked(tmp_path, rng, closing)
    link.flip = 100_000
    pull = closing(puller(link.port, trainer))
    with pytest.raises(Failed, match='what came is not what was promised'):
        pull.look()
    assert content(trainer) == {}
    assert pull.look() == ['a'] and content(trainer) == content(robot)


def test_a_beginning_of_another_file_is_thrown_away(tmp_path, rng, closing):
    robot, trainer = tmp_path / 'robot', tmp_path / 'trainer'
    write_bag(robot, 'a', rng)
    (trainer / '.a.incoming').mkdir(parents=True)
    (trainer / '.a.incoming' / 'a_0.mcap').write_bytes(b'x' * 1000)
    (trainer / '.a.incoming' / 'a_1.mcap').write_bytes(b'x' * (SIZE + 1))
    (trainer / '.a.incoming' / 'stray').write_bytes(b'x')
    server = closing(FileServer(Shelf(bags=robot), '127.0.0.1', 0))
    pull = closing(puller(server.port, trainer))
    with pytest.raises(Failed, match='promised'):
        pull.look()
    assert pull.look() == ['a'] and content(trainer) == content(robot) and list(trainer.glob('.*')) == []


def test_a_robot_that_is_away_and_returns(tmp_path, rng, closing):
    robot, trainer = tmp_path / 'robot', tmp_path / 'trainer'
    server = FileServer(Shelf(bags=robot), '127.0.0.1', 0)
    pull = closing(puller(server.port, trainer))
    assert pull.look() == []
    port = server.port
    server.close()
    write_bag(robot, 'meanwhile', rng)
    for _ in range(2):
        with pytest.raises(Failed, match=f'http://127.0.0.1:{port}: '):
            pull.look()
    closing(FileServer(Shelf(bags=robot), '127.0.0.1', port))
    assert pull.look() == ['meanwhile']


def test_a_full_disk_waits(tmp_path, rng, closing, monkeypatch):
    robot = tmp_path / 'robot'
    write_bag(robot, 'a', rng)
    server = closing(FileServer(Shelf(bags=robot), '127.0.0.1', 0))
    pull = closing(puller(server.port, tmp_path / 'trainer'))
    monkeypatch.setattr(pulling, 'RESERVE', 10**18)
    with pytest.raises(Failed, match='MB are free, too little for a_0.mcap'):
        pull.look()
    monkeypatch.setattr(pulling, 'RESERVE', 0)
    assert pull.look() == ['a']


def get(server, path, method='GET', **headers):
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name.replace('_', '-'), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def test_nothing_else_can_be_read_or_written(tmp_path, rng, closing):
    bags, policies = tmp_path / 'run' / 'episodes', tmp_path / 'run' / 'policies'
    bag = write_bag(bags, 'a', rng, 100)
    policies.mkdir()
    (policies / 'policy_000003.onnx').write_bytes(b'policy')
    (policies / 'latest.json').write_text('{}')
    (tmp_path / 'run' / 'config.yaml').write_text('secret: 1')
    (bag / '.hidden').write_text('secret')
    os.symlink(tmp_path / 'run', bags / 'up')
    os.symlink(tmp_path / 'run' / 'config.yaml', bag / 'config.yaml')
    os.symlink(bag, bags / 'b')
    server = closing(FileServer(Shelf(bags, policies), '127.0.0.1', 0))
    assert get(server, '/policies/policy_000003.onnx')[:2] == (200, b'policy')
    listed = json.loads(get(server, '/bags/a')[1])['files']
    assert [(file['name'], file['size']) for file in listed] == [
        ('a_0.mcap', 100),
        ('a_1.mcap', 100),
        ('metadata.yaml', 5),
    ]
    for path in (
        '/',
        '/run',
        '/policies',
        '/policies/latest.json',
        '/bags/a/.hidden',
        '/bags/a/../../config.yaml',
        '/bags/..',
        '/bags/../config.yaml',
        '/bags/%2e%2e/config.yaml',
        '/bags/a/%2e%2e%2f%2e%2e%2fconfig.yaml',
        '/bags/up/config.yaml',
        '/bags/a/config.yaml',
        '/bags/b',
        '//etc/passwd',
        '/bags//etc/passwd',
        '/bags/a/a_0.mcap/x',
        '/bags/%00',
        '/bags/%ff',
        '/policies/../config.yaml',
        '/config.yaml',
    ):
        status, body, _ = get(server, path)
        assert status == 404 and b'secret' not in body, path
    for method in ('POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'):
        assert get(server, '/bags/a/a_0.mcap', method, Content_Length='0')[0] == 501
    only_policies = closing(FileServer(Shelf(policies=policies), '127.0.0.1', 0))
    assert get(only_policies, '/bags')[0] == get(only_policies, '/bags/a')[0] == 404
    with pytest.raises(InputError, match='expected an address of this computer and a free port'):
        FileServer(Shelf(bags), '127.0.0.1', server.port)


def test_parts_of_files_and_unchanged_lists(tmp_path, rng, closing):
    data = (write_bag(tmp_path, 'a', rng, 1000) / 'a_0.mcap').read_bytes()
    server = closing(FileServer(Shelf(tmp_path), '127.0.0.1', 0))
    for wanted, first, last in (
        ('bytes=0-', 0, 999),
        ('bytes=900-', 900, 999),
        ('bytes=5-9', 5, 9),
        ('bytes=5-5000', 5, 999),
    ):
        status, body, headers = get(server, '/bags/a/a_0.mcap', Range=wanted)
        assert (status, body, headers['Content-Range']) == (206, data[first : last + 1], f'bytes {first}-{last}/1000')
    assert get(server, '/bags/a/a_0.mcap', Range='bytes=1000-')[0] == 416
    assert get(server, '/bags/a/a_0.mcap', Range='bytes=-5')[:2] == (200, data), 'what is not understood is ignored'
    tag = get(server, '/bags')[2]['ETag']
    assert get(server, '/bags', If_None_Match=tag)[:2] == (304, b'')


def test_many_connections_leave_the_robot_alone(tmp_path, rng, closing, monkeypatch):
    write_bag(tmp_path, 'a', rng, 10)
    server = closing(FileServer(Shelf(tmp_path), '127.0.0.1', 0))
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        idle = [http.client.HTTPConnection('127.0.0.1', server.port, timeout=10) for _ in range(40)]
        for connection in idle:
            stack.enter_context(contextlib.closing(connection))
            connection.connect()
        time.sleep(0.3)
        assert threading.active_count() - before <= 16
        began = time.monotonic()
        assert get(server, '/bags')[0] == 200 and time.monotonic() - began < 5, 'who rests makes room'


def test_a_file_that_is_longer_than_it_was_is_sent_as_promised(tmp_path, rng, closing):
    bag = write_bag(tmp_path, 'a', rng, 300_000)
    server = closing(FileServer(Shelf(tmp_path), '127.0.0.1', 0))
    data = (bag / 'a_0.mcap').read_bytes()
    status, body, _ = get(server, '/bags/a/a_0.mcap', Range='bytes=10-200009')
    assert (status, body) == (206, data[10:200_010])


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers by path with what the test wants."""

    answers: dict

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        answer = self.answers.get(self.path)
        self.send_response(200 if answer is not None else 404)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


FILE = {'name': 'metadata.yaml', 'size': 3, 'sha256': '0' * 64}


@pytest.mark.parametrize(
    'answers, reason',
    [
        ({}, 'the server answers 404'),
        ({'/bags': b'<html>'}, 'expected a JSON object'),
        ({'/bags': {'bags': ['../../home']}}, 'expected names of bags'),
        ({'/bags': {'bags': ['.ssh']}}, 'expected names of bags'),
        ({'/bags': {'bags': ['a']}, '/bags/a': {}}, 'expected files with name, size and sha256'),
        ({'/bags': {'bags': ['a']}, '/bags/a': {'files': [{**FILE, 'name': '../x'}]}}, 'expected names and sizes'),
        ({'/bags': {'bags': ['a']}, '/bags/a': {'files': [{**FILE, 'name': '/etc/x'}]}}, 'expected names and sizes'),
        ({'/bags': {'bags': ['a']}, '/bags/a': {'files': [{**FILE, 'size': -1}]}}, 'expected names and sizes'),
        (
            {'/bags': {'bags': ['a']}, '/bags/a': {'files': [FILE]}, '/bags/a/metadata.yaml': b'x' * 9_000_000},
            'promised',
        ),
        ({'/bags': {'bags': ['a']}, '/bags/a': {'files': [FILE]}, '/bags/a/metadata.yaml': b'abc'}, 'promised'),
        ({'/bags': {'bags': ['a']}, '/bags/a': {'files': [FILE]}, '/bags/a/metadata.yaml': b'a'}, 'ended after 1 of 3'),
    ],
)
def test_servers_that_are_no_robot_write_nothing(tmp_path, closing, answers, reason):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('H', (Liar,), {'answers': answers}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        folder = tmp_path / 'here' / 'episodes'
        with pytest.raises(Failed, match=reason):
            closing(puller(server.server_port, folder)).look()
        assert content(tmp_path) == {}
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize('source', ['', 'robot:8075', 'ftp://robot', 'http://', 'http://robot:x', 'http://robot/?a=1'])
def test_addresses_that_are_none(tmp_path, source):
    with pytest.raises(InputError, match='expected http://<host>:<port> of a robot'):
        Puller(source, tmp_path, threading.Event())
