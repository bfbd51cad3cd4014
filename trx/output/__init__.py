"""Where the launcher puts what workers print."""

from trx.output.files import LogFiles, file_name, make_log_directory
from trx.output.outputs import Outputs, Sink, Source
from trx.output.terminal import Terminal

__all__ = ["LogFiles", "Outputs", "Sink", "Source", "Terminal", "file_name", "make_log_directory"]
