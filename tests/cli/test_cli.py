"""The `dreamer` command."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_ros.cli import main as cli
from dreamer_ros.cli import train
from dreamer_ros.cli.main import main
from dreamer_ros.config import load_preset, preset_names
from dreamer_ros.errors import InputError, run_main
from dreamer_ros.launching import SCENARIOS, scenario_options, supervisor
from dreamer_ros.options import as_arguments
from dreamer_ros.schema import describe

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


def commands() -> list[list[str]]:
    """Every command, verbs of groups among them."""
    found = []
    for name, (module, _) in cli.COMMANDS.items():
        entry = getattr(importlib.import_module(f'dreamer_ros.cli.{module}'), name)
        found += [[name], *([name, verb.name] for verb in getattr(entry, 'commands', ()))]
    return found


@pytest.mark.parametrize('words', [[], *commands()], ids=' '.join)
def test_every_command_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, '--help'])
    assert ended.value.code == 0
    assert f'example: {" ".join(["dreamer", *words])}' in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('words', commands(), ids=' '.join)
def test_every_option_is_explained_in_a_phrase(words):
    entry = getattr(importlib.import_module(f'dreamer_ros.cli.{cli.COMMANDS[words[0]][0]}'), words[0])
    verbs = {verb.name: verb for verb in getattr(entry, 'commands', ())}
    command = verbs[words[1]] if words[1:] else getattr(entry, 'alone', entry)
    for row in describe(command.options) if command else ():
        assert row.help.endswith('.') and (row.help[0].isupper() or row.help.startswith(tuple(row.choices))), row


def test_help_imports_nothing_heavy():
    code = (
        'import sys; from dreamer_ros.cli.main import make_parser; make_parser([]).format_help(); '
        "print(*({'numpy', 'pydantic', 'torch', 'mujoco', 'rclpy', 'yaml', 'onnxruntime'} & set(sys.modules)))"
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
        (['replay', '.', '--dream'], 'mode dream expects --run <run directory or checkpoint>'),
        (['replay', '.', '--simulate', '--policy', 'x.onnx'], 'not used in mode simulate'),
        (['replay', '.', '--simulate', '--dream'], 'expected one mode, got dream and simulate'),
        (['replay', '.', '--rate', 'fast'], "dreamer replay: rate: expected a number from 0.001 to 1000, got 'fast'"),
        (['train', 'walker_walk', '--bags', 'runs/a'], 'dreamer train: TASK does not go with training from bags'),
        (['train', 'walker_walk', '--updates', '5'], 'TASK does not go with training from bags'),
        (['train', '--bags', 'a', '--evaluate-every', '5'], '--evaluate-every does not go with training from bags'),
        (['train', '--bags', 'a', '--in-process'], '--in-process does not go with training from bags'),
        (['train', '--in-process', '--mode', 'free'], '--mode does not go with training with --in-process'),
        (['train', 'walker_wlak'], 'walker_walk'),
        (['trian'], "unknown command 'trian'; did you mean train"),
        (['bag', 'inof'], "dreamer bag: unknown command 'inof'; did you mean info"),
        (['train', '--stpes', '5'], 'dreamer train: unknown option --stpes; did you mean --steps'),
        (['train', 'tsk:=cup_catch'], 'did you mean task'),
        (['launch', 'sim_train', 'tsk:=cup_catch'], 'did you mean task'),
        (['presets', 'cpu'], "dreamer presets: expected no further word, got 'cpu'"),
        (['eval'], '^expected either RUN or --policy <ONNX file>$'),
        (['eval', 'episodes:=2'], '^expected either run:=<run directory> or policy:=<ONNX file>$'),
        (['launch', 'sim_eval'], '^expected either run:=<run directory> or policy:=<ONNX file>$'),
        (['train', 'walker_walk', '--steps', 'many'], "dreamer train: steps: expected a whole number .* got 'many'"),
    ],
)
def test_bad_input_is_one_sentence(words, expected):
    with pytest.raises(InputError, match=expected):
        main(words)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The scenarios that commands would start."""
    scenarios = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, 'launch', scenarios.append)
    monkeypatch.setattr('dreamer_ros.cli.launch.supervise', scenarios.append)
    return scenarios


@pytest.mark.parametrize(
    'words',
    [
        '--preset dreamerv3_1m --simulators 2 --evaluate-every 3 --override schedule.batch=8 schedule.length=32',
        '--preset=dreamerv3_1m --override schedule.batch=8 --override schedule.length=32 '
        'simulators:=2 evaluate_every:=3',
    ],
)
def test_train_starts_what_launch_sim_train_starts(words, started, tmp_path):
    assert main(['train', 'walker_walk', '--logdir', str(tmp_path / 'run'), *words.split()]) == 0
    arguments = ['task:=walker_walk', 'preset:=dreamerv3_1m', 'simulators:=2', 'evaluate_every:=3']
    overrides = 'overrides:=schedule.batch=8 schedule.length=32'
    main(['launch', 'sim_train', *arguments, overrides, f'logdir:={tmp_path / "run"}'])
    assert started[0] == started[1] and len(started[0].processes) == 7


