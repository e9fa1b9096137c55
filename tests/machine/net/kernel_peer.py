"""Run in a network namespace: the gateway on one side, the kernel's TCP behind a TAP interface on the other.

Arguments: the share of frames lost and the delay in ms. Clients connect to 127.0.0.1, the gateway to 10.0.2.15, where a
server sends back the SHA-256 of what came, and as much data again. And the other way round: 10.0.2.15 connects to ports of the
gateway's, behind which such a server listens on 127.0.0.1.
"""

import hashlib
import socket
import subprocess
import sys
import threading
from random import Random

from network_harness import Loop

from machine.net.backend import Backend
from machine.net.gateway import Gateway
from machine.net.impairment import ImpairedBackend
from machine.net.tap import TapBackend

SIZES = (0, 1, 1000, 70_000, 600_000)


def serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            data = bytearray()
            while part := connection.recv(65536):
                data += part
            connection.sendall(hashlib.sha256(data).digest() + data[::-1])


def client(address: tuple[str, int], size: int, failures: list[str]) -> None:
    data = Random(size).randbytes(size)
    with socket.create_connection(address, 20) as connection:
        connection.settimeout(40)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = bytearray()
        while part := connection.recv(65536):
            got += part
    if bytes(got) != hashlib.sha256(data).digest() + data[::-1]:
        failures.append(f"{size}: {len(got)} bytes came back")


def refusal(port: int, failures: list[str]) -> None:
    try:
        socket.create_connection(("10.0.2.2", port), 40).close()
        failures.append(f"10.0.2.2:{port} is not there, and answers")
    except ConnectionRefusedError:
        pass


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    loop = Loop()
    tap = TapBackend(loop.post, "guest0")
    for words in ("addr add 10.0.2.15/24 dev guest0", "link set guest0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    server = socket.create_server(("10.0.2.15", 80), backlog=16)
    on_host, elsewhere = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    for each in (server, on_host):
        threading.Thread(target=serve, args=(each,), daemon=True).start()
    exposed, closed, hidden = on_host.getsockname()[1], 9, elsewhere.getsockname()[1]
    gateway = Gateway(loop.post, loop.clock, [(0, 80), (0, 81)], resolvers=[], exposed=[exposed, closed])
    wire: Backend = gateway
    loss, delay = float(sys.argv[1]), int(sys.argv[2])
    if loss or delay:
        wire = ImpairedBackend(gateway, loop.clock, loss, delay * 1_000_000, 11)
    wire.on_receive = tap.send
    tap.on_receive = wire.send
    failures: list[str] = []
    ways = [("127.0.0.1", gateway.ports[0]), ("10.0.2.2", exposed)]
    threads = [threading.Thread(target=client, args=(way, size, failures)) for size in SIZES for way in ways]
    for thread in threads:
        thread.start()
    loop.until(lambda: not any(thread.is_alive() for thread in threads), 45)
    for port in (closed, hidden):
        thread = threading.Thread(target=refusal, args=(port, failures))
        thread.start()
        loop.until(lambda thread=thread: not thread.is_alive(), 45)  # type: ignore[misc]
    with socket.create_connection(("127.0.0.1", gateway.ports[1]), 5) as refused:
        refused.settimeout(0)

        def over() -> bool:
            try:
                return refused.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        loop.until(over)
    gateway.close()
    tap.close()
    assert not failures, failures
    print("all streams arrived whole")


if __name__ == "__main__":
    main()
