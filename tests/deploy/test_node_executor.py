"""The prepared process: each message starts in a fork that is as clean as a new interpreter."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.deploy import node_executor, node_supernode
from cdtl_core.deploy.sandbox import Place, enclosed
from tests.deploy.test_sandbox import needs_sandbox, place
from tests.tables import Tries

__all__ = ["place"]

PROGRAMS = f"""
import gc, importlib.util, inspect, json, os, random, sys

spec = importlib.util.spec_from_file_location("node_executor", {node_executor.__file__!r})
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
own.LIBRARIES = ("numpy.random", "torch")
reader, writer = os.pipe()


def opens(path):
    try:
        return bool(open(path, "r+b"))
    except OSError:
        return False


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def client():
    import numpy
    import torch
    from flwr.supercore.inflatable.inflatable_utils import pull_objects

    told = {{"command": sys.argv, "numbers": [random.random(), float(numpy.random.random())]}}
    told |= {{"seen": [hasattr(os, "left"), torch.get_default_dtype() is torch.float64]}}
    told |= {{"frozen": gc.get_freeze_count()}}
    block = b"x" * (64 << 20)
    full = resident()
    del block
    told |= {{"kept": full - resident() < 1 << 20}}
    told |= {{"first_wait": inspect.signature(pull_objects).parameters["initial_backoff"].default}}
    status = open(f"/proc/{{os.getppid()}}/status").read()
    told |= {{"threads": status.partition("Threads:")[2].split()[0]}}
    told |= {{"memory": [opens("/proc/self/mem"), opens(f"/proc/{{os.getppid()}}/mem")]}}
    os.left = torch.set_default_dtype(torch.float64)
    print("print of a message", flush=True)
    os.write(writer, json.dumps(told).encode() + b"\\n")


def executor():
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.superexec.executor.types import ExecutionSpec

    found = [sys.argv]
    with open(reader, "rb", closefd=False) as answers:
        for number in (1, 2):
            silent = number == 2
            spec = TaskType.CLIENT_APP, "127.0.0.1:1", f"token{{number}}", True, None, False, None, silent, number
            SubprocessExecutor().launch(ExecutionSpec(*spec))
            found.append(json.loads(answers.readline()))
    print(json.dumps(found))


own._program = {{"flower-superexec": executor, "flwr-clientapp": client}}.__getitem__
own.main()
"""


@needs_sandbox
@pytest.mark.attack("A message starts clean", "an earlier message changes modules, memory and random numbers")
def test_a_message_sees_nothing_of_an_earlier_one(place: Place, tries: Tries) -> None:
    code = [sys.executable, "-I", "-c", PROGRAMS, "--insecure"]
    command = enclosed(place, code, {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"})
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    printed, found = done.stdout.split("\n", 1)
    assert printed == "print of a message"  # of the first; the second was asked to be silent
    arguments, first, second = json.loads(found)
    assert arguments == ["flower-superexec", "--insecure"]
    for number, told in enumerate((first, second), 1):
        begin = ["flwr-clientapp", "--runtime-api-address", "127.0.0.1:1", "--token", f"token{number}"]
        assert told["command"] == [*begin, "--insecure"]
        assert told["seen"] == [False, False]
        assert told["frozen"] > 100_000  # objects of the libraries, which no fork looks through
        assert told["first_wait"] == 0.05  # for an object of the message that has not come; Flower's is a second
        assert told["kept"] or platform.libc_ver()[0] != "glibc"  # freed memory, for the next tensor of a training step
        assert told["threads"] == "1"  # a fork of several threads could stop at a lock
        assert told["memory"] == [True, False]  # its own, not that of the prepared process
    assert not set(first["numbers"]) & set(second["numbers"])
    tries.add(8)


def loaded(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.ci
def test_what_a_round_imports_of_the_environment_is_prepared_and_no_bundle_is() -> None:
    code = f"""
import importlib, json, sys
sys.path.insert(0, {str(Path(node_executor.__file__).parent)!r})
import node_executor
for name in node_executor.LIBRARIES:
    importlib.import_module(name)
before = set(sys.modules)
import client.app, cdtl_core.site.session
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([sorted({{name.partition(".")[0] for name in before}}), sorted(new)]))
"""
    prepared, later = loaded(code)
    assert not {"cdtl_core", "client", "server"} & set(prepared)
    assert {"cdtl_core", "client"} <= set(later)
    assert not {"torch", "torchvision", "timm", "scipy", "flwr", "pydantic", "httpx"} & set(later)


def test_the_supernode_looks_for_a_reply_and_asks_for_a_missing_part_soon() -> None:
    code = f"""
import importlib.util, inspect, json
from types import SimpleNamespace

spec = importlib.util.spec_from_file_location("node_supernode", {node_supernode.__file__!r})
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
slept = []
own.time = SimpleNamespace(sleep=slept.append)


def program():
    from flwr.supernode import start_client_internal as flower

    looks = iter([[], [], object()])
    try:
        flower._push_messages(SimpleNamespace(get_messages_legacy=lambda is_reply: next(looks)), None, None, None)
    except TypeError:  # the reply came: nothing that could be sent
        pass
    flower.time.sleep(3)
    first_wait = inspect.signature(flower.pull_objects).parameters["initial_backoff"].default
    print(json.dumps([slept, first_wait]))


import flwr.supernode.cli

flwr.supernode.cli.flower_supernode = program
own.main()
"""
    assert loaded(code) == [[0.05, 0.05, 3], 0.05]
