"""`dreamer bag import`, `export` and `recover`: bags of others, for others, and after a crash."""

from __future__ import annotations

import sys
from pathlib import Path

from dreamer_ros.cli.options import command, image_size, positive_number


def add(bag_commands) -> None:
    imported = command(
        bag_commands,
        'import',
        _import,
        'cut recordings of any origin into episode bags',
        'dreamer bag import drive.db3 --robot my_robot.yaml --labels labels.yaml --to episodes',
    )
    imported.add_argument(
        'sources',
        metavar='SOURCE',
        nargs='+',
        help='bag directories or files (MCAP, sqlite3), .npz episodes, LeRobot datasets (v2 and v3), '
        'or folders of them',
    )
    imported.add_argument('--to', metavar='FOLDER', required=True, help='where the episode bags go')
    imported.add_argument(
        '--robot',
        metavar='CONTRACT',
        default='',
        help='contract of the robot in bags of its own topics: a YAML file, or a robot of sim/; of a '
        'LeRobot dataset it picks cameras and numbers by name, and its limits normalise actions '
        '(without it, the smallest and the largest action of the dataset do)',
    )
    imported.add_argument(
        '--labels',
        metavar='FILE',
        default='',
        help='YAML of episodes (start, end, terminal, rewards) that the bags do not tell; episode 12 '
        'of a LeRobot dataset is bag: episode_000012',
    )
    imported.add_argument(
        '--period',
        metavar='SECONDS',
        type=positive_number,
        default=None,
        help='time between two steps of .npz files that do not tell it',
    )
    imported.add_argument(
        '--image-size',
        metavar='HEIGHTxWIDTH',
        type=image_size,
        default=None,
        help="what images of LeRobot datasets are resized to, if not theirs or the contract's",
    )
    exported = command(
        bag_commands,
        'export',
        _export,
        'write episodes as files of other tools',
        'dreamer bag export runs/cartpole_swingup-cpu-20260131-120000/episodes --to arrays',
    )
    exported.add_argument('bags', metavar='BAG', nargs='+', help='bags or folders of bags')
    exported.add_argument('--to', metavar='FOLDER', required=True, help='where the files go')
    exported.add_argument(
        '--format',
        choices=('npz', 'lerobot'),
        default='npz',
        help='npz: NumPy arrays named as in Gymnasium (default); lerobot: one LeRobot dataset, v3.0',
    )
    recovered = command(
        bag_commands,
        'recover',
        _recover,
        'finish bags that a crash or a full disk left',
        'dreamer bag recover runs/cartpole_swingup-cpu-20260131-120000/episodes',
    )
    recovered.add_argument('path', metavar='PATH', help='a bag, or a folder whose bags are looked through')


def _import(arguments) -> int:
    from dreamer_ros.episodes.bag_reader import bag_name
    from dreamer_ros.episodes.labels import Labels
    from dreamer_ros.formats.importing import find_sources, import_source
    from dreamer_ros.robot.contract import load_contract

    contract = load_contract(arguments.robot) if arguments.robot else None
    labels = Labels.load(Path(arguments.labels)) if arguments.labels else None
    sources = [source for path in arguments.sources for source in find_sources(Path(path))]
    bags = 0
    for source in sources:
        result = import_source(source, Path(arguments.to), contract, labels, arguments.period, arguments.image_size)
        bags += len(result.bags)
        print(f'{source}: {len(result.bags)} episodes, {result.steps} steps')
        for problem in result.problems:
            print(f'  {problem}', file=sys.stderr)
    for name in sorted(labels.bags - {bag_name(source) for source in sources}) if labels else ():
        print(f'{arguments.labels}: no bag called {name} is among the sources', file=sys.stderr)
    print(f'{bags} episode bags are in {arguments.to}')
    return 0 if bags else 1


def _export(arguments) -> int:
    from dreamer_ros.formats.exporting import export_arrays
    from dreamer_ros.formats.importing import find_sources

    bags = [source for path in arguments.bags for source in find_sources(Path(path))]
    if arguments.format == 'lerobot':
        from dreamer_ros.formats.lerobot_writer import export_lerobot

        written = export_lerobot(bags, Path(arguments.to))
    else:
        written = (entry for bag in bags for entry in export_arrays(bag, Path(arguments.to)))
    for path, steps, problems in written:
        print(f'{path}: {steps} steps')
        for problem in problems:
            print(f'  {problem}', file=sys.stderr)
    return 0


def _recover(arguments) -> int:
    from dreamer_ros.episodes.recovery import recover_all

    failed = 0
    for path, sentence, sound in recover_all(Path(arguments.path)):
        failed += not sound
        print(f'{path.name}: {sentence}', file=sys.stdout if sound else sys.stderr)
    return 1 if failed else 0
