"""Leads clients that read no proxy and no certificates from their environment to their stand-ins all the same.

Python imports this module at its start where PYTHONPATH names its folder; a program's own lines stay as they are. It says
where hosts are, as /etc/hosts would, and which certificates to trust, as the system's store would: STAND_INS is the port
and the hosts that are found there, SSL_CERT_FILE the bundle.
"""

import os
import socket

if "STAND_INS" in os.environ:
    _port, *_hosts = os.environ["STAND_INS"].split()
    _resolve = socket.getaddrinfo

    def _stand_in(host, port, *more, **named):  # type: ignore[no-untyped-def]
        return _resolve(*(("127.0.0.1", int(_port)) if host in _hosts else (host, port)), *more, **named)

    socket.getaddrinfo = _stand_in
    try:
        import certifi
    except ImportError:
        pass
    else:
        certifi.where = lambda: os.environ["SSL_CERT_FILE"]
