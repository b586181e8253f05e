"""What the key of a run proves, and to whom its token is told."""

from __future__ import annotations

import contextlib
import io
import threading

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.policy import loader
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.run_key import VARIABLE, RunKey, given_key, key_of
from dreamer_ros.transfer.client import Client, Failed
from dreamer_ros.transfer.pulling import Puller
from dreamer_ros.transfer.serving import FileServer, Shelf
from tests.policy.tiny import manifest

DATA = b'a policy'
MANIFEST = manifest(uri='/runs/p.onnx', size=len(DATA))


@pytest.fixture
def key(tmp_path):
    return RunKey(key_of(tmp_path / 'run'))


@pytest.fixture
def server(tmp_path, key):
    """It asks for the key's token."""
    (tmp_path / 'policies').mkdir()
    (tmp_path / 'policies' / 'policy_000003.onnx').write_bytes(DATA)
    shelf = Shelf(bags=tmp_path / 'bags', policies=tmp_path / 'policies')
    with contextlib.closing(FileServer(shelf, '127.0.0.1', 0, key.token)) as made:
        yield made


def test_a_run_has_one_key_that_nobody_else_reads(key, monkeypatch):
    assert key_of(key.path.parent) == key.path and key.path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(VARIABLE, str(key.path))
    assert given_key().proves(b'x', key.proof(b'x')), 'it is the same the second time'
    assert not key.proves(b'y', key.proof(b'x')) and not key.proves(b'x', 'é')
    assert key.token not in key.path.read_text() and key.path.read_text().strip() not in key.token
    key.path.write_text('secret')
    with pytest.raises(InputError, match='expected a key of 64 hexadecimal digits$'):
        given_key()


@pytest.mark.parametrize(
    'change',
    [{'version': 4}, {'sha256': 'cd' * 32}, {'uri': 'http://evil/p.onnx'}, {'size': 9}, {'proof': ''}, {'proof': 'é'}],
)
def test_a_proof_holds_for_one_announcement(key, change, tmp_path):
    announced = Manifest.from_json(MANIFEST.announced(key).to_json())
    assert announced.proven(key) and announced.announced(key) == announced
    assert not announced.model_copy(update=change).proven(key)
    assert not announced.proven(RunKey(key_of(tmp_path / 'another')))


def test_files_are_told_to_who_has_the_key(key, server, tmp_path, monkeypatch):
    url = f'http://127.0.0.1:{server.port}/bags'
    for token in ('', 'guess', key.path.read_text().strip()):
        with (
            contextlib.closing(Client(token=token)) as client,
            pytest.raises(Failed, match='asks for the key') as error,
        ):
            client.document(url, 1000)
        assert error.value.status == 401
    with contextlib.closing(Client(token=key.token)) as client:
        assert client.document(url, 1000)[0] == b'{"bags": []}'
    monkeypatch.setenv(VARIABLE, str(key.path))
    with contextlib.closing(Puller(url.removesuffix('/bags'), tmp_path / 'here', threading.Event())) as puller:
        assert puller.look() == []


def test_a_policy_is_fetched_with_the_token_only_where_the_trainer_says(key, server, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(key.path))
    here = MANIFEST.at(f'http://127.0.0.1:{server.port}/policies/policy_000003.onnx')
    assert loader._fetch(here.announced(key), None, io.BytesIO()) == DATA
    stranger = MANIFEST.announced(key).at(here.uri)  # it would get to know the token
    with pytest.raises(InputError, match='asks for the key of its run'):
        loader._fetch(stranger, None, io.BytesIO())


def test_the_token_does_not_follow_redirects(key):
    heard = []

    class Elsewhere(Shelf):
        def find(self, path):
            return b'{}'

    with contextlib.ExitStack() as stack:
        target = stack.enter_context(contextlib.closing(FileServer(Elsewhere(), '127.0.0.1', 0)))
        handler = target._server.RequestHandlerClass

        class Spy(handler):
            def do_GET(self):  # noqa: N802 - the name that http.server calls
                heard.append((self.path, self.headers.get('Authorization')))
                if self.path == '/there':
                    self.send_response(302)
                    self.send_header('Location', f'http://localhost:{target.port}/elsewhere')
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                else:
                    super().do_GET()

        target._server.RequestHandlerClass = Spy
        client = stack.enter_context(contextlib.closing(Client(token=key.token)))
        assert client.document(f'http://127.0.0.1:{target.port}/there', 100)[0] == b'{}'
    assert heard == [('/there', f'Bearer {key.token}'), ('/elsewhere', None)]
