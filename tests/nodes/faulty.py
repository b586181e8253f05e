"""The robot agent with faults on request: `KIND SECONDS` on the topic `fault`, the moment it began on `began`."""

from __future__ import annotations

import ctypes
import sys
import time

import numpy as np
from std_msgs.msg import Int64, String

from dreamer_ros.nodes import robot_agent
from dreamer_ros.policy.runner import PolicyRunner


class FaultyAgent(robot_agent.RobotAgent):
    """Its executor or its inference stalls, holds the interpreter, or computes nonsense."""

    def __init__(self, name: str):
        super().__init__(name)
        self._faults: list[str] = []
        self._nan_until = 0.0
        self._began = self.create_publisher(Int64, 'began', 10)
        self.create_subscription(String, 'fault', self._on_fault, 10)
        act = PolicyRunner.act

        def faulty_act(runner, *arguments, **options):
            action = act(runner, *arguments, **options)
            if self._faults:
                kind, _, seconds = self._faults.pop().partition(' ')
                if kind == 'nan':
                    self._nan_until = time.monotonic() + float(seconds)
                    seconds = 0.0
                self._fail(kind, float(seconds))
            return action if time.monotonic() > self._nan_until else np.full_like(action, np.nan)

        PolicyRunner.act = faulty_act

    def _on_fault(self, message: String) -> None:
        kind, _, seconds = message.data.partition(' ')
        if kind == 'executor':
            self._fail(kind, float(seconds))
        else:
            self._faults.append(message.data)

    def _fail(self, kind: str, seconds: float) -> None:
        self._began.publish(Int64(data=time.time_ns()))
        if kind == 'interpreter':  # as a library that computes without releasing it
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        elif kind == 'busy':
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
        else:
            time.sleep(seconds)


if __name__ == '__main__':
    sys.exit(robot_agent.main(FaultyAgent))
