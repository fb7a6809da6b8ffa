"""What a confined process may not do to the network, to other processes and to the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from confined import confinement, run, tier_or_skip

from openwafer.base import InputError
from openwafer.sandbox import OUTPUT_BYTES, Confinement, start


def test_a_network_socket_is_refused_and_told(tier: str) -> None:
    """The pipeline gets an ordinary error, and the log the reason, whether or not the pipeline says anything."""
    story = run(
        "import socket\ntry:\n    socket.socket()\nexcept OSError as error:\n    print(error.strerror)\n",
        tiers=[tier],
    )

    assert story.text == "Operation not permitted"
    assert [(refused.what, refused.why) for refused in story.refused] == [
        ("socket(AF_INET)", "opens a network connection")
    ]


def test_a_descriptor_s_own_socket_cannot_reach_the_network(tier: str) -> None:
    """Every family but local ones is refused, also those that need no IP."""
    families = "socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK"

    story = run(
        f"import socket\nfor family in ({families}):\n    try:\n        socket.socket(family, socket.SOCK_RAW)\n"
        "    except OSError as error: print(error.errno)\n",
        tiers=[tier],
    )

    assert story.lines == ["1"] * 4
    assert len(story.refused) == 4


def test_the_network_of_the_machine_does_not_exist(tmp_path: Path) -> None:
    """Were the filter of system calls to fail, there is still nothing to connect to."""
    tier_or_skip("namespaces")

    story = run("print(open('/proc/net/dev').read())")

    devices = {line.split(":")[0].strip() for line in story.lines if ":" in line}
    assert devices <= {
        "lo",
        "tunl0",
        "sit0",
        "ip6tnl0",
        "gre0",
        "gretap0",
        "erspan0",
        "ip_vti0",
        "ip6_vti0",
        "ip6gre0",
    }


def test_nobody_else_can_be_signalled(tier: str) -> None:
    """Neither its parents nor the tests, which run as the same user."""
    story = run(
        f"import os\nfor pid in ({os.getpid()}, os.getppid(), 1):\n"
        "    try:\n        os.kill(pid, 9) if pid else None\n    except OSError as error: print('refused')\n"
        "print('alive')\n",
        tiers=[tier],
    )

    assert story.lines[-1] == "alive"
    assert story.ended is not None
    assert story.ended.code == 0


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ptrace", "c.ptrace(16, os.getppid(), 0, 0)"),
        ("process_vm_readv", "c.process_vm_readv(os.getppid(), None, 0, None, 0, 0)"),
        ("unshare", "c.unshare(0x10000000)"),
        ("mount", "c.mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
        ("chroot", "c.chroot(b'/tmp')"),
        ("bpf", "c.syscall(280 if os.uname().machine == 'aarch64' else 321, 0, None, 0)"),
    ],
)
def test_ways_out_of_the_sandbox_are_refused_and_told(tier: str, name: str, call: str) -> None:
    """A new namespace would bring rights back, and others' memory holds whatever they know."""
    story = run(
        f"import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nprint({call}, ctypes.get_errno())\n",
        tiers=[tier],
    )

    assert story.text == "-1 1"
    assert [refused.what for refused in story.refused] == [name]


def test_io_uring_does_not_exist(tier: str) -> None:
    """It would carry out calls past the filter; libraries that look for it do without."""
    story = run(
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nprint(c.syscall(425, 1, None), ctypes.get_errno())",
        tiers=[tier],
    )

    assert story.text == "-1 38"


def test_it_has_no_rights_and_cannot_get_any(tier: str) -> None:
    """Whoever runs the appliance: no capability, no way to a setuid program's, and a filter that stays."""
    story = run(
        "print({l.split(':')[0]: l.split()[1] for l in open('/proc/self/status') if l[:3] in ('Cap', 'NoN', 'Sec')})",
        tiers=[tier],
    )

    fields = eval(story.text)
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_root_is_nobody_inside() -> None:
    """Files of root that nobody else may read stay root's even when they lie in a mount."""
    tier_or_skip("namespaces")

    story = run("import os\nprint(os.getuid())")

    assert int(story.text) == (os.getuid() or 65534)


