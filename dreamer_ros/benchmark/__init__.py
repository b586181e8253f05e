"""Comparing systems: runs of many systems and tasks, their results, and published scores."""
