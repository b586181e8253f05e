"""The learning systems.

Dreamer reads in the order of its paper: world_model.py, actor_critic.py, then dreamer.py, which joins them. Shapes are
explained at the top of world_model.py, and system.py says what every system takes and gives.
"""
