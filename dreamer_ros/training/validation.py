"""How well a model predicts episodes that it was never trained on."""

from __future__ import annotations

import numpy as np

from dreamer_ros.training.learner import Learner

CONTEXT = 5  # steps seen before the prediction begins


def held_out_errors(learner: Learner, samples: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean squared errors over the steps after the first CONTEXT ones, up to where another episode begins.

    Args:
        samples: sequences of the replay store, longer than the context.

    Returns:
        validation_prediction_error: of images in [0, 1] that follow from the actions alone;
        validation_reconstruction_error: of the same images when the model sees them;
        validation_reward_error: of the rewards that follow from the actions alone.
        Without cameras, the last one only; nothing, if no sequence goes on after the context.
    """
    begun = samples['is_first'].copy()
    begun[:, :CONTEXT] = False
    counts = ~np.logical_or.accumulate(begun, axis=1)
    counts[:, :CONTEXT] = False
    if not counts.any():
        return {}
    seen = learner.agent.inspect(learner.to_batch(samples), CONTEXT)
    truth, errors = samples['image'][counts].astype(np.float32), {}
    for name, made in (('prediction', seen.prediction), ('reconstruction', seen.reconstruction)):
        if made is not None:
            difference = made.cpu().numpy()[counts] - truth
            errors[f'validation_{name}_error'] = float(np.square(difference).mean(dtype=np.float64)) / 255**2
    difference = seen.predicted_reward.float().cpu().numpy()[counts] - samples['reward'][counts]
    errors['validation_reward_error'] = float(np.square(difference).mean(dtype=np.float64))
    return errors
