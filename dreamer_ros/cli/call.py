"""`dreamer call`: services of running nodes."""

from __future__ import annotations

from dreamer_ros.cli.options import command


def add(commands) -> None:
    call = command(
        commands,
        'call',
        _call,
        'call a service of a running node, as `ros2 service call` would',
        'dreamer call /rover/agent/enable true',
    )
    call.add_argument('service', metavar='SERVICE', help='its full name')
    call.add_argument('value', nargs='?', help='true or false; or configure, activate, deactivate, cleanup')


def _call(arguments) -> None:
    from dreamer_ros.ros.service_call import call

    print(call(arguments.service, arguments.value))
