"""Found first inside cs_python; packages of the same name that are really installed stay reachable below it."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
