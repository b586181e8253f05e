"""What is in a bag, told from its messages, and in a folder of bags."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.bag_reader import partial_path, read_metadata
from dreamer_ros.episodes.inspect import BagInfo, actors, describe, format_table, read_contents, totals
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.episodes.report import Regularity
from dreamer_ros.errors import InputError
from tests.episodes import robot_bags
from tests.episodes.bags import PERIOD_NS, START_NS, cdr_messages, random_episode, write_episode, write_raw


@pytest.fixture
def bag(tmp_path, rng):
    """Two episodes of one robot, the second one with a hole and cut at its end; returns both, too."""
    first = random_episode(rng, 20)
    second = random_episode(rng, 15, START_NS + 30 * PERIOD_NS, last=False)
    hole = {int(stamp) for stamp in second.stamp[5:8]}
    rows = cdr_messages(first) + [row for row in cdr_messages(second) if row[2] not in hole]
    return write_raw(tmp_path, 'two', rows), first, second


def test_episodes_and_topics(bag):
    path, first, second = bag
    contents = read_contents(path)
    whole, cut = contents.episodes
    assert (whole.robot, len(whole), whole.missing) == ('sim0', 20, 0)
    assert whole.total_reward == pytest.approx(first.total_reward)
    assert whole.state == ('terminal' if first.is_terminal[-1] else 'whole')
    assert actors(whole) == {'policy/7/explore': 19}
    assert (len(cut), cut.missing, cut.state) == (12, 3, 'cut at the end')
    assert cut.total_reward == pytest.approx(np.delete(second.reward, [5, 6, 7]).sum(dtype=np.float64))
    assert cut.first.stamp == second.stamp[0]
    topics = {name: regularity for name, (_, regularity) in contents.topics.items()}
    assert len(topics) == 5 and all(topic.messages == 32 for topic in topics.values())
    assert topics['/sim0/step'].gaps == 2, 'the hole, and the pause between the episodes'
    assert topics['/sim0/step'].longest_gap == pytest.approx(11 * PERIOD_NS / 1e9)
    assert contents.problems == ()


def test_command(bag, capsys):
    path, first, _ = bag
    assert main(['bag', 'info', str(path)]) == 0
    printed = capsys.readouterr().out
    assert '2 episodes' in printed and f'{first.total_reward:.2f}' in printed and 'cut at the end' in printed
    assert main(['bag', 'info', str(path), '--json']) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert [episode['steps'] for episode in told['episodes']] == [20, 12]
    assert told['topics']['/sim0/action']['messages'] == 32
    # a folder: what the recorders noted, or everything
    assert main(['bag', 'info', str(path.parent), '--json']) == 0
    [told] = json.loads(capsys.readouterr().out)['bags']
    assert told['steps'] == 32 and 'episodes' not in told
    (path.parent / 'empty').mkdir()  # no bag
    (path.parent / 'damaged').mkdir()
    (path.parent / 'damaged' / 'metadata.yaml').touch()
    assert main(['bag', 'info', str(path.parent), '--json', '--full']) == 0
    damaged, told = sorted(json.loads(capsys.readouterr().out), key=lambda each: 'episodes' in each)
    assert len(told['episodes']) == 2 and 'damaged' in damaged['problems'][0]


def test_a_robot_with_a_contract(tmp_path, rng):
    agent = robot_bags.played(rng, robot_bags.sensors(rng, 4.0), 30)
    contents = read_contents(robot_bags.write_robot_bag(tmp_path, 'bag', agent.rows, robot_bags.contract()))
    [episode] = contents.episodes
    assert (len(episode), episode.missing, episode.state) == (30, 0, 'whole')
    assert episode.total_reward == pytest.approx(sum(agent.rewards))
    rates = {name: regularity.rate for name, (_, regularity) in contents.topics.items()}
    assert rates['/robot/camera/image_raw'] == pytest.approx(30, rel=0.05)
    assert rates['/robot/cmd_vel'] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize('text, known', [(robot_bags.TINY, False), (robot_bags.REWARDED, True)])
def test_a_robot_without_reward_has_no_return(tmp_path, rng, capsys, text, known):
    """Its steps carry zeros, which are no return of 0; where the contract has a reward they are one."""
    agent = robot_bags.played(rng, robot_bags.sensors(rng, 4.0), 30)
    rows = [row for row in agent.rows if row[0] != 'step']
    rows += [
        ('step', robot_bags.step_cdr(stamp, 0.0, (k == 0, k == 29, False), {}), stamp)
        for k, stamp in enumerate(agent.stamps)
    ]
    bag = robot_bags.write_robot_bag(tmp_path, 'bag', rows, robot_bags.contract(text))
    [episode] = read_contents(bag).episodes
    assert episode.total_reward == (0.0 if known else None)
    assert main(['bag', 'info', str(bag)]) == 0
    cells = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['0', 'robot', '30', '0', '0.00' if known else '-', 'whole', 'policy/3/explore'] in cells
    (bag / 'metadata.yaml').unlink()  # as a crash leaves it
    data = read_metadata(recover(bag))['custom_data']
    assert data['length'] == '30' and data.get('return') == ('0.0' if known else None)
    assert main(['bag', 'info', str(tmp_path)]) == 0
    [cells] = [line.split() for line in capsys.readouterr().out.splitlines() if ' explore ' in line]
    assert cells[:3] + cells[4:6] == ['.', 'bag', '30', '0.00' if known else '-', 'explore']


def test_a_robot_that_nobody_but_a_human_drove(tmp_path, rng):
    """No `step` in the bag: ticks are laid by the contract."""
    agent = robot_bags.played(rng, robot_bags.sensors(rng, 4.0), 30)
    rows = [row for row in agent.rows if row[0] not in ('step', 'action')]
    contents = read_contents(robot_bags.write_robot_bag(tmp_path, 'bag', rows, robot_bags.contract()))
    [episode] = contents.episodes
    assert len(episode) > 20 and actors(episode) == {}


def test_a_damaged_bag_says_so(bag):
    path, _, _ = bag
    [file] = path.glob('*.mcap')
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    contents = read_contents(path)
    assert len(contents.episodes) == 2 and 'problem: ' in contents.table()
    assert any('breaks off' in problem for problem in contents.problems)
    file.write_bytes(b'nothing')
    with pytest.raises(InputError, match='expected messages in it.*does not begin as an MCAP'):
        read_contents(path)


@pytest.mark.parametrize('first', [1, 20, 5000])
def test_one_odd_interval_at_the_beginning(first):
    """At 5/s, ms: it is a gap if it is long, and makes nothing else one."""
    regularity = Regularity()
    intervals = [first, *[200] * 60, 900, *[200] * 10]
    for stamp in np.cumsum([START_NS, *(interval * 1_000_000 for interval in intervals)]).tolist():
        regularity.add(stamp, stamp)
    assert regularity.gaps == (2 if first > 500 else 1)


def test_a_rate_that_changes():
    regularity = Regularity()
    for stamp in np.cumsum([START_NS, *[20_000_000] * 100, *[200_000_000] * 100]).tolist():
        regularity.add(stamp, stamp)
    assert 0 < regularity.gaps < 20


# A folder of bags, told from their metadata alone


@pytest.fixture
def run(tmp_path):
    """A run directory: two good bags, a damaged one and a leftover."""
    rng = np.random.default_rng(0)
    episodes = tmp_path / 'episodes'
    write_episode(episodes, 'a', random_episode(rng, 26), {'mode': 'random', 'return': '2.0'})
    write_episode(
        tmp_path / 'evaluation' / '20270101-000000',
        'c',
        random_episode(rng, 11),
        {'mode': 'evaluate', 'policy_version': '12', 'return': '4.5'},
    )
    (write_episode(episodes, 'b', random_episode(rng, 5)) / 'metadata.yaml').unlink()
    partial_path(episodes, 'd').mkdir()
    return tmp_path


def test_describe(run):
    rows = {row.name: row for row in describe(run)}
    assert list(rows) == ['.d.partial', 'a', 'b', 'c']
    good = rows['a']
    assert (good.steps, good.total_reward, good.mode, good.policy_version) == (26, 2.0, 'random', '')
    assert good.duration == pytest.approx(2.0) and good.rate == pytest.approx(12.5)
    assert good.messages['/sim0/camera/image_raw'] == 26 and len(good.messages) == 5
    assert rows['c'].policy_version == '12'
    assert rows['b'].problem == 'metadata.yaml is missing'
    assert 'crash' in rows['.d.partial'].problem
    assert [row.name for row in describe(run / 'episodes' / 'a')] == ['a']
    assert len(describe(run / 'episodes')) == 3
    assert [row.name for row in describe(run / 'evaluation')] == ['c']


def test_table(run):
    text = format_table(describe(run))
    lines = text.splitlines()
    assert lines[0].split() == [
        'folder',
        'bag',
        'steps',
        'missing',
        'return',
        'mode',
        'policy',
        'seconds',
        'steps/s',
        'KiB',
    ]
    assert lines[2].split()[:9] == ['episodes', 'a', '26', '0', '2.00', 'random', '-', '2.0', '12.5']
    assert 'metadata.yaml is missing' in lines[3]
    assert '37  /sim0/step' in text
    assert lines[4].split()[:4] == ['evaluation/20270101-000000', 'c', '11', '0']
    assert lines[-2].startswith('episodes: 3 bags, 26 steps') and lines[-2].endswith('returns 2.00 to 2.00, mean 2.00')
    assert lines[-1].startswith('evaluation: 1 bags, 11 steps') and lines[-1].endswith('4.50 to 4.50, mean 4.50')


def test_one_folder_has_one_total(run):
    rng = np.random.default_rng(1)
    write_episode(run / 'episodes', 'e', random_episode(rng, 3), {'return': '5.0'})
    lines = format_table(describe(run / 'episodes')).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ['.'] * 4
    assert lines[-1].startswith('.: 4 bags, 29 steps') and lines[-1].endswith('returns 2.00 to 5.00, mean 3.50')


def test_json_keeps_evaluations_apart(run, capsys):
    assert main(['bag', 'info', str(run), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert {bag['name']: bag['folder'] for bag in told['bags']} == {
        '.d.partial': 'episodes',
        'a': 'episodes',
        'b': 'episodes',
        'c': 'evaluation/20270101-000000',
    }
    assert {folder: (total['bags'], total['steps'], total['mean']) for folder, total in told['folders'].items()} == {
        'episodes': (3, 26, 2.0),
        'evaluation': (1, 11, 4.5),
    }
    assert totals([BagInfo('x')]) == {
        '.': {'bags': 1, 'steps': 0, 'bytes': 0, 'least': None, 'mean': None, 'most': None}
    }


def test_nothing_to_describe(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        describe(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='found none'):
        describe(tmp_path)
