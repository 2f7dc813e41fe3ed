"""Every message that a publisher numbered is received, missed or older than the subscription."""

import time

from hypothesis import given
from hypothesis import strategies as st
from ros_graph import wait_for
from sensor_msgs.msg import JointState

from cosmos3_ros.nodes.message_account import MessageAccount
from cosmos3_ros.nodes.polled_subscription import PolledSubscription
from cosmos3_ros.nodes.qos import make_profile


def info(number, publisher=b'a'):
    return {'publication_sequence_number': number, 'publisher_gid': {'data': publisher}}


@given(st.lists(st.lists(st.booleans(), max_size=40), min_size=1, max_size=3), st.randoms())
def test_it_adds_up_whatever_is_dropped_and_in_whatever_order(publishers, random):
    account = MessageAccount()
    heard = [
        (number, bytes([k])) for k, kept in enumerate(publishers)
        for number, is_kept in enumerate(kept, start=1) if is_kept]
    random.shuffle(heard)
    for number, publisher in heard:
        account.take(info(number, publisher))
    assert account.received == len(heard)
    assert account.received + account.missed + account.before == account.newest
    for k, kept in enumerate(publishers):
        if any(kept):
            first, last = kept.index(True), len(kept) - kept[::-1].index(True)
            assert account._publishers[bytes([k])].newest == last
            assert account._publishers[bytes([k])].first == first + 1


def test_without_numbers_it_says_nothing():
    account = MessageAccount()
    assert account.values('x') == {}
    account.take(info(1))
    assert account.values('x') == {'x_missed': 0, 'x_before': 0, 'x_newest': 1}
    account.take({'publication_sequence_number': None, 'publisher_gid': None})
    assert account.received == 2 and account.values('x') == {}


def test_real_messages_that_a_full_queue_replaced_are_missed(graph):
    publisher = graph.client.create_publisher(JointState, 'joints', make_profile('reliable', 10))
    publisher.publish(JointState())
    account = MessageAccount()
    stream = PolledSubscription(
        graph.client, JointState, 'joints', make_profile('reliable', 3), lambda _: None, account)
    wait_for(lambda: publisher.get_subscription_count() > 0, 'the subscription')

    def newest():
        stream.poll()
        return account.newest

    publisher.publish(JointState())
    wait_for(lambda: newest() == 2, 'the second message')
    for _ in range(8):
        publisher.publish(JointState())
    time.sleep(0.3)
    wait_for(lambda: newest() == 10, 'the last message')
    assert account.values('joints') == {'joints_missed': 5, 'joints_before': 1, 'joints_newest': 10}
