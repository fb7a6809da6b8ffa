"""<message_passing> on a machine: what the library's page says beside sending and receiving."""

from __future__ import annotations

from machine_cases import START, run

HEAD = """
const mp = @import_module("<message_passing>", .{ .enable_asserts = true, .input_queue_id = 2, .output_queue_id = 3 });
var words = [4]u32 { 11, 22, 33, 0x280000 };
var got = @zeros([40]u32);
var count: u16 = 0;
"""


def test_a_data_task_gets_the_header_and_all_but_the_last_wavelet(tmp_path):
    """The last one is a control wavelet, which starts nothing, whatever its bits say; so senders add one for nobody."""
    program = """
task arrived(data: u32) void { got[count] = data; count += 1; }
task start() void { mp.init(); mp.send_message(0, 0, &words, 4, .{}); }
comptime { @bind_data_task(arrived, @get_data_task_id(mp.mp_input_queue)); }
"""
    ran = run(HEAD + program + START, tmp_path)

    assert ran.failure == ""
    assert ran["count"] == [4]
    assert ran["got"][1:5] == [11, 22, 33, 0]


def test_messages_follow_one_another(tmp_path):
    """A tile may send to itself; the second message waits in the fabric until it is received."""
    program = """
const sent_id = @get_local_task_id(9);
const got_id = @get_local_task_id(10);
task start() void { mp.init(); mp.send_message(0, 0, &words, 2, .{ .activate = sent_id }); }
task sent() void {
  words[0] = 44;
  mp.send_message(0, 0, &words, 3, .{});
  mp.recv_message(&got, .{ .activate = got_id });
}
task got_one() void {
  count += 1;
  if (count == 1) { mp.recv_message(@ptrcast(*[20]u32, &got[20]), .{ .activate = got_id }); }
}
comptime { @bind_local_task(sent, sent_id); @bind_local_task(got_one, got_id); }
"""
    ran = run(HEAD + program + START, tmp_path)

    assert ran.failure == ""
    assert ran["count"] == [2]
    assert ran["got"][:3] == [11, 22, 0]
    assert ran["got"][20:24] == [44, 22, 33, 0]


def test_what_was_sent_may_change_at_once(tmp_path):
    """The library keeps a copy, so that the buffer is free as soon as send_message returns."""
    program = """
const got_id = @get_local_task_id(10);
task start() void {
  mp.init();
  mp.send_message(0, 0, &words, 3, .{});
  for (@range(i16, 4)) |i| { words[i] = 0; }
  mp.recv_message(&got, .{ .unblock = got_id });
  @activate(got_id);
}
task done() void { count = @as(u16, got[2]); }
comptime { @bind_local_task(done, got_id); @block(got_id); }
"""
    ran = run(HEAD + program + START, tmp_path)

    assert ran["count"] == [33]
    assert ran["got"][:4] == [11, 22, 33, 0]


def test_messages_that_are_too_long_or_leave_the_program_fail(tmp_path):
    """With enable_asserts, at the line of the call's module."""
    for call in ("mp.send_message(0, 0, &got, 33, .{});", "mp.send_message(1, 0, &words, 1, .{});"):
        ran = run(HEAD + START + f"task start() void {{ mp.init(); {call} }}\n", tmp_path)
        assert "<message_passing>" in ran.failure
        assert "assert" in ran.failure
