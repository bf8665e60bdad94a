"""Which requests share a batch: the oldest and what fits beside it."""

from threading import Thread

import pytest
import torch

from adaptkit.serve.batching import Queue, Room, Waiting


@pytest.fixture
def new_queue():
    """Make a queue of requests, each (frames, speaker), with room for 8 rows, 1000 frames and 8 speakers."""

    def make(requests, num_rows=8, num_frames=1000, num_speakers=8, **room) -> Queue:
        queue = Queue(Room(num_rows, num_frames, num_speakers, **room))
        for frames, speaker in requests:
            queue.put(Waiting(torch.zeros(frames, 1), frames, speaker))
        return queue

    return make


def batches_of(queue):
    """Take all there is, as (frames, speaker)."""
    queue.close()
    batches = iter(queue.take, [])
    return [[(item.num_frames, item.speaker) for item in batch] for batch in batches]


def test_all_that_fit_are_taken_together(new_queue):
    requests = [(10, "a"), (20, "b"), (10, None), (30, "a")]
    assert batches_of(new_queue(requests)) == [requests]


def test_a_batch_has_no_more_rows_than_allowed(new_queue):
    requests = [(10, None)] * 7
    assert [len(batch) for batch in batches_of(new_queue(requests, num_rows=3))] == [3, 3, 1]


def test_frames_are_counted_with_padding(new_queue):
    requests = [(10, None), (50, None), (50, None), (10, None)]
    assert batches_of(new_queue(requests, num_frames=100)) == [requests[:2], requests[2:]]


def test_a_request_longer_than_a_batch_goes_alone(new_queue):
    requests = [(5000, None), (10, None)]
    assert batches_of(new_queue(requests)) == [requests[:1], requests[1:]]


def test_speakers_have_to_find_slots_and_those_that_stay_in_memory_do_not_count(new_queue):
    requests = [(10, name) for name in ("a", "b", "stays", "c", None, "a")]
    room = {"num_speakers": 2, "resident": frozenset({"stays"})}
    speakers = [[speaker for _, speaker in batch] for batch in batches_of(new_queue(requests, **room))]
    assert speakers == [["a", "b", "stays", None, "a"], ["c"]]


def put_routed(queue, number):
    """Put requests whose Submodels are still to be chosen."""
    for _ in range(number):
        queue.put(Waiting(torch.zeros(10, 1), 10, None, is_routed=True))


def test_a_request_of_an_unknown_speaker_needs_a_slot_of_its_own(new_queue):
    queue = new_queue([(10, "a"), (10, None)], num_speakers=2)
    put_routed(queue, 3)
    assert [len(batch) for batch in batches_of(queue)] == [3, 2]


def test_few_requests_of_unknown_speakers_share_a_batch_since_all_others_wait_for_them(new_queue):
    queue = new_queue([(10, "a")] * 3)
    put_routed(queue, 6)
    assert [len(batch) for batch in batches_of(queue)] == [3 + 4, 2]


def test_an_unknown_speaker_goes_alone_where_speakers_do_not_mix(new_queue):
    queue = new_queue([(10, None), (10, None)], mixes_speakers=False)
    put_routed(queue, 2)
    assert [len(batch) for batch in batches_of(queue)] == [2, 1, 1]


def test_only_one_length_shares_a_batch_where_lengths_do_not_mix(new_queue):
    requests = [(10, None), (20, None), (10, None)]
    assert batches_of(new_queue(requests, mixes_lengths=False)) == [[(10, None)] * 2, [(20, None)]]


def test_only_one_speaker_shares_a_batch_where_speakers_do_not_mix(new_queue):
    requests = [(10, "a"), (10, None), (10, "a")]
    assert batches_of(new_queue(requests, mixes_speakers=False)) == [[(10, "a")] * 2, [(10, None)]]


def test_the_oldest_is_always_taken(new_queue):
    requests = [(10, "a"), (900, "b"), *[(10, "a")] * 20]
    batches = batches_of(new_queue(requests, num_rows=2))
    assert batches[1][0] == (900, "b")


def test_who_gave_up_is_not_taken(new_queue):
    queue = new_queue([(10, "a")])
    gone = Waiting(torch.zeros(10, 1), 10, "b")
    queue.put(gone)
    gone.found.cancel()
    assert batches_of(queue) == [[(10, "a")]]


def test_a_dropped_request_is_gone_at_once(new_queue):
    queue, dropped = new_queue([]), Waiting(torch.zeros(10, 1), 10, "b")
    queue.put(dropped)
    queue.drop(dropped)
    assert len(queue) == 0
    assert dropped.found.cancelled()


def test_closing_ends_a_thread_that_waits(new_queue):
    queue, taken = new_queue([]), []
    thread = Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(20)
    assert taken == [[]]
