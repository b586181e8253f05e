"""Claims of topics; those of agents and simulators are tried with their processes."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from dreamer_ros.ros.ownership import TopicLock, TopicTaken


def test_a_topic_of_a_domain_is_given_away_once():
    def claim(topic, domain=7):
        return TopicLock(SimpleNamespace(context=SimpleNamespace(get_domain_id=lambda: domain)), topic, 'it is mine')

    topic = f'/{uuid.uuid4().hex}' + 200 * 'x'  # as long as ROS allows, longer than the name of a socket
    first = claim(topic)
    others = [claim(topic, 8), claim(topic[:-1]), claim(f'/robot{topic}')]
    with pytest.raises(TopicTaken, match='^it is mine$'):
        claim(topic)
    first.close()
    first.close()
    for held in (*others, claim(topic)):
        held.close()
