"""Joint limits from a URDF, the description of a robot that robot_state_publisher publishes."""

from __future__ import annotations

import math
from typing import NamedTuple
from xml.etree import ElementTree

from dreamer_ros.errors import InputError
from dreamer_ros.schema import MAX_BYTES


class JointLimits(NamedTuple):
    """Limits of a joint in its unit, and per second; infinite where there are none."""

    low: float = -math.inf
    high: float = math.inf
    velocity: float = math.inf
    unit: str = 'rad'


def read_limits(text: str, where: str) -> dict[str, JointLimits]:
    """The limits of every movable joint of a URDF, by name.

    Raises:
        InputError: not a URDF, or a limit that is no number.
    """
    if len(text) > MAX_BYTES or '<!' in text.replace('<!--', '').replace('<![CDATA[', ''):
        raise InputError(f'{where}: expected a URDF of at most {MAX_BYTES / 1e6:g} MB without a document type')
    try:
        robot = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(f'{where}: expected a URDF, got no XML ({error})') from error
    if robot.tag != 'robot':
        raise InputError(f'{where}: expected a URDF, got XML of <{robot.tag[:40]}>')
    joints = [joint for joint in robot.iterfind('joint') if joint.get('type') not in (None, 'fixed', 'floating')]
    return {joint.get('name', ''): _limits(joint, where) for joint in joints}


def _limits(joint: ElementTree.Element, where: str) -> JointLimits:
    limit = joint.find('limit')
    attributes = {} if limit is None else limit.attrib
    turns = joint.get('type') == 'continuous'
    try:
        low, high = float(attributes.get('lower', 0.0)), float(attributes.get('upper', 0.0))
        velocity = float(attributes.get('velocity', math.inf))
    except ValueError as error:
        raise InputError(f'{where}: joint {joint.get("name")}: expected numbers as limits ({error})') from error
    if math.isnan(low + high + velocity):
        raise InputError(f'{where}: joint {joint.get("name")}: expected numbers as limits, got {attributes}')
    if turns or limit is None:
        low, high = -math.inf, math.inf
    # Some descriptions leave the limit of velocities at 0, which no robot means.
    unit = 'm' if joint.get('type') == 'prismatic' else 'rad'
    return JointLimits(low, high, velocity if velocity > 0 else math.inf, unit)
