"""`dreamer policy …`: check, sign, shrink and release policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dreamer_ros.cli.command import Group, command
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options, Word

Policy = Annotated[str, Word('POLICY', positional=True), Field(description='ONNX file, or its manifest.')]


class Keygen(Options):
    """Options of `dreamer policy keygen`."""

    key: Annotated[str, Word('FILE', positional=True)] = Field(description='New file of the private key (PEM).')


@command('dreamer policy keygen team.key')
def keygen(options: Keygen) -> None:
    """Write a new private key and print the public one, for `public_key` of a robot contract."""
    from dreamer_ros.policy.signing import generate_key

    print(f'public_key: {generate_key(Path(options.key))}')


class Sign(Options):
    """Options of `dreamer policy sign`."""

    policy: Policy
    key: Annotated[str, Word('FILE')] = Field(description='File of the private key.')


@command('dreamer policy sign policy.onnx --key team.key')
def sign(options: Sign) -> None:
    """Sign a policy: write its signed manifest beside it."""
    from dreamer_ros.files import write_file
    from dreamer_ros.policy.loader import load, manifest_path
    from dreamer_ros.policy.signing import load_key, public_key, sign

    key = load_key(Path(options.key))
    manifest = load(options.policy).manifest()  # nobody should sign what does not work
    path = Path(manifest.uri)
    write_file(manifest_path(path), sign(manifest.at(path.name), key).to_json() + '\n')
    print(f'{manifest_path(path)}: signed by {public_key(key)}')


class Verify(Options):
    """Options of `dreamer policy verify`."""

    policy: Policy
    key: Annotated[str, Word('PUBLIC')] = Field('', description='Public key, as `dreamer policy keygen` printed it.')


@command('dreamer policy verify policy.onnx --key 1b2c…')
def verify(options: Verify) -> None:
    """Check that a policy is whole, computes what it did in training, and, with a key, who signed it."""
    from dreamer_ros.policy.digest import KEY
    from dreamer_ros.policy.loader import load, stored_manifest
    from dreamer_ros.policy.signing import verify

    stored = stored_manifest(options.policy)
    runner = load(stored or options.policy)
    manifest = stored or runner.manifest()
    if options.key:
        verify(manifest, options.key)
    signed = f', signed by {options.key}' if options.key else ''
    print(f'{manifest.uri}: version {runner.version} for {runner.spec.name} (spec {runner.spec.hash}){signed}')
    if KEY not in runner.metadata and stored is None:
        print(f'it has neither {KEY} nor a manifest: its outputs were checked, but not every byte')


class Quantize(Options):
    """Options of `dreamer policy quantize`."""

    policy: Annotated[str, Word('POLICY', positional=True)] = Field(description='ONNX file.')
    output: Annotated[str, Word('FILE')] = Field(
        '', description='File to write, not among released policies. Default: <name>_int8.onnx beside the policy.'
    )
    bags: Annotated[str, Word('PATH')] = Field(
        '', description='Bag, folder of bags or run with observations to compare on. Default: images of noise.'
    )


@command('dreamer policy quantize policy.onnx --bags runs/cartpole_swingup-cpu-20260131-120000/episodes')
def quantize(options: Quantize) -> None:
    """Write a variant of a policy with 8-bit weights, and say how much its actions differ.

    `dreamer eval --policy` tells whether it keeps the return.
    """
    from dreamer_ros.policy.quantize import difference, quantize

    source = Path(options.policy)
    target = Path(options.output) if options.output else source.with_name(f'{source.stem}_int8.onnx')
    if any(file.with_suffix('.yaml').exists() for file in target.absolute().parent.glob('*.onnx')):
        raise InputError(
            f'policy {target}: expected --output in another folder: in this one every policy is released, '
            'with a card of the returns that were measured with it'
        )
    manifest = quantize(source, target)
    gap = difference(source, target, _episodes(Path(options.bags), source) if options.bags else ())
    seen = 'recorded observations' if options.bags else 'images of noise'
    print(
        f'{target}: {manifest.size / 1e6:.2f} MB instead of {source.stat().st_size / 1e6:.2f} MB; over {gap.steps} '
        f'{seen} its actions differ by {gap.mean:.4f} on average, {gap.largest:.4f} at most (of a range of 2)'
    )


def _episodes(bags: Path, policy: Path) -> Iterator:
    """Episodes of a bag, a folder of bags or a run, read for the robot of a policy."""
    from dreamer_ros.episodes.bag_reader import bags_in
    from dreamer_ros.episodes.episode_reader import read_episodes
    from dreamer_ros.policy.runner import PolicyRunner

    spec = PolicyRunner(policy).spec
    for bag in bags_in(bags):
        yield from read_episodes(bag, spec)[0]


class Release(Options):
    """Options of `dreamer policy release`."""

    run: Annotated[str, Word('RUN', positional=True)] = Field(
        description='Run directory, with an evaluation of it (`dreamer eval RUN`).'
    )
    to: Annotated[str, Word('FOLDER')] = Field('models/policies', description='Folder of the released policies.')


@command('dreamer policy release runs/cartpole_swingup-cpu-20260131-120000')
def release(options: Release) -> None:
    """Copy a run's latest policy to the released ones, with its card."""
    from dreamer_ros.training.release import release

    print(release(Path(options.run), Path(options.to)))


policy = Group(
    (keygen, sign, verify, quantize, release),
    'Check, sign, shrink and release policies.',
    'dreamer policy sign policy.onnx --key team.key',
)
