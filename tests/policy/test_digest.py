"""What a policy file says about its own content."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.errors import InputError
from dreamer_ros.paths import share
from dreamer_ros.policy.digest import BLOCK, check_digest, has_digest, with_digest
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.quantize import quantize
from dreamer_ros.policy.runner import PolicyRunner
from tests.policy.tiny import spec, tiny_policy

ENTRY = 84  # bytes of the entry: tag and length of it, of its key and of its value
METADATA = dict(system='tiny', preset='tiny', step=7, version=3)


@pytest.fixture
def policy(tmp_path):
    Exporter(tiny_policy(spec()), spec()).write(tmp_path / 'policy.onnx', METADATA)
    return tmp_path / 'policy.onnx'


def accepted(path) -> bool:
    try:
        return main(['policy', 'verify', str(path)]) == 0
    except InputError as error:
        assert str(path) in str(error) and '\n' not in str(error)
        return False


def test_every_file_we_write_ends_with_it(policy, tmp_path):
    quantize(policy, tmp_path / 'small.onnx')
    for path in (policy, tmp_path / 'small.onnx', *share('models', 'policies').glob('*.onnx')):
        data, model = path.read_bytes(), onnx.load(str(path))
        onnx.checker.check_model(model)  # refuses a key that is there twice
        assert model.metadata_props[-1].key == 'content_sha256'
        assert model.metadata_props[-1].value == hashlib.sha256(data[:-64]).hexdigest() == data[-64:].decode()
        del model.metadata_props[-1]
        assert model.SerializeToString() == data[:-ENTRY]
        assert with_digest(data) == data == with_digest(data[:-ENTRY])


def test_any_changed_byte_is_found(policy, tmp_path, rng, capsys):
    data = policy.read_bytes()
    assert accepted(policy)
    places = [*rng.integers(0, len(data), 300), *range(len(data) - ENTRY, len(data))]
    for place in places:
        changed = np.frombuffer(data, np.uint8).copy()
        changed[place] ^= rng.integers(1, 256)
        (tmp_path / 'changed.onnx').write_bytes(changed.tobytes())
        assert not accepted(tmp_path / 'changed.onnx'), f'byte {place} of {len(data)}'
    for other in (data + b'\0', data[:-1], data[1:], data[:-ENTRY] + data[-ENTRY:] * 2):
        (tmp_path / 'changed.onnx').write_bytes(other)
        assert not accepted(tmp_path / 'changed.onnx')


def test_an_entry_is_found_wherever_it_is():
    """The search goes block by block."""
    entry = with_digest(b'')
    for place in range(BLOCK - len(entry), BLOCK + 2):
        data = bytearray(2 * BLOCK + 500)
        assert not has_digest(data)
        data[place : place + len(entry)] = entry
        with pytest.raises(InputError, match='was damaged'):
            check_digest(bytes(data), 'x')


def test_a_refusal_says_why(policy):
    data = bytearray(policy.read_bytes())
    place = data.index(np.float32(0.1).tobytes())  # the least bit of `minimum_std`
    data[place] ^= 1
    policy.write_bytes(data)
    with pytest.raises(InputError, match='policy.onnx: expected the content that its own content_sha256 was made of'):
        PolicyRunner(policy)
    policy.write_bytes(data[:-ENTRY])
    PolicyRunner(policy)  # nothing else tells


def test_a_file_without_it_still_plays(policy, capsys):
    policy.write_bytes(policy.read_bytes()[:-ENTRY])
    assert accepted(policy) and 'neither content_sha256 nor a manifest' in capsys.readouterr().out
