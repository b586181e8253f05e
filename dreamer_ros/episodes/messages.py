"""An episode that was not recorded as messages, as messages of our own topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import STEP_NAMES, Mode, fill_stamp, parse_mode
from dreamer_ros.wire.definitions import blank_message, encode
from dreamer_ros.wire.topics import ACTION, JOINT_STATES, STEP, Topic, images

# Stamps of what has none count from 2000-01-01: the same file gives the same bag.
EPOCH = 946_684_800_000_000_000
# A topic, and a message for a bag: name, CDR bytes, stamp (ns).
Sent = tuple[Topic, tuple[str, bytes, int]]
_QUANTITIES = ('position', 'velocity')


def recorded_mode(meta: Mapping[str, Any]) -> Mode | None:
    """Who chose an episode's actions, as its custom_data says; None if it does not."""
    kind = meta.get('mode')
    try:
        return parse_mode(kind if kind in ('random', 'human') else f'policy/{meta.get("policy_version")}/{kind}')
    except InputError:
        return None


def mode_data(mode: Mode | None) -> dict[str, str]:
    """The same for custom_data."""
    if mode is None:
        return {}
    return {'mode': mode.kind, 'policy_version': '' if mode.version is None else str(mode.version)}


def episode_messages(episode: Episode, spec: RobotSpec) -> Iterator[Sent]:
    """The messages of every step, in order of time."""
    mode = recorded_mode(episode.meta)
    for k, stamp in enumerate(episode.stamp.tolist()):
        for topic, message in _step(episode, spec, '' if mode is None else str(mode), k):
            fill_stamp(message.header.stamp, stamp)
            topic = topic.within('')
            yield topic, (topic.name, encode(message, topic.type), stamp)


def _step(episode: Episode, spec: RobotSpec, mode: str, k: int) -> Iterator[tuple[Topic, Any]]:
    """The messages of one step, without their stamp."""
    for number, topic in enumerate(images(spec.cameras)):
        message = blank_message(topic.type)
        message.height, message.width = spec.image_size
        message.encoding, message.step = 'rgb8', 3 * message.width
        message.data = np.ascontiguousarray(episode.image[k, :, :, 3 * number : 3 * number + 3]).ravel()
        yield topic, message
    if spec.vector:
        message = blank_message(JOINT_STATES.type)
        values = dict(zip(spec.vector, episode.vector[k].tolist()))
        message.name = list(dict.fromkeys(map(_joint, spec.vector)))
        message.position, message.velocity = (
            np.array([values.get(f'{joint}/{quantity}', values.get(joint, 0.0)) for joint in message.name])
            for quantity in _QUANTITIES
        )
        yield JOINT_STATES, message
    message = blank_message(STEP.type)
    flags = episode.is_first[k], episode.is_last[k], episode.is_terminal[k]
    message.name, message.position = list(STEP_NAMES), np.array([episode.reward[k], *flags], np.float64)
    yield STEP, message
    message = blank_message(ACTION.type)
    message.header.frame_id = mode
    message.axes = episode.action[k].astype(np.float32)
    yield ACTION, message


def _joint(name: str) -> str:
    """The joint that a scalar input is of; a number that is not of a joint stands by its own name."""
    joint, _, quantity = name.rpartition('/')
    return joint if joint and quantity in _QUANTITIES else name
