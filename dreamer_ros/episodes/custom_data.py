"""What a bag's custom_data says of its robot and of who acted."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import Mode, parse_mode


def contract_data(contract: RobotContract) -> dict[str, str]:
    """A contract as it stands in custom_data: with its hash, since nothing else tells a damaged number in it."""
    return {'contract': contract.text, 'contract_sha256': _digest(contract.text)}


def embedded_contract(custom_data: Mapping[str, str]) -> RobotContract | None:
    """The contract a bag was recorded from; None if it holds none.

    Raises:
        InputError: it is damaged.
    """
    text = custom_data.get('contract')
    if text is None:
        return None
    if _digest(text) != custom_data.get('contract_sha256'):
        raise InputError('the robot contract in it is damaged: its hash does not fit')
    return RobotContract.from_text(text, 'contract in custom_data')


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Actors:
    """Who chose the actions of an episode.

    Attributes:
        modes: how often each kind of mode did.
        version: of the policy that acted last; None for none.
    """

    def __init__(self):
        self.modes: Counter = Counter()
        self.version: int | None = None

    @classmethod
    def named(cls, frame_ids: Iterable[str]) -> Actors:
        """Of actions with these frame_ids; those that say no mode don't count."""
        actors = cls()
        for text in frame_ids:
            with contextlib.suppress(InputError):
                actors.add(parse_mode(text))
        return actors

    def add(self, mode: Mode) -> None:
        """Count an action."""
        self.modes[mode.kind] += 1
        self.version = self.version if mode.version is None else mode.version

    @property
    def mode(self) -> str:
        """random, explore, evaluate or human. It counts as random or evaluate only if all of it was; otherwise the
        most frequent of the others names it.
        """
        if len(self.modes) <= 1:
            return next(iter(self.modes), 'random')
        others = [kind for kind, _ in self.modes.most_common() if kind not in ('evaluate', 'random')]
        return others[0] if others else 'explore'

    def data(self) -> dict[str, str]:
        """For custom_data."""
        return {'mode': self.mode, 'policy_version': '' if self.version is None else str(self.version)}
