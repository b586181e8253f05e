"""The update step, checkpoints, metrics, evaluation, videos and plots."""
