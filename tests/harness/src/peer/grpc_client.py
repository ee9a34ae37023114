"""A gRPC client of `grpc_server.py` for tests: calls of every kind, many at once, and an error. Its last line is `all well`.
Called as `ADDRESS [CERTIFICATE NAME]`: with them it speaks TLS."""

import queue
import sys
from concurrent import futures

import grpc

if len(sys.argv) > 2:
    # A file with the certificate that is trusted, and the name that it is for.
    with open(sys.argv[2], "rb") as file:
        trusted = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(sys.argv[1], trusted, (("grpc.ssl_target_name_override", sys.argv[3]),))
else:
    channel = grpc.insecure_channel(sys.argv[1])
unary = channel.unary_unary("/echo.Echo/Unary")
chat = channel.stream_stream("/echo.Echo/Chat")

answer, call = unary.with_call(b"hello", timeout=20)
assert answer == b"hello", answer
assert ("x-from", "grpc") in call.trailing_metadata(), call.trailing_metadata()

# Larger than the windows on the way.
large = bytes(range(256)) * 12_000
assert unary(large, timeout=60) == large

# Turn by turn: the next message is sent when the one before has come back.
turns = queue.Queue()
turns.put(b"turn 0")
for n, message in enumerate(chat(iter(turns.get, None), timeout=60)):
    assert message == b"turn %d" % n, message
    turns.put(b"turn %d" % (n + 1) if n < 99 else None)
assert n == 99, n

with futures.ThreadPoolExecutor(max_workers=16) as pool:
    asked = [b"call %d" % n for n in range(400)]
    answered = list(pool.map(lambda message: unary(message, timeout=60), asked))
assert answered == asked

try:
    channel.unary_unary("/echo.Echo/Fail")(b"", timeout=20)
    sys.exit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "no such thing", error

print("all well")
