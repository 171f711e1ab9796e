"""The node: the connection to the filter, Flower's SuperNode, and the executor that runs approved code.

``python node_main.py SPEC`` with SPEC in JSON: ``socket`` of the filter, ``port`` on 127.0.0.1 that leads to it,
``runtime_port`` that the SuperNode opens, and the command lines ``supernode`` and ``executor``. All end together. The
file is run by its path and needs only the standard library, so that nothing else of cdtl must be visible there.
"""

import asyncio
import contextlib
import functools
import json
import signal
import sys
from asyncio.subprocess import Process
from typing import Any

_UP_S, _END_S, _POLL_S = 30.0, 5.0, 0.05
_BLOCK = 256 * 1024


async def open_way(socket: str, port: int) -> asyncio.Server:
    """Listen on 127.0.0.1 and forward every connection to the filter's socket; TLS passes through unchanged."""
    return await asyncio.start_server(functools.partial(_lead, socket), "127.0.0.1", port)


async def _lead(socket: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_unix_connection(socket)
    except OSError:  # the filter is starting; the SuperNode tries again
        writer.close()
        return
    try:
        with contextlib.suppress(OSError):
            await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
    finally:
        writer.close()
        far_writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    finally:
        writer.close()


async def run(spec: dict[str, Any]) -> int:
    """Run until one of the programs ends, or SIGTERM or SIGINT comes; the exit code is 0 only for a signal."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    programs: dict[str, Process] = {}
    async with await open_way(spec["socket"], spec["port"]):
        try:
            programs["SuperNode"] = await asyncio.create_subprocess_exec(*spec["supernode"])
            await _await_port(spec["runtime_port"], programs["SuperNode"], end)
            programs["executor"] = await asyncio.create_subprocess_exec(*spec["executor"])
            waits = [asyncio.ensure_future(program.wait()) for program in programs.values()]
            await asyncio.wait([*waits, asyncio.ensure_future(end.wait())], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = {name: program.returncode for name, program in programs.items() if program.returncode is not None}
            await _stop(programs)
    for name, code in ended.items():
        sys.stderr.write(f"{name} ended with {code}\n")
    return 0 if end.is_set() else 1


async def _await_port(port: int, program: Process, end: asyncio.Event) -> None:
    """Wait until a program listens, or has ended."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_UP_S):
            while program.returncode is None and not end.is_set():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(_POLL_S)


async def _stop(programs: dict[str, Process]) -> None:
    for program in reversed(programs.values()):
        with contextlib.suppress(ProcessLookupError):
            program.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await asyncio.gather(*(program.wait() for program in programs.values()))
    for program in programs.values():
        with contextlib.suppress(ProcessLookupError):
            program.kill()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(json.loads(sys.argv[1]))))
