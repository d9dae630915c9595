# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it refuses, in one line, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from framework.fake_images import PROGRAM, Images, make_images
from framework.wait import DEADLINE, wait_until
from pvtime.cli.command import COMMANDS, EXIT_OUTPUT_LOST, group, main
from pvtime.cli.params import parse_size
from pvtime.judge.image_file import judge_image
from pvtime.report.model import SCHEMA
from pvtime.run.run_machine import EXIT_GUEST_FAILED


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Return files that pass."""
    return make_images(tmp_path)


def program(
    images: Images, *options: str, env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start ``pvtime run`` with the engine without a guest."""
    return subprocess.Popen(
        [*PROGRAM, *images.options, *options],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of a program that ends by itself."""
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()  # one that does not is not left behind
    return process.returncode, out, err


REFUSED = [
    (["walk"], "walk"),
    (["run", "--wings"], "--wings"),
    (["run", "--vcpus", "0"], "--vcpus"),
    (["run", "--vcpus", "513"], "--vcpus"),
    (["run", "--vcpus", "9", "--gic", "v2"], "9 vCPUs: a GICv2 has 8 at most"),
    (["run", "--gic", "v4"], "--gic"),
    (["run", "--vcpus", "two"], "two"),
    (["run", "--memory", "much"], "much"),
    (["run", "--memory", "-1"], "-1"),
    (["run", "--memory", ""], "--memory"),
    (["run", "--duration", "0"], "--duration"),
    (["run", "--duration", "nan"], "nan"),
    (["run", "--duration", "1e10"], "1000000000 seconds or less"),
    (["run", "--engine", "steam"], "steam"),
    (["run", "--engine-option", "internals"], "internals"),
    (["run", "--report", "/no/such/folder/r.json"], "/no/such/folder"),
    (["run", "--report", "/"], "directory"),
    (["run", "--kernel", "/no/kernel"], "/no/kernel"),
    (["run", "--kernel", "/"], "directory"),
    (["run", "--busy", "1", "--initrd", "/dev/null"], "--busy"),
    (["run", "--boot-timeout", "9", "--initrd", "/dev/null"], "--boot-timeout"),
    (["run", "--boot-timeout", "soon"], "soon"),
    (["run", "--steal", "60%", "--steal", "0:40%"], "vCPU 0"),
    (["run", "--busy", "3", "--vcpus", "2"], "--busy 3"),
    (["run", "--quiet", "--interactive"], "--interactive"),
    (["run", "--interactive"], "terminal"),
    (["run", "--vcpus", "two"], "give 1 to 512"),
    (["run", "--kernel", ""], "--kernel"),
    (["run", "--kernel", "a\0b"], "--kernel"),
    (["run", "--control", "/"], "choose another name"),
    (["run", "--steal", "@/dev/zero"], "/dev/zero is not a regular file"),
    (["run", "--steal", "@/proc/self/status"], "/proc/self/status is empty"),
    (["run", "--kernel", "/proc/self/status"], "/proc/self/status is empty"),
    (["run", "--initrd", "/proc/self/status"], "/proc/self/status is empty"),
    (["run", "--initrd", "/dev/zero"], "/dev/zero is not a regular file"),
    (["run", "--kernel", "/dev/zero"], "/dev/zero is not a regular file"),
    (["run", "--steal", f"@{sys.executable}"], sys.executable),
    (["run", "--who", "--detach"], "--detach"),
    (["top", "--interval", "0"], "--interval"),
    (["top", "--once", "--count", "2"], "--once"),
    (["who", "--duration", "0"], "--duration"),
    (["who", "--until-end"], "--until-end"),
    (["who", "--trace", "/no/such/folder/t.json"], "/no/such/folder"),
    (["export", "--listen", "here"], "ADDRESS:PORT"),
    (["export", "--listen", "127.0.0.1:99999"], "ADDRESS:PORT"),
    (["report", "/no/such/file", "--html", "/tmp"], "directory"),
    (["scenario", "--json"], "pvtime scenario lists them"),
    (["lab", "--smp", "many", "true"], "give 1 to 16"),
    (["lab", "--memory", "1", "true"], "give 512 or more"),
    (["lab", "--out", "/no/such/folder/out.json", "true"], "/no/such/folder is not a directory"),
    (["receive", "tcp:a..b:7000"], "tcp:a..b:7000"),
    (["receive", "unix:/no/such/folder/peer"], "/no/such/folder"),
    (["migrate", "/no/such/socket", "unix:peer"], "/no/such/socket"),
    (["save", "/no/such/socket", "machine"], "/no/such/socket"),
    (["restore", "/no/such/machine"], "/no/such/machine"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_bad_input_gets_one_line_that_names_it(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pvtime: ")
    assert err.count("\n") == 1
    assert named in err
    assert not re.search("codec|idna|integer|Errno|while attempting|<=x|\\.$", err)


def test_a_lab_with_the_module_needs_a_compiler_which_is_named_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("qemu-system-aarch64").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path / "cache"))
    assert main(["lab", "--module", "true"]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("pvtime: aarch64-linux-gnu-gcc is not installed: pvtime_kvm, ")
    assert err.endswith("(Debian: apt install gcc-aarch64-linux-gnu)\n")
    assert not (tmp_path / "cache").exists()


REFUSED_WITH_IMAGES = [
    (["--memory", "1K"], "memory"),
    (["--memory", "999999999G"], "memory"),
    (["--memory", "134217729"], "MiB"),
    (["--cpu", "z80"], "cortex-a72"),
    (["--engine-option", "wings=on"], "wings"),
    (["--engine-option", "internals=perhaps"], "perhaps"),
]


@pytest.mark.parametrize(
    ("options", "named"), REFUSED_WITH_IMAGES, ids=[" ".join(case[0]) for case in REFUSED_WITH_IMAGES]
)
def test_a_machine_that_cannot_be_gets_one_line_too(
    options: list[str], named: str, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *images.options, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err


def test_version_and_help_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["--help"]) == 0
    assert main(["run", "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("pvtime 0.")
    assert "--engine-option" in out
    assert err == ""


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_pvtime_alone_and_help_show_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    wanted = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == wanted


def test_help_of_a_command_is_that_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    wanted = capsys.readouterr().out
    assert main(["help", "run"]) == 0
    assert capsys.readouterr().out == wanted
    assert main(["help", "walk"]) == 2
    assert "'walk'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_short_line_in_the_list_and_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert len(command.short_help or "") in range(10, 50)
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"    pvtime {name}" in out
    assert "..." not in out.partition("Options:")[2]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("1GiB", 1 << 30),
        ("2 GB", 2 << 30),
        ("65536", 65536),
        ("64KiB", 65536),
    ],
)
def test_sizes_are_powers_of_two_however_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "1X", "-1M", "1MM", "1 2", "9" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_a_run_prints_engine_console_and_last_table_in_this_order(images: Images) -> None:
    code, out, err = finished(program(images, "--append", "end"))
    assert (code, err) == (0, "")
    parts = ("pvtime: engine fake: a test", "guest says hello", "power-off after")
    positions = [out.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "\x1b" not in out


def test_quiet_prints_the_last_table_alone(images: Images) -> None:
    code, out, _ = finished(program(images, "--append", "end", "--quiet"))
    assert code == 0
    assert out.lstrip().startswith("stolen time per vCPU")


def test_a_report_to_standard_output_is_alone_there(images: Images) -> None:
    code, out, err = finished(program(images, "--append", "end", "--report", "-"))
    assert code == 0
    assert json.loads(out)["outcome"] == "power-off"
    assert "guest says hello" in err
    code, out, err = finished(program(images, "--append", "end", "--report", "-", "--quiet"))
    assert json.loads(out)["schema"] == SCHEMA
    assert err == ""


def test_the_duration_ends_a_run_and_the_report_says_so(images: Images) -> None:
    path = images.folder / "report.json"
    code, _, _ = finished(program(images, "--duration", "0.1", "--quiet", "--report", str(path)))
    assert code == 0
    assert json.loads(path.read_text())["outcome"] == "stopped"


def test_a_guest_that_panicked_is_an_exit_code(images: Images) -> None:
    path = images.folder / "report.json"
    code, out, err = finished(
        program(images, "--append", "panic", "--duration", "0.1", "--quiet", "--report", str(path))
    )
    assert code == EXIT_GUEST_FAILED
    assert "panicked after" in out
    assert json.loads(path.read_text())["outcome"] == "panicked"
    assert err == "pvtime: the guest's kernel panicked: its console has the reason\n"


def test_an_engine_that_fails_leaves_table_report_and_one_line(images: Images) -> None:
    path = images.folder / "report.json"
    code, out, err = finished(program(images, "--append", "trip", "--report", str(path)))
    assert code == 1
    assert "failed after" in out
    assert json.loads(path.read_text())["outcome"] == "failed"
    assert err.count("\n") == 1
    assert "a bug" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_its_last_table(images: Images, number: signal.Signals) -> None:
    process = program(images)
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(2)]
    assert seen[1] == "guest says hello\n"
    process.send_signal(number)
    code, out, err = finished(process)
    assert code == 128 + number
    assert "stopped after" in out
    assert err == ""


STALLED_IMPORT = """
import sys, time
class Stall:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            print("importing", flush=True)
            while True:  # in short sleeps: a signal just before a system call does not interrupt it
                time.sleep(0.05)
sys.meta_path.insert(0, Stall())
sys.argv[1:] = ["images"]
from pvtime.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_gets_no_traceback(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STALLED_IMPORT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    code, _, err = finished(process)
    assert (code, err.strip()) == (128 + number, "")


STALLED_SCRIPT = """
import runpy, sys, time
class Stall:
    def find_spec(self, name, path=None, target=None):
        if name == "pvtime":
            print("importing", flush=True)
            while True:
                time.sleep(0.05)
sys.meta_path.insert(0, Stall())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_before_our_first_import_gets_no_traceback_unless_it_is_ignored(ignored: bool) -> None:
    script = Path(__file__).parents[3] / "bin" / "pvtime"
    trap = "trap '' INT; " if ignored else ""
    process = subprocess.Popen(
        ["sh", "-c", trap + 'exec "$@"', "sh", sys.executable, "-c", STALLED_SCRIPT, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, _, err = finished(process)
    assert (code, err) == (-signal.SIGTERM if ignored else -signal.SIGINT, "")


def test_ctrl_c_in_the_first_imports_of_python_m_gets_no_traceback(tmp_path: Path) -> None:
    # A module in the working directory stands for one of the standard library that takes long to import.
    (tmp_path / "signal.py").write_text(
        "import time\nprint('importing', flush=True)\nwhile True: time.sleep(0.05)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pvtime", "ps"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert (code, err) == (-signal.SIGINT, "")


@pytest.mark.parametrize("program", [["-c", "import other", "pvtime"], ["-m", "other", "pvtime"]])
def test_ctrl_c_of_another_program_that_imports_pvtime_stays_its_own(
    program: list[str], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__main__.py").touch()
    (tmp_path / "other" / "__init__.py").write_text(
        "import pvtime, signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'trap - INT; exec "$@"', "sh", sys.executable, *program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


SIGNAL_IN_SET_NAME = """
import signal, sys
class Field:
    def __set_name__(self, owner, name):
        signal.raise_signal(int(sys.argv[2]))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pvtime.cli.images":
            try:
                class Column:
                    field = Field()
            except BaseException as error:
                raise RuntimeError("Error calling __set_name__ on 'Field' instance 'field'") from error
sys.meta_path.insert(0, Finder())
from pvtime.__main__ import main
sys.argv[1] = "images"
sys.exit(main())
"""


SIGNAL_IN_A_CALLBACK = """
import signal, sys, time, weakref
class Module: pass
module = Module()
class Stall:
    def find_spec(self, name, path=None, target=None):
        global module
        if name == "pvtime.cli.images":
            number = int(sys.argv[2])
            reference = weakref.ref(module, lambda _: signal.raise_signal(number))
            del module
            while True:
                time.sleep(0.05)
sys.meta_path.insert(0, Stall())
from pvtime.__main__ import main
sys.argv[1] = "images"
sys.exit(main())
"""


SIGNAL_IN_THE_COMPILER = """
import ctypes, operator, sys
from functools import partial
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pvtime.cli.images":
            send = partial(getattr(ctypes.CDLL(None), "raise"), int(sys.argv[2]))
            # No instruction of Python's is between these calls.
            list(map(operator.call, [send, partial(compile, "2**64", "", "exec")]))
sys.meta_path.insert(0, Finder())
from pvtime.__main__ import main
sys.argv[1] = "images"
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", [SIGNAL_IN_A_CALLBACK, SIGNAL_IN_SET_NAME, SIGNAL_IN_THE_COMPILER])
def test_a_signal_where_no_exception_can_pass_is_neither_lost_nor_printed(
    program: str, number: signal.Signals
) -> None:
    # "Exception ignored in: <function _get_module_lock.<locals>.cb>", and the run went on; in an import of
    # rich "RuntimeError: Error calling __set_name__ on 'Field' instance '_cells' in 'Column'"; and where a
    # constant expression was compiled, nothing at all but a pvtime top that ran on.
    done = subprocess.run(
        [sys.executable, "-c", program, "", str(int(number))],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (128 + number, "")


SIGNAL_THAT_ENDS_NO_SYSTEM_CALL = """
import signal, sys
def handle(number, handler, handle=signal.signal):
    previous = handle(number, handler)
    signal.siginterrupt(number, number not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    return previous
signal.signal = handle
from pvtime.__main__ import main
sys.exit(main())
"""
"""A system call is restarted after the signal, as if that had come just before it."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", [["-m", "pvtime"], ["-c", SIGNAL_THAT_ENDS_NO_SYSTEM_CALL]])
def test_a_signal_ends_a_command_with_its_cleanup(
    program: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    # On a busy host, a signal that came as the wait began was not noticed until the next one.
    path = tmp_path / "peer"
    process = subprocess.Popen(
        [sys.executable, *program, "receive", f"unix:{path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "waiting for a machine" in process.stdout.readline()
    assert path.exists()
    process.send_signal(number)
    code, _, err = finished(process)
    assert (code, err.strip()) == (128 + number, "")
    assert not path.exists()


def test_a_reader_that_leaves_gets_no_traceback(images: Images) -> None:
    left, stdout = os.pipe()
    os.close(left)
    try:
        process = program(images, "--append", "end", stdout=stdout)
    finally:
        os.close(stdout)
    code, _, err = finished(process)
    assert (code, err) == (EXIT_OUTPUT_LOST, "")


def test_a_quiet_run_with_a_report_never_imports_rich(images: Images) -> None:
    process = program(
        images, "--append", "end", "--quiet", "--report", "-", env={"PYTHONPROFILEIMPORTTIME": "1"}
    )
    code, _, err = finished(process)
    assert code == 0
    assert "pvtime.run.session" in err
    assert "rich" not in err


CLOSED = "it is closed: send it to a file or to /dev/null"
FULL = "No space left on device: make room there"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        ("> /dev/full", FULL),
        (">&-", CLOSED),
        ("<&- >&-", CLOSED),
        (">&- 2>&-", None),
        ("> /dev/full 2>&1", None),
    ],
)
@pytest.mark.parametrize("arguments", ["help", "scenario overlap"])
def test_an_output_that_was_lost_is_no_success(
    arguments: str, redirection: str, reason: str | None, unbuffered: str
) -> None:
    # Into a closed output all commands printed their result without a word, and with exit code 0.
    code, err = shell(f"{arguments} {redirection}", env={"PYTHONUNBUFFERED": unbuffered})
    assert (code, err) == (1, f"pvtime: standard output: {reason}\n" if reason else "")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_messages_that_are_lost_are_no_success_either(redirection: str, images: Images) -> None:
    command = f"run --duration 0.1 --report - {' '.join(images.options)}"  # the table is on standard error
    assert shell(f"{command} {redirection}") == (1, "")
    assert shell(f"walk {redirection}") == (2, "")
    assert shell(f"images --json {redirection}")[0] == 1, "no image is there"
    assert shell(f"help {redirection}") == (0, "")


def test_a_closed_output_that_is_not_used_is_no_failure(tmp_path: Path) -> None:
    # Nor does the next file that is opened become standard output.
    image = tmp_path / "image"
    assert shell(f"judge --write-image {image} <&- >&-") == (0, "")
    assert image.read_bytes() == judge_image()


def test_a_command_that_cannot_say_that_it_waits_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "peer"
    code, err = shell(f"receive unix:{path} >&-")
    assert (code, err) == (1, f"pvtime: standard output: {CLOSED}\n")
    assert not path.exists()


def shell(
    arguments: str,
    limit: str = ":",
    cache: Path = Path("/dev/null/cache"),
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run pvtime by a shell, with limits of the process; return the exit code and standard error."""
    done = subprocess.run(
        ["sh", "-c", f"{limit}; exec '{sys.executable}' -m pvtime {arguments}"],
        env={**os.environ, "PVTIME_CACHE": str(cache), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    ["help", "images", "doctor", "doctor --json", "scenario", *(f"{name} --help" for name in COMMANDS)],
)
def test_a_full_disk_is_named_and_what_to_do(
    arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path))
    monkeypatch.setattr("pvtime.doctor.guest._keep_busy", lambda: None)  # for a second
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(arguments.split()) == 1
    assert capsys.readouterr().err == f"pvtime: standard output: {FULL}\n"


@pytest.mark.parametrize("arguments", ["--version", "run --duration 1 IMAGES"])
def test_so_it_is_where_the_whole_process_is_another(arguments: str, images: Images) -> None:
    code, err = shell(arguments.replace("IMAGES", " ".join(images.options)) + " > /dev/full")
    assert (code, err) == (1, f"pvtime: standard output: {FULL}\n")


@pytest.mark.parametrize("megabytes", [50, 200, 700, 1000])
def test_a_host_that_gives_little_memory_gets_one_line(megabytes: int, images: Images) -> None:
    # The library of the emulated CPU ended the process by itself, or faulted.
    options = " ".join(images.options)
    code, err = shell(f"run --engine unicorn --duration 1 {options}", f"ulimit -v {megabytes << 10}")
    assert code == 1
    assert err.startswith("pvtime: ")
    assert err.endswith("or raise the limit (ulimit -v)\n")
    assert err.count("\n") == 1


def test_a_process_that_may_open_no_more_files_gets_one_line(tmp_path: Path) -> None:
    code, err = shell(f"receive unix:{tmp_path}/peer", "ulimit -n 5")
    assert code == 1
    assert err.endswith(": Too many open files: raise the limit of open files (ulimit -n)\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_output_that_nobody_reads_does_not_keep_a_run_from_its_end(
    number: signal.Signals, images: Images
) -> None:
    # It waited in a write, which a signal's handler does not end, and only the third signal did.
    report = images.folder / "report.json"
    read, write = os.pipe()
    process = subprocess.Popen(
        [*PROGRAM, *images.options, "--append", "flood", "--report", str(report)],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until(lambda: not select.select([], [write], [], 0)[1], message="the pipe is not full")
    process.send_signal(number)
    code, _, err = finished(process)
    os.close(read)
    os.close(write)
    assert code == 128 + number
    assert re.fullmatch("(pvtime: .* console output came too fast to be shown\n)?", err)
    assert json.loads(report.read_text())["outcome"] == "stopped"
