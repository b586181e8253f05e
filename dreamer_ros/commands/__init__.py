"""Groups of `dreamer` commands; each module adds its own to the parser of cli.py."""
