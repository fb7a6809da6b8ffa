"""Views of a trace: Chrome's trace event format, a text log, and a page that shows the fabric over time."""

from openwafer.fabric.view._chrome import write_chrome
from openwafer.fabric.view._page import write_page
from openwafer.fabric.view._text import append_text, text_lines, write_text

__all__ = ["append_text", "text_lines", "write_chrome", "write_page", "write_text"]