def test_every_argument_of_sim_train_is_an_option_of_train():
    names = {row.key for row in describe(SCENARIOS['sim_train'][0])}
    assert names <= {row.key for row in describe(train.Train)}


def test_train_from_bags_goes_on_without_their_names(started, monkeypatch, tmp_path):
    """An existing run says itself how it learns, unless a task is named."""
    run = tmp_path / 'run'
    run.mkdir()
    plans = []
    monkeypatch.setattr('dreamer_ros.cli.train.plan', lambda options: plans.append(options) or 1 / 0)
    for bags, learns_from_bags in (('[]', False), ('[elsewhere]', True)):
        (run / 'config.yaml').write_text(load_preset('cpu', [f'replay.bags={bags}']).to_yaml())
        if learns_from_bags:
            with pytest.raises(ZeroDivisionError):
                main(['train', '--logdir', str(run)])
        else:
            main(['train', '--logdir', str(run)])
    assert [plan.logdir for plan in plans] == [str(run)] and len(started) == 1
    main(['train', 'cartpole_swingup', '--logdir', str(run)])
    assert len(started) == 2


def test_train_in_process(monkeypatch, capsys):
    given = {}

    def session(task, config, logdir, **options):
        given.update(options, task=task, config=config, logdir=logdir)
        return 'runs/x'

    monkeypatch.setattr('dreamer_ros.training.in_process.train_in_process', session)
    monkeypatch.setattr('signal.signal', lambda *_: None)
    words = 'train walker_walk --in-process --steps 5000 --seed 3 --override schedule.batch=2 --logdir x'
    assert main(words.split()) == 0 and 'runs/x' in capsys.readouterr().out
    assert (given['task'], given['config'].schedule.batch, given['logdir']) == ('walker_walk', 2, 'x')
    assert (given['steps'], given['seed'], given['simulators'], given['device']) == (5000, 3, 1, 'auto')
    assert not given['stop'].is_set()


def test_scenarios_have_commands(started, tmp_path):
    main(['eval', '--policy', 'cartpole_swingup', '--episodes', '3', '--output', str(tmp_path / 'x')])
    main(['record', 'robot:=rover arm', '--folder', str(tmp_path)])
    main(['record', '--robot', 'rover', 'arm', '--folder', str(tmp_path)])
    main(['replay', '.', '--simulate', '--task', 'x.yaml'])
    evaluation, first, second, replay = started
    assert evaluation.processes[-1].parameters['episodes'] == 3
    assert first == second and len(first.processes) == 2
    assert replay.processes[0].executable == 'resimulator'


def test_an_error_is_one_line_and_exit_code_2():
    result = dreamer('launch', 'sim_train', 'simulators:=none')
    assert result.returncode == 2
    assert result.stderr == "error: sim_train: simulators: expected a whole number from 1 to 1000, got 'none'\n"


@pytest.mark.parametrize('made', [KeyboardInterrupt, ImportError])
def test_ctrl_c_is_no_traceback(made, monkeypatch):
    """At any moment of any command, also when a library that is being imported makes another error of it."""

    def interrupted():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise made from None

    monkeypatch.setattr(cli, 'main', interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert cli.entry_point() == 130
    finally:
        signal.signal(signal.SIGINT, before)


LONG = 300 * 'x'


@pytest.mark.parametrize(
    'words',
    [
        ['train', 'cartpole_balance', f'logdir:={LONG}'],
        ['train', 'cartpole_balance', '--preset', LONG],
        ['train', '--bags', LONG],
        ['launch', 'deploy', f'policy:={LONG}.onnx'],
        ['launch', 'deploy', f'robot:={LONG}.yaml'],
        ['eval', LONG],
        ['replay', LONG],
        ['plot', LONG],
        ['dream', LONG, '--bag', LONG],
        ['bag', 'info', LONG],
        ['bag', 'import', LONG, '--to', LONG],
        ['bag', 'export', LONG, '--to', LONG],
        ['policy', 'quantize', f'{LONG}.onnx'],
    ],
    ids=' '.join,
)
def test_a_path_that_is_too_long_is_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: main(words)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and LONG in line and 'expected' in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('words', [['train', 'cartpole_balance'], ['launch', 'deploy', 'policy:=rover_target']])
def test_a_working_directory_that_was_deleted_is_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert run_main(lambda: main(words)) == 2
    assert capsys.readouterr().err == (
        'error: the working directory: expected a folder that exists, but it was deleted\n'
    )


def test_a_home_directory_that_nobody_knows_is_a_folder_that_is_not_there(monkeypatch, capsys):
    monkeypatch.delenv('HOME')
    monkeypatch.setattr('os.path.expanduser', lambda path: path)  # as for a user id without a name
    assert run_main(lambda: main(['bag', 'info', '~/runs'])) == 2
    assert capsys.readouterr().err.startswith('error: ~/runs: expected a bag')


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
