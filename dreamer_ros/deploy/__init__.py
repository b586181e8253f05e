"""The safety-critical path on a robot: observe, act, command, and stop when in doubt."""
