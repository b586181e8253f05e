"""What a robot plays after a restart while its trainer is away."""
from __future__ import annotations

import pytest

from dreamer_ros.nodes.policies import Policies, kept_policy
from tests.nodes.robot import write_contract, write_policy


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
        policies.load(manifest)
    policies.close()
    kept = kept_policy(folder, said.append)
    assert (kept.version, kept.sha256) == (2, manifests[1].sha256) and kept.uri.startswith(str(folder))
    assert len(list(folder.iterdir())) == 2, 'it and its manifest'
    again = Policies(contract, 0, folder, said.append)
    again.load(kept)
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
    policies.load(manifests[0])
    policies.close()
    assert policies.current.version == 1 and 'policy version 1 plays, but could not be kept in' in said[0]
