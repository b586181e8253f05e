"""Typed models: what is refused and in which words, what is read of YAML and JSON, and what describes a model."""

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from dreamer_ros.errors import InputError
from dreamer_ros.schema import (
    MAX_BYTES,
    Count,
    Expected,
    Mismatch,
    Model,
    Name,
    Positive,
    Range,
    check,
    describe,
    line_of,
    load_json,
    load_yaml,
    reference,
)

ROOT = Path(__file__).resolve().parent.parent
BRACKETS = '[' * 100_000
BOMB = 'a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n' + ''.join(
    f'{name}: &{name} [{", ".join([f"*{below}"] * 9)}]\n' for below, name in zip('abcdefghi', 'bcdefghij')
)


class Near(Model):
    type: Literal['near']
    distance: Positive = Field(description='m')


class Tilt(Model):
    type: Literal['tilt', 'roll']
    low: float = Field(0.0, description='degrees')
    high: float = Field(90.0, description='degrees')

    @model_validator(mode='after')
    def _ordered(self):
        if self.low > self.high:
            raise Mismatch('high', f'at least low ({self.low:g})', self.high)
        return self


class Network(Model):
    units: int = Field(64, ge=1, le=4096, description='width of a layer')
    share: float = Field(0.5, ge=0, le=1, description='of the batch')
    activation: Literal['relu', 'silu'] = Field('silu', description='between layers')


class Task(Model):
    name: Name = Field(description='for people')
    ends: tuple[Annotated[Near | Tilt, Field(discriminator='type')], ...] = Field((), description='what ends it')
    network: Network = Field(Network(), description='of the critic')
    joints: dict[str, Range] = Field({}, description='rad')
    repeats: dict[str, Count] = Field({}, description='by task')
    cameras: Annotated[str | tuple[str, ...], Expected('a name or a list of names')] = Field((), description='names')
    length: int | None = Field(None, ge=1, description='steps')
    fast: bool = Field(False, description='or slow')


def refusal(data):
    with pytest.raises(InputError) as caught:
        check(Task, data, 'task.yaml')
    return str(caught.value)


@pytest.mark.parametrize(
    'data, sentence',
    [
        ({'name': ''}, "name: expected a name, got ''"),
        ({}, 'name (a name) is missing'),
        ([1], 'expected a mapping of names to values, got [1]'),
        ({'network': {'units': '5'}}, "network.units: expected a whole number from 1 to 4096, got '5'"),
        ({'network': {'units': True}}, 'network.units: expected a whole number from 1 to 4096, got True'),
        ({'network': {'units': 2.0}}, 'network.units: expected a whole number from 1 to 4096, got 2.0'),
        ({'network': {'share': False}}, 'network.share: expected a number from 0 to 1, got False'),
        ({'network': {'share': float('inf')}}, 'network.share: expected a finite number from 0 to 1, got inf'),
        ({'network': {'activation': 'elu'}}, "network.activation: expected one of relu, silu, got 'elu'"),
        ({'network': 3}, 'network: expected a mapping of names to values, got 3'),
        ({'network': {'unit': 3}}, 'unknown key network.unit; did you mean units?'),
        ({'network': {'zzz': 3}}, 'unknown key network.zzz; expected one of units, share, activation'),
        ({5: 3}, 'unknown key 5; expected one of name, ends, '),
        ({'ends': [{'type': 'near', 'distance': 0}]}, 'ends[0].distance: expected a number above 0, got 0'),
        ({'name': 'a', 'ends': [{'type': 'near'}]}, 'ends[0].distance (a number above 0) is missing'),
        ({'ends': [{'type': 'near', 'distance': 1, 'low': 2}]}, 'unknown key ends[0].low; expected one of type, '),
        ({'ends': [{'type': 'far'}]}, "ends[0].type: expected one of near, tilt, roll, got 'far'"),
        ({'ends': [{'distance': 1}]}, 'ends[0].type (one of near, tilt, roll) is missing'),
        ({'ends': [4]}, 'ends[0]: expected a mapping of names to values, got 4'),
        ({'ends': 4}, 'ends: expected a list of mappings, got 4'),
        ({'ends': [{'type': 'roll', 'low': 99}]}, 'ends[0].high: expected at least low (99), got 90.0'),
        ({'joints': {'elbow': [2, 1]}}, 'joints.elbow: expected [low, high], got [2, 1]'),
        ({'joints': {'elbow': [2]}}, 'joints.elbow: expected [low, high], got [2]'),
        ({'joints': {3: [1, 2]}}, 'joints.3: expected a name, got 3'),
        ({'repeats': {'walk': 0}}, 'repeats.walk: expected a whole number of at least 1, got 0'),
        ({'repeats': []}, 'repeats: expected a mapping of names to whole numbers of at least 1, got []'),
        ({'cameras': [3]}, 'cameras: expected a name or a list of names, got [3]'),
        ({'length': 0}, 'length: expected a whole number of at least 1, got 0'),
        ({'fast': 1}, 'fast: expected true or false, got 1'),
        ({'fast': 1, 'length': 0}, 'length: expected a whole number'),
        ({'fast': 1}, 'fast: expected true or false'),
        ({'nam': 'a'}, 'unknown key nam; did you mean name?'),
        ({'zzz': 1, 'name': 3}, 'unknown key zzz'),
        ({'name': [list(range(1000))]}, '…'),
    ],
)
def test_one_sentence_names_an_unknown_key_or_else_a_wrong_value_or_else_a_missing_one(data, sentence):
    text = refusal(data)
    assert text.startswith('task.yaml: ') and '\n' not in text and len(text) < 300
    assert text.removeprefix('task.yaml: ').startswith(sentence) or sentence in text[-1:], text


