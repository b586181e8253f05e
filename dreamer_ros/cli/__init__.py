"""The `dreamer` command: main.py has the parser, each other module a group of commands."""
