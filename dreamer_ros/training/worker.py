"""A learner's process beside the trainer's, started by torchrun or by `parallel.Team` with PORT RANK SIZE."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from dreamer_ros.config import stored_config
from dreamer_ros.launcher import end_with_parent, torchrun_rank
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training import process

if TYPE_CHECKING:
    from dreamer_ros.training.learner import Learner
    from dreamer_ros.training.parallel import Team


def main() -> NoReturn:
    """Serve rank 0 until it ends."""
    end_with_parent(signal.SIGKILL)
    process.prepare()  # before torch is imported
    from torch import distributed

    from dreamer_ros.training.parallel import FOREVER, Team

    if torchrun_rank() is None:
        port, rank, size = map(int, sys.argv[1:])
        team = Team(0, distributed.TCPStore('127.0.0.1', port, size, False, FOREVER), rank, size)
    else:
        team = Team()
    # Rank 0 needs this process to finish its work, and ends it then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with team:
        follow(team)
    leave()


def leave() -> NoReturn:
    """End this process at once. Torch's threads may abort an interpreter that shuts down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def follow(team: Team) -> None:
    """Take rank 0's state and a share of every update, until rank 0 is done."""
    import torch

    learner = None
    while (order := team.receive()) is not None:
        if 'state' in order:
            tensors = team.receive_tensors(order)
            learner = learner or _make_learner(order, team)
            learner.restore(tensors, order['state'], 'rank 0')
        else:
            torch.manual_seed((order['seed'] + team.rank) % 2**63)
            learner.train(team.receive_share(order, learner.device))


def _make_learner(order: dict, team: Team) -> Learner:
    """The learner that rank 0 describes, on this rank's device."""
    process.configure_learner(order['threads'], overlap=False)
    from dreamer_ros.training.learner import Learner

    config = stored_config(order['state']['config'], 'rank 0')
    spec = RobotSpec.from_json(json.dumps(order['state']['spec']), 'rank 0')
    return Learner(config, spec, team.device(order['device']))


if __name__ == '__main__':
    main()