def test_what_fits_is_made_of_lists_and_whole_numbers():
    data = {
        'name': 'a',
        'ends': [{'type': 'near', 'distance': 2}, {'type': 'roll'}],
        'joints': {'elbow': [0, 1]},
        'cameras': ['front'],
    }
    task = check(Task, data, 'task.yaml')
    assert task.ends[0].distance == 2.0 and isinstance(task.ends[0].distance, float)
    assert task.ends[1].high == 90.0 and task.joints['elbow'] == (0.0, 1.0) and task.cameras == ('front',)
    with pytest.raises(ValueError):
        task.name = 'b'
    assert task.model_copy(update={'name': 'b'}).name == 'b'


def test_a_model_describes_itself():
    rows = {row.key: row for row in describe(Task)}
    assert list(rows) == [
        'name',
        'ends',
        'ends[].type',
        'ends[].distance',
        'ends[].low',
        'ends[].high',
        'network.units',
        'network.share',
        'network.activation',
        'joints',
        'repeats',
        'cameras',
        'length',
        'fast',
    ]
    units = rows['network.units']
    assert (units.type, units.allowed, units.default, units.help) == (
        'whole number',
        'from 1 to 4096',
        64,
        'width of a layer',
    )
    assert (units.limits.ge, units.limits.le) == (1, 4096)
    assert rows['network.activation'].choices == ('relu', 'silu') and rows['name'].required
    assert (rows['length'].type, rows['length'].default) == ('whole number', None)
    table = reference(Task)
    assert '| `network.units` | whole number | from 1 to 4096 | `64` | width of a layer |' in table
    assert '| `name` | name |  | required | for people |' in table


@pytest.mark.parametrize(
    'text, names',
    [
        (BRACKETS, ('50 levels', 'line 1')),
        ('{' * 100_000, ('50 levels',)),
        ('- ' * 50_000, ('50 levels',)),
        (''.join(f'{" " * depth}a:\n' for depth in range(300)), ('50 levels', 'line 50')),
        (BOMB, ('aliases', '10000 values')),
        ('a: &a [*a]', ("alias 'a' within itself",)),
        ('a: *b', ("alias 'b'", 'line 1')),
        ('a: 1\nb: {c: 1, d: 2, c: 3}\n', ("the key 'c' twice", 'line 2')),
        ('a: 1\nb: [1', ('flow sequence',)),
        ('a: 2020-13-45', ('month',)),
        ('a: ' + '9' * 5000, ('digits',)),
        ('a: \x00', ('#x0000',)),
        ('---\n1\n---\n2\n', ('document',)),
    ],
)
def test_yaml_that_is_refused(text, names):
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_yaml(text, 'x.yaml')
    assert time.monotonic() - begun < 2
    sentence = str(caught.value)
    assert sentence.startswith('x.yaml: expected YAML, got ') and '\n' not in sentence and len(sentence) < 300
    assert all(name in sentence for name in names), sentence


