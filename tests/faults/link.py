"""A TCP line between a site and its coordinator that can be slowed, cut and restored."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cdtl_core.system.processes import free_port

_PIECE = 16384


class Link:
    """Forwards a port of this machine; `bytes_per_s` (0: as fast as it goes) and `cut` may change at any time."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self.bytes_per_s, self.delay_s = 0.0, 0.0
        self.carried, self.connections = 0, 0
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def cut(self) -> None:
        """Drop what is open, and refuse what comes."""
        self._cut = True
        self._loop.call_soon_threadsafe(self._drop)

    def repair(self) -> None:
        """Let connections through again."""
        self._cut = False

    @contextmanager
    def carrying(self) -> Iterator["Link"]:
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        ready.set()
        self._loop.run_forever()
        server.close()
        self._drop()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _drop(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there_in, there_out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the coordinator is away
            writer.transport.abort()
            return
        self._open |= {writer, there_out}
        await asyncio.gather(self._carry(reader, there_out), self._carry(there_in, writer))
        self._open -= {writer, there_out}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_PIECE):
                await asyncio.sleep(self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0.0))
                writer.write(data)
                await writer.drain()
                self.carried += len(data)
        except OSError:
            pass
        finally:
            writer.close()
