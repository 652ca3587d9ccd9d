"""Logs to standard error: formatted for people on a terminal, elsewhere one JSON object per line."""

import logging
import sys

import structlog


def configure_logs(level: int = logging.INFO) -> None:
    """Set up the logs of this process, including those of libraries."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        # Local variables are left out: a token may be among them.
        traceback = structlog.dev.RichTracebackFormatter(show_locals=False)
        last: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=traceback)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
