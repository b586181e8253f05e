"""`dreamer replay`: a recorded episode once more, for topics, a policy, the simulator or a world model."""

from __future__ import annotations

from dreamer_ros.cli.options import command, positive_number


def add(commands) -> None:
    replay = command(
        commands,
        'replay',
        _replay,
        'play a bag on ROS topics, with a policy in shadow; or simulate it again; or dream it',
        'dreamer replay EPISODE --rate 2 --run runs/cartpole_swingup-cpu-20260131-120000',
    )
    replay.add_argument('bag', metavar='BAG', help='directory of a bag')
    replay.add_argument('--rate', type=positive_number, default=1.0, help='times the recorded pace (default: 1)')
    replay.add_argument(
        '--policy', metavar='FILE', default='', help='policy, or name of a released one, to compare with what was done'
    )
    replay.add_argument(
        '--run',
        metavar='RUN',
        dest='run_directory',
        default='',
        help='run directory whose latest policy is compared; with --dream, whose world model dreams',
    )
    replay.add_argument(
        '--namespace', default='/replay', help='what the recorded topics are put below (default: /replay)'
    )
    replay.add_argument(
        '--output', metavar='FOLDER', default='', help='for the results (default: replays/<name of the bag>)'
    )
    how = replay.add_mutually_exclusive_group()
    how.add_argument(
        '--simulate',
        action='store_const',
        dest='mode',
        const='simulate',
        help='feed its actions to the simulator and compare every observation',
    )
    how.add_argument(
        '--dream',
        action='store_const',
        dest='mode',
        const='dream',
        help='have the world model of --run predict it, and play the film on the topic dream',
    )
    replay.add_argument('--task', metavar='FILE', default='', help='with --simulate: its task file, if that has moved')
    replay.set_defaults(mode='play')


def _replay(arguments) -> int:
    from dreamer_ros.launching import scenario
    from dreamer_ros.launching.supervisor import launch

    return launch(
        scenario(
            'replay',
            {
                'bag': arguments.bag,
                'mode': arguments.mode,
                'rate': str(arguments.rate),
                'policy': arguments.policy,
                'run': arguments.run_directory,
                'namespace': arguments.namespace,
                'task': arguments.task,
                'output': arguments.output,
            },
        )
    )
