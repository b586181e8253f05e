"""Benchmarks: they run, go on after a break, and compare what came out as an independent calculation does."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dreamer_ros.benchmark import sweep
from dreamer_ros.benchmark.comparison import METHODS, Comparison, Published, mean_curve
from dreamer_ros.benchmark.plan import Plan
from dreamer_ros.benchmark.results import Outcome, Protocol, Results, Run, config_hash
from dreamer_ros.cli.main import main
from dreamer_ros.errors import InputError
from tests.learners import write_preset

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    'env.action_repeat={default: 8}',
    'schedule.prefill=130',
    'schedule.replay_ratio=2',
    'schedule.publish_every=2',
    'schedule.log_every=2',
    'schedule.overlap=false',
)
PROTOCOL = Protocol(steps=1400, evaluations=2, curve_episodes=1, episodes=2)


@pytest.fixture
def tiny(tmp_path) -> str:
    return write_preset(tmp_path / 'tiny.yaml', *OVERRIDES)


def plan(tiny: str, output: Path, **changes) -> Plan:
    made = Plan(['random', tiny], ['cartpole_balance'], [0], PROTOCOL, output, jobs=1, simulators=1)
    return dataclasses.replace(made, **changes)


def test_a_benchmark_runs_and_goes_on_after_an_interruption(tiny, tmp_path, monkeypatch):
    output = tmp_path / 'out'
    whole = []

    def interrupt(self, run):
        whole.append(run.key)
        add(self, run)
        raise KeyboardInterrupt

    add = Results.add
    monkeypatch.setattr(Results, 'add', interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep.run_benchmark(plan(tiny, output))
    assert whole == [('random', 'cartpole_balance', 0)]
    first = Results(output).runs
    assert [run.key for run in first] == whole

    monkeypatch.setattr(Results, 'add', lambda self, run: (whole.append(run.key), add(self, run)))
    (output / 'runs' / 'tiny-cartpole_balance-0').mkdir(parents=True)  # of an interrupted run
    (output / 'runs' / 'tiny-cartpole_balance-0' / 'config.yaml').write_text('of another run')
    results = sweep.run_benchmark(plan(tiny, output))
    assert whole == [('random', 'cartpole_balance', 0), ('tiny', 'cartpole_balance', 0)]  # none twice
    assert results.find(whole[0]) == first[0]

    run = results.find(whole[1])
    outcome = run.outcome
    assert run.action_repeat == 8 and run.image_size == (32, 32) and run.actions == 'deterministic'
    assert outcome.env_steps == 1400
    # (175 - 130) steps after the prefill, one update each 2 x 8 of them
    assert outcome.updates == 2
    assert [point[0] for point in outcome.curve] == [704, 1400]  # whole agent steps
    assert all(0 < value < 1000 and count == 1 for _, _, value, count in outcome.curve)
    assert len(outcome.returns) == 2
    assert (output / 'runs' / 'tiny-cartpole_balance-0' / 'policies' / 'latest.json').exists()

    # finished: nothing runs any more, and what came out is the same
    sweep.run_benchmark(plan(tiny, output))
    assert len(whole) == 2

    # another preset under the same name is no run of this benchmark
    write_preset(Path(tiny), *OVERRIDES, 'mlp.units=9')
    with pytest.raises(InputError, match='tiny cartpole_balance seed 0 to be of the present preset'):
        sweep.run_benchmark(plan(tiny, output))
    with pytest.raises(InputError, match='steps 1500 instead of 1400'):
        sweep.run_benchmark(plan(tiny, output, protocol=dataclasses.replace(PROTOCOL, steps=1500)))


def test_two_systems_of_one_name_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match='got random and other/random.yaml'):
        sweep.run_benchmark(plan(tiny, tmp_path / 'out', systems=['random', tiny, 'random', 'other/random.yaml']))
    assert not (tmp_path / 'out').exists()


def test_a_second_benchmark_in_one_folder_is_refused(tiny, tmp_path, monkeypatch):
    output = tmp_path / 'out'

    class Busy:
        def __init__(self, *_):
            pass

        def run(self):
            with pytest.raises(InputError, match=f'expected no other benchmark, but process {os.getpid()} runs one'):
                sweep.run_benchmark(plan(tiny, output))

    monkeypatch.setattr(sweep, '_Benchmark', Busy)
    for _ in range(2):  # when the first has ended, the next may begin
        sweep.run_benchmark(plan(tiny, output))


@pytest.mark.parametrize('sent', [b'', b'\0\0\1\0half of a message'])
def test_a_run_that_dies_is_told(tiny, tmp_path, monkeypatch, sent):
    """kill -9, also in the middle of what it says."""
    killed = [sys.executable, '-c', f'import os, sys; os.write(int(sys.argv[1]), {sent!r}); os.kill(os.getpid(), 9)']
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, 'Popen', lambda command, **more: popen([*killed, command[-1]], **more))
    with pytest.raises(InputError, match='1 of 1 runs failed: random .*: its process ended with exit code -9'):
        sweep.run_benchmark(plan(tiny, tmp_path / 'out', systems=['random']))


def test_results_that_can_not_be_written_are_told(tmp_path, rng, monkeypatch):
    results = made_up(tmp_path / 'out', rng)
    before, runs = results.path.read_text(), list(results.runs)

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(InputError, match='No space left on device'):
        results.add(dataclasses.replace(runs[0], seed=99))
    assert results.path.read_text() == before


def test_a_failing_run_is_told_and_the_others_go_on(tiny, tmp_path):
    short = dataclasses.replace(PROTOCOL, steps=800)
    with pytest.raises(InputError, match='1 of 2 runs failed: tiny .*steps: expected more than'):
        sweep.run_benchmark(plan(tiny, tmp_path / 'out', systems=[tiny, 'random'], protocol=short))
    assert [run.system for run in Results(tmp_path / 'out').runs] == ['random']


def test_a_system_that_does_not_fit_the_robot_is_one_sentence(tmp_path, capfd):
    """Also on stderr, when the simulators that were open by then are closed."""
    long = dataclasses.replace(PROTOCOL, steps=8000)
    with pytest.raises(InputError, match='expected a robot with continuous actions to plan'):
        sweep.run_benchmark(
            plan('', tmp_path / 'out', systems=['planet_cpu'], tasks=['rover_target_discrete'], protocol=long)
        )
    assert 'Traceback' not in capfd.readouterr().err


# Tables


def made_up(folder: Path, rng: np.random.Generator) -> Results:
    """Two systems, two tasks, three seeds, and chance."""
    folder.mkdir()
    results = Results(folder, Protocol(steps=200_000, evaluations=2, episodes=4))
    for system in ('ours', 'other', 'random'):
        for task in ('cartpole_balance', 'walker_walk'):
            for seed in range(3):
                values = rng.uniform(0, 1000, 6)
                curve = [(100_000, 60.0, values[0], 5), (200_000, 120.0, values[1], 5)]
                outcome = Outcome(200_000, 10, 120.0, curve, list(values[2:]))
                if system == 'random':
                    outcome = Outcome(returns=list(values[2:]))
                results.add(
                    Run(
                        system,
                        task,
                        seed,
                        'abc',
                        2,
                        (64, 64),
                        'deterministic',
                        'now',
                        {'cores': 2, 'processor': 'P', 'accelerator': 'none'},
                        outcome,
                    )
                )
    return results


def cells(table: str) -> dict:
    """(row, column) -> text of the first Markdown table."""
    lines = [line.strip('|').split('|') for line in table.splitlines() if line.startswith('|')]
    lines = [[cell.strip() for cell in line] for line in lines]
    head = lines[0]
    body = lines[2 : next(n for n, line in enumerate(lines) if line[0] == 'system')]
    return {(line[0], name): cell for line in body for name, cell in zip(head[1:], line[1:])}


def test_tables_equal_an_independent_calculation(tmp_path, rng):
    results = made_up(tmp_path / 'made', rng)
    stored = json.loads(results.path.read_text())['runs']
    published = json.loads((ROOT / 'docs' / 'data' / 'dmc_scores.json').read_text())

    def final(system, task):
        return [sum(run['outcome']['returns']) / 4 for run in stored if run['system'] == system and run['task'] == task]

    table = cells(Comparison([tmp_path / 'made']).tables())
    means = []
    for task in ('cartpole_balance', 'walker_walk'):
        scores = final('ours', task)
        mean = sum(scores) / 3
        deviation = (sum((score - mean) ** 2 for score in scores) / 2) ** 0.5
        means.append(mean)
        assert table[task, 'ours'] == f'{mean:.1f} ± {deviation:.1f}'
        v2 = published['dreamer_v2_vision'][task]
        low, high = v2['100000']['mean_return'], v2['250000']['mean_return']
        assert table[task, 'DreamerV2'] == f'{low + (high - low) * 2 / 3:.1f}'  # 200k of 100k … 250k
        assert table[task, 'A3C @100M'] == f'{published["a3c_proprio"][task]["100000000"]["mean_return"]:.1f}'
    assert table['mean of 2', 'ours'] == f'{sum(means) / 2:.1f}'
    # TD-MPC2 has no cartpole_balance
    tdmpc2 = published['tdmpc2_vision']['walker_walk']['200000']['mean_return']
    assert table['cartpole_balance', 'TD-MPC2'] == '–'
    assert table['mean of 2', 'TD-MPC2'] == f'{tdmpc2:.1f} (1 of 2)'

    # at 150k: half way between the two points of each curve; chance has no curve
    table = cells(Comparison([results.path], at=150_000).tables())
    curves = [run['outcome']['curve'] for run in stored if run['system'] == 'other' and run['task'] == 'walker_walk']
    halves = [(a[2] + b[2]) / 2 for a, b in curves]
    assert table['walker_walk', 'other'].startswith(f'{sum(halves) / 3:.1f} ±')
    assert table['walker_walk', 'random'].startswith(f'{sum(final("random", "walker_walk")) / 3:.1f} ±')
    # before the first and after the last point nothing is known
    assert cells(Comparison([results.path], at=50_000).tables())['walker_walk', 'ours'] == '–'
    assert ('walker_walk', 'DreamerV3') not in cells(Comparison([results.path], at=6_000_000).tables())


def test_published_scores():
    published = Published()
    data = json.loads((ROOT / 'docs' / 'data' / 'dmc_scores.json').read_text())
    for method, key in METHODS.items():
        assert data['_meta']['sources'][key]['how']
        for task, scores in data[key].items():
            if task.startswith('_'):
                assert published.points(method, task) == []
                continue
            for steps, score in scores.items():
                assert published.score(method, task, int(steps)) == score['mean_return']
    assert published.level('PlaNet') == 1_000_000 and published.level('DreamerV3') is None
    assert published.score('DrQ-v2', 'cartpole_balance', 49_999) is None


def test_mean_curve_covers_what_all_reach():
    assert mean_curve([[(0, 0.0), (10, 10.0)], [(5, 1.0), (10, 2.0), (20, 9.0)]]) == [(5, 3.0), (10, 6.0)]
    assert mean_curve([[(0, 0.0)], []]) == []


def test_tables_and_pictures_are_written(tmp_path, rng, capsys):
    made_up(tmp_path / 'made', rng)
    assert main(['benchmark', 'table', str(tmp_path / 'made'), '--output', str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert 'in one process; 2 points per curve, each the mean of 5 deterministic episodes' in printed
    for name in ('cartpole_balance', 'walker_walk', 'mean'):
        assert (tmp_path / 'plots' / f'{name}.png').stat().st_size > 10_000


# Bad input


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        '[]',
        '{"runs": []}',
        '{"protocol": {"steps": 1}, "runs": [{}]}',
        '{"protocol": {"stops": 1}, "runs": []}',
    ],
)
def test_a_corrupt_results_file_is_one_sentence(text, tmp_path):
    (tmp_path / 'results.json').write_text(text)
    for protocol in (None, PROTOCOL):
        with pytest.raises(InputError, match='expected (JSON|the results of `dreamer benchmark`)') as caught:
            Results(tmp_path, protocol)
        assert str(tmp_path / 'results.json') in str(caught.value) and '\n' not in str(caught.value)


def test_no_results_and_results_twice(tmp_path, rng):
    with pytest.raises(InputError, match='results.json'):
        Comparison([tmp_path])
    made_up(tmp_path / 'a', rng)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    with pytest.raises(InputError, match='on cartpole_balance with seed 0 again'):
        Comparison([tmp_path / 'a', tmp_path / 'b'])


def test_config_hash():
    defaults = {'a': 1, 'b': {'c': 2, 'd': 3}}
    mine = {'a': 1, 'b': {'c': 5, 'd': 3}}
    new = {'new': {'e': 0}}
    assert config_hash(mine, defaults) == config_hash({**mine, **new}, {**defaults, **new})
    others = [{**mine, 'a': 2}, defaults, {**mine, 'b': {'c': 5, 'd': 4}}, {**mine, 'b': {'c': 2, 'd': 5}}]
    assert len({config_hash(config, defaults) for config in [mine, *others]}) == 5


def test_plans_from_files_and_options(tmp_path):
    file = tmp_path / 'plan.yaml'
    file.write_text('systems: [cpu]\ntask_set: visual\nseeds: [0, 1]\nsteps: 1000\nminutes: 2\n')
    made = Plan.make(file, {'output': 'x', 'steps': 2000})
    assert made.protocol == Protocol(2000, 2) and len(made.tasks) == 20 and made.seeds == (0, 1)
    for text, expected in (
        ('sistems: [cpu]', 'unknown key sistems; did you mean systems'),
        ('systems: cpu', 'systems: expected a list of names, got .cpu.'),
        ('steps: 0', 'steps: expected a whole number of at least 1, got 0'),
        ('systems: [cpu]', 'expected steps, output, tasks or task_set, got none; output is the folder'),
        ('{systems: [random], tasks: [walker_walk], steps: 9, output: x, ros: true}', 'ros: expected no'),
        ('[', 'expected YAML'),
        ('7', 'expected a mapping of names to values, got 7'),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=expected) as caught:
            Plan.make(file, {})
        assert str(file) in str(caught.value)


def test_where_results_go_is_asked_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, '_Benchmark', lambda *_: pytest.fail('began'))
    command = ['benchmark', '--systems', 'random', '--tasks', 'cartpole_balance', '--steps', '100']
    with pytest.raises(InputError, match='benchmark: expected --output, got none; output is the folder that results'):
        main(command)
    (tmp_path / 'file').touch()
    for output in (tmp_path / 'file', tmp_path / 'file' / 'folder'):
        with pytest.raises(InputError, match=f'{output}: expected a folder for the results'):
            main([*command, '--output', str(output)])
