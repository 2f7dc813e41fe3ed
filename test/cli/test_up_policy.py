"""``cosmos3 up`` with a policy behind a server: the address is asked for before anything starts."""

import argparse
from types import SimpleNamespace

import pytest
import yaml

from cosmos3_ros.cli import up
from cosmos3_ros.cli.console import CommandError
from cosmos3_ros.cli.main import main
from cosmos3_ros.generator.policy import POLICIES
from cosmos3_ros.resources import shared_file


def parse(*arguments):
    parser = argparse.ArgumentParser()
    up.add_parser(parser.add_subparsers())
    return parser.parse_args(['up', *arguments])


@pytest.mark.parametrize(('arguments', 'text'), [
    (('--policy', 'openpi'), '--policy openpi needs --policy-url, e.g. ws://'),
    (('--policy', 'nim'), '--policy nim needs --policy-url, e.g. http://'),
    (('--policy-url', 'http://x'), '--policy cosmos3 asks no server; openpi, vllm_omni, nim do'),
])
def test_an_address_belongs_to_a_server(arguments, text):
    with pytest.raises(CommandError, match=text):
        up._check_server(parse(*arguments))


def test_every_policy_can_be_named_and_the_generator_is_told(monkeypatch):
    for name in POLICIES:
        assert parse('--policy', name).policy == name
    args = parse('--policy', 'nim', '--policy-url', 'http://gpu:8000', '--policy-option', 'timeout_s=2.0',
                 '--policy-option', 'retries=0')
    up._check_server(args)
    started = {}
    graph = SimpleNamespace(
        start=lambda specs, _: started.update({spec.name: spec.parameters for spec in specs}),
        configure=lambda: None, activate=lambda _: None)
    args.profile = 'lab'
    up._bring_up(args, SimpleNamespace(graph=graph), 'some/checkpoint', None)
    told = started['generator']
    assert (told['policy'], told['policy_url']) == ('nim', 'http://gpu:8000')
    assert told['policy_options'] == ['timeout_s=2.0', 'retries=0']


def test_help_describes_every_argument(capsys):
    with pytest.raises(SystemExit):
        main(('up', '--help'))
    shown = capsys.readouterr().out
    assert '--policy-url URL' in shown and 'vllm_omni' in shown and '--policy-option NAME=VALUE' in shown


def test_the_shipped_parameters_still_name_the_policy_here():
    generator = yaml.safe_load(shared_file('config', 'manipulation.yaml').read_text())['/**/generator']
    assert generator['ros__parameters']['policy'] == 'cosmos3'
    assert generator['ros__parameters']['policy_url'] == ''
