"""A gRPC server for tests: /echo.Echo/Unary gives back what it gets, /echo.Echo/Chat each message as it comes,
/echo.Echo/Fail an error with a message. Messages are bytes, of no schema. Called as `ADDRESS [CERTIFICATE]`: with one it speaks TLS."""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-from", "grpc"),))
    return request


def chat(requests, context):
    yield from requests


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/echo.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/echo.Echo/Chat": grpc.stream_stream_rpc_method_handler(chat),
            "/echo.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
        }.get(details.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Echo(),))
if len(sys.argv) > 2:
    # A file with a certificate and its key.
    with open(sys.argv[2], "rb") as file:
        pem = file.read()
    port = server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(pem, pem)]))
else:
    port = server.add_insecure_port(sys.argv[1])
if port == 0:
    sys.exit("can't listen at " + sys.argv[1])
server.start()
server.wait_for_termination()
