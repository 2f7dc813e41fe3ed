import threading

from cosmos3_ros.reasoner import NewestSlot


def test_newest_wins_and_the_dropped_are_counted():
    slot = NewestSlot()
    for value in range(5):
        slot.offer(value)
    assert slot.take(0) == 4 and slot.take(0) is None
    assert (slot.offered, slot.dropped) == (5, 4)


def test_nothing_is_lost_uncounted_between_threads():
    slot, seen = NewestSlot(), []

    def consume():
        while (value := slot.take()) is not None:
            seen.append(value)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for value in range(1, 2001):
        slot.offer(value)
    slot.close()
    consumer.join(10)
    assert not consumer.is_alive()
    assert len(seen) + slot.dropped == 2000
    assert seen == sorted(seen) and seen[-1] == 2000


def test_close_wakes_a_waiting_consumer():
    slot = NewestSlot()
    results = []
    consumer = threading.Thread(target=lambda: results.append(slot.take()))
    consumer.start()
    slot.close()
    consumer.join(10)
    assert results == [None]
    slot.offer(1)
    assert slot.offered == 0
