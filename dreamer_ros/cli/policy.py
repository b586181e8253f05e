"""`dreamer policy …`: keys and signatures of policies."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli.options import command
from dreamer_ros.errors import InputError


def add(commands) -> None:
    policy = commands.add_parser(
        'policy',
        help='check, sign and shrink policies',
        epilog='example: dreamer policy sign policy.onnx --key team.key',
    )
    group = policy.add_subparsers(metavar='COMMAND', required=True)

    keygen = command(
        group,
        'keygen',
        _keygen,
        'write a new private key and print the public one, for `public_key` of a robot contract',
        'dreamer policy keygen team.key',
    )
    keygen.add_argument('key', metavar='FILE', type=Path, help='new file of the private key (PEM)')

    sign = command(
        group,
        'sign',
        _sign,
        'sign a policy: write its signed manifest beside it',
        'dreamer policy sign policy.onnx --key team.key',
    )
    sign.add_argument('policy', metavar='POLICY', help='ONNX file, or its manifest')
    sign.add_argument('--key', metavar='FILE', type=Path, required=True, help='private key')

    verify = command(
        group,
        'verify',
        _verify,
        'check that a policy is whole, computes what it did in training, and, with a key, who signed it',
        'dreamer policy verify policy.onnx --key 1b2c…',
    )
    verify.add_argument('policy', metavar='POLICY', help='ONNX file, or its manifest')
    verify.add_argument('--key', metavar='PUBLIC', help='public key, as `dreamer policy keygen` printed it')

    quantize = command(
        group,
        'quantize',
        _quantize,
        'write a variant of a policy with 8-bit weights, and say how much '
        'its actions differ; whether it keeps the return, `dreamer launch sim_eval` tells',
        'dreamer policy quantize policy.onnx --bags runs/cartpole_swingup-cpu-20260131-120000/episodes',
    )
    quantize.add_argument('policy', metavar='POLICY', type=Path, help='ONNX file')
    quantize.add_argument(
        '--output', metavar='FILE', type=Path, help='default: <name>_int8.onnx beside it; not among released policies'
    )
    quantize.add_argument(
        '--bags',
        metavar='PATH',
        type=Path,
        help='bag or folder of bags with observations to compare on; default: images of noise',
    )

    release = command(
        group,
        'release',
        _release,
        "copy a run's latest policy to the released ones, with its card",
        'dreamer policy release runs/cartpole_swingup-cpu-20260131-120000',
    )
    release.add_argument('run_directory', metavar='RUN', type=Path, help='with an evaluation of it: `dreamer eval RUN`')
    release.add_argument(
        '--to', metavar='FOLDER', type=Path, default=Path('models/policies'), help='default: models/policies'
    )


def _release(arguments) -> None:
    from dreamer_ros.training.release import release

    print(release(arguments.run_directory, arguments.to))


def _keygen(arguments) -> None:
    from dreamer_ros.policy.signing import generate_key

    print(f'public_key: {generate_key(arguments.key)}')


def _sign(arguments) -> None:
    from dreamer_ros.files import write_file
    from dreamer_ros.policy.loader import load, manifest_path
    from dreamer_ros.policy.signing import load_key, public_key, sign

    key = load_key(arguments.key)
    manifest = load(arguments.policy).manifest()  # nobody should sign what does not work
    path = Path(manifest.uri)
    write_file(manifest_path(path), sign(manifest.at(path.name), key).to_json() + '\n')
    print(f'{manifest_path(path)}: signed by {public_key(key)}')


def _quantize(arguments) -> None:
    from dreamer_ros.policy.quantize import difference, quantize

    source = arguments.policy
    target = arguments.output or source.with_name(f'{source.stem}_int8.onnx')
    if any(file.with_suffix('.yaml').exists() for file in target.absolute().parent.glob('*.onnx')):
        raise InputError(
            f'policy {target}: expected --output in another folder: in this one every policy is released, '
            'with a card of the returns that were measured with it'
        )
    manifest = quantize(source, target)
    gap = difference(source, target, _episodes(arguments.bags, source) if arguments.bags else ())
    seen = 'recorded observations' if arguments.bags else 'images of noise'
    print(
        f'{target}: {manifest.size / 1e6:.2f} MB instead of {source.stat().st_size / 1e6:.2f} MB; over {gap.steps} '
        f'{seen} its actions differ by {gap.mean:.4f} on average, {gap.largest:.4f} at most (of a range of 2)'
    )


def _episodes(bags: Path, policy: Path):
    """Episodes of a bag, or of the bags of a folder."""
    from dreamer_ros.episodes.episode_reader import read_episodes
    from dreamer_ros.policy.runner import PolicyRunner

    spec = PolicyRunner(policy).spec
    single = (bags / 'metadata.yaml').exists()
    paths = [bags] if single else sorted(file.parent for file in bags.glob('*/metadata.yaml'))
    if not paths:
        raise InputError(f'{bags}: expected a bag, or a folder of bags')
    for path in paths:
        yield from read_episodes(path, spec)[0]


def _verify(arguments) -> None:
    from dreamer_ros.policy.digest import KEY
    from dreamer_ros.policy.loader import load, stored_manifest
    from dreamer_ros.policy.signing import verify

    stored = stored_manifest(arguments.policy)
    runner = load(stored or arguments.policy)
    manifest = stored or runner.manifest()
    if arguments.key:
        verify(manifest, arguments.key)
    signed = f', signed by {arguments.key}' if arguments.key else ''
    print(f'{manifest.uri}: version {runner.version} for {runner.spec.name} (spec {runner.spec.hash}){signed}')
    if KEY not in runner.metadata and stored is None:
        print(f'it is without {KEY} and without a manifest: only what it computes was checked, not every byte')
