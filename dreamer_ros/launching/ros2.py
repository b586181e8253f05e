"""The scenarios as launch descriptions, for the files in `launch/`.

Only this module imports launch and launch_ros, which a ROS installation has and the pip wheels do not.
"""

from __future__ import annotations

import collections
import os
import signal
import sys

from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessIO, OnShutdown
from launch.events import Shutdown, matches_action
from launch.events.process import ProcessExited, ShutdownProcess, SignalProcess
from launch_ros.actions import LifecycleNode, Node

from dreamer_ros import launching
from dreamer_ros.launching.processes import ExitRules, Process, Scenario, Verdict, child_environment, telling_line
from dreamer_ros.options import as_arguments
from dreamer_ros.training.run_directory import discard_unused
from launch import LaunchContext, LaunchDescription


class RunFailed(Exception):
    """Ends `ros2 launch` with its message and exit code 1."""


def launch_description(name: str) -> LaunchDescription:
    """Arguments of a scenario, and an action that starts its processes once their values are known."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.help,
            choices=list(argument.choices) or None,
        )
        for argument in as_arguments(launching.scenario_options(name))
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start, args=[name])])


def _start(context: LaunchContext, name: str) -> list:
    """The actions that start the scenario with the arguments of the command line or of an including launch file."""
    options = launching.scenario_options(name)
    defaults = {**dict.fromkeys(options.renamed), **{row.name: row.default for row in as_arguments(options)}}
    given = {
        key: text for key, text in context.launch_configurations.items() if key in defaults and text != defaults[key]
    }
    pushed = context.launch_configurations.get('ros_namespace', '')  # by PushRosNamespace of an including launch file
    return _Run(launching.scenario(name, {**_given_on_command_line(name), **given}), pushed).actions()


def _given_on_command_line(name: str) -> dict[str, str]:
    """The `name:=value` words of `ros2 launch`, which ignores misspelt ones. Here they are refused.

    If another launch file includes this one, the words are for that file, and the result is empty.
    """
    if not any(word.endswith(f'{name}.launch.py') for word in sys.argv):
        return {}
    return launching.parse_assignments([word for word in sys.argv if ':=' in word])


class _Run:
    """One scenario under `ros2 launch`. Exits have the same consequences as under `dreamer launch`."""

    def __init__(self, scenario: Scenario, namespace: str):
        self._scenario, self._namespace = scenario, namespace
        self._rules = ExitRules()
        self._nodes: dict[int, Node] = {}  # running, by id of their Process
        self._finishing = False  # the leading process has ended, the others are asked to
        self._stopped = False  # nothing follows

    def actions(self) -> list:
        """The actions that start the scenario."""
        return [
            LogInfo(msg=f'{self._scenario.name}: results go to {self._scenario.folder}'),
            RegisterEventHandler(OnShutdown(on_shutdown=self._on_shutdown)),
            *(
                action
                for process in self._scenario.processes
                for action in self._start(process.within(self._namespace))
            ),
        ]

    def _start(self, process: Process) -> list:
        environment = child_environment(process, os.environ)
        tail: collections.deque[str] = collections.deque(maxlen=50)
        # Of a node with a lifecycle, launch files may await states and ask for transitions.
        node = (LifecycleNode if process.lifecycle else Node)(
            package='dreamer_ros',
            executable=process.executable,
            name=process.name,
            namespace=process.namespace,
            parameters=[dict(process.parameters)],
            remappings=list(process.remappings),
            additional_env={key: value for key, value in environment.items() if os.environ.get(key) != value},
            output='screen',
            sigterm_timeout=str(process.patience[0]),
            sigkill_timeout='5',
            on_exit=lambda event, context: self._on_exit(process, event, telling_line(tail)),
        )
        self._nodes[id(process)] = node

        def remember(event) -> None:
            tail.extend(event.text.decode(errors='replace').splitlines())

        listener = OnProcessIO(target_action=node, on_stdout=remember, on_stderr=remember)
        return [RegisterEventHandler(listener), node]

    def _on_shutdown(self, event, context) -> list:
        """Send the SIGINT that launch leaves to the terminal. A Ctrl-C reaches every process by itself, a `kill -INT`
        only `ros2 launch`.
        """
        self._finishing = self._stopped = True
        if not event.due_to_sigint or context.noninteractive:
            return []
        running = [node for node in self._nodes.values() if (node.process_details or {}).get('pid')]
        return [
            EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(node)))
            for node in running
        ]

    def _on_exit(self, process: Process, event: ProcessExited, last_words: str) -> list:
        del self._nodes[id(process)]
        if not self._nodes:
            discard_unused(self._scenario.folder)
        if not self._finishing:
            verdict, sentence = self._rules.decide(process, event.returncode)
            if verdict is Verdict.RESTART:
                return [LogInfo(msg=sentence), *self._start(process)]
            self._finishing = True
            if verdict is Verdict.FAILED:
                self._stopped = True
                raise RunFailed(sentence + last_words)
            if self._nodes:
                return [
                    EmitEvent(event=ShutdownProcess(process_matcher=matches_action(node)))
                    for node in self._nodes.values()
                ]
        return [] if self._nodes or self._stopped else self._following()

    def _following(self) -> list:
        """The actions after the last process of a finished scenario."""
        if self._scenario.then is None:
            finished = f'{self._scenario.name} has finished'
            return [
                LogInfo(msg=f'{finished}; everything is in {self._scenario.results()}'),
                EmitEvent(event=Shutdown(reason=finished)),
            ]
        return _Run(launching.scenario(*self._scenario.then), self._namespace).actions()