def test_yaml_that_is_read(tmp_path):
    file = tmp_path / 'x.yaml'
    file.write_text('a: &a {b: 1e-4, c: 2e4}\nd: *a\ne: {<<: *a, b: 2}\nf: "1e5"\ng: 1e5x\n')
    content = load_yaml(file, 'x.yaml')
    assert content['a'] == content['d'] == {'b': 1e-4, 'c': 20000}
    assert content['e'] == {'b': 2, 'c': 20000} and (content['f'], content['g']) == ('1e5', '1e5x')
    assert load_yaml('a: 123e4', 'x', exponents=False) == {'a': '123e4'}
    with pytest.raises(InputError, match='absent.yaml'):
        load_yaml(tmp_path / 'absent.yaml', 'x')


@pytest.mark.parametrize(
    'text, names',
    [
        (BRACKETS, '50 brackets'),
        ('{"a":' * 100_000, '50 brackets'),
        ('"' + '\\"[' * 100_000, 'Unterminated'),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('', 'nothing'),
        ('[1', "'[1'"),
        ('9' * 5000, 'digits'),
        (b'\xff\xfe', 'UTF-8'),
        (BOMB, 'a: &a'),
    ],
)
def test_json_that_is_refused(text, names):
    with pytest.raises(InputError) as caught:
        load_json(text, 'topic spec')
    sentence = str(caught.value)
    assert sentence.startswith('topic spec: expected ') and names in sentence and len(sentence) < 300


def test_json_that_is_read(tmp_path):
    file = tmp_path / 'x.json'
    file.write_text('{"a": ["[[[[", {"b": "\\"["}]}')
    assert load_json(file, 'x') == {'a': ['[[[[', {'b': '"['}]}
    assert load_json(b'[[1], [2]]' + b' ' * 100, 'x') == [[1], [2]]
    deep = '[' * 50 + ']' * 50
    assert load_json(f'[{deep[1:-1]}]', 'x')


@pytest.mark.parametrize('load', [load_yaml, load_json])
def test_what_is_too_large_is_refused_before_it_is_read(load, tmp_path):
    file = tmp_path / 'x'
    with open(file, 'wb') as stream:
        stream.truncate(MAX_BYTES + 1)
    for source in (file, ' ' * (MAX_BYTES + 1)):
        with pytest.raises(InputError, match='x: expected at most 32 MB, got 32 MB'):
            load(source, 'x')


def test_every_key_that_people_write_is_described():
    for path in sorted((ROOT / 'dreamer_ros').rglob('[!_]*.py')):
        if path.stem not in ('ros2', 'timeline'):  # they need packages that may be missing
            importlib.import_module('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    models = [model for model in subclasses(Model) if model.__module__.startswith('dreamer_ros.')]
    assert {'DreamerConfig', 'RobotContract', 'TaskFile', 'LabelsFile'} <= {model.__name__ for model in models}
    for model in models:
        for row in describe(model) if model.model_config['extra'] == 'forbid' else ():
            assert row.help, f'{model.__module__}.{model.__name__}.{row.key}'


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_importing_it_is_quick():
    code = 'import time; t = time.process_time(); import dreamer_ros.schema; print(time.process_time() - t)'
    seconds = min(
        float(subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True).stdout) for _ in range(3)
    )
    assert seconds < 0.6  # about 0.15 on an idle desktop


@pytest.mark.parametrize(
    ('key', 'line'),
    [
        ('name', 1),
        ('command.axes[0].limits', 4),
        ('command.axes[1].limits', 6),
        ('command.axes[1].unit', 5),
        ('command.axes[7]', 3),
        ('cameras.left.topic', 8),
        ('nothing.at.all', 1),
        ('', 1),
    ],
)
def test_the_line_of_a_key(key, line):
    """Of the nearest one around it where there is none."""
    text = '\n'.join(
        [
            'name: mine',
            'command:',
            '  axes:',
            '    - {name: a, limits: [0, 1]}',
            '    - name: b',
            '      limits: [0, 1]',
            'cameras:',
            '  left: {topic: /a}',
        ]
    )
    assert line_of(text, key) == line
