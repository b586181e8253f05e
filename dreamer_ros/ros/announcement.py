"""The robot of a namespace says who it is on `spec`, and which launch it belongs to.

Two launches may share a ROS domain for a while: the simulator of the second one has to find out that the
namespace is taken. Until it does, nothing of the second launch must listen to the first one's robot, let alone
answer it. So `dreamer launch` and `ros2 launch` give their processes an identity by the environment, simulators
send it along, and a node that has one ignores the robots of other launches. A robot or a node started by hand
has none and meets everybody.
"""

from __future__ import annotations

import json

from std_msgs.msg import String

from dreamer_ros import launcher
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import topics
from dreamer_ros.wire.topics import QoS

KEY = 'launch'
# Deeper than a publisher's: the announcement of a stranger must not push out the one that is waited for.
LISTENER = QoS(depth=10, transient_local=True)


def announcement(spec: RobotSpec) -> String:
    """What to publish on `spec`."""
    launch = launcher.launch()
    return String(data=json.dumps({**spec.to_dict(), KEY: launch}) if launch else spec.to_json())


class Announcements:
    """The robots that announce themselves on `spec` of a namespace, those of other launches left out.

    Args:
        inbox: of the node's loop.
        namespace: of the robot; '' for the node's own.
    """

    def __init__(self, inbox: Inbox, namespace: str = ''):
        self._inbox = inbox
        topic = topics.SPEC.within(namespace) if namespace else topics.SPEC
        self.subscription = inbox.subscribe(topic, LISTENER)
        self._launch = launcher.launch()

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return self.subscription.topic_name

    def take(self) -> RobotSpec | None:
        """The newest announcement that was not taken yet, or None.

        Raises:
            InputError: it can not be read.
        """
        newest = None
        while (message := self._inbox.take(self.subscription)) is not None:
            text, launch = _split(message.data)
            if not (self._launch and launch) or launch == self._launch:
                newest = text
        return None if newest is None else RobotSpec.from_json(newest, f'topic {self.topic}')


def _split(text: str):
    """(spec as JSON, launch or None) of an announcement; what is no JSON is left to RobotSpec to refuse."""
    try:
        data = json.loads(text)
        launch = data.pop(KEY, None)
        return json.dumps(data), launch
    except (json.JSONDecodeError, AttributeError, TypeError):
        return text, None
