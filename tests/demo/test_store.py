"""The revision log: whatever is written, every reader of it sees the same history, without gaps and doubles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.demo.replica import LaggingStore
from lbproxy.demo.store import (
    Event,
    EventType,
    ExpiredError,
    Refused,
    Store,
    Verb,
    Write,
    WriteRefusedError,
)


def make(name: str, value: int = 0, *, verb: Verb = Verb.CREATE, resource: str = "pods") -> Write:
    body = {"metadata": {"name": name}, "value": value}
    return Write(verb, resource, ("ns", name), None if verb is Verb.DELETE else body)


writes = st.builds(
    make,
    name=st.sampled_from("abc"),
    value=st.integers(0, 9),
    verb=st.sampled_from(Verb),
    resource=st.sampled_from(["pods", "nodes"]),
)


def do(store: Store, write: Write) -> Event | None:
    try:
        return store.write(write)
    except WriteRefusedError:
        return None


def state(store: Store, resource: str = "pods", at: int | None = None) -> dict[str, tuple[int, int]]:
    return {key[1]: (found.revision, found.body["value"]) for key, found in store.snapshot(resource, at).items()}


def replay(events: list[Event], start: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """What a client holds that applied these events to this list."""
    held = dict(start)
    for event in events:
        if event.type is EventType.DELETED:
            del held[event.key[1]]
        else:
            assert (event.key[1] in held) == (event.type is EventType.MODIFIED)
            held[event.key[1]] = (event.revision, event.stored.body["value"])
    return held


@given(st.lists(writes, max_size=60))
def test_every_write_that_is_not_refused_takes_the_next_revision(script: list[Write]) -> None:
    store = Store()
    done = [event for write in script if (event := do(store, write)) is not None]
    assert [event.revision for event in done] == list(range(2, 2 + len(done)))
    assert list(store.log()) == done
    assert all(event.stored.body["metadata"]["resourceVersion"] == str(event.revision) for event in done)


@given(st.lists(writes, max_size=60), st.data())
def test_list_then_watch_from_any_revision_arrives_at_the_present(script: list[Write], data: st.DataObject) -> None:
    store = Store()
    for write in script:
        do(store, write)
    revision = data.draw(st.integers(store.compacted, store.revision))
    events = store.since("pods", revision)
    assert [event.revision for event in events] == sorted({event.revision for event in events})
    assert replay(events, state(store, at=revision)) == state(store)


@given(st.lists(writes, max_size=60), st.integers(1, 10))
def test_a_short_history_says_expired_instead_of_leaving_events_out(script: list[Write], history: int) -> None:
    store, all_of_it = Store(history=history), Store()
    for write in script:
        do(store, write)
        do(all_of_it, write)
    for revision in range(1, store.revision + 1):
        whole = [event.revision for event in all_of_it.since("pods", revision)]
        try:
            assert [event.revision for event in store.since("pods", revision)] == whole
        except ExpiredError:
            assert revision < store.compacted
    assert len(list(store.log())) <= history


@given(st.lists(writes, max_size=40), st.lists(writes, max_size=40), st.data())
def test_a_lagging_replica_shows_a_past_that_was_and_catches_up(
    before: list[Write], after: list[Write], data: st.DataObject
) -> None:
    leader = Store()
    for write in before:
        do(leader, write)
    lagging = LaggingStore(leader)
    lagging.hold()
    for write in after:
        do(leader, write)
    lagging.release(data.draw(st.integers(0, 10)))
    assert state(lagging.store) == state(leader, at=lagging.store.revision)
    lagging.release()
    assert state(lagging.store) == state(leader)
    assert lagging.store.since("pods", 1) == leader.since("pods", 1)


def test_compaction_forgets_what_it_was_told_to() -> None:
    store = Store()
    for name in "abc":
        store.write(make(name))
    store.compact(3)
    assert [event.revision for event in store.since("pods", 3)] == [4]
    with pytest.raises(ExpiredError, match="too old resource version: 2 \\(3\\)"):
        store.since("pods", 2)


def test_the_optimistic_lock() -> None:
    store = Store()
    first = store.write(make("a"))
    second = Write(Verb.UPDATE, "pods", ("ns", "a"), first.stored.body, expected_revision=first.revision)
    store.write(second)
    with pytest.raises(WriteRefusedError) as caught:
        store.write(second)
    assert caught.value.why is Refused.CONFLICT
    assert store.revision == 3


@pytest.mark.parametrize(
    ("verb", "exists", "why"),
    [
        (Verb.CREATE, True, Refused.EXISTS),
        (Verb.UPDATE, False, Refused.MISSING),
        (Verb.DELETE, False, Refused.MISSING),
    ],
)
def test_writes_that_cannot_be(verb: Verb, exists: bool, why: Refused) -> None:
    store = Store()
    if exists:
        store.write(make("a"))
    revision = store.revision
    with pytest.raises(WriteRefusedError) as caught:
        store.write(make("a", verb=verb))
    assert caught.value.why is why
    assert store.revision == revision


def test_a_deletion_has_a_revision_of_its_own() -> None:
    store = Store()
    store.write(make("a", 7))
    event = store.write(make("a", verb=Verb.DELETE))
    assert event.stored.body == {"metadata": {"name": "a", "resourceVersion": "3"}, "value": 7}
    assert event.previous is not None
    assert event.previous.revision == 2


def test_subscribers_see_events_in_order_until_they_leave() -> None:
    store, seen = Store(), list[int]()
    leave = store.subscribe(lambda event: seen.append(event.revision))
    store.write(make("a"))
    store.write(make("b"))
    leave()
    store.write(make("c"))
    assert seen == [2, 3]


def test_an_event_out_of_order_is_a_bug_and_changes_nothing() -> None:
    store = Store()
    event = store.write(make("a"))
    with pytest.raises(ValueError, match="revision 2 after 2"):
        store.apply(event)
    assert len(store.since("pods", 1)) == 1
