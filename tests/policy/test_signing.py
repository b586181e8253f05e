"""Signatures: what is signed, altered, or signed by somebody else."""

from __future__ import annotations

import stat

import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.errors import InputError
from dreamer_ros.policy.loader import load, stored_manifest
from dreamer_ros.policy.manifest import Golden, Manifest
from tests.policy.tiny import manifest, spec, tiny_policy

pytest.importorskip('cryptography')
from dreamer_ros.policy import signing  # noqa: E402

MANIFEST = manifest()


@pytest.fixture
def key(tmp_path):
    signing.generate_key(tmp_path / 'team.key')
    return signing.load_key(tmp_path / 'team.key')


def test_a_signature_holds_for_any_place_and_survives_json(key):
    signed = signing.sign(MANIFEST, key)
    signed = Manifest.from_json(signed.at('http://trainer/policy.onnx').to_json())
    signing.verify(signed, signing.public_key(key))


@pytest.mark.parametrize(
    'change',
    [
        {'version': 4},
        {'sha256': 'cd' * 32},
        {'size': 999},
        {'spec_hash': 'f' * 16},
        {'control_period': 0.1},
        {'golden': Golden(seed=1, action=((0.5, 0.25),))},
        {'signature': 'abcd'},
        {'signature': 'no digits'},
    ],
)
def test_an_altered_manifest_is_refused(key, change):
    altered = signing.sign(MANIFEST, key).model_copy(update=change)
    with pytest.raises(InputError, match=r'policy /runs/policy.onnx .*: this manifest was altered|signed with another'):
        signing.verify(altered, signing.public_key(key))


def test_an_unsigned_manifest_and_a_strangers_are_refused(key, tmp_path):
    with pytest.raises(InputError, match='expected a signature by the key .*, got none'):
        signing.verify(MANIFEST, signing.public_key(key))
    stranger = signing.generate_key(tmp_path / 'stranger.key')
    with pytest.raises(InputError, match='signed with another key'):
        signing.verify(signing.sign(MANIFEST, key), stranger)


def test_keys(tmp_path):
    path = tmp_path / 'team.key'
    text = signing.generate_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(signing.parse_public_key(text)) == 32
    assert signing.public_key(signing.load_key(path)) == text
    with pytest.raises(InputError, match='expected a new file'):
        signing.generate_key(path)
    for wrong in ('', 'hello', text[:-2], text.upper() + 'G'):
        with pytest.raises(InputError, match='public key: expected 64 hexadecimal digits'):
            signing.parse_public_key(wrong)
    path.write_text('hello')
    with pytest.raises(InputError, match='expected an ed25519 private key'):
        signing.load_key(path)


def test_the_commands(tmp_path, capsys):
    from dreamer_ros.policy.export import Exporter

    robot = spec()
    policy = tmp_path / 'policy.onnx'
    Exporter(tiny_policy(robot), robot).write(policy, dict(system='tiny', preset='tiny', step=1, version=7))
    assert main(['policy', 'keygen', str(tmp_path / 'key')]) == 0
    public = capsys.readouterr().out.split()[-1]
    with pytest.raises(InputError, match='got none'):
        main(['policy', 'verify', str(policy), '--key', public])
    assert main(['policy', 'sign', str(policy), '--key', str(tmp_path / 'key')]) == 0
    assert main(['policy', 'verify', str(policy), '--key', public]) == 0
    assert f'version 7 for tiny (spec {robot.hash}), signed by {public}' in capsys.readouterr().out
    manifest = stored_manifest(policy)
    assert stored_manifest(tmp_path / 'policy.manifest.json') == manifest and manifest.uri == str(policy)
    policy.write_bytes(policy.read_bytes()[:-1] + b'x')
    signing.verify(manifest, public)  # the signature is about the manifest,
    with pytest.raises(InputError, match='expected sha256'):  # which is about the file
        load(manifest)