def test_only_the_given_descriptors_and_variables_are_there(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of the appliance stand in its environment and its open files."""
    monkeypatch.setenv("APPLIANCE_TOKEN", "secret")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        story = run(
            "import os\nprint(sorted(os.environ), [fd for fd in range(64) if os.path.exists(f'/proc/self/fd/{fd}')])",
            tiers=[tier],
            environment={"WANTED": "1"},
        )
    finally:
        os.close(leaked)

    assert "APPLIANCE_TOKEN" not in story.text
    assert "WANTED" in story.text
    # 3 is what listing them takes where they are listed
    assert story.text.endswith(("[0, 1, 2]", "[0, 1, 2, 3]"))


def test_it_ends_with_whoever_started_it(tier: str) -> None:
    """Also after kill -9, which nobody can prepare for: the kernel closes a pipe."""
    program = (
        "import sys, time\nsys.path.insert(0, sys.argv[2])\nfrom confined import confinement\n"
        "from openwafer.sandbox import start\n"
        "start([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(1000)'], confinement(), tiers=[sys.argv[1]])\n"
        "print('started', flush=True)\ntime.sleep(1000)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, tier, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter.stdout:
        assert starter.stdout.readline() == "started\n"
        family = psutil.Process(starter.pid).children(recursive=True)
        assert len(family) >= 2

        starter.send_signal(signal.SIGKILL)
        starter.wait()

    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_kill_ends_all_that_it_started() -> None:
    """A loader's own worker processes would otherwise hold its memory."""
    tier_or_skip("namespaces")
    lines: list[str] = []
    others = set(psutil.Process().children(recursive=True))  # of earlier tests, and multiprocessing's own
    process = start(
        [
            sys.executable,
            "-I",
            "-S",
            "-u",
            "-c",
            "import os, time\nos.fork()\nos.setsid() if os.getpid() != 2 else 0\ntime.sleep(1000)",
        ],
        confinement(),
        on_line=lines.append,
    )
    deadline = time.monotonic() + 60
    family: set[psutil.Process] = set()
    while len(family) < 4 and time.monotonic() < deadline:  # launcher, first process, program, its child
        family = set(psutil.Process().children(recursive=True)) - others

    process.kill()

    ended = process.wait(60)
    assert ended is not None
    assert ended.asked
    assert len(family) == 4
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_where_nothing_can_confine_nothing_is_run() -> None:
    """The user is told what is missing and what to switch on, and must ask for less in so many words."""
    with pytest.raises(InputError, match="offers nothing to confine"):
        run("print('ran')", tiers=[])

    story = run("print('ran')", tiers=[], unconfined=True)

    assert story.text == "ran"
    assert story.layers is not None
    assert story.layers.tier == "none"


def test_output_is_made_printable_and_has_an_end(tier: str) -> None:
    """The log is read in terminals, and lies on a disk that others need."""
    story = run(
        "print('\\x1b[2J\\x1b]0;owned\\x07 text')\nfor _ in range(3000): print('y' * 2000)\nprint('after')",
        tiers=[tier],
    )

    assert "\x1b" not in story.text
    assert "text" in story.lines[0]
    assert "dropped" in story.lines[-1]
    assert len(story.text) < OUTPUT_BYTES + 10000
    assert story.ended is not None
    assert story.ended.code == 0


def test_a_program_that_is_not_there_is_named(tier: str, tmp_path: Path) -> None:
    """What it cannot see cannot be started; the line says which."""
    lines: list[str] = []
    process = start([str(tmp_path / "python")], Confinement(), on_line=lines.append, tiers=[tier])

    ended = process.wait(60)

    assert ended is not None
    assert ended.code == 127
    assert f"cannot start {tmp_path}/python" in lines[0]
