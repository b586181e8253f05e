"""`dreamer policy …`: keys and signatures of policies."""
from __future__ import annotations

from pathlib import Path

from dreamer_ros.commands.options import command


def add(commands) -> None:
    policy = commands.add_parser('policy', help='sign policies, and check them',
                                 epilog='example: dreamer policy sign policy.onnx --key team.key')
    group = policy.add_subparsers(metavar='COMMAND', required=True)

    keygen = command(group, 'keygen', _keygen,
                     'write a new private key and print the public one, for `public_key` of a robot contract',
                     'dreamer policy keygen team.key')
    keygen.add_argument('key', metavar='FILE', type=Path, help='new file of the private key (PEM)')

    sign = command(group, 'sign', _sign, 'sign a policy: write its signed manifest beside it',
                   'dreamer policy sign policy.onnx --key team.key')
    sign.add_argument('policy', metavar='POLICY', help='ONNX file, or its manifest')
    sign.add_argument('--key', metavar='FILE', type=Path, required=True, help='private key')

    verify = command(group, 'verify', _verify, 'check that a policy is whole, computes what it did in training, and, '
                     'with a key, who signed it', 'dreamer policy verify policy.onnx --key 1b2c…')
    verify.add_argument('policy', metavar='POLICY', help='ONNX file, or its manifest')
    verify.add_argument('--key', metavar='PUBLIC', help='public key, as `dreamer policy keygen` printed it')


def _keygen(arguments) -> None:
    from dreamer_ros.policy.signing import generate_key
    print(f'public_key: {generate_key(arguments.key)}')


def _sign(arguments) -> None:
    from dreamer_ros.files import write_file
    from dreamer_ros.policy.loader import find_manifest, load, manifest_path
    from dreamer_ros.policy.signing import load_key, public_key, sign
    key = load_key(arguments.key)
    manifest = find_manifest(arguments.policy)
    load(manifest)  # nobody should sign what does not work
    path = Path(manifest.uri)
    write_file(manifest_path(path), sign(manifest.at(path.name), key).to_json() + '\n')
    print(f'{manifest_path(path)}: signed by {public_key(key)}')


def _verify(arguments) -> None:
    from dreamer_ros.policy.loader import find_manifest, load
    from dreamer_ros.policy.signing import verify
    manifest = find_manifest(arguments.policy)
    if arguments.key:
        verify(manifest, arguments.key)
    runner = load(manifest)
    signed = f', signed by {arguments.key}' if arguments.key else ''
    print(f'{manifest.uri}: version {runner.version} for {runner.spec.name} (spec {runner.spec.hash}){signed}')
