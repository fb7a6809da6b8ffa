"""Links: small messages, in order, to the right end."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest
from wire_roles import settle

from openwafer.base import InputError, RoleError, RoleLost, StallError
from openwafer.wire import Inbox, Outbox, Transport, wait_any


class RunStep(msgspec.Struct):
    """A command as the coordinator might send it."""

    step: int
    micro_batches: list[int]


def commands(transport: Transport) -> tuple[Outbox, Inbox]:
    """A link, and both its ends."""
    transport.link("commands", source="coordinator", target="system0")
    return (
        transport.endpoints("coordinator").outbox("commands"),
        transport.endpoints("system0").inbox("commands"),
    )


def test_messages_arrive_once_and_in_order(transport: Transport) -> None:
    """A command that came twice or late would be another run."""
    outbox, inbox = commands(transport)

    for step in range(300):
        outbox.send({"step": step})

    assert [inbox.receive(timeout_s=10)["step"] for _ in range(300)] == list(range(300))
    assert not inbox.poll()


def test_a_message_is_decoded_as_the_type_that_was_asked_for(transport: Transport) -> None:
    """Bytes from outside become typed objects once, where they come in."""
    outbox, inbox = commands(transport)

    outbox.send(RunStep(step=3, micro_batches=[1, 2]))

    assert inbox.receive(timeout_s=10, type=RunStep) == RunStep(step=3, micro_batches=[1, 2])


def test_a_message_of_another_type_is_an_error_and_the_link_goes_on(transport: Transport) -> None:
    """Two versions of a role must fail with both names, and not somewhere behind."""
    outbox, inbox = commands(transport)
    outbox.send({"speed": 3})
    outbox.send_bytes(b"raw")

    with pytest.raises(RoleError, match=r"coordinator sent system0 .* 'commands' that is no RunStep.*`step`"):
        inbox.receive(timeout_s=10, type=RunStep)

    assert inbox.receive_bytes(timeout_s=10) == b"raw"


def test_what_msgpack_cannot_carry_is_refused_by_the_sender(transport: Transport) -> None:
    """The sender knows what it meant; the receiver could only guess."""
    outbox, inbox = commands(transport)

    with pytest.raises(InputError, match=r"cannot send a object on link 'commands'.*segment"):
        outbox.send(object())

    assert not inbox.poll()


def test_a_message_longer_than_the_pipe_arrives_whole(transport: Transport) -> None:
    """A kernel pipe holds 64 KiB; the rest has to wait for the reader without being torn."""
    outbox, inbox = commands(transport)
    frames = [bytes([index]) * 1_000_001 for index in range(3)]
    thread = threading.Thread(target=lambda: [outbox.send_bytes(frame, timeout_s=10) for frame in frames])

    thread.start()

    assert [inbox.receive_bytes(timeout_s=10) for _ in frames] == frames
    thread.join()


def test_a_silent_peer_is_a_stall_that_names_both_ends_and_the_time(transport: Transport) -> None:
    """The person who reads this must know whom to look at."""
    _, inbox = commands(transport)
    begin = time.monotonic()

    with pytest.raises(StallError, match=r"system0 waited 0\.1 s for coordinator on link 'commands'"):
        inbox.receive(timeout_s=0.1)

    assert time.monotonic() - begin > 0.09


def test_what_was_sent_before_the_sender_left_still_arrives(transport: Transport) -> None:
    """A role sends its last result and ends; the result must not depend on who is faster."""
    outbox, inbox = commands(transport)
    outbox.send("last words")
    transport.endpoints("coordinator").close()
    settle(transport)

    assert inbox.receive() == "last words"
    assert inbox.poll()
    with pytest.raises(RoleLost, match="system0 lost coordinator on link 'commands'"):
        inbox.receive()


def test_sending_to_a_role_that_left_is_an_error(transport: Transport) -> None:
    """A command that nobody will read must not look sent."""
    outbox, _ = commands(transport)
    transport.endpoints("system0").close()
    settle(transport)

    with pytest.raises(RoleLost, match="coordinator lost system0"):
        outbox.send("anybody there?")


def test_links_of_one_name_are_told_apart_by_their_peer(transport: Transport) -> None:
    """The coordinator has the same commands link to every system."""
    for system in ("system0", "system1"):
        transport.link("commands", source="coordinator", target=system)
    coordinator = transport.endpoints("coordinator")

    coordinator.outbox("commands", target="system1").send("for one")
    settle(transport)

    assert transport.endpoints("system1").inbox("commands").receive(timeout_s=10) == "for one"
    assert not transport.endpoints("system0").inbox("commands").poll()
    with pytest.raises(InputError, match=r"several .* 'commands', with system0, system1"):
        coordinator.outbox("commands")


def test_wait_any_wakes_for_whichever_peer_speaks_first(transport: Transport) -> None:
    """The coordinator waits for all systems at once; the one that fails speaks when it likes."""
    for system in ("system0", "system1"):
        transport.link("results", source=system, target="coordinator")
    inboxes = [transport.endpoints("coordinator").inbox("results", source=f"system{i}") for i in (0, 1)]
    with pytest.raises(StallError, match=r"coordinator waited .* system0 on link 'results', system1 on"):
        wait_any(inboxes, timeout_s=0.01)

    threading.Timer(0.05, transport.endpoints("system1").outbox("results").send, ("done",)).start()

    assert wait_any(inboxes, timeout_s=20) == [inboxes[1]]
    assert inboxes[1].receive(timeout_s=0) == "done"


def test_a_name_that_was_not_declared_is_an_error_that_lists_the_names_that_were(
    transport: Transport,
) -> None:
    """A misspelt name must not wait for messages that never come."""
    commands(transport)

    with pytest.raises(
        InputError, match=r"system0 has no inbox 'comands'; it has 'commands' \(coordinator\)"
    ):
        transport.endpoints("system0").inbox("comands")
    with pytest.raises(InputError, match=r"no segment 'state'; it has none"):
        transport.endpoints("system0").segment("state")
    with pytest.raises(InputError, match=r"no role 'system9', only .*coordinator"):
        transport.endpoints("system9")
    with pytest.raises(InputError, match="exists already"):
        commands(transport)
