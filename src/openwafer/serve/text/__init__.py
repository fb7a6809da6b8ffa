"""Text and tokens: a checkpoint's tokenizer and chat template, and what an answer's text means (calls, thoughts)."""

from openwafer.serve.text._chat_template import ChatTemplate, TemplateError
from openwafer.serve.text._detokeniser import Detokeniser
from openwafer.serve.text._grammar import GrammarError, calls_grammar, schema_grammar
from openwafer.serve.text._reasoning import Part, ReasoningSplitter
from openwafer.serve.text._tokenizer import Tokenizer
from openwafer.serve.text._tool_format import HERMES, LLAMA, MISTRAL, SPELT_OUT, ToolFormat, add_to_system
from openwafer.serve.text._tool_parser import Call, CallParser

__all__ = [
    "HERMES",
    "LLAMA",
    "MISTRAL",
    "SPELT_OUT",
    "Call",
    "CallParser",
    "ChatTemplate",
    "Detokeniser",
    "GrammarError",
    "Part",
    "ReasoningSplitter",
    "TemplateError",
    "Tokenizer",
    "ToolFormat",
    "add_to_system",
    "calls_grammar",
    "schema_grammar",
]
