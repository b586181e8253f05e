"""`dreamer reference`: everything that can be set, from the models that declare it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from dreamer_ros.cli.command import command
from dreamer_ros.options import Options
from dreamer_ros.schema import Model
from dreamer_ros.schema import reference as table


@command('dreamer reference > docs/reference.md')
def reference(options: Options) -> None:
    """Print every argument of a scenario, parameter of a node, and key of a contract or preset, in Markdown."""
    print('# Reference\n\nThis page is the output of `dreamer reference`.')
    for title, model in _models():
        print(f'\n## {title}\n\n{table(model)}'.replace('<', r'\<'), end='')  # else Markdown takes <task> for HTML


def _models() -> Iterator[tuple[str, type[Model]]]:
    from dreamer_ros import nodes
    from dreamer_ros.config import SYSTEMS
    from dreamer_ros.launching import SCENARIOS, scenario_options
    from dreamer_ros.robot.contract import RobotContract

    for name in SCENARIOS:
        yield f'Arguments of the scenario {name}', scenario_options(name)
    for name in sorted(module.name for module in pkgutil.iter_modules(nodes.__path__)):
        module = importlib.import_module(f'dreamer_ros.nodes.{name}')
        yield f'Parameters of the node {name}', getattr(module, f'{name.title().replace("_", "")}Parameters')
    yield 'Keys of a robot contract', RobotContract
    for name, config in SYSTEMS.items():
        yield f'Presets of the system {name}', config
