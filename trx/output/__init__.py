"""Where the launcher puts what workers print."""

from trx.output.files import LogFiles, file_name, make_log_directory
from trx.output.handler_sink import HandlerSink
from trx.output.handlers import add_filter_to_handler, file_handler, stream_handler
from trx.output.outputs import Outputs, Sink, Source
from trx.output.terminal import Terminal

__all__ = [
    "HandlerSink",
    "LogFiles",
    "Outputs",
    "Sink",
    "Source",
    "Terminal",
    "add_filter_to_handler",
    "file_handler",
    "file_name",
    "make_log_directory",
    "stream_handler",
]
