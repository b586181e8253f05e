"""The HTTP client, and servers that mean it ill."""

from __future__ import annotations

import io
import socket
import threading
import time

import pytest

from dreamer_ros.transfer import client
from dreamer_ros.transfer.client import Client, Failed

OK = b'HTTP/1.1 200 OK\r\n'


@pytest.fixture
def serve():
    """Answers each connection with what a generator of bytes yields; returns the address."""
    ending, sockets = threading.Event(), []

    def start(answer):
        listener = socket.create_server(('127.0.0.1', 0))
        sockets.append(listener)

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

        def speak(connection):
            with connection:
                try:
                    connection.recv(1 << 16)
                    for part in answer(ending):
                        connection.sendall(part)
                except OSError:
                    pass

        threading.Thread(target=accept, daemon=True).start()
        return f'http://127.0.0.1:{listener.getsockname()[1]}'

    yield start
    ending.set()
    for listener in sockets:
        listener.close()


def drip(head, byte):
    def answer(ending):
        yield head
        while not ending.wait(0.05):
            yield byte

    return answer


@pytest.mark.parametrize('place', ['file:///etc/passwd', 'ftp://127.0.0.1/x', 'gopher:x'])
def test_redirects_lead_to_http_alone(serve, place):
    url = serve(lambda _: [f'HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n'.encode()])
    with pytest.raises(Failed, match='only http and https are followed'):
        Client().document(url, 100)


def test_redirects_are_followed_and_end(serve):
    target = serve(lambda _: [OK + b'ETag: "x"\r\nContent-Length: 4\r\n\r\nhere'])
    url = serve(lambda _: [f'HTTP/1.1 307 There\r\nLocation: {target}/a\r\nContent-Length: 0\r\n\r\n'.encode()])
    assert Client().document(url, 100) == (b'here', '"x"')
    circle = serve(lambda _: [b'HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n'])
    with pytest.raises(Failed, match='sends us on more than 5 times'):
        Client().document(circle, 100)


def test_a_head_that_never_ends(serve, monkeypatch):
    monkeypatch.setattr(client, 'HEAD_TIME', 0.3)
    began = time.monotonic()
    with pytest.raises(Failed, match='does not answer'):
        Client().document(serve(drip(OK, b'X')), 100)
    assert time.monotonic() - began < 5


def test_bodies_that_never_end(serve, monkeypatch):
    monkeypatch.setattr(client, 'GRACE', 0.3)
    monkeypatch.setattr(client, 'DOCUMENT_TIME', 0.3)
    url = serve(drip(OK + b'Content-Length: 90000\r\n\r\n', b'x'))
    file = io.BytesIO()
    with pytest.raises(Failed, match='too slow'):
        Client().download(url, file, 90_000)
    assert 0 < len(file.getvalue()) < 100, 'what came is kept'
    with pytest.raises(Failed, match='expected at most 1000 bytes within'):
        Client().document(url, 1000)
    url = serve(drip(OK + b'\r\n', bytes(1 << 16)))
    with pytest.raises(Failed, match='expected at most 1000 bytes within'):
        Client().document(url, 1000)
    assert Client().download(url, io.BytesIO(), 1000) == 1001, 'one byte says that it is more'


def test_the_body_of_an_error_is_not_read(serve):
    url = serve(drip(b'HTTP/1.1 500 Broken\r\n\r\n', bytes(1 << 16)))
    began = time.monotonic()
    with pytest.raises(Failed, match='the server answers 500 Broken') as caught:
        Client().document(url, 100)
    assert caught.value.status == 500 and time.monotonic() - began < 5


def test_a_transfer_is_stopped(serve):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert Client(stop).download(serve(drip(OK + b'Content-Length: 90000\r\n\r\n', b'x')), io.BytesIO(), 90_000) < 100


def test_the_beginning_is_not_fetched_twice(serve):
    answers = [OK + b'Content-Length: 6\r\n\r\nabc', b'HTTP/1.1 206 Part\r\nContent-Range: bytes 3-5/6\r\n\r\ndef']
    url, file = serve(lambda _: [answers.pop(0)]), io.BytesIO()
    with pytest.raises(Failed, match='the connection ended after 3 of 6 bytes'):
        Client().download(url, file, 6)
    assert Client().download(url, file, 6) == 3 and file.getvalue() == b'abcdef'
    answers.append(OK + b'Content-Length: 3\r\n\r\nnew')
    assert Client().download(url, file, 3) == 3 and file.getvalue() == b'new', 'a server that knows no parts'
    answers.append(b'HTTP/1.1 206 Part\r\nContent-Range: bytes 0-5/6\r\n\r\nabcdef')
    with pytest.raises(Failed, match='expected the bytes from 3 on'):
        Client().download(url, file, 6)
