"""Foreign YAML and JSON: deep brackets and aliases of aliases give one sentence, wherever they come from."""

import os

import pytest

from dreamer_ros.benchmark.plan import Plan
from dreamer_ros.benchmark.results import Results
from dreamer_ros.config import load_preset
from dreamer_ros.episodes.bag_reader import read_metadata
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.errors import InputError
from dreamer_ros.formats.lerobot_metadata import Metadata
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.simulation import task_file
from dreamer_ros.simulation.origin import Origin
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import read_checkpoint
from dreamer_ros.training.run_directory import check_run
from tests.test_schema import BOMB, BRACKETS

READERS = {  # by the name of the file
    'preset.yaml': lambda path: load_preset(str(path)),
    'override': lambda path: load_preset('cpu', (f'env.cameras={path.read_text()}',)),
    'robot.yaml': load_contract,
    'task.yaml': task_file.read,
    'labels.yaml': Labels.load,
    'plan.yaml': lambda path: Plan.make(path, {}),
    'metadata.yaml': lambda path: read_metadata(path.parent),
    'config.yaml': lambda path: check_run(path.parent, None, load_preset('cpu')),
    'results.json': lambda path: Results(path.parent),
    'meta/info.json': lambda path: Metadata(path.parent.parent),
    'manifest': lambda path: Manifest.from_json(path.read_text(), 'topic policy'),
    'spec': lambda path: RobotSpec.from_json(path.read_text(), 'topic spec'),
    'manifest.json': lambda path: read_checkpoint(path.parent),
    'origin': lambda path: Origin.from_json(path.read_text(), 'bag monday'),
}


@pytest.mark.parametrize('text', [BRACKETS, BOMB], ids=['brackets', 'aliases'])
@pytest.mark.parametrize('name', READERS)
def test_is_refused_in_one_sentence(name, text, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        READERS[name](path)
    sentence = str(caught.value).replace(text, '…')
    assert '\n' not in sentence and len(sentence) < 500 and 'expected' in sentence


@pytest.mark.parametrize('name', [name for name in READERS if '.' in name])  # the others come as texts
def test_a_pipe_is_refused_at_once(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(InputError):
        READERS[name](path)
