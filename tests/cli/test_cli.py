"""The `dreamer` command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_ros.cli import main as cli
from dreamer_ros.cli.main import main
from dreamer_ros.config import preset_names
from dreamer_ros.errors import InputError
from dreamer_ros.launching import SCENARIOS, scenario_options
from dreamer_ros.options import as_arguments

ROOT = Path(__file__).resolve().parents[2]


def dreamer(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'dreamer_ros.cli', *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize(
    'words',
    [
        [],
        ['launch'],
        ['eval'],
        ['plot'],
        ['dream'],
        ['replay'],
        ['benchmark'],
        ['benchmark', 'table'],
        ['bag'],
        ['bag', 'info'],
        ['bag', 'video'],
        ['bag', 'plot'],
        ['view'],
        ['tasks'],
        ['presets'],
        ['call'],
    ],
)
def test_every_command_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, '--help'])
    assert ended.value.code == 0
    assert f'example: {" ".join(["dreamer", *words])}' in ' '.join(capsys.readouterr().out.split())


def test_help_imports_nothing_heavy():
    code = (
        'import sys; from dreamer_ros.cli.main import _parser; _parser().format_help(); '
        "print(*({'numpy', 'torch', 'mujoco', 'rclpy', 'yaml', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout.split() == []


def test_arguments_of_scenarios_are_listed(capsys):
    assert main(['launch']) == 0
    printed = capsys.readouterr().out
    for name in SCENARIOS:
        assert f'{name}:\n' in printed
        assert all(f'  {argument.name}:=' in printed for argument in as_arguments(scenario_options(name)))
    assert main(['launch', 'sim_eval', '--show-args']) == 0
    assert 'sim_train' not in capsys.readouterr().out


def test_presets_and_tasks(capsys):
    assert main(['presets']) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == preset_names()
    assert main(['tasks']) == 0
    tasks = set(capsys.readouterr().out.split())
    assert {'cartpole_swingup', 'walker_walk', 'cup_catch', 'rover_target'} <= tasks


@pytest.mark.parametrize(
    'words, expected',
    [
        (['launch', 'sim_tran'], 'unknown scenario'),
        (['launch', 'sim_train', 'task=walker_walk'], 'expected name:=value'),
        (['launch', 'sim_train', 'task:=walker_wlak'], 'walker_walk'),
        (['eval', '/nonexistent'], '/nonexistent'),
        (['plot', '/nonexistent'], '/nonexistent'),
        (['bag', 'info', '/nonexistent'], '/nonexistent'),
        (['bag', 'plot', '/nonexistent'], '/nonexistent'),
        (['bag', 'video', '/nonexistent'], '/nonexistent'),
        (['replay', '/nonexistent'], '/nonexistent'),
        (['replay', '.', '--dream'], 'mode dream expects run'),
        (['replay', '.', '--simulate', '--policy', 'x.onnx'], 'not used in mode simulate'),
    ],
)
def test_bad_input_is_one_sentence(words, expected):
    with pytest.raises(InputError, match=expected):
        main(words)


def test_an_error_is_one_line_and_exit_code_2():
    result = dreamer('launch', 'sim_train', 'simulators:=none')
    assert result.returncode == 2
    assert result.stderr == "error: sim_train: simulators: expected a whole number from 1 to 1000, got 'none'\n"


def test_ctrl_c_is_no_traceback(monkeypatch):
    """At any moment of any command."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, 'main', interrupted)
    assert cli.entry_point() == 130


@pytest.mark.parametrize(
    'package, words, extra',
    [
        ('dm_control', ['tasks'], 'sim'),
        ('torch', ['dream', '{run}', '--bag', '{run}'], 'train'),
        ('matplotlib', ['plot', '{run}'], 'view'),
        ('rerun', ['view', '{run}'], 'view'),
    ],
)
def test_a_missing_extra_is_named(package, words, extra, tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{}\n')
    words = [word.format(run=tmp_path) for word in words]
    # None in sys.modules makes the import fail as if the package were not installed
    code = (
        f'import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {words!r}; '
        'from dreamer_ros.cli.main import entry_point; sys.exit(entry_point())'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    assert result.returncode == 2
    assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1, result.stderr
    assert f"pip install 'dreamer_ros[{extra}]'" in result.stderr


def test_a_reader_that_leaves_early_gets_no_traceback():
    command = f'{sys.executable} -m dreamer_ros.cli presets | true'
    result = subprocess.run(['bash', '-c', command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert result.stderr == ''
