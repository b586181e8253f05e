"""Tells from the camera whether the robot has succeeded."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.files import user_path
from dreamer_ros.policy.classifier import Classifier, Hysteresis
from dreamer_ros.robot.contract import ClassifierReward, RobotContract
from dreamer_ros.robot.sensing import Sensed


class CameraReward:
    """The classifier of a contract with `reward: {classifier: …}`. For the control loop.

    Raises:
        InputError: the classifier can't be used.

    Attributes:
        success: what the last observation shows.
    """

    def __init__(self, contract: RobotContract, says: ClassifierReward):
        path = Path(contract.source).parent / user_path(says.classifier)
        self._classifier = Classifier(path, contract.spec.image_shape)
        self._decide, self._says = Hysteresis(says.above, says.below, says.steps), says
        self.success = False

    def judge(self, sensed: Sensed) -> Sensed:
        """An observation with its reward, and its end if a success ends the episode."""
        if sensed.problems:
            return sensed
        self.success = self._decide(self._classifier(sensed.image))
        return sensed._replace(
            reward=self._says.of(self.success), is_terminal=sensed.is_terminal or self.success and self._says.ends
        )
