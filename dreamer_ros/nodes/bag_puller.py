"""Bag puller node: downloads a robot's episodes to the folder of a run, whenever the robot can be reached."""

from __future__ import annotations

import sys
import threading
import time

from pydantic import Field
from rclpy.node import Node

from dreamer_ros import options as shared
from dreamer_ros.files import user_path
from dreamer_ros.options import Options
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.transfer.pulling import PERIOD, RETRIES, Failed, Puller
from dreamer_ros.transfer.serving import be_nice

SAY_AGAIN = 30.0  # seconds between two lines about the same problem


class BagPullerParameters(Options):
    """What can be set of the bag puller."""

    source: str = Field(description='Address of the robot that serves its bags, http://<host>:<port>.')
    folder: shared.RequiredFolder


class Pull:
    """Runs a puller again and again on a thread, because a dead link blocks for a while."""

    def __init__(self, puller: Puller, log, stop: threading.Event):
        self._puller, self._log, self._stop = puller, log, stop
        self._problem, self._since, self._said = '', 0.0, 0.0
        self._thread = threading.Thread(target=self._work, name='puller', daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for a transfer to stop, but not for a dead link."""
        self._thread.join(1.0)

    def _work(self) -> None:
        be_nice()
        failures = 0
        while not self._stop.is_set():
            try:
                came = self._puller.look()
            except Failed as error:
                self._fail(str(error))
                pause = RETRIES[min(failures, len(RETRIES) - 1)]
                failures += 1
            else:
                self._recover(len(came))
                failures, pause = 0, PERIOD
            self._stop.wait(pause)
        self._puller.close()

    def _fail(self, problem: str) -> None:
        now = time.monotonic()
        if not self._problem:
            self._since = now
        if problem != self._problem or now - self._said > SAY_AGAIN:
            self._said = now
            self._log.warning(f'{problem}; trying again, for {now - self._since:.0f} s now')
        self._problem = problem

    def _recover(self, count: int) -> None:
        if self._problem:
            self._log.info(f'{self._puller.source} is back after {time.monotonic() - self._since:.0f} s')
            self._problem = ''
        if count:
            self._log.info(f'{count} new episodes from {self._puller.source}')

    def report(self) -> tuple[bytes, str, dict]:
        """For diagnostics."""
        values = {'bags': self._puller.bags, 'bytes': self._puller.bytes, 'bags missing': self._puller.missing}
        if self._problem:
            return diagnostics.WARN, self._problem, values
        return diagnostics.OK, f'following {self._puller.source}', values


def body(node: Node, stop: threading.Event) -> None:
    """Fetch until the event is set."""
    parameters = read_parameters(node, BagPullerParameters)
    puller = Puller(parameters.source, user_path(parameters.folder), stop)
    inbox = Inbox(node)
    pull = Pull(puller, node.get_logger(), stop)
    report = Diagnostics(node, 'episodes', parameters.source, pull.report)
    while not stop.is_set():
        inbox.wait(0.1)
        report.tick()
    pull.join()


def main() -> int:
    """Entry point of `ros2 run dreamer_ros bag_puller`."""
    return run_node('bag_puller', body)


if __name__ == '__main__':
    sys.exit(main())
