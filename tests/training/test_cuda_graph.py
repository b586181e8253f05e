"""Replayed updates are those that Python would make.

A tape stands in for the CUDA graph where there is no GPU. As the graph does, it repeats every operator on the very
memory it had when it was taped, with the numbers that Python gave it then.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreamer_ros.training import cuda_graph
from dreamer_ros.training.cuda_graph import WARMING, Recording
from tests.training.test_learner import SPECIFIC, learner, samples

STEADY = [name for name in SPECIFIC if not name.startswith(('world_models', 'cpu'))]
UPDATES = WARMING + 3


class Tape(TorchDispatchMode):
    """Everything that runs, to run it again."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        result = function(*args, **(kwargs or {}))
        self.steps.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, before in self.steps:
                after = function(*args, **kwargs)
                for old, new in zip(*(x if isinstance(x, (tuple, list)) else [x] for x in (before, after))):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@pytest.fixture
def taped(monkeypatch):
    """Tapes instead of CUDA graphs. What was done while taping is undone, since a graph's capture does nothing."""

    def capture(agent):
        def tape(work, device):
            before = [x.clone() for x in agent.state_dict().values()]
            random, tape = torch.get_rng_state(), Tape()
            with tape:
                metrics = work()
            with torch.no_grad():
                for x, old in zip(agent.state_dict().values(), before):
                    x.copy_(old)
            torch.set_rng_state(random)
            tapes.append(tape)
            return tape.replay, metrics

        return tape

    tapes = []
    monkeypatch.setattr(cuda_graph, 'warm', lambda work, device: work())
    yield lambda agent: monkeypatch.setattr(cuda_graph, 'capture', capture(agent)) or tapes


def train(trained, count, batches):
    torch.manual_seed(5)
    return [
        {name: float(value) for name, value in trained.update(batches[i % len(batches)]).items()} for i in range(count)
    ]


@pytest.mark.parametrize('name, precision', [*((name, 'float32') for name in STEADY), ('dreamerv3_1m', 'bfloat16')])
def test_a_replayed_update_is_the_update(name, precision, taped):
    plain, recorded = (learner(name, overrides=[f'precision={precision}']) for _ in range(2))
    tapes = taped(recorded.agent)
    recorded.gradients = Recording(recorded.compute_gradients, list(recorded.agent.parameters()))
    batches = [samples(plain, seed) for seed in range(3)]
    expected, taken = (train(each, UPDATES, batches) for each in (plain, recorded))
    assert len(tapes) == 1 and len(tapes[0].steps) > 100
    assert taken == expected
    for (key, left), right in zip(plain.agent.state_dict().items(), recorded.agent.state_dict().values()):
        assert torch.equal(left, right), key


def test_what_cannot_be_recorded_is_computed(monkeypatch):
    plain, other = (learner('dreamerv3_1m') for _ in range(2))

    def refuse(work, device):
        work()
        raise RuntimeError('operation not permitted when stream is capturing\nmore')

    monkeypatch.setattr(cuda_graph, 'warm', lambda work, device: work())
    monkeypatch.setattr(cuda_graph, 'capture', refuse)
    other.gradients = Recording(other.compute_gradients, list(other.agent.parameters()))
    batches = [samples(plain)]
    train(plain, WARMING, batches)
    train(other, WARMING, batches)
    with pytest.warns(UserWarning, match='cannot be recorded as a CUDA graph.*not permitted when stream is capturing$'):
        torch.manual_seed(5)
        other.update(batches[0])
    assert not any(torch.isnan(x).any() for x in other.agent.parameters())


def test_a_failed_capture_leaves_our_stream_current(monkeypatch):
    """As in torch: a graph whose end is refused never makes the stream from before current again."""
    current = ['ours']

    @contextlib.contextmanager
    def stream(wanted):
        before = current[0]
        current[0] = wanted
        try:
            yield
        finally:
            current[0] = before

    class Graph:
        def __init__(self, graph, capture_error_mode):
            pass

        def __enter__(self):
            current[0] = 'the capture'

        def __exit__(self, *exception):
            raise RuntimeError('the capture was invalidated')

    fakes = dict(
        device=lambda device: contextlib.nullcontext(),
        stream=stream,
        current_stream=lambda device: current[0],
        CUDAGraph=lambda: None,
        graph=Graph,
    )
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(RuntimeError, match='invalidated'):
        cuda_graph.capture(dict, torch.device('cuda'))
    assert current == ['ours']


def test_batches_of_another_shape_are_computed(taped):
    plain, recorded = (learner('dreamerv3_1m') for _ in range(2))
    taped(recorded.agent)
    recorded.gradients = Recording(recorded.compute_gradients, list(recorded.agent.parameters()))
    whole = samples(plain)
    half = {key: value[:2] for key, value in whole.items()}
    batches = [whole] * (WARMING + 1) + [half, whole]
    assert train(plain, len(batches), batches) == train(recorded, len(batches), batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('name', STEADY)
def test_on_a_gpu_the_recorded_update_is_the_update(name):
    from dreamer_ros.training.learner import Learner

    made = learner(name)
    plain, recorded = (Learner(made.config, made.spec, 'cuda') for _ in range(2))
    plain.gradients = plain.compute_gradients
    assert isinstance(recorded.gradients, Recording)
    batches = [samples(plain, seed) for seed in range(3)]
    expected, taken = (train(each, UPDATES, batches) for each in (plain, recorded))
    for left, right in zip(expected, taken):  # what a GPU adds up has no fixed order
        assert left == pytest.approx(right, rel=0.05, abs=0.05)
