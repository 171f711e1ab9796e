"""Anonymous connections to a gateway: ``python -m tests.deploy.strangers PORT CA SECONDS [CONNECTIONS]``.

Each asks for ``/health`` as fast as it is answered, and connects again when it is cut off; 64 to an address.
Prints how many answers came, by status.
"""

import asyncio
import ssl
import sys
import time
from collections import Counter

_OF_ADDRESS = 64


async def _stranger(port: int, context: ssl.SSLContext, address: str, end: float, seen: Counter[str]) -> None:
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost", local_addr=(address, 0)
            )
            while time.monotonic() < end:
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await reader.read(4096)
                seen[answer[9:12].decode() or "cut off"] += 1
                if not answer:
                    break
            writer.transport.abort()
        except OSError as error:
            seen[type(error).__name__] += 1
            await asyncio.sleep(0.05)


async def flood(port: int, ca: str, seconds: float, connections: int = 256) -> Counter[str]:
    """Answers by status, and faults by name, of many connections at a time."""
    context, seen, end = ssl.create_default_context(cafile=ca), Counter[str](), time.monotonic() + seconds
    addresses = [f"127.0.0.{2 + number // _OF_ADDRESS}" for number in range(connections)]
    tasks = [asyncio.create_task(_stranger(port, context, address, end, seen)) for address in addresses]
    await asyncio.wait(tasks, timeout=seconds + 5)  # a last answer may be late
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


if __name__ == "__main__":
    port, ca, seconds, *more = sys.argv[1:]
    sys.stdout.write(f"{dict(asyncio.run(flood(int(port), ca, float(seconds), *map(int, more))))}\n")
