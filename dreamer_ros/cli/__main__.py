"""`python -m dreamer_ros.cli`: the `dreamer` command."""

import sys

from dreamer_ros.cli.main import entry_point

sys.exit(entry_point())
