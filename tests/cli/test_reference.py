"""The reference page is what the models say."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'reference.md'


def test_the_page_is_up_to_date(capsys):
    """If it is not: dreamer reference > docs/reference.md"""
    assert main(['reference']) == 0
    assert PAGE.read_text() == capsys.readouterr().out
