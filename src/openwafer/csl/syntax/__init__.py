"""The syntax of CSL: text to tree and back. Nothing here knows what a name means."""

from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._ast import Dialect
from openwafer.csl.syntax._lexer import tokenize
from openwafer.csl.syntax._parser import parse
from openwafer.csl.syntax._print import print_file
from openwafer.csl.syntax._tokens import Token

__all__ = ["Dialect", "Token", "ast", "parse", "print_file", "tokenize"]
